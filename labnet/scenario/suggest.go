package scenario

import (
	"fmt"
	"strings"
)

// quote shows what the file has; long text is cut, since an error is one line.
func quote(s string) string {
	const most = 60
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return fmt.Sprintf("%q", s)
}

// enumerate gives "a, b and c".
func enumerate(names []string, and string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " " + and + " " + names[last]
}

// suggest says what to write instead of word: the nearest name, or all of them if none is near.
func suggest(word string, names []string) string {
	best, least := "", 1+max(1, len(word)/3)
	for _, name := range names {
		if n := distance(strings.ToLower(word), name); n < least {
			best, least = name, n
		}
	}
	switch {
	case best != "":
		return fmt.Sprintf("write %q", best)
	case len(names) == 0:
		return "remove it"
	}
	return "write " + enumerate(names, "or")
}

// distance counts the letters to insert, drop or change to get from a to b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := corner
			if a[i] != b[j] {
				change++
			}
			corner = row[j+1]
			row[j+1] = min(row[j+1]+1, row[j]+1, change)
		}
	}
	return row[len(b)]
}
