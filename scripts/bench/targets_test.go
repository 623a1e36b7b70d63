//go:build linux

package main

import (
	"slices"
	"strings"
	"testing"
)

// A target that names nothing would never be missed.
func TestTargetsName(t *testing.T) {
	known := func(name string) bool {
		return slices.ContainsFunc(allSubjects, func(s subject) bool { return s.name == name })
	}
	for _, g := range targets {
		if !known(g.subject) || (g.relation == alone) != (g.than == "") || g.than != "" && !known(g.than) {
			t.Errorf("target %+v: no such subject", g)
		}
		for _, key := range g.metrics {
			m, ok := metricOf(key)
			if !ok || m.lower != (g.relation != ratio) {
				t.Errorf("target %s / %s, %q: no such metric, or one for which less is better in a ratio", g.subject, g.than, key)
			}
		}
	}
}

func TestTargets(t *testing.T) {
	cpu := func(v float64) *float64 { return &v }
	r := report{Rounds: 3}
	for i := range 3 {
		shift := float64(100 * i) // the machine wakes slower from round to round
		r.Samples = append(r.Samples,
			sample{Round: i + 1, Subject: "bare", Load: "up", Seconds: 1, Bytes: 1000},
			sample{Round: i + 1, Subject: "tunlb", Load: "up", Seconds: 1, Bytes: uint64(940 + 10*i), CPU: cpu(950 * 0.4 / gib)},
			sample{Round: i + 1, Subject: "wireguard", Load: "up", Seconds: 1, Bytes: 400},
			sample{Round: i + 1, Subject: "direct", Load: "idle", Seconds: 1, P99: 60 + shift},
			sample{Round: i + 1, Subject: "tunlb", Load: "idle", Seconds: 1, P99: 160 + shift},
			sample{Round: i + 1, Subject: "tunlb-packet", Load: "idle", Seconds: 1, P99: 161 + shift})
	}
	var b strings.Builder
	r.targets(&b)
	text := strings.Join(strings.Fields(b.String()), " ") // the widths of its columns are no matter
	for _, want := range []string{
		"3 of 5 are reached; 45 were not measured",
		"| tunlb / bare, up | >= 0.95 | 0.95 (0.94...0.96) | reached |",
		"| tunlb / wireguard, up | >= 2.50 | 2.38 (2.35...2.40) | missed |",
		"| tunlb - direct, idle p99, µs | <= 100 | 100 (100...100) | reached |",
		"| tunlb-packet - direct, idle p99, µs | <= 100 | 101 (101...101) | missed |",
		"| tunlb, CPU up, s/GiB | <= 0.40 | 0.40 (0.40...0.40) | reached |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	b.Reset()
	(&report{Rounds: 1}).targets(&b)
	if b.Len() > 0 {
		t.Errorf("a table of nothing:\n%s", b.String())
	}
}
