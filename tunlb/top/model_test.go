package top

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
	"github.com/google/go-cmp/cmp"

	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/control"
	"github.com/tunlb/tunlb/tunlb/watch"
)

// run carries out a command and tells the model what comes of it, as far as that does not wait.
func run(m *Model, cmd tea.Cmd) tea.Cmd {
	if cmd == nil {
		return nil
	}
	_, next := m.Update(cmd())
	return next
}

// TestPolls: a look after another, each with the events since the last; orders bring one out of turn that begins no
// second series.
func TestPolls(t *testing.T) {
	d := &scripted{statuses: recorded(t), events: happened(4)}
	m := asking(t, d)
	next := run(m, m.Init())
	if next == nil || len(m.events) != 4 || m.status.Daemon.PID != 4711 {
		t.Fatalf("after the first look: %d events, %+v", len(m.events), m.status.Daemon)
	}
	next = run(m, next) // the tick
	next = run(m, next)
	if !slices.Equal(d.since, []uint64{0, 4}) || len(m.events) != 4 {
		t.Errorf("asked for events since %v, has %d", d.since, len(m.events))
	}
	if extra := run(m, m.poll(true)); extra != nil || next == nil {
		t.Error("a look out of turn begins a series of its own")
	}
}

// TestRestart: another daemon begins anew with its counters and its events; while there is none the view says so.
func TestRestart(t *testing.T) {
	m := told(t, 160, 45)
	if !m.history.total.known || m.history.total.in == 0 {
		t.Fatal("no rates to begin with")
	}
	gone := errors.New("no tunlb is running here")
	m.Update(pollMsg{at: clock(5), err: gone})
	m.Update(pollMsg{at: clock(17), err: gone})
	if got := text(m); !strings.Contains(got, "NO ANSWER for 12s: no tunlb is running here") || !strings.Contains(got, "192.168.0.10:8080") {
		t.Errorf("it should say for how long, and show what was last:\n%s", got)
	}
	if press(m, "j", "d"); m.prompt != nil || !strings.Contains(text(m), "no tunlb to obey") {
		t.Error("an order to nobody")
	}
	press(m, "k")
	again := recorded(t)[0]
	again.Daemon.Started = clock(16)
	m.Update(pollMsg{at: clock(18), status: again, events: []tunlb.Event{{Seq: 1, Kind: "up", Server: "new"}}})
	got := text(m)
	if strings.Contains(got, "NO ANSWER") || !strings.Contains(got, "started anew") || !strings.Contains(got, "up 2s") || len(m.events) != 1 {
		t.Errorf("after the restart, with %d events:\n%s", len(m.events), got)
	}
	if m.history.total.known || !strings.Contains(got, "conn/s -") {
		t.Errorf("a rate over a restart:\n%s", got)
	}
	// The same daemon after a pause in its answers goes on counting.
	m = told(t, 160, 45)
	m.Update(pollMsg{at: clock(5), err: gone})
	m.Update(pollMsg{at: clock(6), status: recorded(t)[4], events: happened(4)})
	if got := text(m); !strings.Contains(got, "answers again") || !m.history.total.known || len(m.events) != 4 {
		t.Errorf("after a pause, with %d events:\n%s", len(m.events), got)
	}
}

// TestStale: an answer that comes late changes nothing.
func TestStale(t *testing.T) {
	m := told(t, 80, 24)
	before := text(m)
	m.Update(pollMsg{at: clock(2), status: recorded(t)[0]})
	if diff := cmp.Diff(before, text(m)); diff != "" {
		t.Errorf("an old status is shown (-before +after):\n%s", diff)
	}
}

