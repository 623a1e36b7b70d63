package tunlb

// The way out by a segment: which station, which port, and when. A packet's next hop is found with the lock
// held and before anything of it is edited (resolveLocked); what the neighbour table wants sent is collected
// with the lock held; all is written without it.

import (
	"github.com/tunlb/tunlb/stack/neigh"
	"github.com/tunlb/tunlb/stack/packet"
)

// sender is whoever writes to segments: a lane, the host, the clock. Its fields belong to its goroutine,
// but for tx, which the engine's lock guards.
type sender struct {
	tx      []traffic // by port
	outbox  []letter
	witness *witness // of the packet in hand
	bursts  *bursts  // nil unless frames come many at a time
}

// target says by which ports of a segment a frame leaves.
type target struct {
	only   *lane      // nil: all ports
	except *lane      // but this one
	side   neigh.Side // unless Shared: only those of this side
}

func (t target) has(p *lane) bool {
	if t.only != nil {
		return p == t.only
	}
	return p != t.except && (t.side == neigh.Shared || t.side == p.Side)
}

// letter is a frame to be written once the lock is released.
type letter struct {
	segment *segment
	target  target
	message neigh.Frame // ARP or neighbour discovery, unless
	packet  []byte      // it is a packet
	witness *witness    // of the packet
}

func (l *letter) frame() []byte {
	if l.packet != nil {
		return l.packet
	}
	return l.message.Bytes()
}

// switchLocked finds the ports for a frame to dst and counts what will be written. A segment behind one
// port has nothing to switch.
func (s *segment) switchLocked(from *lane, dst packet.MAC, n traffic, longest int) (t target, r packet.Reason) {
	switch {
	case len(s.ports) == 1:
		return t, packet.OtherHost
	case dst.IsLinkControl():
		return t, packet.LinkLocal
	}
	t = target{only: s.locateLocked(dst), except: from}
	if t.only == from {
		return t, packet.OtherHost // its station hears it where it is
	}
	const vlanTag = 4
	for _, p := range s.ports {
		// Stations behind another port may send longer frames: a bridge drops them, too.
		if t.has(p) && longest > int(p.portMTU.Load())+vlanTag {
			return t, packet.TooBig
		}
	}
	s.countLocked(&from.sender, t, n)
	return t, packet.None
}

// locateLocked finds the port behind which a station is; nil if that is unknown, or it means many.
func (s *segment) locateLocked(mac packet.MAC) *lane {
	if len(s.ports) == 1 {
		return s.ports[0]
	}
	if id, ok := s.stations.port(mac); ok {
		return s.engine.lanes[id]
	}
	return nil
}

// toLocked says where a frame for a station goes. One that has not been heard is sought everywhere, a server
// where servers are.
func (s *segment) toLocked(mac packet.MAC) target {
	t := target{only: s.locateLocked(mac)}
	if t.only == nil && s.neigh.IsServer(mac) {
		t.side = neigh.Servers
	}
	return t
}

// countLocked counts what leaves by the ports of t.
func (s *segment) countLocked(from *sender, t target, n traffic) {
	for _, p := range s.ports {
		if t.has(p) {
			from.tx[p.id].add(n)
		}
	}
}

// collectLocked takes what the neighbour table wants sent into the sender's outbox.
func (s *segment) collectLocked(from *sender) {
	if !s.neigh.Pending() {
		return
	}
	var frames [8]neigh.Frame
	for n := s.neigh.Drain(frames[:]); n > 0; n = s.neigh.Drain(frames[:]) {
		for i := range frames[:n] {
			from.put(letter{segment: s, target: s.targetLocked(&frames[i]), message: frames[i]})
		}
	}
	for _, held := range s.neigh.Released() {
		if held.MAC.IsZero() {
			s.engine.drop(packet.Unresolved)
			w := s.engine.waitedLocked(held.Frame)
			w.dropped(packet.Unresolved)
			w.end()
			continue
		}
		packet.SetMACs(held.Frame, held.MAC, s.mac)
		from.put(letter{segment: s, target: s.toLocked(held.MAC), packet: held.Frame, witness: s.engine.waitedLocked(held.Frame)})
	}
}

func (s *segment) targetLocked(f *neigh.Frame) target {
	switch f.Scope {
	case neigh.Back:
		return target{only: s.engine.lanes[f.Port]}
	case neigh.Unicast:
		h, _ := packet.DecodeEthernet(f.Bytes())
		return s.toLocked(h.Dst)
	case neigh.ClientSide:
		return target{side: neigh.Clients}
	default:
		return target{}
	}
}

// put has a letter written by the next flush.
func (from *sender) put(l letter) {
	from.outbox = append(from.outbox, l)
	last := &from.outbox[len(from.outbox)-1]
	n, _ := measure(last.frame(), nil)
	l.segment.countLocked(from, l.target, n)
}

