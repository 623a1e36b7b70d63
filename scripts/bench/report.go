//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
)

// report is everything that was found out.
type report struct {
	Machine  machine  `json:"machine"`
	Rounds   int      `json:"rounds"`
	Seconds  float64  `json:"seconds"`
	Subjects []string `json:"subjects"`
	Missing  []string `json:"missing,omitempty"`
	Halting  bool     `json:"halting,omitempty"` // idle processors halted
	Samples  []sample `json:"samples"`
}

// measured are the metrics that have figures.
func (r *report) measured(all []metric) []metric {
	return slices.DeleteFunc(slices.Clone(all), func(m metric) bool {
		return !slices.ContainsFunc(r.Samples, func(s sample) bool { return s.Load == m.load && !math.IsNaN(m.of(s)) })
	})
}

// names are the subjects' that have figures: the neighbours on a segment, or the others.
func (r *report) names(segment bool) []string {
	var out []string
	for _, s := range allSubjects {
		if s.segment == segment && slices.ContainsFunc(r.Samples, func(x sample) bool { return x.Subject == s.name }) {
			out = append(out, s.name)
		}
	}
	return out
}

// save writes the files that are asked for.
func (r *report) save(o options) error {
	var errs []error
	write := func(path, text string) {
		if path != "" {
			errs = append(errs, os.WriteFile(path, []byte(text), 0o644))
		}
	}
	if o.markdown != "" {
		there, err := os.ReadFile(o.markdown)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		write(o.markdown, between(string(there), r.markdown()))
	}
	samples, err := json.MarshalIndent(r, "", " ")
	errs = append(errs, err)
	write(o.json, string(samples)+"\n")
	rec := r.record()
	text, err := rec.encode()
	errs = append(errs, err)
	write(o.record, string(text))
	write(o.svg, rec.chart())
	return errors.Join(errs...)
}

// The marks of figures are the lines between which a document has the tables.
const (
	figuresBegin = "<!-- figures: what is between these marks is written by `make bench-record` -->\n"
	figuresEnd   = "<!-- end of figures -->\n"
)

// between puts figures between the marks of a document; they are all of one without marks.
func between(document, figures string) string {
	before, rest, ok1 := strings.Cut(document, figuresBegin)
	_, after, ok2 := strings.Cut(rest, figuresEnd)
	if !ok1 || !ok2 {
		return figures
	}
	return before + figuresBegin + "\n" + figures + "\n" + figuresEnd + after
}

func (r *report) markdown() string {
	var b strings.Builder
	m, rounds := r.Machine, "one round"
	if r.Rounds > 1 {
		rounds = fmt.Sprintf("medians (least...most) of %d rounds", r.Rounds)
	}
	fmt.Fprintf(&b, "%d cores, %s, %s, %s, TCP %s, %s, %s. `%s`: %s of %.3g s a load.\n",
		m.Cores, m.CPU, m.Memory, m.Kernel, m.TCP, m.Go, m.Date, m.Command, rounds, r.Seconds)
	if m.Busy > 0.05 {
		fmt.Fprintf(&b, "The machine was not quiet: others used %.0f %% of its CPU time before the start.\n", 100*m.Busy)
	}
	for _, s := range r.Missing {
		fmt.Fprintf(&b, "Left out: %s.\n", s)
	}
	b.WriteString("\n")
	for _, s := range r.Subjects {
		fmt.Fprintf(&b, "- %s\n", s)
	}
	b.WriteString("\nWhat works in the kernel has no CPU figure: soft interrupts are charged to whoever is running.\n")
	if slices.ContainsFunc(r.Samples, func(s sample) bool { return s.Load == "idle" }) {
		b.WriteString(r.idleNote())
	}
	routed, neighbours := r.names(false), r.names(true)
	all := slices.Concat(routed, neighbours)
	r.table(&b, "Client, subject and server share the cores", all, rates, r.figures)
	r.table(&b, "Ratio to nft, by round", routed, throughputs, r.ratioTo("nft"))
	r.table(&b, "Ratio to the bare loop of the same way, by round", all, throughputs, r.ratio(bareLoop))
	r.table(&b, "Ratio to the bridge, of those on a segment, by round", neighbours, throughputs, r.ratioTo("bridge"))
	r.table(&b, "Ratio to tunlb's NAT over one TUN, of those on a segment, by round", neighbours, throughputs, r.ratioTo("tunlb"))
	r.table(&b, "Latency that the subject adds to an idle request, against direct or the bridge, by round", all, latencies, r.addedTo)
	r.table(&b, "CPU seconds of the subject's own processes", all, costs, r.figures)
	r.targets(&b)
	return b.String()
}

