//go:build linux

package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// runOf makes a report in which nft moves these Gbit/s by round, and tunlb these parts of it.
func runOf(nft []float64, tunlb ...float64) *report {
	cpu := 0.5
	r := &report{Rounds: len(nft), Seconds: 1.5, Subjects: []string{"nft: ...", "tunlb: ..."},
		Machine: machine{CPU: "a processor", Cores: 2, Kernel: "Linux 6.18", TCP: "reno", Date: "2026-11-22 20:35 UTC"}}
	for i := range nft {
		bytes := uint64(nft[i] * 1e9 / 8)
		r.Samples = append(r.Samples,
			sample{Round: i + 1, Subject: "nft", Load: "up", Seconds: 1, Bytes: bytes},
			sample{Round: i + 1, Subject: "nft", Load: "idle", Seconds: 1, P50: 40, P99: 100},
			sample{Round: i + 1, Subject: "tunlb", Load: "up", Seconds: 1, Bytes: uint64(float64(bytes) * tunlb[i]), CPU: &cpu},
			sample{Round: i + 1, Subject: "tunlb", Load: "idle", Seconds: 1, P50: 80, P99: 120})
	}
	return r
}

func TestRecord(t *testing.T) {
	want := runOf([]float64{10, 20, 40}, 0.5, 0.6, 0.7).record()
	keys := make([]string, 0, len(want.Figures))
	for _, f := range want.Figures {
		keys = append(keys, f.Subject+" "+f.Metric)
	}
	if all := []string{"nft up", "nft idle p50", "nft idle p99", "tunlb up", "tunlb idle p50", "tunlb idle p99", "tunlb up s/GiB"}; !slices.Equal(keys, all) {
		t.Errorf("figures %q, want %q", keys, all)
	}
	tunlb, _ := want.find("tunlb", "up")
	if wanted := (extent{12, 5, 28}); tunlb.extent != wanted {
		t.Errorf("tunlb up %v, want %v", tunlb.extent, wanted)
	}
	if wanted := (extent{0.6, 0.5, 0.7}); tunlb.Than != "nft" || tunlb.Ratio == nil || *tunlb.Ratio != wanted {
		t.Errorf("tunlb up %v of %s, want %v of nft", tunlb.Ratio, tunlb.Than, wanted)
	}
	if idle, _ := want.find("tunlb", "idle p99"); idle.Ratio != nil {
		t.Errorf("a ratio of latencies: %v", idle.Ratio)
	}

	text, err := want.encode()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "record.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := loadRecord(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(figure{})); diff != "" {
		t.Errorf("read as another than was written (-want +got):\n%s\n%s", diff, text)
	}
	if again, _ := got.encode(); string(again) != string(text) {
		t.Error("a record that is read and written is another file")
	}
}

func TestFourDigits(t *testing.T) {
	for _, tt := range []struct{ in, want float64 }{
		{0, 0}, {0.123456, 0.1235}, {9.99996, 10}, {123456, 123500}, {-0.00123456, -0.001235},
	} {
		if got := fourDigits(tt.in); got != tt.want {
			t.Errorf("fourDigits(%v) = %v, want %v", tt.in, got, tt.want)
		}
	}
}

func TestCompare(t *testing.T) {
	nft := []float64{10, 10, 10}
	then := runOf(nft, 0.5, 0.6, 0.7).record()
	for _, tt := range []struct {
		name string
		now  []float64
		want outcome
	}{
		{"as it was", []float64{0.52, 0.6, 0.68}, unchanged},
		{"one bad round", []float64{0.1, 0.55, 0.6}, unchanged},
		{"the median is out", []float64{0.4, 0.45, 0.6}, littleWorse},
		{"all rounds are", []float64{0.4, 0.45, 0.49}, worse},
		{"a little better", []float64{0.65, 0.75, 0.8}, littleBetter},
		{"better", []float64{0.71, 0.75, 0.8}, better},
	} {
		now := runOf(nft, tt.now...).record()
		changes := now.since(then)
		if len(changes) != 1 {
			t.Fatalf("%s: %d changes, want one: only tunlb's up has a ratio", tt.name, len(changes))
		}
		if got := changes[0].outcome(); got != tt.want {
			t.Errorf("%s: %v now, %v then: outcome %d, want %d", tt.name, *changes[0].Ratio, changes[0].then, got, tt.want)
		}
	}

	text := runOf(nft, 0.4, 0.45, 0.49).record().compare(then)
	for _, want := range []string{
		"recorded 2026-11-22 20:35 UTC",
		"| tunlb | 0.60 → 0.45 ▼ |",
		"- tunlb / nft, up: 0.60 (0.50...0.70), now 0.45 (0.40...0.49) ▼\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if text := then.compare(then); !strings.Contains(text, "Nothing is worse") || strings.Contains(text, "another machine") {
		t.Errorf("compared with itself:\n%s", text)
	}
	elsewhere := then
	elsewhere.Machine.CPU = "another"
	if text := then.compare(elsewhere); !strings.Contains(text, "another machine: 2 cores, another, Linux 6.18, TCP reno") {
		t.Errorf("nothing is said of the record's machine:\n%s", text)
	}
	if text := then.compare(record{}); text != "" {
		t.Errorf("compared with no record:\n%s", text)
	}
}

func TestNoRecord(t *testing.T) {
	if got, err := recorded(filepath.Join(t.TempDir(), "none.json")); err != nil || len(got.Figures) != 0 {
		t.Errorf("recorded: %v, %v; want an empty record", got, err)
	}
	broken := filepath.Join(t.TempDir(), "broken.json")
	if err := os.WriteFile(broken, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := recorded(broken); err == nil || !strings.Contains(err.Error(), broken) {
		t.Errorf("a broken record: %v, want an error that names the file", err)
	}
}

func TestBetween(t *testing.T) {
	document := "above\n" + figuresBegin + "old\n" + figuresEnd + "below\n"
	want := "above\n" + figuresBegin + "\nnew\n" + figuresEnd + "below\n"
	got := between(document, "new")
	if got != want {
		t.Errorf("between: %q, want %q", got, want)
	}
	if got := between(got, "new"); got != want {
		t.Errorf("between once more: %q, want %q", got, want)
	}
	for _, plain := range []string{"", "above\n", figuresEnd + figuresBegin} {
		if got := between(plain, "new"); got != "new" {
			t.Errorf("between of %q: %q, want the figures alone", plain, got)
		}
	}
}

// Without the marks `make bench-record` would write over the whole document.
func TestDocsMarks(t *testing.T) {
	document, err := os.ReadFile("../../docs/performance.md")
	if err != nil {
		t.Fatal(err)
	}
	if between(string(document), "new") == "new" {
		t.Errorf("docs/performance.md has not both marks, %q and %q", figuresBegin, figuresEnd)
	}
}
