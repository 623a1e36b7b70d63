package neigh

import (
	"time"

	"github.com/tunlb/tunlb/stack/packet"
)

// State is what a neighbour is like (RFC 4861, 7.3.2).
type State uint8

const (
	Failed     State = iota // does not answer: for a server, down
	Incomplete              // asked, not answered yet
	Reachable               // confirmed not long ago
	Stale                   // the MAC is used until somebody says otherwise; the next packet makes us ask
	Probing                 // asked again, not answered yet; the MAC is used
	Static                  // pinned by the configuration
)

func (s State) String() string {
	switch s {
	case Failed:
		return "failed"
	case Incomplete:
		return "incomplete"
	case Reachable:
		return "reachable"
	case Stale:
		return "stale"
	case Probing:
		return "probing"
	case Static:
		return "static"
	}
	return "unknown"
}

// Lookup is the MAC of a neighbour, zero if there is none (yet): then the state is Incomplete, and Hold
// takes a packet, or Failed. A neighbour that is not known is asked for. VIPs, own addresses and groups
// are nobody's: Failed. It allocates nothing for a known neighbour.
func (t *Table) Lookup(addr [16]byte, now time.Duration) (packet.MAC, State) {
	e := t.entries[addr]
	if e == nil {
		return packet.MAC{}, t.discover(addr, now)
	}
	e.used = now
	switch e.state {
	case Incomplete, Failed:
		return packet.MAC{}, e.state
	case Stale:
		if !t.heardFrom(e, now) {
			t.probe(e, false, now)
		}
	}
	return e.mac, e.state
}

// Doubtful says whether a neighbour has been asked, and has not answered as fast as stations do: it may be
// on its way to Failed. Static ones are never.
func (t *Table) Doubtful(addr [16]byte, now time.Duration) bool {
	e := t.entries[addr]
	if e == nil {
		return false
	}
	switch e.state {
	case Failed:
		return true
	case Incomplete, Probing:
		return e.tries > 1 || e.tries == 1 && now-e.asked >= TickInterval || e.broadcast
	}
	return false
}

// discover begins to ask for a neighbour.
func (t *Table) discover(addr [16]byte, now time.Duration) State {
	if t.local[addr] != nil || !unicast(addr) {
		return Failed
	}
	if e := t.addDynamic(addr, true, now); e != nil {
		e.state = Incomplete
		t.step(e, now)
	}
	return Incomplete
}

// step does what is due. A request for which the outbox has no room stays due.
func (t *Table) step(e *entry, now time.Duration) {
	switch e.state {
	case Incomplete:
		if e.tries >= requests {
			t.fail(e, now)
			return
		}
		t.ask(e, true, retransmit, now)
	case Reachable:
		if t.heardFrom(e, now) {
			return
		}
		if e.server {
			t.probe(e, false, now)
		} else {
			e.state = Stale
		}
	case Probing:
		if e.tries >= requests {
			if e.broadcast {
				t.fail(e, now)
				return
			}
			e.broadcast, e.tries = true, 0
		}
		interval := retransmit
		if e.verifying && !e.broadcast {
			interval = verify
		}
		t.ask(e, e.broadcast, interval, now)
	case Failed:
		if e.server || e.used > e.asked {
			t.ask(e, true, failedRetry, now)
		}
	}
}

// ask sends a request to the neighbour, or to all.
func (t *Table) ask(e *entry, broadcast bool, interval, now time.Duration) {
	if !t.out.room() {
		return
	}
	if broadcast {
		t.request(Everywhere, packet.Broadcast, e.addr)
	} else {
		t.request(Unicast, e.mac, e.addr)
	}
	e.tries++
	e.asked, e.next = now, now+interval
}

// request writes one into the outbox, which has room.
func (t *Table) request(scope Scope, dst packet.MAC, target [16]byte) {
	f, sender := t.out.push(scope, 0), t.source(target)
	t.counters.Asked++
	if is4(target) {
		f.putARP(arpRequest, t.mac, dst, sender, packet.MAC{}, target)
		return
	}
	to := solicitedNode(target)
	switch {
	case dst == packet.Broadcast:
		dst = groupMAC(to)
	case sender != unspecified(true): // a probe goes to the group even if its frame is for one station (RFC 6085)
		to = target
	}
	f.putND(solicitation, 0, t.mac, dst, sender, to, target, t.mac)
}

// probe begins to ask a neighbour whether it is still there, because of its silence or, verifying,
// because somebody else says to be it.
func (t *Table) probe(e *entry, verifying bool, now time.Duration) {
	e.state, e.tries, e.broadcast, e.verifying, e.next = Probing, 0, false, verifying, now
	t.step(e, now)
}

