//go:build linux

package main

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
)

// goTarget is a figure that a Go benchmark is to reach; `make bench-go` runs them.
type goTarget struct {
	name      string
	benchmark string // its name, without the -2 of two processors
	unit      string
	than      string // a benchmark too: the ratio counts
	most      float64
}

var goTargets = []goTarget{
	{"a packet among 1 M flows in random order, ns", "Pipeline1M", "ns/packet", "", 80},
	{"its allocations", "Pipeline1M", "allocs/op", "", 0},
	{"among 4 M flows / among 1 M", "Pipeline4M", "ns/packet", "Pipeline1M", 1.5},
	{"heap of a flow among 1 M, B", "Pipeline1M", "B/flow", "", 160},
	{"pause of the garbage collector with 1 M flows, p99, ms", "Pause1M", "p99-ms", "", 1},
}

// goResults are the figures of Go benchmarks by name and unit, one for each run.
type goResults map[string]map[string][]float64

var benchmarkLine = regexp.MustCompile(`^Benchmark(\S+?)(?:-\d+)?\s+\d+\s+(.*)$`)

// parseGo reads what `go test -bench` prints (https://go.dev/design/14313-benchmark-format).
func parseGo(from io.Reader) (goResults, error) {
	results := goResults{}
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		m := benchmarkLine.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		if results[m[1]] == nil {
			results[m[1]] = map[string][]float64{}
		}
		fields := strings.Fields(m[2])
		for i := 0; i+1 < len(fields); i += 2 {
			v, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return nil, fmt.Errorf("%q: %w", lines.Text(), err)
			}
			unit := fields[i+1]
			results[m[1]][unit] = append(results[m[1]][unit], v)
		}
	}
	return results, lines.Err()
}

// report has a row for each target.
func (g goResults) report() string {
	rows := [][]string{{"", "target", "here", ""}}
	for _, t := range goTargets {
		values := g[t.benchmark][t.unit]
		if t.than != "" {
			// They run one after the other, not in turns: the medians are compared.
			than, _, _ := spread(g[t.than][t.unit])
			values = pairwise(values, values, func(x, _ float64) float64 { return x / than })
		}
		median, _, _ := spread(values)
		outcome := "not measured"
		if !math.IsNaN(median) {
			outcome = verdict(median <= t.most)
		}
		rows = append(rows, []string{t.name, fmt.Sprintf("<= %.4g", t.most), cell("%.4g", values), outcome})
	}
	var b strings.Builder
	b.WriteString("**Go benchmarks against the targets:**\n\n")
	writeTable(&b, rows)
	return b.String()
}
