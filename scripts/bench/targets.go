//go:build linux

package main

import (
	"fmt"
	"math"
	"strings"
)

// target is a figure that a subject is to reach: of its own, or, with than, in relation to another subject.
type target struct {
	subject, than string
	metrics       []string // by key; each is to reach it
	relation      relation
	figure        float64
}

type relation uint8

const (
	ratio relation = iota // at least so much of than's
	added                 // at most so much more than than's
	alone                 // at most so much
)

var (
	bulk       = []string{"up", "down"}
	everything = []string{"up", "down", "up8", "down8", "kept", "new"}
	p99        = []string{"idle p99"}
	cpuOfBulk  = []string{"up s/GiB", "down s/GiB"}
)

// targets are what tunlb is to reach on a machine with two cores (docs/performance.md).
var targets = []target{
	{"tunlb", "bare", everything, ratio, 0.95},
	{"tunlb", "haproxy", bulk, ratio, 1.5},
	{"tunlb", "nginx", bulk, ratio, 1.5},
	{"tunlb", "wireguard", bulk, ratio, 2.5},

	{"tunlb-packet", "nft", bulk, ratio, 0.75},
	{"tunlb-packet", "haproxy", bulk, ratio, 1.7},
	{"tunlb-packet", "nft", []string{"kept"}, ratio, 0.75},
	{"tunlb-packet", "haproxy", []string{"kept"}, ratio, 1.15},
	{"tunlb-packet", "nft", []string{"new"}, ratio, 0.85},
	{"tunlb-packet", "haproxy", []string{"new"}, ratio, 1.25},

	{"tunlb-router", "nft", []string{"kept"}, ratio, 0.8},
	{"tunlb-router", "nft", []string{"new"}, ratio, 0.9},
	{"tunlb-router", "haproxy", []string{"kept", "new"}, ratio, 1.2},

	{"tunlb-kernel", "nft", everything, ratio, 0.95},

	{"tunlb", "direct", p99, added, 100},
	{"tunlb-packet", "direct", p99, added, 100},
	{"tunlb-router", "direct", p99, added, 100},
	{"tunlb-kernel", "direct", p99, added, 100},
	{"dr", "bridge", p99, added, 100},
	{"dr-packet", "bridge", p99, added, 100},

	{"tunlb", "", cpuOfBulk, alone, 0.4},
	{"tunlb-packet", "", cpuOfBulk, alone, 0.4},
	{"tunlb-router", "", cpuOfBulk, alone, 0.4},
	{"tunlb-kernel", "", cpuOfBulk, alone, 0.4},

	{"dr", "bridge", []string{"down", "down8"}, ratio, 0.95},
	{"dr", "bridge", []string{"kept"}, ratio, 0.8},
	{"dr-packet", "bridge", []string{"down", "down8"}, ratio, 0.95},
	{"dr-packet", "bridge", []string{"kept"}, ratio, 0.8},
}

// values are what was measured, by round.
func (t target) values(r *report, m metric) []float64 {
	own := r.series(m, t.subject)
	switch t.relation {
	case ratio:
		return ratios(own, r.series(m, t.than))
	case added:
		return differences(own, r.series(m, t.than))
	}
	return own
}

// row is a target and what was measured of it; false if nothing was.
func (t target) row(r *report, key string) ([]string, bool) {
	m, ok := metricOf(key)
	if !ok {
		return nil, false
	}
	here := t.values(r, m)
	median, _, _ := spread(here)
	if math.IsNaN(median) {
		return nil, false
	}
	name, limit, form := fmt.Sprintf("%s / %s, %s", t.subject, t.than, m.short()), ">= ", "%.2f"
	switch t.relation {
	case added:
		name, limit, form = fmt.Sprintf("%s - %s, %s", t.subject, t.than, m.name), "<= ", m.form
	case alone:
		name, limit, form = fmt.Sprintf("%s, CPU %s", t.subject, m.name), "<= ", m.form
	}
	reached := median >= t.figure
	if t.relation != ratio {
		reached = median <= t.figure
	}
	return []string{name, limit + fmt.Sprintf(form, t.figure), cell(form, here), verdict(reached)}, true
}

func verdict(reached bool) string {
	if reached {
		return "reached"
	}
	return "missed"
}

// targets has a row for each figure to be reached.
func (r *report) targets(b *strings.Builder) {
	rows, reached, unknown := [][]string{{"", "target", "here", ""}}, 0, 0
	for _, t := range targets {
		for _, key := range t.metrics {
			row, ok := t.row(r, key)
			if !ok {
				unknown++
				continue
			}
			if row[3] == verdict(true) {
				reached++
			}
			rows = append(rows, row)
		}
	}
	if len(rows) == 1 {
		return
	}
	fmt.Fprintf(b, "\n**tunlb against the targets:** %d of %d are reached%s.\n\n", reached, len(rows)-1, notMeasured(unknown))
	writeTable(b, rows)
}

func notMeasured(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("; %d were not measured", n)
}
