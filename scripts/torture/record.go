//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The record is a table in a document, between two lines that nobody sees there: a row for each case with what it has shown. A run of some
// cases writes their rows, and leaves the others as they are.
const (
	recordBegin = "<!-- what the cases have shown: make torture-record writes it -->\n"
	recordEnd   = "<!-- end of what the cases have shown -->\n"
	recordHead  = "| case | what is done | wants | has shown | when |\n|---|---|---|---|---|\n"
	unrecorded  = "not yet | |"
)

// record is a document with the table; write puts it back. Not safe for concurrent use.
type record struct {
	path         string
	before, rest string
	rows         map[string]string // what has been shown, and when, by case
}

// openRecord reads a document and the table in it.
func openRecord(path string) (*record, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	before, rest, begins := strings.Cut(string(b), recordBegin)
	table, rest, ends := strings.Cut(rest, recordEnd)
	if !begins || !ends {
		return nil, fmt.Errorf("%s: the lines %q and %q are not there: put them where the table is to be", path, strings.TrimSpace(recordBegin), strings.TrimSpace(recordEnd))
	}
	r := &record{path: path, before: before, rest: rest, rows: map[string]string{}}
	for row := range strings.Lines(table) {
		cells := strings.SplitN(row, " | ", 4)
		if name := strings.Trim(cells[0], "| `"); len(cells) == 4 && strings.HasPrefix(row, "| `") {
			r.rows[name] = strings.TrimSpace(cells[3])
		}
	}
	return r, nil
}

// set notes what a case has shown.
func (r *record) set(name string, out *outcome, err error, when string) {
	r.rows[name] = fmt.Sprintf("%s | %s |", cell(summary(out, err)), when)
}

// text is the document with the table.
func (r *record) text(all []fault) string {
	var b strings.Builder
	b.WriteString(r.before + recordBegin + recordHead)
	for _, f := range all {
		row := r.rows[f.name]
		if row == "" {
			row = unrecorded
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s\n", f.name, cell(f.what), cell(f.target), row)
	}
	b.WriteString(recordEnd + r.rest)
	return b.String()
}

func (r *record) write(all []fault) error { return os.WriteFile(r.path, []byte(r.text(all)), 0o644) }

// summary is a case's figures that are of interest beside their targets. What is as simple as yes or none is counted.
func summary(out *outcome, err error) string {
	var bad, parts []string
	if err != nil {
		first, _, _ := strings.Cut(err.Error(), "\n")
		bad = append(bad, "**failed**: "+first)
	}
	plain := 0
	for _, c := range checksOf(out) {
		switch none := strings.TrimPrefix(c.want, "<= "); {
		case c.failed():
			bad = append(bad, fmt.Sprintf("**below**: %s: %s, wants %s", c.what, c.got, c.want))
		case c.proof || c.want == "yes" || none == "0" || strings.HasPrefix(none, "0 ") || c.got == c.want:
			plain++
		default:
			parts = append(parts, fmt.Sprintf("%s: %s (%s)", c.what, c.got, c.want))
		}
	}
	const most = 8 // the others are like these
	if more := len(parts) - most; more > 0 {
		parts, plain = parts[:most], plain+more
	}
	switch {
	case plain > 0 && len(bad)+len(parts) > 0:
		parts = append(parts, fmt.Sprintf("%d more hold", plain))
	case plain > 0:
		parts = append(parts, fmt.Sprintf("all %d hold", plain))
	}
	return strings.Join(append(bad, parts...), "; ")
}

func checksOf(out *outcome) []check {
	if out == nil {
		return nil
	}
	return out.checks
}

// cell is text that fits into a table.
func cell(s string) string { return strings.NewReplacer("|", "\\|", "\n", " ", "  ", " ").Replace(s) }

// when is the day and the machine of a run, in a few words.
func when(now time.Time) string {
	var name unix.Utsname
	_ = unix.Uname(&name) // else it is left out
	release, _, _ := strings.Cut(unix.ByteSliceToString(name.Release[:]), "-")
	return fmt.Sprintf("%s, %d cores, Linux %s", now.Format(time.DateOnly), runtime.NumCPU(), release)
}

// recorder is the record that options ask for, or nil. A short run is none to keep.
func (o options) recorder() (*record, error) {
	switch {
	case o.record == "":
		return nil, nil
	case o.short || o.time > 0:
		return nil, errors.New("-record keeps whole runs: leave out -short and -time")
	}
	return openRecord(o.record)
}
