package top

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	tea "charm.land/bubbletea/v2"
)

// View is tea.Model's.
func (m *Model) View() tea.View {
	v := tea.NewView(strings.Join(m.frame(), "\n"))
	v.AltScreen = true
	return v
}

// frame is the screen: at most height lines, none wider than the terminal. Only what is seen is rendered.
func (m *Model) frame() []string {
	if m.width < 20 || m.height < 5 {
		return []string{cut("too small", m.width)}
	}
	lines, body := m.header(), m.room()
	switch m.screen {
	case helpScreen:
		lines = append(lines, m.help(body)...)
	case connsScreen:
		lines = append(lines, m.connsLines(body)...)
	case traceScreen:
		lines = append(lines, m.traceLines(body)...)
	default:
		lines = append(lines, m.body(body)...)
	}
	lines = lines[:min(len(lines), m.height-1)]
	for len(lines) < m.height-1 {
		lines = append(lines, "")
	}
	lines = append(lines, m.bottom())
	for i := range lines {
		lines[i] = cut(lines[i], m.width)
	}
	return lines
}

// room is how many lines are left between header and bottom.
func (m *Model) room() int {
	if m.gone != nil {
		return m.height - 4
	}
	return m.height - 3
}

// header tells of the whole daemon: two lines, and one more while it does not answer.
func (m *Model) header() []string {
	t, d := &m.theme, &m.status.Daemon
	first := []string{t.strong.Render("tunlb " + clean(cmp.Or(d.Version, "?")))}
	if !d.Started.IsZero() {
		first = append(first, "up "+span(m.now.Sub(d.Started)), clean(cmp.Or(d.Config, "services by ipvsadm")))
	}
	first = append(first, "every "+m.interval.String())
	if m.paused {
		first = append(first, t.warn.Render("PAUSED"))
	}
	if m.filter != "" {
		first = append(first, t.warn.Render("/"+clean(m.filter)))
	}
	if !m.clock.IsZero() {
		first = append(first, m.clock.Format("15:04:05"))
	}
	h := &m.history
	f := m.status.Flows
	second := []string{
		fmt.Sprintf("flows %d/%d", f.Count, f.Cap),
		"conn/s " + perSecond(h.total.known, h.total.conns),
		"in " + bitsLong(h.total.known, h.total.in),
		"out " + bitsLong(h.total.known, h.total.out),
		"drops/s " + perSecond(h.total.known, h.dropRate()),
	}
	if h.busiest > 0 {
		second = append(second, fmt.Sprintf("busiest lane %.0f%%", 100*h.busiest))
	}
	if h.dropRate() > 0 {
		second[4] = t.bad.Render(second[4])
	}
	lines := []string{m.joined(first), m.joined(second)}
	if used := width(lines[1]) + 2; m.width-used >= 12 {
		n := min(m.width-used, minute)
		values := h.spark.columns(m.now, n)
		lines[1] += "  " + t.head.Render(bars(values, highestOf(values)))
	}
	if m.gone != nil {
		text := fmt.Sprintf("NO ANSWER for %s: %s; asked again every %s", span(m.clock.Sub(m.goneSince)), clean(m.gone.Error()), m.interval)
		lines = append(lines, t.bad.Render(cut(text, m.width)))
	}
	return lines
}

// joined puts parts on a line, as many as have room.
func (m *Model) joined(parts []string) string {
	line := ""
	for i, part := range parts {
		if i > 0 {
			part = "  " + part
		}
		if width(line)+width(part) > m.width && i > 0 {
			break
		}
		line += part
	}
	return line
}

// bitsLong is bits with its unit.
func bitsLong(known bool, bytes float64) string {
	text := bits(known, bytes)
	if n := len(text); n > 0 && strings.Contains("kMGT", text[n-1:]) {
		return text[:n-1] + " " + text[n-1:] + "bit/s"
	}
	return text + " bit/s"
}

func highestOf(values []float64) (highest float64) {
	for _, v := range values {
		highest = max(highest, v)
	}
	return highest
}

// Sizes from which the main screen has several panes, one above the other and side by side.
const (
	heightOfTwo = 14
	widthOfAll  = 110
)

