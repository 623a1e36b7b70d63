package config

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
)

// TestParseHostile has inputs on which a YAML parser may hang, recurse without end or fill the memory.
func TestParseHostile(t *testing.T) {
	const size = 1 << 20
	fill := func(s string) string { return strings.Repeat(s, size/len(s)) }
	tests := []struct{ name, yaml string }{
		{"brackets", fill("[")},
		{"braces", fill("{")},
		{"nested keys in braces", fill("{a: ")},
		{"nested lists in a line", fill("- ")},
		{"explicit keys", fill("? ")},
		{"colons", fill(": ")},
		{"colons in lines", fill(":\n")},
		{"anchors", fill("&a ")},
		{"anchors in lines", fill("&a\n")},
		{"tags", fill("!a ")},
		{"anchors and tags", fill("!a &a ")},
		{"aliases", fill("- *a\n")},
		{"keys", fill("a: b\n")},
		{"keys in braces", "a: {" + fill("b: c, ") + "}"},
		{"values after values in braces", "a: {" + fill("b: ")},
		{"quoted keys", fill("\"a\": b\n")},
		{"keys in list items", "- " + fill("a: b\n  ")},
		{"merge keys", "services:\n - &a {" + keys(maxKeys) + "}\n" + strings.Repeat(" - {<<: *a}\n", 60_000)},
		{"documents", fill("---\n")},
		{"document ends", fill("...\n")},
		{"directives", fill("%a\n")},
		{"comments", fill("# a\n")},
		{"spaces", fill(" ")},
		{"lines", fill("\n")},
		{"tabs", fill("\t")},
		{"text", fill("a")},
		{"text in lines", fill("a\n")},
		{"quotes", "a: \"" + fill("\\n")},
		{"block text", "a: |\n" + fill("  a\n")},
		{"folded text", "a: >\n" + fill("  a\n\n")},
		{"broken UTF-8", fill("\xff")},
		{"NUL", fill("a: \x00\n")},
		{"joined colons", "a: {b: [" + fill("a:b:") + "]}"},
		{"digits", "flows: {max: " + fill("1") + "}"},
		{"services", "services:\n" + fill(" - {listen: 203.0.113.22:80, servers: [192.168.0.10]}\n")},
		{"servers of many services", "services:\n - servers: &a [" + strings.Repeat("192.168.0.10,", 30_000) + "]\n" + strings.Repeat(" - {servers: *a}\n", 30_000)},
		{"laughs", laughs(20, 10)},
		{"too large", strings.Repeat(" ", maxSize+1)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			start := time.Now()
			_, err := Parse("x.yaml", []byte(tt.yaml))
			errs, ok := errors.AsType[Errors](err)
			if !ok {
				t.Fatalf("got %v, want Errors", err)
			}
			checkErrors(t, errs)
			// Seconds even under the race detector; the parser left to itself takes minutes or overflows the stack.
			if d := time.Since(start); d > 20*time.Second {
				t.Errorf("took %v", d)
			}
			t.Logf("%v, %d errors, the first: %v", time.Since(start).Round(time.Millisecond), len(errs), errs[0])
		})
	}
}

func keys(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "k%d: 1, ", i)
	}
	return b.String()
}

// laughs is a list of lists of lists, each of which has the one before many times.
func laughs(levels, times int) string {
	var b strings.Builder
	b.WriteString("services:\n - &a0 [lol]\n")
	for i := range levels {
		fmt.Fprintf(&b, " - &a%d [%s]\n", i+1, strings.Repeat(fmt.Sprintf("*a%d, ", i), times))
	}
	return b.String()
}

// FuzzParse: never a panic, never neither configuration nor errors, every error with a place and three parts.
func FuzzParse(f *testing.F) {
	archive, err := txtar.ParseFile("testdata/bad.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for i := 0; i < len(archive.Files); i += 2 {
		f.Add(archive.Files[i].Data)
	}
	for _, s := range []string{sample, example, web, laughs(3, 3), "\xff", "a: \x00", "{a: [b:c, ::/0, d]}", "a: &a\n<<: *a\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := Parse("x.yaml", data)
		if err == nil {
			if cfg == nil || len(cfg.Ports) == 0 || len(cfg.Services)+len(cfg.Gateways) == 0 {
				t.Errorf("accepted %q as %+v", data, cfg)
			}
			return
		}
		errs, ok := errors.AsType[Errors](err)
		if cfg != nil || !ok {
			t.Errorf("got %+v and %v", cfg, err)
		}
		checkErrors(t, errs)
	})
}