// flush writes what has been put. The lock is not held.
func (from *sender) flush(e *Engine) {
	inHand := from.witness
	for i := range from.outbox {
		l := &from.outbox[i]
		from.witness = l.witness // not that of the packet that has brought it about
		if l.packet == nil {
			from.witness = e.ownWitness("port", packet.LinkEthernet, l.frame())
		}
		if r := l.segment.write(from, l.target, l.frame()); r != packet.None {
			e.drop(r)
			from.witness.dropped(r)
		}
		from.witness.end()
		l.packet, l.witness = nil, nil
	}
	from.outbox, from.witness = from.outbox[:0], inHand
}

// write writes a frame to ports.
func (s *segment) write(from *sender, t target, frame []byte) (r packet.Reason) {
	for _, p := range s.ports {
		if t.has(p) {
			if failed := from.write(p, frame); failed != packet.None {
				r = failed
			}
		}
	}
	return r
}

// measure says what a frame is on the wire, and how long the longest of its packets. v is for parsing a
// super-packet; without one it counts as a single packet.
func measure(frame []byte, v *packet.View) (n traffic, longest int) {
	longest = len(frame) - packet.VnetLen - packet.EthernetLen
	n = traffic{1, uint64(longest)}
	if v != nil && packet.DecodeVnet(frame).GSOSize > 0 && v.ParseEthernet(frame) == packet.None {
		n.Packets, longest = uint64(v.Segments()), v.SegmentLen()
	}
	return n, longest
}

// resolveLocked finds the station that the verdict's packet goes to, and its port, before anything of the
// packet is edited: one that can't be reached is refused to its sender as it came. Without a MAC yet the
// packet is to wait.
func (l *lane) resolveLocked(v *packet.View) packet.Reason {
	e, out := l.engine, &l.out
	if out.exit == exitDirect {
		return l.directWay()
	}
	switch {
	case out.exit != exitPort:
		return packet.None
	case e.lanes[out.port].Box:
		return l.wayOut(v)
	case e.lanes[out.port].segment == nil:
		return packet.None
	}
	s := e.lanes[out.port].segment
	if !out.asIs {
		dst, ok := v.Tuple.Dst, false
		if out.edited {
			dst = out.edit.To.Dst
		}
		if out.hop, ok = e.world.Load().hop(dst); !ok {
			return packet.NoRoute
		}
	}
	var r packet.Reason
	out.mac, out.target, r = s.nextLocked(&l.sender, out.hop, trafficOf(v))
	return r
}

// nextLocked finds the MAC of a next hop and where frames for it go, and counts n for what is about to be
// sent there. Without a MAC yet nothing is counted: the packet is to wait.
func (s *segment) nextLocked(from *sender, hop [16]byte, n traffic) (mac packet.MAC, t target, r packet.Reason) {
	mac, state := s.neigh.Lookup(hop, s.engine.now())
	s.collectLocked(from)
	switch {
	case state == neigh.Failed:
		return mac, t, packet.Unresolved
	case mac.IsZero():
		return mac, t, packet.None
	}
	t = s.toLocked(mac)
	s.countLocked(from, t, n)
	return mac, t, packet.None
}

// transmit sends a packet, in a frame with room for its Ethernet header, to a station, or keeps it until
// the station that has the address hop is known.
func (s *segment) transmit(from *sender, frame []byte, hop [16]byte, mac packet.MAC, t target) packet.Reason {
	if !mac.IsZero() {
		packet.SetMACs(frame, mac, s.mac)
		return s.write(from, t, frame)
	}
	e := s.engine
	e.mu.Lock()
	held := s.neigh.Hold(hop, frame) == packet.None
	if !held { // it may have been resolved in this moment
		n, _ := measure(frame, nil)
		mac, t, _ = s.nextLocked(from, hop, n)
	}
	e.mu.Unlock()
	from.flush(e)
	switch {
	case held:
		from.witness.went("held")
		return packet.None
	case mac.IsZero():
		return packet.HopQueue // edited by now, so that its sender can't be quoted what it has sent
	}
	packet.SetMACs(frame, mac, s.mac)
	return s.write(from, t, frame)
}

// transmitFromHost is for a packet of the host's own.
func (s *segment) transmitFromHost(from *sender, frame []byte, hop [16]byte) packet.Reason {
	e := s.engine
	n, _ := measure(frame, nil)
	e.mu.Lock()
	mac, t, r := s.nextLocked(from, hop, n)
	e.mu.Unlock()
	from.flush(e)
	if r != packet.None {
		return r
	}
	return s.transmit(from, frame, hop, mac, t)
}
