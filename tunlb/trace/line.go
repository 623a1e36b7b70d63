package trace

import (
	"strings"
	"unicode/utf8"
)

// style is how a piece of text looks; the text alone says all, for those who see no colours.
type style uint8

const (
	plain    style = iota
	label          // words of the form
	toServer       // directions
	toClient
	changed // what it was changed into
	lost    // drops, and what is wrong
)

// sgr are parameters of "select graphic rendition" (ECMA-48, 8.3.117).
func (s style) sgr() string {
	switch s {
	case label:
		return "2"
	case toServer:
		return "1;36"
	case toClient:
		return "1;35"
	case changed:
		return "1;33"
	case lost:
		return "1;31"
	}
	return ""
}

// span is text of one style.
type span struct {
	style style
	text  string
}

// line is spans, and how far its continuation is indented where it has to be broken.
type line struct {
	spans  []span
	indent int
}

func lineOf(spans ...span) line { return line{spans: spans} }

func (l line) width() (n int) {
	for _, s := range l.spans {
		n += utf8.RuneCountInString(s.text)
	}
	return n
}

// write writes the line without blanks at its end.
func (l line) write(b *strings.Builder, colour bool) {
	last := len(l.spans) - 1
	for last >= 0 && strings.TrimRight(l.spans[last].text, " ") == "" {
		last--
	}
	for i, s := range l.spans[:last+1] {
		if i == last {
			s.text = strings.TrimRight(s.text, " ")
		}
		if sgr := s.style.sgr(); colour && sgr != "" && strings.TrimSpace(s.text) != "" {
			b.WriteString("\x1b[" + sgr + "m" + s.text + "\x1b[0m")
		} else {
			b.WriteString(s.text)
		}
	}
}

// wrap breaks a line at blanks so that no part is wider than width, except for words that are.
func (l line) wrap(width int) []line {
	if l.width() <= width {
		return []line{l}
	}
	var out []line
	now, used, begun := line{}, 0, 0 // begun: what of used is indent
	cut := func() {
		last := &now.spans[len(now.spans)-1]
		last.text = strings.TrimRight(last.text, " ") // which may be too many
		out = append(out, now)
	}
	end := func() {
		cut()
		begun = min(l.indent, width/2)
		now, used = lineOf(span{plain, strings.Repeat(" ", begun)}), begun
	}
	for _, s := range l.spans {
		for _, word := range words(s.text) {
			n := utf8.RuneCountInString(strings.TrimRight(word, " "))
			if used+n > width && used > begun {
				end()
				if word = strings.TrimLeft(word, " "); word == "" {
					continue
				}
			}
			now.spans = append(now.spans, span{s.style, word})
			used += utf8.RuneCountInString(word)
		}
	}
	cut()
	return out
}

// words cuts a text behind its blanks, which stay at the end of the word before them.
func words(text string) (list []string) {
	for text != "" {
		at := strings.IndexByte(text, ' ')
		if at < 0 {
			return append(list, text)
		}
		for at < len(text) && text[at] == ' ' {
			at++
		}
		list = append(list, text[:at])
		text = text[at:]
	}
	return list
}

// pad fills a line with blanks.
func (l line) pad(width int) line {
	if n := width - l.width(); n > 0 {
		l.spans = append(l.spans[:len(l.spans):len(l.spans)], span{plain, strings.Repeat(" ", n)})
	}
	return l
}

// shift puts text in front.
func (l line) shift(s span) line {
	return line{spans: append([]span{s}, l.spans...), indent: l.indent + utf8.RuneCountInString(s.text)}
}