// TestOrders: nothing is done before y, and then what was asked for, to the server that was selected.
func TestOrders(t *testing.T) {
	rs2 := "192.168.0.11:8080"
	for _, test := range []struct {
		name string
		keys []string
		want []tunlb.ServerOrder
		says string
	}{
		{"drain", []string{"j", "j", "d", "y"}, []tunlb.ServerOrder{{Service: "web", Server: rs2, Do: "drain"}}, "web/" + rs2 + " drained"},
		{"undrain", []string{"down", "down", "u", "y"}, []tunlb.ServerOrder{{Service: "web", Server: rs2, Do: "undrain"}}, "undrained"},
		{"no", []string{"j", "j", "d", "n"}, nil, "nothing was changed"},
		{"escape", []string{"j", "j", "d", "esc"}, nil, "nothing was changed"},
		{"another key", []string{"j", "j", "d", "x", "enter", "space"}, nil, "drain web/rs2?"},
		{"weight", []string{"j", "j", "w", "1", "x", "2", "3", "backspace", "enter"}, []tunlb.ServerOrder{{Service: "web", Server: rs2, Do: "weight", Weight: 12}}, "weighted"},
		{"weight 0", []string{"j", "j", "w", "0", "enter"}, []tunlb.ServerOrder{{Service: "web", Server: rs2, Do: "weight"}}, "weighted"},
		{"weight nothing", []string{"j", "j", "w", "enter"}, nil, `weight "": want a number`},
		{"weight without end", append([]string{"j", "j", "w"}, append(strings.Split(strings.Repeat("9", 30), ""), "enter")...), nil, "want a number"},
		{"weight anew", []string{"j", "j", "w", "7", "ctrl+u", "4", "enter"}, []tunlb.ServerOrder{{Service: "web", Server: rs2, Do: "weight", Weight: 4}}, "weighted"},
		{"a service", []string{"d"}, nil, "select a server first"},
		{"no server's pane", []string{"j", "tab", "w"}, nil, "select a server first"},
		{"the last resort", []string{"/", "s", "o", "r", "r", "y", "enter", "end", "d"}, nil, "takes no orders"},
	} {
		d := &scripted{statuses: recorded(t)}
		m := asking(t, d)
		run(m, m.Init())
		cmd := press(m, test.keys...)
		if test.want != nil {
			run(m, cmd)
		}
		if diff := cmp.Diff(test.want, d.orders); diff != "" {
			t.Errorf("%s: (-want +got):\n%s", test.name, diff)
		}
		if got := text(m); !strings.Contains(got, test.says) {
			t.Errorf("%s: no %q in\n%s", test.name, test.says, got)
		}
	}
	d := &scripted{statuses: recorded(t), refuse: errors.New("weight is out of range: 99")}
	m := asking(t, d)
	run(m, m.Init())
	next := run(m, press(m, "j", "w", "9", "9", "enter"))
	if got := text(m); !strings.Contains(got, "weight web/rs1: weight is out of range: 99") {
		t.Errorf("a refusal:\n%s", got)
	}
	if _, ok := next().(pollMsg); !ok {
		t.Error("an order is not followed by a look")
	}
}

// TestSelection: it stays with its server when the order changes, and with its place when that is gone.
func TestSelection(t *testing.T) {
	m := told(t, 120, 40)
	press(m, "j", "j", "j") // rs3
	for range sortings {
		press(m, "s")
		if _, srv := m.selected(); srv == nil || srv.Name != "rs3" {
			t.Errorf("sorted by %s: %+v is selected", sortNames[m.sorting], m.at)
		}
	}
	status := recorded(t)[4]
	servers := &status.Services[0].Servers
	*servers = slices.Delete(slices.Clone(*servers), 2, 3)
	m.Update(pollMsg{at: clock(5), status: status})
	if _, srv := m.selected(); srv == nil || m.cursor != 3 {
		t.Errorf("after rs3 has gone, row %d: %+v", m.cursor, m.at)
	}
	m.Update(pollMsg{at: clock(6), status: control.Status{Daemon: status.Daemon}})
	if svc, _ := m.selected(); svc != nil || !strings.Contains(text(m), "no services") {
		t.Errorf("without services:\n%s", text(m))
	}
	for _, k := range []string{"up", "down", "home", "end", "pgdown", "enter", "t", "d", "w", "space", "s"} {
		press(m, k) // none of which has anything to work on
	}
}

// TestSorting: the first server of the first service.
func TestSorting(t *testing.T) {
	for by, want := range map[sorting]string{byFile: "rs1", byName: "rs1", byState: "rs3", byActive: "rs1", byConns: "rs1", byTraffic: "rs1"} {
		m := told(t, 120, 40)
		m.sorting = by
		m.arrange()
		i := slices.IndexFunc(m.rows, func(r row) bool { return r.key.service == "web" })
		if got := m.status.Services[0].Servers[m.rows[i+1].server].Name; got != want {
			t.Errorf("by %s: %s is first, want %s", sortNames[by], got, want)
		}
	}
	m := told(t, 120, 40)
	m.sorting = byState
	m.arrange()
	if got := m.rows[0].key.service; got != "web" && got != "shop" {
		t.Errorf("by state: %s is first", got)
	}
	m.sorting = byName
	m.arrange()
	if got := m.rows[0].key.service; got != "dns" {
		t.Errorf("by name: %s is first", got)
	}
}