// heardFrom keeps a neighbour reachable that has sent anything since. Traffic says that the station
// lives, not that the address is still its: from time to time it has to answer.
func (t *Table) heardFrom(e *entry, now time.Duration) bool {
	if t.heard == nil || now-e.answered >= byTraffic {
		return false
	}
	at, ok := t.heard(e.mac)
	if !ok || at <= e.confirmed || at+e.fresh() <= now {
		return false
	}
	e.state, e.confirmed, e.next = Reachable, at, at+e.fresh()
	return true
}

// fresh is how long a confirmation is good for.
func (e *entry) fresh() time.Duration {
	if e.server {
		return serverFresh
	}
	return dynamicFresh
}

// confirm is for an answer: the MAC is right.
func (t *Table) confirm(e *entry, mac packet.MAC, now time.Duration) {
	moved := e.server && e.reported == reportedUp && e.mac != mac
	t.bind(e, mac)
	e.state, e.confirmed, e.answered, e.next, e.verifying = Reachable, now, now, now+e.fresh(), false
	t.release(e, mac)
	if moved {
		t.event(Event{Kind: ServerMoved, Addr: packet.Addr(e.addr), MAC: mac, Name: e.name})
	}
	t.up(e)
}

// fail is for no answer.
func (t *Table) fail(e *entry, now time.Duration) {
	e.state, e.tries, e.next, e.verifying = Failed, 0, now+failedRetry, false
	t.release(e, packet.MAC{})
	if e.server && e.reported != reportedDown {
		e.reported = reportedDown
		t.event(Event{Kind: ServerDown, Addr: packet.Addr(e.addr), MAC: e.mac, Name: e.name})
	}
}

func (t *Table) up(e *entry) {
	if e.server && e.reported != reportedUp {
		e.reported = reportedUp
		t.event(Event{Kind: ServerUp, Addr: packet.Addr(e.addr), MAC: e.mac, Name: e.name})
	}
}

// Tick does what is due: announcements, requests, expiry. What the outbox has no room for stays due, so
// many addresses don't go out in one burst. Call it every TickInterval.
func (t *Table) Tick(now time.Duration) {
	for _, l := range t.locals {
		t.tickLocal(l, now)
	}
	for i := len(t.list) - 1; i >= 0; i-- { // remove puts one in its place that has had its turn
		e := t.list[i]
		if !e.server && now-e.used >= forget {
			t.remove(e)
			continue
		}
		if e.state != Static && e.state != Stale && now >= e.next {
			t.step(e, now)
		}
	}
}

// hear lets a message say what it says about neighbours. Only an answer that was asked for is believed;
// anything else makes us ask at most, first of all the one whom we know. False: a server's address is
// claimed from the clients' side, where no server is; nobody else is to believe that either.
func (t *Table) hear(m *Message, side Side, now time.Duration) bool {
	addr, mac, ok := m.Claim()
	e := t.entries[addr]
	switch {
	case !ok || e == nil:
		return true
	case e.server && side == Clients:
		t.counters.Foreign++
		return false
	}
	answer := m.Form == Reply || m.Form == Announcement
	answer = answer && t.answers(m, e, now)
	switch {
	case e.state == Static:
		if mac != e.mac {
			t.pinnedClaim(e, mac, now)
		}
	case e.state == Incomplete || e.state == Failed:
		switch {
		case answer && !m.MAC.IsZero(): // RFC 4861, 7.2.5: without the option it says nothing
			t.confirm(e, mac, now)
		case e.state == Failed && now-e.asked >= retransmit:
			t.ask(e, true, failedRetry, now) // it seems to be back
		}
	case mac == e.mac:
		if answer {
			t.confirm(e, mac, now)
		}
	case answer && e.state == Probing && e.broadcast && !m.MAC.IsZero():
		t.confirm(e, mac, now)
	default:
		t.counters.Foreign++
		if e.state != Probing && now-e.challenged >= verifyAgain {
			e.challenged = now
			t.probe(e, true, now)
		}
	}
	return true
}

// answers says whether an advertisement answers a request of ours that is still open.
func (t *Table) answers(m *Message, e *entry, now time.Duration) bool {
	if now-e.asked >= answerWindow || e.state != Incomplete && e.state != Failed && e.state != Probing {
		return false
	}
	source := t.source(e.addr)
	switch {
	case !m.Is6:
		return m.EtherDst == t.mac && m.Target == source
	case source == unspecified(true): // a probe is answered to all (RFC 4861, 7.2.4)
		return m.Dest == allNodes && !m.Solicited
	}
	return m.EtherDst == t.mac && m.Dest == source && m.Solicited
}

// learn makes a neighbour of who asks us, since it is about to get packets (RFC 826). That it lives at
// its MAC is still to be confirmed.
func (t *Table) learn(m *Message, now time.Duration) {
	if m.Form != Request || m.MAC.IsZero() {
		return
	}
	// One that we ask for already is believed when it answers: a question is easily made up.
	if t.entries[m.Sender] != nil {
		return
	}
	if e := t.addDynamic(m.Sender, false, now); e != nil {
		e.state = Stale
		t.bind(e, m.MAC)
	}
}
