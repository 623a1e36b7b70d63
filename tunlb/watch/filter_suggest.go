package watch

import (
	"fmt"
	"strings"
)

// quote shows what somebody has written; long text is cut, since an error is one line.
func quote(s string) string {
	const most = 40
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return fmt.Sprintf("%q", s)
}

// suggest says what to write instead of word: the nearest name, or all of them if none is near.
func suggest(word string, names []string) string {
	if name := nearest(word, names); name != "" {
		return "write " + name
	}
	last := len(names) - 1
	return "write " + strings.Join(names[:last], ", ") + " or " + names[last]
}

// nearest is the name that word was most likely meant to be, "" if there is none: a third of the letters may differ, or one
// begins with the other.
func nearest(word string, names []string) string {
	const longest = 40
	if len(word) > longest {
		return ""
	}
	word = strings.ToLower(word)
	best, least := "", longest
	for _, name := range names {
		d := distance(word, name)
		near := d <= max(1, max(len(word), len(name))/3)
		begins := min(len(word), len(name)) > 2 && (strings.HasPrefix(name, word) || strings.HasPrefix(word, name))
		if (near || begins) && d < least {
			best, least = name, d
		}
	}
	return best
}

// distance counts the letters to insert, drop or change to get from a to b (Levenshtein), one row at a time.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
