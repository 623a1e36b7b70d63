//go:build linux

package main

import (
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

// invented is a record with a figure for everything.
func invented() record {
	r := record{Rounds: 5, Seconds: 1.5, Machine: machine{CPU: "R&D <processor>", Cores: 2, Kernel: "Linux 6.18", TCP: "reno", Date: "2026-11-22 20:35 UTC"}}
	for i, s := range allSubjects {
		for k, m := range slices.Concat(throughputs, costs) {
			v := 1.3 - float64(i)/20 + float64(k)/40
			f := figure{Subject: s.name, Metric: m.key, extent: extent{fourDigits(v), fourDigits(v * 0.9), fourDigits(v * 1.1)}}
			if m.lower && slices.Contains([]string{"direct", "nft", "bridge"}, s.name) {
				continue // no process, no CPU time
			}
			if than := reference(s.name); than != s.name && !m.lower {
				f.Than, f.Ratio = than, &f.extent
			}
			r.Figures = append(r.Figures, f)
		}
	}
	return r
}

func TestChart(t *testing.T) {
	const golden = "testdata/chart.svg"
	got := invented().chart()
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the chart is not %s; look at it and write it anew: go test ./scripts/bench -run Chart -update", golden)
	}
	for d := xml.NewDecoder(strings.NewReader(got)); ; {
		if _, err := d.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("the chart is no XML: %v", err)
		}
	}
}

// A chart of few figures has no empty panels and no NaN.
func TestChartOfLittle(t *testing.T) {
	got := runOf([]float64{10, 10, 10}, 0.5, 0.6, 0.7).record().chart()
	for _, want := range []string{"Bulk, one stream", ">tunlb</text>", ">0.60</text>", "CPU seconds per GiB"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	for _, not := range []string{"NaN", "Inf", "New connections", ">haproxy<"} {
		if strings.Contains(got, not) {
			t.Errorf("%q in\n%s", not, got)
		}
	}
}

// What docs show is what docs have recorded.
func TestDocsChart(t *testing.T) {
	const docs = "../../docs/performance"
	r, err := loadRecord(docs + ".json")
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("nothing is recorded")
	}
	if err != nil {
		t.Fatal(err)
	}
	chart, err := os.ReadFile(docs + ".svg")
	if err != nil {
		t.Fatal(err)
	}
	if string(chart) != r.chart() {
		t.Error("docs/performance.svg is not the chart of docs/performance.json: go run ./scripts/bench -from docs/performance.json -svg docs/performance.svg")
	}
}
