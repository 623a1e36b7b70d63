package top

import (
	"fmt"
	"slices"

	tea "charm.land/bubbletea/v2"

	"github.com/tunlb/tunlb/tunlb/watch"
)

// mostLines is how much of a trace is kept.
const mostLines = 2000

// traceView is a trace under way, or what is left of it.
type traceView struct {
	of      string
	back    screen // where it was begun
	stream  *stream
	waiting bool // for the stream's lines; not so while paused
	ended   bool
	err     error
	lines   []string
	up      int // lines that it is scrolled up by; 0: the newest are seen as they come
}

// begin opens the screen of a trace.
func (m *Model) begin(of string, f watch.Filter) tea.Cmd {
	m.trace = traceView{of: of, back: m.screen}
	m.screen = traceScreen
	if m.ask == nil {
		return nil
	}
	var cmd tea.Cmd
	m.trace.stream, cmd = m.ask.open(f, m.width)
	m.trace.waiting = true
	return cmd
}

// take adds lines, and waits for more unless the view is paused.
func (v *traceView) take(msg *traceMsg, paused bool) tea.Cmd {
	if msg.from != v.stream {
		return nil // of one that was left
	}
	v.waiting = false
	v.lines = append(v.lines, msg.lines...)
	if v.up > 0 {
		v.up += len(msg.lines) // what is read stays where it is
	}
	if extra := len(v.lines) - mostLines; extra > 0 {
		v.lines = slices.Delete(v.lines, 0, extra)
	}
	if msg.ended {
		v.ended, v.err = true, msg.err
		return nil
	}
	if paused {
		return nil
	}
	return v.resume()
}

// resume waits for more lines, if nobody does.
func (v *traceView) resume() tea.Cmd {
	if v.stream == nil || v.waiting || v.ended {
		return nil
	}
	v.waiting = true
	return v.stream.next()
}

// stop ends it.
func (v *traceView) stop() {
	if v.stream != nil {
		v.stream.stop()
	}
	*v = traceView{}
}

// traceLines is the screen of a trace.
func (m *Model) traceLines(height int) []string {
	v := &m.trace
	title := "Trace of " + clean(v.of)
	switch {
	case v.err != nil:
		title += ": " + clean(v.err.Error())
	case v.ended:
		title += ": the daemon has ended it"
	case m.paused:
		title += ": paused"
	case len(v.lines) == 0:
		title += ": no packet yet"
	}
	lines := []string{m.theme.strong.Render(cut(title, m.width))}
	room := height - 1
	up := max(0, min(v.up, len(v.lines)-room))
	end := len(v.lines) - up
	for _, line := range v.lines[max(0, end-room):end] {
		lines = append(lines, cut(line, m.width))
	}
	if up > 0 {
		lines[0] = m.theme.strong.Render(cut(fmt.Sprintf("%s (%d lines below)", title, up), m.width))
	}
	return lines
}
