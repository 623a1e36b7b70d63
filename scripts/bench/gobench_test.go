//go:build linux

package main

import (
	"strings"
	"testing"
)

const goOutput = `goos: linux
pkg: github.com/tunlb/tunlb/tunlb/flow
cpu: a processor
BenchmarkPipeline1M-2   	 3000000	         99.0 ns/op	       155.0 B/flow	 70.0 ns/packet	       0 B/op	       0 allocs/op
BenchmarkPipeline1M-2   	 3000000	         99.0 ns/op	       155.0 B/flow	 90.0 ns/packet	       0 B/op	       0 allocs/op
BenchmarkPipeline1M-2   	 3000000	         99.0 ns/op	       155.0 B/flow	 75.0 ns/packet	       0 B/op	       1 allocs/op
BenchmarkPipeline4M     	 3000000	        99.0 ns/op	       155.0 B/flow	 150.0 ns/packet	       0 B/op	       0 allocs/op
BenchmarkPick/rr/1000-2      	 9000000	        12 ns/op
PASS
ok  	github.com/tunlb/tunlb/tunlb/flow	12.3s
`

func TestGoTargets(t *testing.T) {
	results, err := parseGo(strings.NewReader(goOutput))
	if err != nil {
		t.Fatal(err)
	}
	if got := results["Pick/rr/1000"]["ns/op"]; len(got) != 1 || got[0] != 12 {
		t.Errorf("Pick/rr/1000: %v, want 12 ns/op once", got)
	}
	text := strings.Join(strings.Fields(results.report()), " ") // the widths of its columns are no matter
	for _, want := range []string{
		"random order, ns | <= 80 | 75 (70...90) | reached |",
		"its allocations | <= 0 | 0 (0...1) | reached |",
		"among 4 M flows / among 1 M | <= 1.5 | 2 | missed |",
		"B | <= 160 | 155 (155...155) | reached |",
		"p99, ms | <= 1 | - | not measured |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, results.report())
		}
	}
	if _, err := parseGo(strings.NewReader("BenchmarkX-2 1 fast ns/op\n")); err == nil {
		t.Error("a figure that is no number is taken")
	}
}
