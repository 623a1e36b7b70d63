package top

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/control"
)

// shots are the screens that are looked at in all sizes.
func shots(t testing.TB, width, height int) map[string]*Model {
	shots := map[string]*Model{"blank": New(time.Second)}
	shots["blank"].Update(tea.WindowSizeMsg{Width: width, Height: height})
	for _, name := range []string{"main", "drops", "neighbours", "events", "help", "conns", "trace", "filter", "confirm", "weight", "gone", "paused", "folded", "last"} {
		m := told(t, width, height)
		shots[name] = m
		switch name {
		case "drops":
			press(m, "tab")
		case "neighbours":
			press(m, "tab", "tab")
		case "events":
			press(m, "tab", "tab", "tab")
		case "help":
			press(m, "?")
		case "conns":
			press(m, "j", "enter")
			m.Update(connsMsg{visit: m.visits, at: clock(4), conns: conns(0)})
			m.Update(connsMsg{visit: m.visits, at: clock(5), conns: conns(1000), more: true})
		case "trace":
			press(m, "j", "t")
			m.trace.stream = &stream{}
			m.trace.lines = []string{"\x1b[32m198.51.100.7:40000 > 203.0.113.22:80\x1b[0m", strings.Repeat("很长的一行", 80), "a"}
		case "filter":
			press(m, "/")
			typing(m, "服务")
		case "confirm":
			press(m, "j", "j", "u")
		case "weight":
			press(m, "j", "w", "1", "2")
		case "gone":
			m.Update(pollMsg{at: clock(5), err: errors.New("no tunlb is running here: /run/tunlb.sock: connect: connection refused")})
			m.Update(pollMsg{at: clock(9), err: errors.New("no tunlb is running here: /run/tunlb.sock: connect: connection refused")})
		case "paused":
			press(m, "p")
		case "folded":
			press(m, "space")
		case "last":
			press(m, "end")
		}
	}
	return shots
}

func conns(more uint64) (list []control.Conn) {
	for i := range 30 {
		c := tunlb.Conn{
			Protocol: "tcp", State: "ESTABLISHED", Expires: 899 * time.Second, Client: netip.AddrPortFrom(netip.MustParseAddr("198.51.100.7"), uint16(40000+i)),
			VIP: place("203.0.113.22:80"), Server: place("192.168.0.10:8080"), InBytes: 1234 * uint64(i), OutBytes: uint64(i) * (4000 + more),
		}
		if i%5 == 4 {
			c.Client, c.State = netip.AddrPortFrom(netip.MustParseAddr("2001:db8:1:2345:6789:abcd:ef01:7"), uint16(40000+i)), "TIME_WAIT"
		}
		list = append(list, control.Conn{ID: c.ID(), Conn: c})
	}
	return list
}

// TestGolden: what people see, at several sizes.
func TestGolden(t *testing.T) {
	for _, size := range []struct{ width, height int }{{40, 10}, {80, 24}, {120, 36}, {200, 50}} {
		all := shots(t, size.width, size.height)
		names := []string{"main"}
		switch size.width {
		case 40:
			names = append(names, "drops", "gone", "confirm")
		case 80:
			names = append(names, "help", "conns", "gone", "events", "filter", "weight", "last", "blank")
		case 120:
			names = append(names, "neighbours", "conns", "paused", "folded")
		}
		for _, name := range names {
			golden(t, fmt.Sprintf("%s-%dx%d", name, size.width, size.height), trimmed(text(all[name])))
		}
	}
}

// trimmed has no spaces at lines' ends, which editors eat.
func trimmed(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n") + "\n"
}

// TestFits: no line is wider than the terminal and no screen higher, whatever the size; names are as long and as wide as they like.
func TestFits(t *testing.T) {
	sizes := [][2]int{{1, 1}, {5, 3}, {19, 5}, {20, 5}, {39, 9}, {40, 10}, {300, 100}}
	for range 8 {
		sizes = append(sizes, [2]int{20 + rand.IntN(281), 5 + rand.IntN(96)})
	}
	for _, size := range sizes {
		for name, m := range shots(t, size[0], size[1]) {
			for range 2 { // and once more with everything wide
				lines := m.frame()
				if len(lines) > size[1] || size[0] >= 20 && size[1] >= 5 && len(lines) != size[1] {
					t.Errorf("%s at %v: %d lines", name, size, len(lines))
				}
				for i, line := range lines {
					if n := max(ansi.StringWidth(line), ansi.StringWidthWc(line)); n > size[0] || strings.Contains(line, "\n") {
						t.Errorf("%s at %v: line %d is %d wide: %q", name, size, i, n, ansi.Strip(line))
					}
				}
				widen(m)
			}
		}
	}
}