// body is the main screen below the header: the services, and below them the others if there is room.
func (m *Model) body(height int) []string {
	if height < heightOfTwo {
		if m.focus == servicesPane {
			return m.services(m.width, height)
		}
		return append([]string{m.tabs(m.focus)}, m.pane(m.focus, m.width, height-1)...)
	}
	below := max(6, height/3)
	if rows := height - len(m.rows) - 2; rows > below { // the services leave more than that
		below = min(rows, height/2)
	}
	lines := m.services(m.width, height-below)
	for len(lines) < height-below {
		lines = append(lines, "")
	}
	if m.width < widthOfAll {
		return append(append(lines, m.tabs(m.lower)), m.pane(m.lower, m.width, below-1)...)
	}
	return append(lines, m.beside(below)...)
}

// titles of the panes.
var titles = [panes]string{"Services", "Drops", "Neighbours", "Events"}

// tabs is the line above a single pane: all names, that of the pane marked.
func (m *Model) tabs(shown pane) string {
	parts := make([]string, 0, panes)
	for p := dropsPane; p < panes; p++ {
		parts = append(parts, m.title(p, p == shown))
	}
	line := "─ " + strings.Join(parts, " ─ ") + " "
	return line + strings.Repeat("─", max(0, m.width-width(line)))
}

// title marks the pane that has the keys, in words for who sees no colours.
func (m *Model) title(p pane, shown bool) string {
	name := titles[p]
	if p == dropsPane && m.history.dropRate() > 0 {
		name += "!"
	}
	switch {
	case m.focus == p:
		return m.theme.selected.Render("[" + name + "]")
	case shown:
		return m.theme.strong.Render("[" + name + "]")
	}
	return m.theme.faint.Render(name)
}

// beside puts the lower panes side by side.
func (m *Model) beside(height int) []string {
	widths := [panes]int{dropsPane: 34, neighboursPane: 44}
	if len(m.status.Segments) == 0 {
		widths[neighboursPane] = 16
	}
	if m.width >= 160 {
		widths[neighboursPane] += 16
	}
	widths[eventsPane] = m.width - widths[dropsPane] - widths[neighboursPane] - 4
	lines := make([]string, height)
	for p := dropsPane; p < panes; p++ {
		w := widths[p]
		title := "─ " + m.title(p, false) + " "
		content := append([]string{title + strings.Repeat("─", max(0, w-width(title)))}, m.pane(p, w, height-1)...)
		for i := range lines {
			text := ""
			if i < len(content) {
				text = content[i]
			}
			if p > dropsPane {
				lines[i] += "  "
			}
			lines[i] += left(text, w)
		}
	}
	return lines
}

// pane is one of those below the services.
func (m *Model) pane(p pane, room, height int) []string {
	var head string
	var n int
	var line func(i int, whole bool) string
	switch p {
	case dropsPane:
		head, n, line = m.dropLines(room)
	case neighboursPane:
		head, n, line = m.neighbourLines(room)
	default:
		head, n, line = m.eventLines(room)
	}
	lines := []string{head}
	at := -1
	if m.focus == p {
		at = max(0, min(m.scroll[p], n-1))
	}
	from, to := window(n, max(0, at), height-1)
	for i := from; i < to; i++ {
		lines = append(lines, line(i, i == at))
	}
	return lines[:min(len(lines), max(0, height))]
}

// bottom is the line of prompts, messages and hints.
func (m *Model) bottom() string {
	switch {
	case m.prompt != nil:
		return m.prompt.line(m)
	case m.note.text != "" && m.note.bad:
		return m.theme.bad.Render(cut(clean(m.note.text), m.width))
	case m.note.text != "":
		return m.theme.strong.Render(cut(clean(m.note.text), m.width))
	}
	if text := m.trouble(); text != "" {
		return m.theme.warn.Render(cut(text, m.width))
	}
	return m.theme.faint.Render(cut(m.hints(), m.width))
}

// trouble is what is wrong with the server that is selected: its column may have had no room for it.
func (m *Model) trouble() string {
	if m.screen != mainScreen || m.focus != servicesPane {
		return ""
	}
	_, srv := m.selected()
	if srv == nil || stateOf(srv).rank < 2 {
		return ""
	}
	return clean(srv.Name) + " " + strings.Join(slices.DeleteFunc([]string{stateOf(srv).name, causeOf(srv, m.now)}, func(s string) bool { return s == "" }), ": ")
}
