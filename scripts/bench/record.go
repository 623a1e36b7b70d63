//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
)

// record is what is kept of a report, for later ones to be compared with and for the chart.
type record struct {
	Machine  machine  `json:"machine"`
	Rounds   int      `json:"rounds"`
	Seconds  float64  `json:"seconds"`
	Subjects []string `json:"subjects"`
	Figures  []figure `json:"figures"`
}

// figure is a metric over a subject: the rounds' median and range.
type figure struct {
	Subject string `json:"subject"`
	Metric  string `json:"metric"`
	extent
	// Ratio is taken by round to the reference's; nil where there is none.
	Than  string  `json:"than,omitempty"`
	Ratio *extent `json:"ratio,omitempty"`
}

type extent struct {
	Median float64 `json:"median"`
	Least  float64 `json:"least"`
	Most   float64 `json:"most"`
}

// extentOf rounds to what has a meaning; nil if no value is a number.
func extentOf(values []float64) *extent {
	median, least, most := spread(values)
	if math.IsNaN(median) {
		return nil
	}
	return &extent{fourDigits(median), fourDigits(least), fourDigits(most)}
}

func fourDigits(v float64) float64 {
	if v == 0 {
		return 0
	}
	unit := math.Pow(10, 3-math.Floor(math.Log10(math.Abs(v))))
	return math.Round(v*unit) / unit
}

func (r *report) record() record {
	rec := record{Machine: r.Machine, Rounds: r.Rounds, Seconds: r.Seconds, Subjects: r.Subjects}
	for _, s := range allSubjects {
		for _, m := range slices.Concat(rates, costs) {
			values := extentOf(r.series(m, s.name))
			if values == nil {
				continue
			}
			f := figure{Subject: s.name, Metric: m.key, extent: *values}
			// A ratio of latencies says nothing.
			if than := reference(s.name); than != s.name && !m.lower {
				if f.Ratio = extentOf(ratios(r.series(m, s.name), r.series(m, than))); f.Ratio != nil {
					f.Than = than
				}
			}
			rec.Figures = append(rec.Figures, f)
		}
	}
	return rec
}

// encode puts each figure on a line of its own, so that a change shows in a diff.
func (r record) encode() ([]byte, error) {
	head := r
	head.Figures = nil
	b, err := json.MarshalIndent(head, "", " ")
	if err != nil {
		return nil, err
	}
	var text strings.Builder
	text.WriteString(strings.TrimSuffix(string(b), "null\n}"))
	text.WriteString("[")
	for i, f := range r.Figures {
		line, err := json.Marshal(f)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			text.WriteString(",")
		}
		fmt.Fprintf(&text, "\n  %s", line)
	}
	text.WriteString("\n ]\n}\n")
	return []byte(text.String()), nil
}

func loadRecord(path string) (record, error) {
	var r record
	b, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

func (r record) find(subject, metric string) (figure, bool) {
	i := slices.IndexFunc(r.Figures, func(f figure) bool { return f.Subject == subject && f.Metric == metric })
	if i < 0 {
		return figure{}, false
	}
	return r.Figures[i], true
}

// change is a ratio then and now.
type change struct {
	figure // now
	then   extent
}

// outcome says what a change is worth. By chance, with five rounds each, one of twelve unchanged ratios is a little worse and one of
// 250 is worse.
type outcome uint8

const (
	unchanged    outcome = iota
	littleBetter         // the median is beyond all rounds then
	littleWorse
	better // all rounds are beyond all rounds then
	worse
)

func (o outcome) mark() string { return [...]string{"", " △", " ▽", " ▲", " ▼"}[o] }

func (c change) outcome() outcome {
	switch now, then := c.Ratio, c.then; {
	case now.Most < then.Least:
		return worse
	case now.Least > then.Most:
		return better
	case now.Median < then.Least:
		return littleWorse
	case now.Median > then.Most:
		return littleBetter
	}
	return unchanged
}

func (c change) String() string {
	return fmt.Sprintf("%s / %s, %s: %.2f (%.2f...%.2f), now %.2f (%.2f...%.2f)",
		c.Subject, c.Than, c.Metric, c.then.Median, c.then.Least, c.then.Most, c.Ratio.Median, c.Ratio.Least, c.Ratio.Most)
}

func (c change) cell() string {
	return fmt.Sprintf("%.2f → %.2f%s", c.then.Median, c.Ratio.Median, c.outcome().mark())
}

// since compares the ratios that both have.
func (r record) since(then record) []change {
	var changes []change
	for _, f := range r.Figures {
		if old, had := then.find(f.Subject, f.Metric); had && f.Ratio != nil && old.Ratio != nil && old.Than == f.Than {
			changes = append(changes, change{f, *old.Ratio})
		}
	}
	return changes
}

// compare tells what has become of the recorded ratios.
func (r record) compare(then record) string {
	changes := r.since(then)
	if len(changes) == 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n**Ratio to nft, on a segment to the bridge: recorded %s → now.** The median is better (△) or worse (▽) than all rounds then; all rounds are (▲, ▼).\n\n", then.Machine.Date)
	writeTable(&b, changeRows(changes))
	if a, z := then.Machine, r.Machine; a.CPU != z.CPU || a.Cores != z.Cores || a.Kernel != z.Kernel || a.TCP != z.TCP {
		fmt.Fprintf(&b, "\nThe record is of another machine: %d cores, %s, %s, TCP %s.\n", a.Cores, a.CPU, a.Kernel, a.TCP)
	}
	regressions := slices.DeleteFunc(changes, func(c change) bool { return c.outcome() != worse && c.outcome() != littleWorse })
	if len(regressions) == 0 {
		b.WriteString("\nNothing is worse than recorded.\n")
		return b.String()
	}
	b.WriteString("\nWorse than recorded:\n\n")
	for _, c := range regressions {
		fmt.Fprintf(&b, "- %s%s\n", c, c.outcome().mark())
	}
	return b.String()
}

// changeRows have a row for each subject and a column for each throughput.
func changeRows(changes []change) [][]string {
	rows := [][]string{{""}}
	for _, m := range throughputs {
		rows[0] = append(rows[0], m.short())
	}
	for _, s := range allSubjects {
		row, any := []string{s.name}, false
		for _, m := range throughputs {
			text := "-"
			if i := slices.IndexFunc(changes, func(c change) bool { return c.Subject == s.name && c.Metric == m.key }); i >= 0 {
				text, any = changes[i].cell(), true
			}
			row = append(row, text)
		}
		if any {
			rows = append(rows, row)
		}
	}
	return rows
}
