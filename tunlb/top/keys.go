package top

import (
	"slices"
	"strings"

	tea "charm.land/bubbletea/v2"

	"github.com/tunlb/tunlb/tunlb"
)

// binding is a key, or several, and what it does: help and hints are made of the same list.
type binding struct {
	keys []string
	help string
	hint string // for the line at the bottom; "" is not shown there
	do   func(*Model) tea.Cmd
}

// moving are the keys that work on every screen.
func moving() []binding {
	by := func(n int) func(*Model) tea.Cmd { return func(m *Model) tea.Cmd { m.move(n); return nil } }
	page := func(sign int) func(*Model) tea.Cmd {
		return func(m *Model) tea.Cmd { m.move(sign * max(1, m.height/2)); return nil }
	}
	return []binding{
		{[]string{"up", "k"}, "one up", "", by(-1)},
		{[]string{"down", "j"}, "one down", "", by(1)},
		{[]string{"pgup", "ctrl+b"}, "half a screen up", "", page(-1)},
		{[]string{"pgdown", "ctrl+f"}, "half a screen down", "", page(1)},
		{[]string{"home", "g"}, "to the first", "", by(-1 << 30)},
		{[]string{"end", "G"}, "to the last", "", by(1 << 30)},
		{[]string{"p"}, "pause, and go on", "", (*Model).pause},
		{[]string{"?", "h"}, "this help, and away with it", "", (*Model).toggleHelp},
		{[]string{"ctrl+z"}, "to the background, if the shell can", "", func(*Model) tea.Cmd { return tea.Suspend }},
		{[]string{"q", "ctrl+c"}, "quit; on another screen than the first: back", "", (*Model).back},
	}
}

// mainKeys are those of the first screen.
func mainKeys() []binding {
	return []binding{
		{[]string{"tab"}, "to the next pane", "", func(m *Model) tea.Cmd { m.turn(1); return nil }},
		{[]string{"shift+tab"}, "to the pane before", "", func(m *Model) tea.Cmd { m.turn(-1); return nil }},
		{[]string{"enter"}, "connections of a server, or of a service", "enter conns", (*Model).openConns},
		{[]string{"t"}, "trace a server's or a service's packets", "t trace", (*Model).traceSelected},
		{[]string{"d"}, "drain a server: no new connections", "d drain", func(m *Model) tea.Cmd { return m.order("drain", confirm) }},
		{[]string{"u"}, "undrain it", "u undrain", func(m *Model) tea.Cmd { return m.order("undrain", confirm) }},
		{[]string{"w"}, "set its weight", "w weight", func(m *Model) tea.Cmd { return m.order("weight", askWeight) }},
		{[]string{"/"}, "show only what has a text in it", "/ filter", (*Model).askFilter},
		{[]string{"s"}, "sort by the next column", "s sort", (*Model).sortNext},
		{[]string{"space"}, "fold a service, and unfold it", "", (*Model).fold},
		{[]string{"esc"}, "end the filter", "", (*Model).clear},
	}
}

// connKeys are those of the list of connections.
func connKeys() []binding {
	return []binding{
		{[]string{"t", "enter"}, "trace the connection", "t trace", (*Model).traceConn},
		{[]string{"esc", "left"}, "back", "esc back", (*Model).back},
	}
}

// backKeys are those of screens that are only read.
func backKeys() []binding {
	return []binding{{[]string{"esc", "left"}, "back", "esc back", (*Model).back}}
}

// bindings of a screen.
func bindings(s screen) []binding {
	own := backKeys()
	switch s {
	case mainScreen:
		own = mainKeys()
	case connsScreen:
		own = connKeys()
	}
	return append(own, moving()...)
}

// press is a key.
func (m *Model) press(msg tea.KeyPressMsg) tea.Cmd {
	if m.prompt != nil {
		return m.pressPrompt(msg)
	}
	m.note = note{} // it has been read
	k := msg.String()
	if k == "ctrl+c" {
		return m.quit()
	}
	for _, b := range bindings(m.screen) {
		if slices.Contains(b.keys, k) {
			return b.do(m)
		}
	}
	return nil
}

// hints are the keys that the line at the bottom names.
func (m *Model) hints() string {
	var parts []string
	for _, b := range bindings(m.screen) {
		if b.hint != "" {
			parts = append(parts, b.hint)
		}
	}
	switch m.screen {
	case mainScreen:
		parts = append(parts, "p pause", "? help", "q quit")
	case helpScreen:
		parts = append(parts, "? or q closes this help")
	default:
		parts = append(parts, "p pause", "? help", "q back")
	}
	return strings.Join(parts, "  ")
}

func (m *Model) toggleHelp() tea.Cmd {
	if m.screen == helpScreen {
		return m.back()
	}
	m.screen, m.helpTop = helpScreen, 0
	return nil
}

// help is the screen of keys and signs.
func (m *Model) help(height int) []string {
	lines := m.helpLines()
	from := max(0, min(m.helpTop, len(lines)-height))
	return lines[from:min(len(lines), from+height)]
}

func (m *Model) helpLines() (lines []string) {
	section := func(title string, list []binding) {
		lines = append(lines, m.theme.head.Render(title))
		for _, b := range list {
			lines = append(lines, "  "+left(strings.Join(b.keys, ", "), 16)+" "+b.help)
		}
	}
	section("Everywhere", moving())
	section("Services", mainKeys())
	section("Connections", connKeys())
	section("Columns", nil)
	for _, s := range explained() {
		lines = append(lines, "  "+left(s[0], 16)+" "+s[1])
	}
	return lines
}

