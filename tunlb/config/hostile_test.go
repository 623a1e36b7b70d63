package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
)

// TestParseHostile has inputs on which a YAML parser may hang, recurse without end or fill the memory.
func TestParseHostile(t *testing.T) {
	const size = 64 << 10
	fill := func(s string) string { return strings.Repeat(s, size/len(s)) }
	tests := []struct{ name, yaml, what string }{
		{"brackets", fill("["), "nested"},
		{"braces", fill("{"), "nested"},
		{"nested keys in braces", fill("{a: "), "nested"},
		{"nested lists in a line", fill("- "), "nested"},
		{"explicit keys", fill("? "), "complex key"},
		{"colons", fill(": "), "too many colons"},
		{"colons in lines", fill(":\n"), "too many keys"},
		{"anchors", fill("&a "), "too many anchors"},
		{"anchors in lines", fill("&a\n"), "too many anchors"},
		{"tags", fill("!a "), "too many anchors"},
		{"anchors and tags", fill("!a &a "), "too many anchors"},
		{"aliases", fill("- *a\n"), "unknown alias"},
		{"keys", fill("a: b\n"), "too many keys"},
		{"keys in braces", "a: {" + fill("b: c, ") + "}", "unknown key"},
		{"values after values in braces", "a: {" + fill("b: "), "no valid YAML"},
		{"quoted keys", fill("\"a\": b\n"), "too many keys"},
		{"keys in list items", "- " + fill("a: b\n  "), "too many keys"},
		{"merge keys", "services:\n - &a {" + keys(maxKeys) + "}\n" + strings.Repeat(" - {<<: *a}\n", 5_000), "service without"},
		{"documents", fill("---\n"), "empty file"},
		{"document ends", fill("...\n"), "empty file"},
		{"directives", fill("%a\n"), "no valid YAML"},
		{"comments", fill("# a\n"), "empty file"},
		{"spaces", fill(" "), "empty file"},
		{"lines", fill("\n"), "empty file"},
		{"tabs", fill("\t"), "empty file"},
		{"text", fill("a"), "value too long"},
		{"text in lines", fill("a\n"), "value too long"},
		{"quotes", "a: \"" + fill("\\n"), "no valid YAML"},
		{"block text", "a: |\n" + fill("  a\n"), "unknown key"},
		{"folded text", "a: >\n" + fill("  a\n\n"), "unknown key"},
		{"broken UTF-8", fill("\xff"), "no UTF-8"},
		{"NUL", fill("a: \x00\n"), "no UTF-8"},
		{"joined colons", "a: {b: [" + fill("a:b:") + "]}", "unknown key"},
		{"digits", "flows: {max: " + fill("1") + "}", "no service"},
		{"services", "services:\n" + fill(" - {listen: 203.0.113.22:80, servers: [192.168.0.10]}\n"), "doubled service"},
		{"servers of many services", "services:\n - servers: &a [" + strings.Repeat("192.168.0.10,", 800) + "]\n" + strings.Repeat(" - {servers: *a}\n", 800), "service without"},
		{"laughs", laughs(20, 10), "a list in place"},
		{"too many brackets", strings.Repeat("[", maxSize), "too many signs"},
		{"too many commas", strings.Repeat(",", 2*someTokens+2), "too many signs"},
		{"too many colons", strings.Repeat(": ", maxTokens+1), "too many signs"},
		{"too many keys", strings.Repeat("a: b\n", maxTokens/3+1), "too many signs"},
		{"too large", strings.Repeat(" ", maxSize+1), "file too large"},
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
			if !strings.HasPrefix(errs[0].What, tt.what) {
				t.Errorf("the first of %d errors is %v, want %s", len(errs), errs[0], tt.what)
			}
			// A second on an idle machine; left to itself the parser takes minutes or overflows the stack.
			if d := time.Since(start); d > time.Minute {
				t.Errorf("took %v", d)
			}
		})
	}
}

// TestParseLarge: the bounds let a large file pass that is none of the hostile ones, in lines and in braces.
func TestParseLarge(t *testing.T) {
	for name, server := range map[string]string{
		"lines":  "      - name: rs%d-%d\n        address: 10.%d.%d.%d:8080\n        weight: 2\n",
		"braces": "      - {name: rs%d-%d, address: 10.%d.%d.%d:8080, weight: 2}\n",
	} {
		var b strings.Builder
		b.WriteString("services:\n")
		for i := range 10_000 {
			fmt.Fprintf(&b, "  - name: web-%d\n    listen: 203.0.%d.%d:80/tcp\n    scheduler: rr\n    servers:\n", i, i/250, i%250+1)
			for k := range 4 {
				fmt.Fprintf(&b, server, i, k, k, i/250, i%250+1)
			}
		}
		cfg, err := Parse("x.yaml", []byte(b.String()))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if len(cfg.Services) != 10_000 {
			t.Errorf("%s: %d services", name, len(cfg.Services))
		}
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
	example, err := os.ReadFile("example.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{sample, string(example), web, laughs(3, 3), "\xff", "a: \x00", "{a: [b:c, ::/0, d]}", "a: &a\n<<: *a\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := Parse("x.yaml", data)
		if err == nil {
			if cfg == nil || len(cfg.Ports) == 0 || len(cfg.Services)+len(cfg.Gateways) == 0 {
				t.Errorf("accepted %q as %+v", data, cfg)
			}
			if err := WriteServices(io.Discard, cfg.Services); err != nil {
				t.Errorf("accepted %q and cannot write it: %v", data, err)
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
