package tunlb

import (
	"time"

	"github.com/tunlb/tunlb/stack/neigh"
	"github.com/tunlb/tunlb/stack/packet"
)

// receive sorts out what comes in by an Ethernet port. True: a packet for tunlb, which goes the way of all
// packets. All else ends here: ARP and neighbour discovery, what is switched to another port, what is
// other stations' business.
func (l *lane) receive(frame []byte) bool {
	s, e := l.segment, l.engine
	h, ok := packet.DecodeEthernet(frame)
	if !ok {
		e.drop(packet.Truncated)
		l.witness.dropped(packet.Truncated)
		return false
	}
	discovery := neigh.Is(frame)
	e.mu.Lock()
	now := e.now()
	r := l.admitLocked(&h, frame, now)
	if r == packet.None && h.Dst == s.mac && !discovery {
		e.mu.Unlock()
		return true
	}
	n, longest := measure(frame, &l.view)
	l.rx.add(n)
	var t target
	pass := r == packet.None
	if pass && discovery {
		r, pass = s.discover(l, frame, now)
		s.collectLocked(&l.sender)
	}
	if pass && r == packet.None {
		t, r = s.switchLocked(l, h.Dst, n, longest)
	}
	e.mu.Unlock()
	if pass && r == packet.None {
		l.witness.went("switch")
		r = s.write(&l.sender, t, frame)
	}
	switch {
	case r != packet.None:
		e.drop(r)
		l.witness.dropped(r)
	case !pass:
		l.witness.went("neighbour")
	}
	l.flush(e)
	return false
}

// admitLocked says whether a frame is one that a station there may send, and learns where that one is.
func (l *lane) admitLocked(h *packet.Ethernet, frame []byte, now time.Duration) packet.Reason {
	s := l.segment
	switch {
	case h.Src.IsGroup() || h.Src.IsZero():
		return packet.BadEthernet
	case h.Src == s.mac:
		s.loops, s.signAt = s.loops+1, now
		return packet.Loop
	case !sound(frame):
		return packet.BadVnet
	case l.Side == neigh.Clients && s.neigh.IsServer(h.Src):
		return packet.MartianMAC // it would draw the server's connections to itself
	case l.Side == neigh.Servers && s.neigh.Solicits(frame):
		return packet.Suppressed
	}
	if s.stations.learn(h.Src, l.id, now) {
		s.moves, s.signAt = s.moves+1, now
	}
	return packet.None
}

// sound says whether a checksum that is left to the kernel will be written where one of TCP or UDP is.
// Elsewhere it could make another frame of the one that has been checked: ARP, or an advertisement.
// Behind a VLAN's tag it need only stay off the headers: what is in there is not looked at.
func sound(frame []byte) bool {
	const ip4Min, ip6Min, ip6Next = 20, 40, packet.VnetLen + packet.EthernetLen + 6
	v := packet.DecodeVnet(frame)
	if v.Flags&packet.FlagNeedsCsum == 0 {
		return true
	}
	start := int(v.CsumStart) - packet.EthernetLen
	h, _ := packet.DecodeEthernet(frame)
	switch {
	case h.Type == packet.EtherARP || start < ip4Min:
		return false
	case h.Type != packet.EtherIPv6:
		return true
	}
	return len(frame) > ip6Next && start == ip6Min &&
		(frame[ip6Next] == packet.ProtoTCP && v.CsumOffset == 16 || frame[ip6Next] == packet.ProtoUDP && v.CsumOffset == 6)
}
