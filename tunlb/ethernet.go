package tunlb

import (
	"github.com/tunlb/tunlb/stack/neigh"
	"github.com/tunlb/tunlb/stack/packet"
)

// receive sorts out what comes in by an Ethernet port. True: a packet for tunlb, which goes the way of all
// packets. All else ends here: ARP and neighbour discovery, what is switched to another port, what is
// other stations' business.
func (l *lane) receive(frame []byte) bool {
	s, e := l.segment, l.engine
	h, ok := packet.DecodeEthernet(frame)
	switch {
	case !ok:
		e.drop(packet.Truncated)
		return false
	case h.Src.IsGroup() || h.Src.IsZero():
		e.drop(packet.BadEthernet)
		return false
	case h.Src == s.mac:
		e.drop(packet.Loop)
		return false
	case !sound(frame):
		e.drop(packet.BadVnet)
		return false
	}
	discovery := neigh.Is(frame)
	e.mu.Lock()
	now := e.now()
	s.stations.learn(h.Src, l.id, now)
	if h.Dst == s.mac && !discovery {
		e.mu.Unlock()
		return true
	}
	l.rx.addFrame(frame)
	r, pass := packet.None, true
	if discovery {
		r, pass = s.discover(l, frame, now)
		s.collectLocked(&l.sender)
	}
	var t target
	if pass && r == packet.None {
		t, r = s.switchLocked(l, h.Dst, frame)
	}
	e.mu.Unlock()
	if pass && r == packet.None {
		r = s.write(t, frame)
	}
	if r != packet.None {
		e.drop(r)
	}
	l.flush(e)
	return false
}

// sound says whether a checksum that is left to the kernel will be written behind the Ethernet and IP
// headers. Elsewhere it could make another frame of the one that has been checked: ARP, say.
func sound(frame []byte) bool {
	const headers = packet.EthernetLen + 20
	h := packet.DecodeVnet(frame)
	return h.Flags&packet.FlagNeedsCsum == 0 || h.CsumStart >= headers && int(h.CsumStart)+int(h.CsumOffset) >= headers
}