// TestFilter: services whose name has the text with all servers, and of others the servers that have it.
func TestFilter(t *testing.T) {
	m := told(t, 120, 40)
	for filter, want := range map[string][]string{
		"":    {"web", "rs1", "rs2", "rs3", "服务器四", "rs5", "rs6", "shop", "shop-backend-with-a-long-name", "sorry", "dns", "ns1", "ns2"},
		"RS2": {"web", "rs2"}, "dns": {"dns", "ns1", "ns2"}, "refused": {"web", "rs3"}, "drained": {"web", "rs2"}, "服": {"web", "服务器四"}, "nosuch": nil, "53/udp": {"dns", "ns1", "ns2"},
	} {
		press(m, "/", "ctrl+u")
		typing(m, filter)
		var got []string
		for _, r := range m.rows {
			svc := &m.status.Services[r.service]
			if r.server < 0 {
				got = append(got, svc.Name)
			} else {
				got = append(got, svc.Servers[r.server].Name)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: (-want +got):\n%s", filter, diff)
		}
		press(m, "enter")
	}
	press(m, "/", "x", "esc")
	if strings.Contains(m.filter, "x") {
		t.Error("esc keeps what was typed")
	}
	press(m, "esc")
	if m.filter != "" || len(m.rows) != 13 {
		t.Errorf("esc does not end the filter %q", m.filter)
	}
	press(m, "/")
	m.Update(tea.PasteMsg{Content: "rs\n2\x1b"})
	if m.filter != "rs2" {
		t.Errorf("pasted: %q", m.filter)
	}
}

// TestPause: what is shown stands still, and goes on.
func TestPause(t *testing.T) {
	d := &scripted{statuses: recorded(t)}
	m := asking(t, d)
	tick := run(m, m.Init())
	press(m, "p")
	before := text(m)
	for range 3 {
		tick = run(m, tick)
	}
	m.Update(pollMsg{at: clock(50), status: recorded(t)[4]}) // was on its way
	if d.asked != 1 || text(m) != before {
		t.Errorf("asked %d times while paused:\n%s", d.asked, cmp.Diff(before, text(m)))
	}
	press(m, "p")
	run(m, run(m, tick))
	if d.asked != 2 || text(m) == before {
		t.Errorf("asked %d times after the pause", d.asked)
	}
}

// TestConns: a server's connections, again and again until they are left, with rates by difference.
func TestConns(t *testing.T) {
	d := &scripted{statuses: recorded(t), conns: conns(0)}
	m := asking(t, d)
	m.Update(tea.WindowSizeMsg{Width: 120, Height: 40})
	run(m, m.Init())
	if next := run(m, press(m, "j", "enter")); next == nil {
		t.Error("asked for once only")
	}
	press(m, "j", "j")
	d.conns = conns(1000)[1:] // the first one has ended
	again := connsTickMsg{m.visits}
	run(m, run(m, func() tea.Msg { return again }))
	if want := (tunlb.ConnFilter{Service: "web", Server: "192.168.0.10:8080"}); len(d.filters) != 2 || d.filters[0] != want {
		t.Errorf("asked for %+v, want %+v", d.filters, want)
	}
	got := text(m)
	if !strings.Contains(got, "Connections of web/rs1: 29") || m.conns.conns[m.conns.cursor].Client.Port() != 40002 {
		t.Errorf("row %d is selected:\n%s", m.conns.cursor, got)
	}
	id := m.conns.id
	if r := m.conns.rates[id]; !r.known || r.out != 1000 || r.in != 0 { // the clock goes two seconds between answers, i is 2
		t.Errorf("%s: %+v", id, r)
	}
	press(m, "esc")
	if m.screen != mainScreen || run(m, func() tea.Msg { return again }) != nil {
		t.Error("still asked for after it was left")
	}
	run(m, press(m, "home", "enter"))
	if f := d.filters[len(d.filters)-1]; f.Service != "web" || f.Server != "" {
		t.Errorf("all of a service: %+v", f)
	}
	if of := (subject{service: "x", server: netip.MustParseAddrPort("192.168.0.10:0"), name: "rs"}); of.filter().Server != "192.168.0.10" {
		t.Errorf("a server without a port: %+v", of.filter())
	}
	for range mostConns {
		d.conns = append(d.conns, conns(0)[0])
	}
	run(m, m.list())
	if !m.conns.more || len(m.conns.conns) != mostConns || !strings.Contains(text(m), "500 of more") {
		t.Errorf("%d of too many, more %v", len(m.conns.conns), m.conns.more)
	}
}

// TestTrace: the packets of one connection, and of nothing else, until the screen is left.
func TestTrace(t *testing.T) {
	d := &scripted{statuses: recorded(t), conns: conns(0)}
	for i := range 3 {
		d.lines = append(d.lines, control.TraceLine{Lost: uint64(i / 2 * 7), Record: watch.Record{
			Seq: uint64(i), Protocol: "tcp", Client: place("198.51.100.7:40002"), VIP: place("203.0.113.22:80"), Drop: "no-server",
		}})
	}
	m := asking(t, d)
	m.Update(tea.WindowSizeMsg{Width: 120, Height: 40})
	run(m, m.Init())
	run(m, press(m, "j", "enter"))
	batch := press(m, "j", "j", "t")().(tea.BatchMsg)
	streaming := make(chan tea.Msg, 1)
	go func() { streaming <- batch[0]() }()
	next := batch[1]
	for !strings.Contains(strings.Join(m.trace.lines, "\n"), "7 packets lost") {
		next = run(m, next)
	}
	want := watch.Filter{
		Protocol: "tcp", Client: watch.Endpoint{Network: netip.MustParsePrefix("198.51.100.7/32"), Port: 40002},
		VIP: watch.Endpoint{Network: netip.MustParsePrefix("203.0.113.22/32"), Port: 80},
	}
	if d.traced.Filter != want {
		t.Errorf("traced %q, want %q", d.traced.Filter, want)
	}
	got := text(m)
	for _, want := range []string{"Trace of tcp/198.51.100.7:40002/203.0.113.22:80", "no-server", "198.51.100.7:40002"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	press(m, "p")
	if m.trace.waiting = false; run(m, func() tea.Msg { return traceMsg{from: m.trace.stream} }) != nil {
		t.Error("a paused trace reads on")
	}
	if press(m, "p") == nil {
		t.Error("a trace does not go on after a pause")
	}
	was := m.trace.stream
	press(m, "esc")
	if <-streaming != nil || was.ctx.Err() == nil || m.screen != connsScreen {
		t.Error("the trace goes on after it was left")
	}
	// The trace's end is told, if nobody has wanted it.
	press(m, "t")
	m.Update(traceMsg{from: m.trace.stream, ended: true, err: errors.New("it broke")})
	if got := text(m); !strings.Contains(got, "it broke") {
		t.Errorf("a trace that fails:\n%s", got)
	}
	press(m, "esc")
	press(m, "esc")
	if press(m, "j", "t"); m.trace.of != "web/rs2" || m.screen != traceScreen {
		t.Errorf("trace of a server: %+v", m.trace.of)
	}
	press(m, "q")
}

// TestTraceScroll: what is read stays where it is while lines come, and memory is bounded.
func TestTraceScroll(t *testing.T) {
	m := told(t, 60, 20)
	m.begin("x", watch.Filter{})
	m.trace.stream = &stream{}
	line := 0
	more := func(n int) {
		var lines []string
		for range n {
			lines = append(lines, fmt.Sprintf("line %d.", line))
			line++
		}
		m.trace.take(&traceMsg{from: m.trace.stream, lines: lines}, true)
	}
	more(100)
	if got := text(m); !strings.Contains(got, "line 99.") {
		t.Errorf("the newest line is not seen:\n%s", got)
	}
	press(m, "up", "up", "up")
	more(50)
	if got := text(m); !strings.Contains(got, "line 96.") || strings.Contains(got, "line 97.") || !strings.Contains(got, "53 lines below") {
		t.Errorf("what is read moves:\n%s", got)
	}
	press(m, "home")
	if got := text(m); !strings.Contains(got, "line 0.") {
		t.Errorf("home:\n%s", got)
	}
	press(m, "down")
	if got := text(m); strings.Contains(got, "line 0.") {
		t.Errorf("down from the top does nothing:\n%s", got)
	}
	press(m, "end")
	more(10 * mostLines)
	if len(m.trace.lines) != mostLines || !strings.Contains(text(m), fmt.Sprintf("line %d.", line-1)) {
		t.Errorf("%d lines are kept", len(m.trace.lines))
	}
}

// TestQuit: q goes back screen by screen, ctrl+c at once.
func TestQuit(t *testing.T) {
	quits := func(cmd tea.Cmd) bool {
		if cmd == nil {
			return false
		}
		_, ok := cmd().(tea.QuitMsg)
		return ok
	}
	m := told(t, 80, 24)
	for _, first := range []string{"enter", "t"} {
		if quits(press(m, "j", first, "?", "q")) || m.screen == mainScreen || quits(press(m, "q")) || m.screen != mainScreen {
			t.Errorf("%s: q ends on screen %d", first, m.screen)
		}
	}
	if !quits(press(m, "q")) {
		t.Error("q on the first screen does not quit")
	}
	for _, keys := range [][]string{{}, {"?"}, {"j", "d"}, {"/"}, {"j", "enter"}} {
		m := told(t, 80, 24)
		press(m, keys...)
		if !quits(press(m, "ctrl+c")) {
			t.Errorf("ctrl+c after %q does not quit", keys)
		}
	}
}

// TestPanes: tab goes round, and moving scrolls the pane that has the keys only.
func TestPanes(t *testing.T) {
	m := told(t, 160, 24)
	for i := range 8 {
		press(m, "tab")
		if m.focus != pane((i+1)%4) {
			t.Errorf("after %d tabs: pane %d", i+1, m.focus)
		}
	}
	press(m, "shift+tab")
	if m.focus != eventsPane || m.lower != eventsPane {
		t.Errorf("shift+tab: pane %d", m.focus)
	}
	cursor := m.cursor
	press(m, "down", "down", "end")
	if m.cursor != cursor || m.scroll[eventsPane] != 3 {
		t.Errorf("row %d is selected, event %d", m.cursor, m.scroll[eventsPane])
	}
	press(m, "shift+tab", "end")
	if m.scroll[neighboursPane] != len(m.status.Segments[0].Neighbours)-1 {
		t.Errorf("neighbour %d", m.scroll[neighboursPane])
	}
}

// TestHelp: every key is in the list, and the list can be read on a small terminal.
func TestHelp(t *testing.T) {
	m := told(t, 80, 10)
	press(m, "?")
	seen := text(m)
	for range 60 {
		press(m, "down")
		seen += text(m)
	}
	for _, b := range slices.Concat(bindings(mainScreen), bindings(connsScreen)) {
		if !strings.Contains(seen, strings.Join(b.keys, ", ")) || !strings.Contains(seen, b.help) {
			t.Errorf("%v is not in the help", b.keys)
		}
	}
	at := m.helpTop
	if press(m, "up"); m.helpTop != at-1 {
		t.Errorf("up from the end: from %d to %d", at, m.helpTop)
	}
}

// TestDrops: what grows is on top and marked, however much else there has been.
func TestDrops(t *testing.T) {
	m := New(time.Second)
	for i, drops := range []map[string]uint64{{"no-flow": 1000, "land": 5, "loop": 1}, {"no-flow": 1000, "land": 8, "loop": 3}} {
		m.Update(pollMsg{at: clock(i), status: *counted(0, 0, 0, drops)})
	}
	press(m, "tab")
	if got := strings.Fields(strings.Join(m.pane(dropsPane, 60, 4)[1:], " ")); !slices.Equal(ansiFree(got), strings.Fields("▲ land 3 8 ▲ loop 2 3 no-flow 0 1.00k")) {
		t.Errorf("got %q", got)
	}
}

func ansiFree(texts []string) (free []string) {
	for _, s := range texts {
		if s = ansi.Strip(s); s != "" {
			free = append(free, s)
		}
	}
	return free
}

// TestGuard: whatever command breaks, alone or in a batch, Update does, and its stack is in what it says.
func TestGuard(t *testing.T) {
	breaks := func() tea.Msg { panic("it breaks") }
	alone := guarded(breaks)()
	batch := guarded(func() tea.Msg { return tea.BatchMsg{nil, breaks} })().(tea.BatchMsg)
	if batch[0] != nil {
		t.Error("a command was made of none")
	}
	for _, msg := range []tea.Msg{alone, batch[1]()} {
		func() {
			defer func() {
				if r := fmt.Sprint(recover()); !strings.Contains(r, "it breaks") || !strings.Contains(r, "TestGuard") {
					t.Errorf("Update: %s", r)
				}
			}()
			guard{New(time.Second)}.Update(msg)
		}()
	}
}

func TestEventsAreBounded(t *testing.T) {
	m := New(time.Second)
	var events []tunlb.Event
	for i := range 3 * eventsKept {
		events = append(events, tunlb.Event{Seq: uint64(i + 1)})
	}
	m.Update(pollMsg{at: clock(0), status: recorded(t)[0], events: events})
	if len(m.events) != eventsKept || m.events[eventsKept-1].Seq != 3*eventsKept {
		t.Errorf("%d events", len(m.events))
	}
}

// TestHelpCloses: ?, q and esc close what ? has opened, and the line at the bottom says so.
func TestHelpCloses(t *testing.T) {
	for _, k := range []string{"?", "q", "esc"} {
		m := told(t, 100, 5)
		if press(m, "?"); m.screen != helpScreen || !strings.Contains(text(m), "q closes this help") {
			t.Errorf("no help, or no way out of it:\n%s", text(m))
		}
		if press(m, k); m.screen != mainScreen || !strings.Contains(text(m), "q quit") {
			t.Errorf("%s does not close the help:\n%s", k, text(m))
		}
	}
}
