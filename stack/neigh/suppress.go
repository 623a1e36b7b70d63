package neigh

import (
	"time"

	"github.com/tunlb/tunlb/stack/packet"
)

// contest is for a message whose sender says that an address of ours is at its MAC.
//
// Behind a Servers port that is to be expected of a VIP: a server has it too, and without sysctls
// answers for it, announces it, and asks with it as the sender (arp_announce). None of that goes any
// further. Anywhere else, and for our own addresses, it is a conflict.
func (t *Table) contest(l *local, m *Message, frame []byte, port uint8, side Side, now time.Duration) Verdict {
	if side == Servers && l.vip {
		t.suppressed[m.Form]++
	} else {
		t.conflict(l, m, port, side, now)
		t.defend(l, now)
	}
	switch {
	case m.Form == Request && t.local[m.Target] != nil:
		// It needs the answer in spite of all: this may be a server that asks for its gateway.
		return t.answer(m, port, now)
	case m.Form == Request && side == Servers && l.vip:
		return t.redirect(m, frame, port, now)
	case side == Shared:
		return Verdict{} // others have seen it, too
	}
	return Verdict{Reason: packet.Suppressed}
}

// redirect makes a server's question with the VIP as its sender one that poisons nobody, and that still
// brings it the answer: the sender becomes the server's own address, if we know it by its MAC.
func (t *Table) redirect(m *Message, frame []byte, port uint8, now time.Duration) Verdict {
	if m.EtherDst == t.mac {
		return Verdict{Reason: packet.Suppressed}
	}
	sender, known := unspecified(m.Is6), false
	if e := t.stations[stationKey{m.station(), m.Is6}]; e != nil && e.addr != m.Target {
		sender, known = e.addr, true
	}
	switch {
	case !m.Is6: // with no sender it is a probe, which is answered to the MAC
		setSenderARP(frame, sender)
	case known:
		setSenderND(frame, sender)
	default:
		// A probe would be answered to all, and look like a duplicate. What we know we say.
		return t.answerFor(m, port, now)
	}
	return Verdict{Forward: true, Rewritten: true}
}

// answerFor answers for another station.
func (t *Table) answerFor(m *Message, port uint8, now time.Duration) Verdict {
	e := t.entries[m.Target]
	if e == nil || e.state == Incomplete || e.state == Failed || e.mac == m.station() {
		return Verdict{Reason: packet.Suppressed}
	}
	return t.answerWith(e.mac, m, port, now)
}

// IsServer says whether a MAC is one that a server has.
func (t *Table) IsServer(mac packet.MAC) bool {
	for _, is6 := range [2]bool{false, true} {
		if e := t.stations[stationKey{mac, is6}]; e != nil && e.server {
			return true
		}
	}
	return false
}

// Solicits says whether a frame is a router solicitation in the name of an address of ours. No router asks
// us, so it is no Message; but it has its sender's MAC in it, and routers believe that (RFC 4861, 6.2.6).
func (t *Table) Solicits(frame []byte) bool {
	const routerSolicitation = 133
	return len(frame) > ndType && be.Uint16(frame[l3-2:]) == packet.EtherIPv6 &&
		frame[ip6Next] == packet.ProtoICMPv6 && frame[ndType] == routerSolicitation &&
		t.local[[16]byte(frame[ip6Src:])] != nil
}