// widen gives everything names that no column has room for.
func widen(m *Model) {
	const wide = "很宽的名字🚒é👩‍🚒ß\u202eabc\x1b[31m\n\t很宽的名字很宽的名字很宽的名字"
	for i := range m.status.Services {
		svc := &m.status.Services[i]
		svc.Name += wide
		for k := range svc.Servers {
			svc.Servers[k].Name, svc.Servers[k].Cause, svc.Servers[k].Down = svc.Servers[k].Name+wide, wide, wide
			svc.Servers[k].Address = place("[2001:db8:1:2345:6789:abcd:ef01:7]:65535")
			svc.Servers[k].Active, svc.Servers[k].Configured = 1<<40, 1<<31-1
		}
	}
	for i := range m.status.Segments {
		for k := range m.status.Segments[i].Neighbours {
			n := &m.status.Segments[i].Neighbours[k]
			n.Server, n.Port, n.State = wide, wide, wide
		}
		m.status.Segments[i].Conflicts = []tunlb.ConflictStatus{{VIP: netip.MustParseAddr("203.0.113.22"), Server: wide}}
	}
	for i := range m.events {
		m.events[i].Kind, m.events[i].Cause, m.events[i].Service = wide, wide, wide
	}
	for i := range m.conns.conns {
		m.conns.conns[i].State, m.conns.conns[i].Protocol = wide, wide
	}
	m.status.Daemon.Config, m.status.Daemon.Version = wide, wide
	m.conns.of.service, m.trace.of, m.filter = wide, wide, ""
	if m.gone != nil {
		m.gone = errors.New(wide)
	}
	if m.prompt != nil {
		m.prompt.server, m.prompt.text = wide, wide
	}
	m.arrange()
}

// TestColours: trouble is coloured, and a word says it as well. Only the terminal's own sixteen colours are used.
func TestColours(t *testing.T) {
	m := told(t, 160, 45)
	press(m, "end")
	frame := strings.Join(m.frame(), "\n")
	for what, want := range map[string]string{"down": "\x1b[1;31mdown", "up": "\x1b[32mup", "drained": "\x1b[33mdrained", "a drop that grows": "\x1b[1;31m▲ land"} {
		if !strings.Contains(frame, want) {
			t.Errorf("%s: no %q", what, want)
		}
	}
	for _, sequence := range []string{"\x1b[38;", "\x1b[48;", ";38;", ";48;"} {
		if strings.Contains(frame, sequence) {
			t.Errorf("a colour beyond the sixteen: %q", sequence)
		}
	}
}

// many is a status of n servers.
func many(n int) control.Status {
	svc := tunlb.ServiceStatus{Name: "web", Scheduler: "wlc", Mode: "nat"}
	for i := range n {
		svc.Servers = append(svc.Servers, tunlb.ServerStatus{
			Name: fmt.Sprintf("rs%d", i), Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 80), Weight: 1, Configured: 1, Health: "up",
		})
	}
	return control.Status{Daemon: control.Info{Started: clock(-60)}, Status: tunlb.Status{Services: []tunlb.ServiceStatus{svc}}}
}

// toldMany is a model of n servers.
func toldMany(n int) *Model {
	m := New(time.Second)
	m.Update(tea.WindowSizeMsg{Width: 200, Height: 60})
	for i := range 3 {
		m.Update(pollMsg{at: clock(i), status: many(n)})
	}
	return m
}

// TestOnlyWhatIsSeen: a thousand servers cost a frame no more than a hundred.
func TestOnlyWhatIsSeen(t *testing.T) {
	frame := func(n int) float64 {
		m := toldMany(n)
		press(m, "end")
		if got := text(m); !strings.Contains(got, fmt.Sprintf("rs%d ", n-1)) || strings.Contains(got, "rs0 ") {
			t.Errorf("the last of %d servers is not on the screen, or the first is:\n%s", n, got)
		}
		return testing.AllocsPerRun(5, func() { m.View() })
	}
	// What grows is the count of servers that the service's line has.
	if few, lots := frame(100), frame(1000); lots > 1.2*few {
		t.Errorf("a frame makes %v allocations with 100 servers, %v with 1000", few, lots)
	}
}

func BenchmarkView1000(b *testing.B) {
	m := toldMany(1000)
	for b.Loop() {
		m.View()
	}
}

func BenchmarkUpdate1000(b *testing.B) {
	m := toldMany(1000)
	m.sorting = byTraffic
	status := many(1000)
	n := 3
	for b.Loop() {
		m.Update(pollMsg{at: clock(n), status: status})
		n++
	}
}