// idleNote says what the latencies are of.
func (r *report) idleNote() string {
	note := fmt.Sprintf("Idle requests are sent one every %s. ", idlePace)
	if r.Halting {
		return note + "The processors halt between them, as they do: the figures show how long they take to wake.\n"
	}
	return note + "The processors are kept from halting between them, or the figures would show how long they take to wake.\n"
}

// figures are a subject's own, and how they are printed.
func (r *report) figures(subject string, m metric) (values []float64, form string) {
	return r.series(m, subject), m.form
}

// ratio compares with another subject; nil is no comparison.
func (r *report) ratio(than func(subject string) string) func(string, metric) ([]float64, string) {
	return func(subject string, m metric) ([]float64, string) {
		if than(subject) == subject {
			return nil, ""
		}
		return ratios(r.series(m, subject), r.series(m, than(subject))), "%.2f"
	}
}

func (r *report) ratioTo(than string) func(string, metric) ([]float64, string) {
	return r.ratio(func(string) string { return than })
}

// addedTo compares with the way without a balancer.
func (r *report) addedTo(subject string, m metric) ([]float64, string) {
	than := "direct"
	if isSegment(subject) {
		than = "bridge"
	}
	if subject == than {
		return nil, ""
	}
	return differences(r.series(m, subject), r.series(m, than)), m.form
}

// table has a row for each subject that has any of the values.
func (r *report) table(b *strings.Builder, title string, subjects []string, all []metric, of func(subject string, m metric) ([]float64, string)) {
	metrics := r.measured(all)
	rows := [][]string{{""}}
	for _, m := range metrics {
		name := m.name
		if _, form := of("", m); form != m.form {
			name = m.short()
		}
		rows[0] = append(rows[0], name)
	}
	for _, subject := range subjects {
		row := []string{subject}
		for _, m := range metrics {
			values, form := of(subject, m)
			row = append(row, cell(form, values))
		}
		if slices.ContainsFunc(row[1:], func(c string) bool { return c != "-" }) {
			rows = append(rows, row)
		}
	}
	if len(rows) > 1 {
		fmt.Fprintf(b, "\n**%s:**\n\n", title)
		writeTable(b, rows)
	}
}

// writeTable writes Markdown that is a table in a terminal, too.
func writeTable(b *strings.Builder, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, c := range row {
			widths[i] = max(widths[i], len([]rune(c)), 3) // of the dashes
		}
	}
	for n, row := range rows {
		for i, c := range row {
			pad := strings.Repeat(" ", widths[i]-len([]rune(c)))
			if i == 0 {
				fmt.Fprintf(b, "| %s%s ", c, pad)
			} else {
				fmt.Fprintf(b, "| %s%s ", pad, c)
			}
		}
		b.WriteString("|\n")
		if n > 0 {
			continue
		}
		for i, width := range widths {
			if i == 0 {
				fmt.Fprintf(b, "| %s ", strings.Repeat("-", width))
			} else {
				fmt.Fprintf(b, "| %s: ", strings.Repeat("-", width-1))
			}
		}
		b.WriteString("|\n")
	}
}
