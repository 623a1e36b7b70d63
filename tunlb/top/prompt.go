package top

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"

	tea "charm.land/bubbletea/v2"

	"github.com/tunlb/tunlb/tunlb"
)

// prompt is a question in the line at the bottom, to which all keys go until it is answered.
type prompt struct {
	kind   promptKind
	order  tunlb.ServerOrder // valid unless it asks for a filter
	server string            // whom the order is about, for people
	text   string            // typed so far
	before string            // the filter that esc brings back
}

type promptKind uint8

const (
	confirm    promptKind = iota // y or n
	askWeight                    // a number
	askPattern                   // the filter
)

// insert adds what is typed or pasted.
func (p *prompt) insert(text string) {
	for _, r := range text {
		switch {
		case p.kind == confirm, unicode.IsControl(r), len(p.text) >= 60:
		case p.kind == askWeight && (r < '0' || r > '9'):
		default:
			p.text += string(r)
		}
	}
}

// pressPrompt is a key while there is a prompt.
func (m *Model) pressPrompt(msg tea.KeyPressMsg) tea.Cmd {
	p := m.prompt
	switch k := msg.String(); {
	case k == "ctrl+c":
		return m.quit()
	case k == "esc", p.kind == confirm && k == "n", p.kind == confirm && k == "q":
		m.prompt = nil
		if p.kind == askPattern {
			m.filter = p.before
			m.arrange()
		} else {
			m.note = note{text: "nothing was changed"}
		}
	case p.kind == confirm && k == "y", p.kind != confirm && k == "enter":
		return m.answered(p)
	case k == "backspace":
		if runes := []rune(p.text); len(runes) > 0 {
			p.text = string(runes[:len(runes)-1])
		}
		m.typed()
	case k == "ctrl+u":
		p.text = ""
		m.typed()
	default:
		p.insert(msg.Text)
		m.typed()
	}
	return nil
}

// typed has the filter work while it is typed.
func (m *Model) typed() {
	if m.prompt.kind == askPattern {
		m.filter = m.prompt.text
		m.arrange()
	}
}

// answered does what was asked for.
func (m *Model) answered(p *prompt) tea.Cmd {
	m.prompt = nil
	switch p.kind {
	case askPattern:
		return nil // it works already
	case askWeight:
		w, err := strconv.Atoi(p.text)
		if err != nil {
			m.note = note{fmt.Sprintf("weight %q: want a number", p.text), true} // how high, the daemon knows
			return nil
		}
		p.order.Weight = w
	}
	what := p.order.Do + " " + p.server
	m.note = note{text: what + ": asked"}
	if m.ask == nil {
		return nil
	}
	return m.ask.order(p.order, what)
}

// line shows the prompt.
func (p *prompt) line(m *Model) string {
	cursor := m.theme.selected.Render(" ")
	switch p.kind {
	case askPattern:
		return cut("/"+clean(p.text), m.width-1) + cursor
	case askWeight:
		return cut(fmt.Sprintf("weight of %s: %s", clean(p.server), clean(p.text)), m.width-1) + cursor
	}
	return m.theme.warn.Bold(true).Render(left(cut(fmt.Sprintf("%s %s?", p.order.Do, clean(p.server)), m.width-6)+" [y/n]", m.width))
}

// outcome is the note that an order leaves.
func outcome(msg *orderMsg) note {
	if msg.err != nil {
		return note{msg.what + ": " + msg.err.Error(), true}
	}
	if len(msg.events) == 0 {
		return note{text: msg.what + ": nothing to change"}
	}
	var done []string
	for i := range msg.events {
		ev := &msg.events[i]
		done = append(done, strings.TrimSpace(about(ev)+" "+ev.Kind+" "+ev.Cause))
	}
	return note{text: strings.Join(done, "; ")}
}
