package watch

import (
	"fmt"
	"strings"

	"github.com/tunlb/tunlb/tunlb/config/wording"
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
	if name := wording.Nearest(word, names); name != "" {
		return "write " + name
	}
	return "write " + wording.Enumerate(names, "or")
}
