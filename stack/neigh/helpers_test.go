package neigh

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/tunlb/tunlb/stack/packet"
)

// macOf is a MAC that ends in last.
func macOf(last byte) packet.MAC { return packet.MAC{2, 0, 0, 0, 0, last} }

var (
	tunlb   = macOf(0x99)
	rs1MAC  = macOf(0x10)
	rs2MAC  = macOf(0x11)
	client  = macOf(0x50)
	foreign = macOf(0x66)
)

// family has a segment's addresses in one of the twins.
type family struct {
	name                                     string
	own                                      netip.Prefix
	vip, vip2, rs1, rs2, client, other, free netip.Addr
}

var families = []family{
	{"v4", netip.MustParsePrefix("192.0.2.100/24"), ip("203.0.113.22"), ip("203.0.113.23"),
		ip("192.0.2.10"), ip("192.0.2.11"), ip("192.0.2.50"), ip("192.0.2.51"), ip("192.0.2.77")},
	{"v6", netip.MustParsePrefix("2001:db8:2::100/64"), ip("2001:db8::22"), ip("2001:db8::23"),
		ip("2001:db8:2::10"), ip("2001:db8:2::11"), ip("2001:db8:2::50"), ip("2001:db8:2::51"), ip("2001:db8:2::77")},
}

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

// config is the segment of testdata/conversations.txt.
func config(inline bool) Config {
	c := Config{MAC: tunlb, Inline: inline}
	for _, f := range families {
		c.VIPs = append(c.VIPs, f.vip, f.vip2)
		c.Own = append(c.Own, f.own)
		c.Servers = append(c.Servers, Server{Name: "rs1", Addr: f.rs1, MAC: rs1MAC}, Server{Name: "rs2", Addr: f.rs2})
	}
	return c
}

// quiet makes a table that has said all that it has to say unasked.
func quiet(t failer, cfg Config) (*Table, time.Duration) {
	t.Helper()
	table := New(cfg, 0)
	now := time.Duration(0)
	for range 20 { // 5 s
		table.Tick(now)
		drain(table)
		now += TickInterval
	}
	for _, l := range table.locals {
		l.ask = now + time.Hour
	}
	return table, now
}

type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// drain returns what waits in the outbox, without the groups' reports (TestReports).
func drain(t *Table) []Frame {
	return slices.DeleteFunc(drainAll(t), func(f Frame) bool { return f.Bytes()[ip6Next] == 0 && !isARP(&f) })
}

func isARP(f *Frame) bool { return be.Uint16(f.Bytes()[l3-2:]) == packet.EtherARP }

func drainAll(t *Table) (out []Frame) {
	var some [7]Frame
	for n := t.Drain(some[:]); n > 0; n = t.Drain(some[:]) {
		out = append(out, some[:n]...)
	}
	return out
}

// unhex is a frame with a zero vnet header.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return append(make([]byte, packet.VnetLen), b...)
}

func parse(t failer, frame []byte) *Message {
	t.Helper()
	m := new(Message)
	if !Is(frame) {
		t.Fatalf("not ours: %x", frame)
	}
	if r := m.Parse(frame); r != packet.None {
		t.Fatalf("%v: %x", r, frame)
	}
	return m
}

// handle takes a frame all the way.
func handle(t failer, table *Table, frame []byte, side Side, now time.Duration) Verdict {
	t.Helper()
	return table.Handle(parse(t, frame), frame, 3, side, now)
}

// What others send. Frame's own writers are checked against testdata/conversations.txt.

func request(f *Frame, src, dst packet.MAC, sender, target netip.Addr) []byte {
	s, g := sender.As16(), target.As16()
	if target.Is4() {
		f.putARP(arpRequest, src, dst, s, packet.MAC{}, g)
		return bytes.Clone(f.Bytes())
	}
	to := g
	if dst == packet.Broadcast {
		to = solicitedNode(g)
		dst = groupMAC(to)
	}
	f.putND(solicitation, 0, src, dst, s, to, g, src)
	return bytes.Clone(f.Bytes())
}