// explained says what columns and signs mean.
func explained() [][2]string {
	return [][2]string{
		{"STATE", "up, down, checking, drained, overloaded, sorry (the last resort serves), quiesced (weight 0), unchecked"},
		{"", "of a service: servers that take connections, and how many there are"},
		{"WEIGHT", "0/4 is 0 in force and 4 configured"},
		{"ACTIVE, INACT", "connections, told apart as IPVS does: established ones, and all others"},
		{"CONN/S, b/s", "new connections and bits a second since the last look; - is not known"},
		{"LAST MINUTE", "bits in and out; servers of one service have one scale"},
		{"▲", "packets that are dropped now"},
	}
}

func (m *Model) quit() tea.Cmd {
	m.trace.stop()
	return tea.Quit
}

// back leaves a screen, and on the first one the program.
func (m *Model) back() tea.Cmd {
	switch m.screen {
	case mainScreen:
		return m.quit()
	case traceScreen:
		back := m.trace.back
		m.trace.stop()
		m.screen = back
	case helpScreen:
		m.screen = mainScreen
		switch {
		case m.trace.of != "":
			m.screen = traceScreen
		case m.conns.of != subject{}:
			m.screen = connsScreen
		}
	default:
		m.screen, m.conns = mainScreen, connsView{}
	}
	return nil
}

// move goes through what has the keys.
func (m *Model) move(by int) {
	switch {
	case m.screen == helpScreen:
		m.helpTop = max(0, min(m.helpTop+by, len(m.helpLines())-m.room()))
	case m.screen == traceScreen:
		m.trace.up = max(0, min(m.trace.up-by, len(m.trace.lines)-m.room()+1))
	case m.screen == connsScreen:
		m.conns.choose(m.conns.cursor + by)
	case m.focus == servicesPane:
		m.choose(m.cursor + by)
	default:
		n := map[pane]int{dropsPane: len(m.history.drops), eventsPane: len(m.events)}[m.focus]
		for i := range m.status.Segments {
			if m.focus == neighboursPane {
				n += len(m.status.Segments[i].Neighbours) + len(m.status.Segments[i].Conflicts)
			}
		}
		m.scroll[m.focus] = max(0, min(m.scroll[m.focus]+by, n-1))
	}
}

// turn gives another pane the keys.
func (m *Model) turn(by int) {
	m.focus = (m.focus + pane(by) + panes) % panes
	if m.focus != servicesPane {
		m.lower = m.focus
	}
}

func (m *Model) pause() tea.Cmd {
	if m.paused = !m.paused; m.paused {
		return nil
	}
	return m.trace.resume()
}

func (m *Model) sortNext() tea.Cmd {
	m.sorting = (m.sorting + 1) % sortings
	m.note = note{text: "sorted by " + sortNames[m.sorting]}
	m.arrange()
	return nil
}

func (m *Model) fold() tea.Cmd {
	if svc, _ := m.selected(); svc != nil {
		m.folded[svc.Name] = !m.folded[svc.Name]
		m.at = key{service: svc.Name}
		m.arrange()
	}
	return nil
}

func (m *Model) askFilter() tea.Cmd {
	m.focus = servicesPane
	m.prompt = &prompt{kind: askPattern, text: m.filter, before: m.filter}
	return nil
}

func (m *Model) clear() tea.Cmd {
	m.filter = ""
	m.arrange()
	return nil
}

// order asks before anything is done to a server.
func (m *Model) order(do string, kind promptKind) tea.Cmd {
	svc, srv := m.selected()
	switch {
	case m.focus != servicesPane || srv == nil:
		m.note = note{"select a server first: " + do + " is about one", true}
	case srv.Sorry:
		m.note = note{clean(srv.Name) + " is the last resort: it takes no orders", true}
	case m.gone != nil:
		m.note = note{"there is no tunlb to obey", true}
	default:
		m.prompt = &prompt{
			kind: kind, server: svc.Name + "/" + srv.Name,
			order: tunlb.ServerOrder{Service: svc.Name, Server: srv.Address.String(), Do: do},
		}
	}
	return nil
}

// subject is who is selected.
func (m *Model) subject() (s subject, ok bool) {
	svc, srv := m.selected()
	if m.focus != servicesPane || svc == nil {
		m.note = note{"select a server first", true}
		return s, false
	}
	s.service = svc.Name
	if srv != nil {
		s.server, s.name = srv.Address, srv.Name
	}
	return s, true
}

func (m *Model) openConns() tea.Cmd {
	of, ok := m.subject()
	if !ok {
		return nil
	}
	m.visits++
	m.screen, m.conns = connsScreen, connsView{visit: m.visits, of: of}
	return m.list()
}

func (m *Model) traceSelected() tea.Cmd {
	of, ok := m.subject()
	if !ok {
		return nil
	}
	return m.begin(of.String(), of.packets())
}

func (m *Model) traceConn() tea.Cmd {
	if m.conns.cursor >= len(m.conns.conns) {
		return nil
	}
	c := &m.conns.conns[m.conns.cursor]
	return m.begin(c.ID, packetsOf(c))
}
