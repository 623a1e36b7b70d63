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
	Samples  []sample `json:"samples"`
}

// metric is a figure of a sample.
type metric struct {
	name  string
	load  string
	of    func(sample) float64 // NaN where there is none
	lower bool                 // less is better
	form  string               // how it is printed
}

const gib = 1 << 30

func gbits(s sample) float64    { return float64(s.Bytes) * 8 / 1e9 / s.Seconds }
func requests(s sample) float64 { return float64(s.Requests) / 1000 / s.Seconds }
func conns(s sample) float64    { return float64(s.Conns) / 1000 / s.Seconds }

func cpuPer(unit float64, count func(sample) uint64) func(sample) float64 {
	return func(s sample) float64 {
		if s.CPU == nil {
			return math.NaN()
		}
		return *s.CPU / (float64(count(s)) / unit)
	}
}

var (
	perGiB     = cpuPer(gib, func(s sample) uint64 { return s.Bytes })
	perRequest = cpuPer(1e6, func(s sample) uint64 { return s.Requests })
	perConn    = cpuPer(1e6, func(s sample) uint64 { return s.Conns })
)

var rates = []metric{
	{name: "up, Gbit/s", load: "up", of: gbits, form: "%.1f"},
	{name: "down, Gbit/s", load: "down", of: gbits, form: "%.1f"},
	{name: "up, 8 streams", load: "up8", of: gbits, form: "%.1f"},
	{name: "down, 8 streams", load: "down8", of: gbits, form: "%.1f"},
	{name: "kept requests, k/s", load: "kept", of: requests, form: "%.1f"},
	{name: "new conn., k/s", load: "new", of: conns, form: "%.1f"},
	{name: "idle p50, µs", load: "idle", of: func(s sample) float64 { return s.P50 }, lower: true, form: "%.0f"},
	{name: "idle p99, µs", load: "idle", of: func(s sample) float64 { return s.P99 }, lower: true, form: "%.0f"},
}

var costs = []metric{
	{name: "up, s/GiB", load: "up", of: perGiB, lower: true, form: "%.2f"},
	{name: "down, s/GiB", load: "down", of: perGiB, lower: true, form: "%.2f"},
	{name: "up, 8 streams, s/GiB", load: "up8", of: perGiB, lower: true, form: "%.2f"},
	{name: "down, 8 streams, s/GiB", load: "down8", of: perGiB, lower: true, form: "%.2f"},
	{name: "µs/kept request", load: "kept", of: perRequest, lower: true, form: "%.1f"},
	{name: "µs/new conn.", load: "new", of: perConn, lower: true, form: "%.1f"},
}

// series are a metric's figures over one subject by round; NaN where a round has none.
func (r *report) series(m metric, subject string) []float64 {
	values := make([]float64, r.Rounds)
	for i := range values {
		values[i] = math.NaN()
	}
	for _, s := range r.Samples {
		if s.Subject == subject && s.Load == m.load {
			values[s.Round-1] = m.of(s)
		}
	}
	return values
}

// ratios are taken within each round, where both figures are seconds apart.
func ratios(a, b []float64) []float64 {
	out := make([]float64, len(a))
	for i := range a {
		out[i] = a[i] / b[i]
	}
	return out
}

// spread gives median, least and greatest of the values that are numbers.
func spread(values []float64) (median, least, most float64) {
	v := slices.DeleteFunc(slices.Clone(values), func(x float64) bool { return math.IsNaN(x) || math.IsInf(x, 0) })
	if len(v) == 0 {
		return math.NaN(), math.NaN(), math.NaN()
	}
	slices.Sort(v)
	median = v[len(v)/2]
	if len(v)%2 == 0 {
		median = (v[len(v)/2-1] + median) / 2
	}
	return median, v[0], v[len(v)-1]
}