// asks is a question to all.
func asks(src packet.MAC, sender, target netip.Addr) []byte {
	return request(new(Frame), src, packet.Broadcast, sender, target)
}

// replies is an answer to one: addr is at mac.
func replies(mac packet.MAC, addr netip.Addr, dst packet.MAC, to netip.Addr) []byte {
	f := new(Frame)
	if addr.Is4() {
		f.putARP(arpReply, mac, dst, addr.As16(), dst, to.As16())
	} else {
		f.putND(advertisement, flagSolicited|flagOverride, mac, dst, addr.As16(), to.As16(), addr.As16(), mac)
	}
	return bytes.Clone(f.Bytes())
}

// announces is a gratuitous ARP or an unsolicited advertisement.
func announces(mac packet.MAC, addr netip.Addr) []byte {
	f := new(Frame)
	if addr.Is4() {
		f.putARP(arpRequest, mac, packet.Broadcast, addr.As16(), packet.MAC{}, addr.As16())
	} else {
		f.putND(advertisement, flagOverride, mac, groupMAC(allNodes), addr.As16(), allNodes, addr.As16(), mac)
	}
	return bytes.Clone(f.Bytes())
}

// tick lets time pass and returns what was sent.
func tick(t *Table, now *time.Duration, d time.Duration) (out []Frame) {
	for end := *now + d; *now < end; {
		*now += TickInterval
		t.Tick(*now)
		out = append(out, drain(t)...)
	}
	return out
}

// requestsTo returns the requests for an address, with the MACs they went to.
func requestsTo(t failer, out []Frame, addr netip.Addr) (to []packet.MAC) {
	t.Helper()
	for _, f := range out {
		if m := parse(t, f.Bytes()); m.Solicits() && m.Target == addr.As16() {
			to = append(to, m.EtherDst)
		}
	}
	return to
}

// all is where a request to all goes.
func all(addr netip.Addr) packet.MAC {
	if addr.Is4() {
		return packet.Broadcast
	}
	return groupMAC(solicitedNode(addr.As16()))
}

// checkTable asserts what holds of a table between any two calls.
func checkTable(t failer, table *Table) {
	t.Helper()
	dynamic, held := 0, 0
	if len(table.list) != len(table.entries) {
		t.Fatalf("%d in the list, %d in the map", len(table.list), len(table.entries))
	}
	for i, e := range table.list {
		if e.index != i || table.entries[e.addr] != e {
			t.Fatalf("entry %d of %v is lost", i, packet.Addr(e.addr))
		}
		if table.local[e.addr] != nil {
			t.Fatalf("%v is ours and a neighbour", packet.Addr(e.addr))
		}
		if !e.server {
			dynamic++
		}
		if e.holds > 0 && e.state != Incomplete {
			t.Fatalf("%v is %v and holds %d packets", packet.Addr(e.addr), e.state, e.holds)
		}
		for _, h := range e.held[:e.holds] {
			held += len(h)
		}
		resolved := e.state != Incomplete && e.state != Failed
		if resolved && (!station(e.mac) || e.mac == table.mac) {
			t.Fatalf("%v is %v at %v", packet.Addr(e.addr), e.state, e.mac)
		}
		if other := table.stations[e.station()]; !e.mac.IsZero() && (other == nil || other.mac != e.mac || table.entries[other.addr] != other) {
			t.Fatalf("%v is not found by %v", packet.Addr(e.addr), e.mac)
		}
	}
	for k, e := range table.stations {
		if e.station() != k || table.entries[e.addr] != e {
			t.Fatalf("%v leads to %v, who is gone", k, packet.Addr(e.addr))
		}
	}
	for _, h := range table.released {
		held += len(h.Frame)
	}
	if dynamic != table.dynamic || dynamic > maxDynamic || held != table.heldBytes || held > maxHeldBytes ||
		len(table.conflicts) > maxConflicts || len(table.events) > maxEvents || len(table.free) > maxDynamic {
		t.Fatalf("%d dynamic, says %d; %d bytes held, says %d; %d conflicts, %d events, %d free",
			dynamic, table.dynamic, held, table.heldBytes, len(table.conflicts), len(table.events), len(table.free))
	}
}
