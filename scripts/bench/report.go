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

// names are the subjects' that have figures.
func (r *report) names() []string {
	var out []string
	for _, s := range allSubjects {
		if slices.ContainsFunc(r.Samples, func(x sample) bool { return x.Subject == s.name }) {
			out = append(out, s.name)
		}
	}
	return out
}

// goal is a figure that tunlb's design promises, and of which tunlb is to reach 0.9.
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
	fmt.Fprintf(&b, "%d cores, %s, %s, %s, %s, %s. `%s`: %s of %.3g s a load.\n",
		m.Cores, m.CPU, m.Memory, m.Kernel, m.Go, m.Date, m.Command, rounds, r.Seconds)
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
	r.table(&b, "Client, subject and server share the cores", rates, nil)
	r.table(&b, "Ratio to nft, by round", rates, func(string) string { return "nft" })
	r.table(&b, "Ratio to the bare loop, the routers' to the bare router, by round", rates, bareLoop)
	r.table(&b, "CPU seconds of the subject's own processes", costs, nil)
	r.goals(&b)
	return b.String()
}

// bareLoop is the subject that shows what the way of the packets alone costs.
func bareLoop(subject string) string {
	if strings.HasSuffix(subject, "-router") {
		return "bare-router"
	}
	return "bare"
}

// table has a row for each subject: its figures, or, with than, their ratio to another subject's.
func (r *report) table(b *strings.Builder, title string, all []metric, than func(subject string) string) {
	metrics := r.measured(all)
	rows := [][]string{{""}}
	for _, m := range metrics {
		name := m.name
		if than != nil {
			name = strings.NewReplacer(", k/s", "", ", Gbit/s", "", ", µs", "").Replace(name)
		}
		rows[0] = append(rows[0], name)
	}
	for _, subject := range r.names() {
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

// goals compares tunlb with what its design promises.
func (r *report) goals(b *strings.Builder) {
	rows := [][]string{{"", "design", "at least", "here", ""}}
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
				fmt.Sprintf("%.2f", g.figure), fmt.Sprintf("%.2f", reach*g.figure), cell("%.2f", here), verdict(median >= reach*g.figure),
			})
		}
	}
	cpu := append(r.series(costs[0], "tunlb"), r.series(costs[1], "tunlb")...)
	if median, _, _ := spread(cpu); !math.IsNaN(median) {
		rows = append(rows, []string{
			"tunlb, CPU s/GiB, up down", fmt.Sprintf("%.2f", goalCPU), fmt.Sprintf("at most %.2f", goalCPU/reach), cell("%.2f", cpu), verdict(median <= goalCPU/reach),
		})
	}
	if len(rows) > 1 {
		fmt.Fprintf(b, "\ntunlb against %.1f of the figures of its design:\n\n", reach)
		writeTable(b, rows)
	}
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
			widths[i] = max(widths[i], len([]rune(c)))
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
				fmt.Fprintf(b, "| %s ", strings.Repeat("-", max(width, 3)))
			} else {
				fmt.Fprintf(b, "| %s: ", strings.Repeat("-", max(width-1, 2)))
			}
		}
		b.WriteString("|\n")
	}
}
