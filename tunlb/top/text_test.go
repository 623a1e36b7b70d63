package top

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 1: "1", 0.5: "0.5", 9.94: "9.9", 9.96: "10", 12.3: "12", 999: "999", 999.6: "1.00k", 1234: "1.23k", 12345: "12.3k", 123456: "123k",
		999_600: "1.00M", 1.5e9: "1.50G", 2.5e12: "2.50T", 2.5e15: "2500T", 0.04: "0.0",
	} {
		if got := number(v); got != want {
			t.Errorf("%v: got %q, want %q", v, got, want)
		}
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 12900 * time.Millisecond: "12s", 61 * time.Second: "1m01s", 2*time.Hour + 5*time.Minute: "2h05m", 75 * time.Hour: "3d03h",
	} {
		if got := span(d); got != want {
			t.Errorf("%v: got %q, want %q", d, got, want)
		}
	}
}

// TestClean: nothing that the daemon passes on moves the cursor or turns the line around.
func TestClean(t *testing.T) {
	for s, want := range map[string]string{
		"rs1": "rs1", "a\x1b[2Jb": "a?[2Jb", "a\nb\tc": "a b c", "日本": "日本", "a\u202eb": "ab", "\xff": "?", "\u009b31m": "?31m", "👩\u200d🚒": "👩🚒",
	} {
		if got := clean(s); got != want {
			t.Errorf("%q: got %q, want %q", s, got, want)
		}
	}
}

// TestExactWidth: left and right are exact for any text that clean has seen.
func TestExactWidth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, n := clean(rapid.String().Draw(t, "text")), rapid.IntRange(0, 40).Draw(t, "columns")
		for _, got := range []string{left(s, n), right(s, n)} {
			if width(got) != n {
				t.Fatalf("%q in %d columns: %q is %d wide", s, n, got, width(got))
			}
		}
	})
}

func TestBars(t *testing.T) {
	if got := bars([]float64{0, 0.001, 4, 8}, 8); got != " ▁▅█" {
		t.Errorf("got %q", got)
	}
	if got := bars([]float64{1, 2}, 0); got != "  " {
		t.Errorf("without a scale: %q", got)
	}
}
