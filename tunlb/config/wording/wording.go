// Package wording is what errors in files and filters say of words: how they show what was written, list what there is, and
// find the name that was meant. It knows no file and no language.
package wording

import (
	"fmt"
	"strings"
)

// Quote shows what the file has; long text is cut, since an error is one line.
func Quote(s string) string {
	const most = 60
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return fmt.Sprintf("%q", s)
}

// Enumerate gives "a, b and c".
func Enumerate(names []string, and string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " " + and + " " + names[last]
}

// Suggest says what to write instead of word: the nearest name, or all of them if none is near.
func Suggest(word string, names []string) string {
	if len(names) == 0 {
		return "remove it"
	}
	if name := Nearest(word, names); name != "" {
		return fmt.Sprintf("write %q", name)
	}
	return "write " + Enumerate(names, "or")
}

// Nearest gives the name that word was most likely meant to be, "" if there is none: a third of the letters may differ,
// or one begins with the other.
func Nearest(word string, names []string) string {
	const longest = 40
	if len(word) > longest {
		return ""
	}
	word = strings.ToLower(word)
	best, least := "", longest
	for _, name := range names {
		d := distance(word, name)
		if d > max(1, max(len(word), len(name))/3) && !prefixed(word, name) {
			continue
		}
		if d < least {
			best, least = name, d
		}
	}
	return best
}

// prefixed reports whether one of the words begins with the other; two letters say nothing.
func prefixed(a, b string) bool {
	return min(len(a), len(b)) > 2 && (strings.HasPrefix(a, b) || strings.HasPrefix(b, a))
}

// distance counts the letters to insert, drop, change or swap with their neighbour to get from a to b
// (optimal string alignment).
func distance(a, b string) int {
	before, above, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		above[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			row[j] = min(above[j]+1, row[j-1]+1, above[j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, above, row = above, row, before
	}
	return above[len(b)]
}
