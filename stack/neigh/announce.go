package neigh

import (
	"time"

	"github.com/tunlb/tunlb/stack/packet"
)

// local is an address we answer for.
type local struct {
	addr     [16]byte
	vip      bool
	announce uint8         // announcements still to be sent
	next     time.Duration // when the next one is due
	ask      time.Duration // when to ask who else has the VIP; valid iff vip and not inline
	asked    time.Duration
	defended time.Duration
	report   time.Duration // when to report the group again; valid iff IPv6
}

// tickLocal announces and asks.
func (t *Table) tickLocal(l *local, now time.Duration) {
	if !is4(l.addr) && now >= l.report && t.out.room() {
		t.out.push(Everywhere, 0).putReport(t.mac, solicitedNode(l.addr))
		l.report = now + reportGroup
	}
	if l.announce > 0 && now >= l.next && t.out.room() {
		t.announce(l)
		l.announce--
		l.next = now + time.Second
	}
	// On a shared segment a server's answers to others don't reach us: asking is the only way to find
	// one that answers for the VIP. Inline we stand in between and see them all.
	if l.vip && !t.inline && now >= l.ask && t.out.room() {
		t.request(Everywhere, packet.Broadcast, l.addr)
		l.asked, l.ask = now, now+askAgain
	}
}

// announce says to all that an address is at our MAC (RFC 5227, 2.3, in the request form; RFC 4861,
// 7.2.6). Inline the servers don't hear it: one of them that tries out the VIP would give it up.
func (t *Table) announce(l *local) {
	scope := Everywhere
	if t.inline {
		scope = ClientSide
	}
	f := t.out.push(scope, 0)
	if f == nil {
		t.counters.Overflow++
		return
	}
	t.counters.Announced++
	switch {
	case is4(l.addr):
		f.putARP(arpRequest, t.mac, packet.Broadcast, l.addr, packet.MAC{}, l.addr)
	default:
		f.putND(advertisement, flagOverride, t.mac, groupMAC(allNodes), l.addr, allNodes, l.addr, t.mac)
	}
}

// defend tells everybody anew after somebody else has claimed an address, and asks soon whether that one
// still does.
func (t *Table) defend(l *local, now time.Duration) {
	if now-l.defended < defendAgain {
		return
	}
	l.defended = now
	l.ask = min(l.ask, max(now+time.Second, l.asked+askConflict))
	t.announce(l)
}