func cell(form string, values []float64) string {
	median, least, most := spread(values)
	switch {
	case math.IsNaN(median):
		return "-"
	case len(values) == 1:
		return fmt.Sprintf(form, median)
	}
	return fmt.Sprintf(form+" ("+form+"..."+form+")", median, least, most)
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

// goal is a ratio to another subject that tunlb is to reach, or nearly.
type goal struct {
	subject, than string
	loads         []string
	figure        float64
}

// goals are of the bare loop of the design, on a quiet machine with two cores (docs/performance.md).
var goals = []goal{
	{"tunlb", "nft", []string{"up", "down"}, 0.64},
	{"tunlb", "haproxy", []string{"up", "down"}, 1.5},
	{"tunlb", "nginx", []string{"up", "down"}, 1.5},
	{"tunlb", "nft", []string{"kept"}, 0.75},
	{"tunlb", "nft", []string{"new"}, 0.68},
	{"tunlb-router", "nft", []string{"kept"}, 0.95},
	{"tunlb-router", "nft", []string{"new"}, 0.85},
	{"tunlb", "bare", []string{"up", "down", "up8", "down8"}, 1},
	{"tunlb", "bare", []string{"kept"}, 1},
	{"tunlb", "bare", []string{"new"}, 1},
	{"tunlb-router", "bare-router", []string{"up", "down", "up8", "down8"}, 1},
	{"tunlb-router", "bare-router", []string{"kept"}, 1},
	{"tunlb-router", "bare-router", []string{"new"}, 1},
	{"dr", "bare-dr", []string{"up", "down", "up8", "down8"}, 1},
	{"dr", "bare-dr", []string{"kept"}, 1},
	{"dr", "bare-dr", []string{"new"}, 1},
}

// directGoals say that a download is the bridge's own, since the answers go past tunlb. Inline they don't.
var directGoals = []goal{
	{"dr", "bridge", []string{"down"}, 0.95},
	{"dr", "bridge", []string{"down8"}, 0.95},
	{"dr", "bridge", []string{"up", "up8"}, 0.6},
	{"dr-packet", "bridge", []string{"down"}, 0.95},
	{"dr-packet", "bridge", []string{"down8"}, 0.95},
	{"dr-packet", "bridge", []string{"up", "up8"}, 0.6},
	{"dr-inline", "bridge", []string{"up", "up8"}, 0.6},
}

const (
	reach   = 0.9
	goalCPU = 0.38 // seconds per GiB, one stream
)

// save writes the files that are asked for.
func (r *report) save(o options) error {
	var errs []error
	if o.markdown != "" {
		errs = append(errs, os.WriteFile(o.markdown, []byte(r.markdown()), 0o644))
	}
	if o.json != "" {
		b, err := json.MarshalIndent(r, "", " ")
		errs = append(errs, err, os.WriteFile(o.json, append(b, '\n'), 0o644))
	}
	return errors.Join(errs...)
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
	routed, neighbours := r.names(false), r.names(true)
	all := slices.Concat(routed, neighbours)
	r.table(&b, "Client, subject and server share the cores", all, rates, nil)
	r.table(&b, "Ratio to nft, by round", routed, rates, to("nft"))
	r.table(&b, "Ratio to the bare loop of the same way, by round", all, rates, bareLoop)
	r.table(&b, "Ratio to the bridge, of those on a segment, by round", neighbours, rates, to("bridge"))
	r.table(&b, "Ratio to tunlb's NAT over one TUN, of those on a segment, by round", neighbours, rates, to("tunlb"))
	r.table(&b, "CPU seconds of the subject's own processes", all, costs, nil)
	r.goals(&b, fmt.Sprintf("tunlb against %.1f of the figures of its design", reach), goals, reach, r.cpuGoal()...)
	r.goals(&b, "Direct routing against its goals", directGoals, 1)
	return b.String()
}

// bareLoop is the subject that shows what the way of the packets alone costs.
func bareLoop(name string) string {
	switch {
	case slices.ContainsFunc(allSubjects, func(s subject) bool { return s.segment && s.name == name }):
		return "bare-dr"
	case strings.HasSuffix(name, "-router"):
		return "bare-router"
	}
	return "bare"
}

// to compares all subjects with the same one.
func to(subject string) func(string) string { return func(string) string { return subject } }

// table has a row for each subject: its figures, or, with than, their ratio to another subject's.
func (r *report) table(b *strings.Builder, title string, subjects []string, all []metric, than func(subject string) string) {
	metrics := r.measured(all)
	rows := [][]string{{""}}
	for _, m := range metrics {
		name := m.name
		if than != nil {
			name = strings.NewReplacer(", k/s", "", ", Gbit/s", "", ", µs", "").Replace(name)
		}
		rows[0] = append(rows[0], name)
	}
	for _, subject := range subjects {
		row := []string{subject}
		for _, m := range metrics {
			values, form := r.series(m, subject), m.form
			if than != nil && than(subject) == subject {
				continue
			}
			if than != nil {
				values, form = ratios(values, r.series(m, than(subject))), "%.2f"
			}
			row = append(row, cell(form, values))
		}
		if slices.ContainsFunc(row[1:], func(c string) bool { return c != "-" }) {
			rows = append(rows, row)
		}
	}
	if len(rows) > 1 {
		fmt.Fprintf(b, "\n%s:\n\n", title)
		writeTable(b, rows)
	}
}

// goals tells which figures, or which part of them, are reached.
func (r *report) goals(b *strings.Builder, title string, goals []goal, part float64, more ...[]string) {
	rows := [][]string{{"", "goal", "at least", "here", ""}}
	for _, g := range goals {
		var here []float64
		for _, m := range rates {
			if slices.Contains(g.loads, m.load) {
				here = append(here, ratios(r.series(m, g.subject), r.series(m, g.than))...)
			}
		}
		if median, _, _ := spread(here); !math.IsNaN(median) {
			rows = append(rows, []string{
				fmt.Sprintf("%s / %s, %s", g.subject, g.than, strings.Join(g.loads, " ")),
				fmt.Sprintf("%.2f", g.figure), fmt.Sprintf("%.2f", part*g.figure), cell("%.2f", here), verdict(median >= part*g.figure),
			})
		}
	}
	rows = append(rows, more...)
	if len(rows) > 1 {
		fmt.Fprintf(b, "\n%s:\n\n", title)
		writeTable(b, rows)
	}
}

// cpuGoal is a row of goals, if there are figures for it.
func (r *report) cpuGoal() [][]string {
	cpu := append(r.series(costs[0], "tunlb"), r.series(costs[1], "tunlb")...)
	median, _, _ := spread(cpu)
	if math.IsNaN(median) {
		return nil
	}
	return [][]string{{
		"tunlb, CPU s/GiB, up down", fmt.Sprintf("%.2f", goalCPU), fmt.Sprintf("at most %.2f", goalCPU/reach), cell("%.2f", cpu), verdict(median <= goalCPU/reach),
	}}
}

func verdict(reached bool) string {
	if reached {
		return "reached"
	}
	return "missed"
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
