//go:build linux

package main

import (
	"math"
	"strings"
	"testing"
)

func TestSpread(t *testing.T) {
	nan := math.NaN()
	for _, tt := range []struct {
		in                  []float64
		median, least, most float64
	}{
		{[]float64{3}, 3, 3, 3},
		{[]float64{5, 1, 3}, 3, 1, 5},
		{[]float64{4, 1, 3, 2}, 2.5, 1, 4},
		{[]float64{nan, 2, math.Inf(1), 1, nan, 6}, 2, 1, 6},
	} {
		if m, l, h := spread(tt.in); m != tt.median || l != tt.least || h != tt.most {
			t.Errorf("spread(%v) = %v, %v, %v, want %v, %v, %v", tt.in, m, l, h, tt.median, tt.least, tt.most)
		}
	}
	if m, _, _ := spread([]float64{nan}); !math.IsNaN(m) {
		t.Errorf("spread of nothing = %v, want NaN", m)
	}
}

// The ratio is taken round by round: here the machine was twice as fast in the second.
func TestReport(t *testing.T) {
	cpu := 0.5
	r := report{Rounds: 2, Subjects: []string{"nft: ..."}, Missing: []string{"haproxy: haproxy is not installed"}}
	for round, speed := range []uint64{1e9, 2e9} {
		r.Samples = append(r.Samples,
			sample{Round: round + 1, Subject: "nft", Load: "up", Seconds: 1, Bytes: speed},
			sample{Round: round + 1, Subject: "tunlb", Load: "up", Seconds: 1, Bytes: speed / 2, CPU: &cpu},
			sample{Round: round + 1, Subject: "bridge", Load: "up", Seconds: 1, Bytes: speed * 2},
			sample{Round: round + 1, Subject: "dr", Load: "up", Seconds: 1, Bytes: speed * 3 / 2, CPU: &cpu},
			sample{Round: round + 1, Subject: "bare-dr", Load: "up", Seconds: 1, Bytes: speed, CPU: &cpu})
	}
	text := r.markdown()
	for _, want := range []string{
		"| nft     |  12.0 (8.0...16.0) |",
		"| tunlb   |    6.0 (4.0...8.0) |",
		"| bridge  | 24.0 (16.0...32.0) |",
		"| dr      | 18.0 (12.0...24.0) |",
		"Left out: haproxy: haproxy is not installed.",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	for _, tt := range []struct{ title, want string }{
		{"Ratio to nft", "tunlb 0.50"},
		{"Ratio to the bare loop", "bridge 2.00, dr 1.50"},
		{"Ratio to the bridge", "dr 0.75, bare-dr 0.50"},
		{"Ratio to tunlb's NAT", "bridge 4.00, dr 3.00, bare-dr 2.00"},
	} {
		if got := rowsOf(text, tt.title); got != tt.want {
			t.Errorf("%s: %s, want %s in\n%s", tt.title, got, tt.want, text)
		}
	}
}

// rowsOf gives the rows of the table with that title, name and median of the first column each.
func rowsOf(text, title string) string {
	_, table, _ := strings.Cut(text, "\n**"+title)
	_, table, _ = strings.Cut(table, "-: |\n")
	table, _, _ = strings.Cut(table, "\n\n")
	var rows []string
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		rows = append(rows, fields[1]+" "+fields[3])
	}
	return strings.Join(rows, ", ")
}
