package top

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"
)

// clean makes a text of the daemon's safe to show: what a health check's answer or a name says must not move the
// cursor. Characters without a width of their own go as well, since terminals do not agree on how wide they make others.
func clean(s string) string {
	const textAsPicture = '\uFE0F'
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case unicode.IsControl(r), r == unicode.ReplacementChar:
			return '?'
		case unicode.Is(unicode.Cf, r), r == textAsPicture:
			return -1
		}
		return r
	}, s)
}

// width is how many columns a text takes, escapes not counted.
func width(s string) int { return ansi.StringWidth(s) }

// cut shortens a text to n columns.
func cut(s string, n int) string {
	if n <= 0 {
		return ""
	}
	return ansi.Truncate(s, n, "…")
}

// left and right make a text exactly n columns wide.
func left(s string, n int) string {
	s = cut(s, n)
	for missing := n - width(s); missing > 0; missing = n - width(s) { // again where a space has joined what it is beside
		s += strings.Repeat(" ", missing)
	}
	return s
}

func right(s string, n int) string {
	s = cut(s, n)
	for missing := n - width(s); missing > 0; missing = n - width(s) {
		s = strings.Repeat(" ", missing) + s
	}
	return s
}

// number prints a quantity with three digits or so, and a decimal prefix: 999, 1.23k, 45.6M.
func number(v float64) string {
	unit := ""
	for _, next := range []string{"k", "M", "G", "T"} {
		if v < 999.5 {
			break
		}
		v, unit = v/1000, next
	}
	switch {
	case unit == "" && v >= 9.95, v >= 99.95:
		return fmt.Sprintf("%.0f%s", v, unit)
	case unit == "" && v == float64(int(v)):
		return fmt.Sprintf("%.0f", v)
	case v >= 9.995, unit == "":
		return fmt.Sprintf("%.1f%s", v, unit)
	}
	return fmt.Sprintf("%.2f%s", v, unit)
}

// perSecond is a rate, or a dash as long as there is none.
func perSecond(known bool, v float64) string {
	if !known {
		return "-"
	}
	return number(v)
}

// bits is a rate of bytes in bits.
func bits(known bool, bytes float64) string { return perSecond(known, 8*bytes) }

// span prints how long something has been so, in at most two units.
func span(d time.Duration) string {
	s := max(0, int(d/time.Second))
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	case s < 86400:
		return fmt.Sprintf("%dh%02dm", s/3600, s/60%60)
	}
	return fmt.Sprintf("%dd%02dh", s/86400, s/3600%24)
}

// bars draws values as blocks of eight heights; highest is that of the full one. What is above zero is seen.
func bars(values []float64, highest float64) string {
	const blocks = "▁▂▃▄▅▆▇█"
	steps := []rune(blocks)
	var b strings.Builder
	for _, v := range values {
		switch {
		case v <= 0 || highest <= 0:
			b.WriteByte(' ')
		default:
			b.WriteRune(steps[min(len(steps)-1, int(v/highest*float64(len(steps))))])
		}
	}
	return b.String()
}

// theme is how things look: the sixteen colours that every terminal's owner has chosen, on their own background.
// None of them says anything that a word does not say as well.
type theme struct {
	plain, strong, faint, good, warn, bad, selected, head lipgloss.Style
}

func newTheme() theme {
	style := lipgloss.NewStyle
	return theme{
		plain:    style(),
		strong:   style().Bold(true),
		faint:    style().Faint(true),
		good:     style().Foreground(lipgloss.Green),
		warn:     style().Foreground(lipgloss.Yellow),
		bad:      style().Foreground(lipgloss.Red).Bold(true),
		selected: style().Reverse(true),
		head:     style().Foreground(lipgloss.Cyan).Bold(true),
	}
}
