package syntax

import (
	"strings"
	"testing"

	"github.com/goccy/go-yaml/lexer"
)

// TestMost: the place is that of the first token too many.
func TestMost(t *testing.T) {
	for _, tt := range []struct {
		yaml         string
		most         int
		line, column int
	}{
		{"[[[[", 3, 1, 4},
		{"[[[[", 4, 0, 0},
		{"a: b\nc: d\n", 3, 2, 1},
		{"a: b\r\nc: d\r\n", 4, 2, 2},
		{"ä: b c\n", 2, 1, 4},
		{"- a-b - c\n", 2, 1, 7},
		{"  # x", 1, 1, 5},
		{"", 0, 0, 0},
	} {
		line, column, ok := Most([]byte(tt.yaml), tt.most)
		if line != tt.line || column != tt.column || ok != (tt.line == 0) {
			t.Errorf("%q, at most %d: %d:%d, %v, want %d:%d", tt.yaml, tt.most, line, column, ok, tt.line, tt.column)
		}
	}
}

// FuzzMost: the lexer finds no more tokens than were counted.
func FuzzMost(f *testing.F) {
	for _, s := range []string{
		"[[[[", ",,,,", ": : :", "- - -", "? ? ?", "a: b\n", "{a:b:c}", "&a &b c", "*a b", "!a b c", "!!str a", "\"a\" \"b\"", "''''",
		"a: |\n  b\n  c\nd: >-\n e\n", "# a # b\n", "%a b\n---\na\n...\n", "@a`b\tc", "<<: *a", "a\n b\n", "<<:: ", "%@0 0", "...00", "---0", " |\n ", "\"a\nb\" [[", "\"\\x\" a \"\\", "-\t-\r-\n", "a\t:b",
		"{a: \"[::1]:80\"}", "a: 'b\n- c", "|x\n a", "a:\n\t- b", "\n\n a\n\n  b\n c",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if strings.ContainsRune(s, 0) || strings.ToValidUTF8(s, "") != s {
			t.Skip("is refused before")
		}
		defer func() {
			if recover() != nil {
				t.Skip("the lexer's own fault")
			}
		}()
		n := len(lexer.Tokenize(s))
		if _, _, ok := Most([]byte(s), n-1); ok && n > 0 {
			t.Errorf("%q: %d tokens, but fewer were counted", s, n)
		}
	})
}
