package top

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/control"
	"github.com/tunlb/tunlb/tunlb/watch"
)

// subject is the service or server that is looked into. The zero value is none.
type subject struct {
	service string
	server  netip.AddrPort // zero: all of the service's
	name    string         // of the server
}

// String names it for people.
func (s subject) String() string {
	if s.server.IsValid() {
		return s.service + "/" + s.name
	}
	return s.service
}

// at is the server as filters take it: without a port its connections have that which their clients asked for.
func (s subject) at() string {
	switch {
	case !s.server.IsValid():
		return ""
	case s.server.Port() == 0:
		return s.server.Addr().String()
	}
	return s.server.String()
}

// filter takes its connections.
func (s subject) filter() tunlb.ConnFilter {
	return tunlb.ConnFilter{Service: s.service, Server: s.at()}
}

// packets takes what its connections send and get.
func (s subject) packets() watch.Filter { return watch.Filter{Service: s.service, Server: s.at()} }

// packetsOf takes one connection's.
func packetsOf(c *control.Conn) watch.Filter {
	return watch.Filter{Protocol: c.Protocol, Client: endpoint(c.Client), VIP: endpoint(c.VIP)}
}

func endpoint(a netip.AddrPort) watch.Endpoint {
	return watch.Endpoint{Network: netip.PrefixFrom(a.Addr(), a.Addr().BitLen()), Port: a.Port()}
}

// connsView is the list of somebody's connections.
type connsView struct {
	visit  int // counts the times that the list was opened, so that answers to an earlier one are known
	of     subject
	at     time.Time // of the list; zero: none yet
	conns  []control.Conn
	rates  map[string]rates // by ID
	more   bool
	err    error
	cursor int
	id     string // of the one that is selected
}

// take takes a list; its rates come from the difference to the one before.
func (v *connsView) take(msg *connsMsg) {
	if v.err = msg.err; v.err != nil {
		return
	}
	before := make(map[string]*control.Conn, len(v.conns))
	for i := range v.conns {
		before[v.conns[i].ID] = &v.conns[i]
	}
	seconds := msg.at.Sub(v.at).Seconds()
	v.rates = make(map[string]rates, len(msg.conns))
	for i := range msg.conns {
		c := &msg.conns[i]
		// One with the same ID that has counted less is another one.
		if b := before[c.ID]; b != nil && seconds > 0 && c.InBytes >= b.InBytes && c.OutBytes >= b.OutBytes {
			v.rates[c.ID] = rates{known: true, in: float64(c.InBytes-b.InBytes) / seconds, out: float64(c.OutBytes-b.OutBytes) / seconds}
		}
		if c.ID == v.id {
			v.cursor = i
		}
	}
	v.at, v.conns, v.more = msg.at, msg.conns, msg.more
	v.choose(v.cursor)
}

func (v *connsView) choose(i int) {
	v.cursor, v.id = max(0, min(i, len(v.conns)-1)), ""
	if len(v.conns) > 0 {
		v.id = v.conns[v.cursor].ID
	}
}

// connColumns are those of the list.
func connColumns() []column {
	return []column{
		{name: "CLIENT", min: 17, max: 46, rank: 0},
		{name: "STATE", min: 11, rank: 1},
		{name: "EXPIRE", min: 7, right: true, rank: 4},
		{name: "IN b/s", min: 7, right: true, rank: 2},
		{name: "OUT b/s", min: 7, right: true, rank: 3},
		{name: "IN", min: 6, right: true, rank: 6},
		{name: "OUT", min: 6, right: true, rank: 7},
		{name: "SERVER", min: 18, max: 46, rank: 8},
		{name: "VIP", min: 18, max: 46, rank: 5},
		{name: "SEEN AS", min: 18, max: 46, rank: 9},
		{name: "PROTO", min: 5, rank: 10},
	}
}

// connsLines is the screen of connections.
func (m *Model) connsLines(height int) []string {
	v := &m.conns
	title := fmt.Sprintf("Connections of %s: %d", clean(v.of.String()), len(v.conns))
	if v.more {
		title = fmt.Sprintf("Connections of %s: %d of more", clean(v.of.String()), len(v.conns))
	}
	lines := []string{m.theme.strong.Render(cut(title, m.width))}
	f := fit(connColumns(), m.width)
	lines = append(lines, f.head(m.theme.head, ""))
	switch {
	case v.err != nil:
		return append(lines, m.theme.bad.Render(cut(clean(v.err.Error()), m.width)))
	case v.at.IsZero():
		return append(lines, m.theme.faint.Render("asking"))
	case len(v.conns) == 0:
		return append(lines, m.theme.faint.Render("none"))
	}
	from, to := window(len(v.conns), v.cursor, height-2)
	for i := from; i < to; i++ {
		c := &v.conns[i]
		r := v.rates[c.ID]
		state := clean(c.State)
		if c.Check {
			state = "(check)"
		}
		seen := "-"
		if c.Source.IsValid() {
			seen = c.Source.String()
		}
		texts := []string{c.Client.String(), state, span(c.Expires), bits(r.known, r.in), bits(r.known, r.out),
			number(float64(c.InBytes)), number(float64(c.OutBytes)), c.Server.String(), c.VIP.String(), seen, clean(c.Protocol)}
		cells := make([]cell, len(texts))
		for k, text := range texts {
			cells[k] = cell{text, m.theme.plain}
		}
		if i == v.cursor {
			lines = append(lines, f.line(cells, &m.theme.selected))
		} else {
			lines = append(lines, f.line(cells, nil))
		}
	}
	return lines
}
