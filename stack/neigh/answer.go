package neigh

// The way of a message:
//
//  1. our own has come back                             Handle
//  2. somebody claims an address of ours                contest (suppress.go)
//  3. what it says about neighbours                     hear (resolve.go)
//  4. somebody asks for an address of ours              answer
//  5. all else is the switch's                          Handle

import (
	"time"

	"github.com/tunlb/tunlb/stack/packet"
)

// Side is where a port leads.
type Side uint8

const (
	Shared  Side = iota // one-arm: everybody is there, and frames for others pass beside us
	Clients             // inline
	Servers             // inline: claims to a VIP from there go no further
)

func (s Side) String() string {
	switch s {
	case Shared:
		return "shared"
	case Clients:
		return "clients"
	case Servers:
		return "servers"
	}
	return "unknown"
}

// Verdict is what becomes of a frame. The zero value: it has been dealt with, nothing is to be done.
type Verdict struct {
	Forward   bool // switch it like any other frame; never on a Shared side
	Rewritten bool // valid iff Forward: the frame's bytes have changed
	Reason    packet.Reason
}

// Handle takes a parsed message that came in at a port, which is on a side. frame is the one it was
// parsed from; it may be rewritten in place. Answers wait for Drain. Handle allocates nothing, or next
// to nothing where a neighbour is learnt.
func (t *Table) Handle(m *Message, frame []byte, port uint8, side Side, now time.Duration) Verdict {
	if m.EtherSrc == t.mac || m.station() == t.mac {
		return Verdict{Reason: packet.Loop}
	}
	if claimed, _, ok := m.Claim(); ok {
		if l := t.local[claimed]; l != nil {
			return t.contest(l, m, frame, port, side, now)
		}
	}
	if !t.hear(m, side, now) {
		return Verdict{Reason: packet.MartianMAC}
	}
	if m.Solicits() {
		if l := t.local[m.Target]; l != nil {
			return t.asked(l, m, port, side, now)
		}
	}
	switch {
	case m.EtherDst == t.mac:
		return Verdict{}
	case side == Shared:
		return Verdict{Reason: packet.OtherHost}
	}
	return Verdict{Forward: true}
}

// asked is for a question about an address of ours.
func (t *Table) asked(l *local, m *Message, port uint8, side Side, now time.Duration) Verdict {
	if m.Form == Probe && side == Servers && l.vip {
		// It may have the VIP: let it find that nobody else does.
		t.suppressed[Probe]++
		return Verdict{Reason: packet.Suppressed}
	}
	// Any other probe claims nothing yet, and the answer keeps it from doing so.
	return t.answer(m, port, now)
}

// answer says that what is asked for is at our MAC.
func (t *Table) answer(m *Message, port uint8, now time.Duration) Verdict {
	v := t.answerWith(t.mac, m, port, now)
	if v.Reason == packet.None && t.local[m.Sender] == nil {
		t.learn(m, now)
	}
	return v
}

// answerWith says that what is asked for is at a MAC, as far as the asker may have an answer.
func (t *Table) answerWith(mac packet.MAC, m *Message, port uint8, now time.Duration) Verdict {
	if !t.allow(m, now) {
		return Verdict{Reason: packet.RateLimited}
	}
	f := t.out.push(Back, port)
	if f == nil {
		t.counters.Overflow++
		return Verdict{Reason: packet.RateLimited}
	}
	t.counters.Answered++
	f.answer(m, t.mac, mac)
	return Verdict{}
}

// allow says whether a station may have another answer. One that has proved to be there has its own
// allowance, beyond the reach of a storm from made-up MACs.
func (t *Table) allow(m *Message, now time.Duration) bool {
	if e := t.stations[stationKey{m.EtherSrc, m.Is6}]; e != nil && (e.answered != never || e.state == Static) {
		return e.answers.take(now, answerInterval, answerBurst)
	}
	return t.limit.allow(m.EtherSrc, now)
}

// answer writes the answer to a solicitation: its target is at mac. It leaves by our own MAC.
func (f *Frame) answer(m *Message, own, mac packet.MAC) {
	to := m.station()
	switch {
	case !m.Is6:
		f.putARP(arpReply, own, to, m.Target, to, m.Sender)
	case m.Form == Probe: // RFC 4861, 7.2.4: to all, unsolicited
		f.putND(advertisement, flagOverride, own, groupMAC(allNodes), m.Target, allNodes, m.Target, mac)
	default:
		f.putND(advertisement, flagSolicited|flagOverride, own, to, m.Target, m.Sender, m.Target, mac)
	}
}
