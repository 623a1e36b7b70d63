package tunlb

import (
	"net/netip"
	"slices"
	"time"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/neigh"
	"github.com/tunlb/tunlb/stack/packet"
)

// segment is an Ethernet segment on which tunlb is a host with one MAC: behind one port, or behind several
// between which it is the switch. What a packet changes of it is guarded by the engine's lock; nothing is
// written with the lock held.
type segment struct {
	engine   *Engine
	mac      packet.MAC
	ports    []*lane // the first stands for all of them in routes and flows
	neigh    *neigh.Table
	stations stations
	aged     time.Duration   // when the stations were last gone through
	passing  map[uint32]bool // servers, by ID, whose answers have been told to pass
	own      []netip.Prefix  // tunlb's own addresses, with the length of their network's prefix

	// Signs of a loop between the ports: stations that have moved from one to another, and frames of our
	// own that came back. told is how many there were, and when, at the last word about it.
	moves, loops uint64
	told         struct {
		signs uint64
		at    time.Duration
	}
}

// sender is whoever writes to segments: a lane, the host, the clock. Its fields belong to its goroutine,
// but for tx, which the engine's lock guards.
type sender struct {
	tx     []traffic // by port
	outbox []letter
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
}

func (l *letter) frame() []byte {
	if l.packet != nil {
		return l.packet
	}
	return l.message.Bytes()
}

// newSegments finds the segments among the lanes: the ports with a side are one, every other Ethernet
// port is one of its own.
func newSegments(e *Engine) (segments []*segment) {
	var inline *segment
	for _, l := range e.lanes {
		if l.link != packet.LinkEthernet {
			continue
		}
		s := inline
		if l.Side == neigh.Shared || s == nil {
			s = &segment{engine: e, mac: l.MAC, stations: stations{}, passing: map[uint32]bool{}}
			s.neigh = neigh.New(neigh.Config{MAC: l.MAC, Heard: s.stations.heard}, e.now())
			segments = append(segments, s)
		}
		if l.Side != neigh.Shared {
			inline = s
		}
		s.ports = append(s.ports, l)
		l.segment, l.home = s, s.ports[0].id
		for _, own := range l.Own {
			for _, p := range l.Subnets {
				if p.Contains(own) {
					s.own = append(s.own, netip.PrefixFrom(own, p.Bits()))
				}
			}
		}
	}
	return segments
}

// neighConfig is what the segment's neighbour table has to know of a configuration. The VIPs that are
// answered for are those that somebody on the segment may ask for.
func (s *segment) neighConfig(cfg Config) neigh.Config {
	c := neigh.Config{MAC: s.mac, Inline: len(s.ports) > 1, Heard: s.stations.heard, Own: s.own}
	for _, g := range cfg.Gateways {
		if s.reaches(g.Masquerade.As16()) {
			c.VIPs = append(c.VIPs, g.Masquerade) // answered for, and never asked from
		}
	}
	for _, svc := range cfg.Services {
		direct := false
		for _, srv := range svc.Servers {
			if !s.reaches(srv.Address.Addr().As16()) {
				continue
			}
			direct = direct || svc.Mode == policy.DR
			c.Servers = append(c.Servers, neigh.Server{Name: srv.Name, Addr: srv.Address.Addr(), MAC: packet.MAC(srv.MAC)})
		}
		vip := svc.Listen.Addr()
		if (direct || s.reaches(vip.As16())) && !slices.Contains(c.VIPs, vip) {
			c.VIPs = append(c.VIPs, vip)
		}
	}
	return c
}

// applyLocked takes a configuration over. The routers of the segment are asked for at once: who waits until
// a packet needs one believes whoever speaks first.
func (s *segment) applyLocked(cfg Config) {
	now := s.engine.now()
	s.neigh.Set(s.neighConfig(cfg), now)
	for _, l := range s.ports {
		for _, r := range l.Via {
			s.neigh.Lookup(r.Router.As16(), now)
		}
	}
	for id := range s.passing { // an ID may be another server's by now
		if srv := s.engine.services.Server(id); srv == nil || srv.Stats.OutPackets == 0 {
			delete(s.passing, id)
		}
	}
}

// source is tunlb's own address to speak to a from: one of the same network, if there is one.
func (s *segment) source(a netip.Addr) (own netip.Addr) {
	for _, p := range s.own {
		switch {
		case p.Contains(a):
			return p.Addr()
		case p.Addr().Is4() == a.Is4() && !own.IsValid():
			own = p.Addr()
		}
	}
	return own
}

// reaches says whether an address is one of the segment's own network.
func (s *segment) reaches(a [16]byte) bool {
	for _, l := range s.ports {
		for _, p := range l.Subnets {
			if p.Contains(packet.Addr(a)) {
				return true
			}
		}
	}
	return false
}

// discover handles an ARP or neighbour discovery message. pass says that it is to be switched on.
func (s *segment) discover(l *lane, frame []byte, now time.Duration) (r packet.Reason, pass bool) {
	var m neigh.Message
	if r := m.Parse(frame); r != packet.None {
		return r, false
	}
	v := s.neigh.Handle(&m, frame, l.id, l.Side, now)
	return v.Reason, v.Forward
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
			from.tx[p.id].Packets += n.Packets
			from.tx[p.id].Bytes += n.Bytes
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
			continue
		}
		packet.SetMACs(held.Frame, held.MAC, s.mac)
		from.put(letter{segment: s, target: s.toLocked(held.MAC), packet: held.Frame})
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
	for i := range from.outbox {
		l := &from.outbox[i]
		if r := l.segment.write(l.target, l.frame()); r != packet.None {
			e.drop(r)
		}
		l.packet = nil
	}
	from.outbox = from.outbox[:0]
}

// write writes a frame to ports.
func (s *segment) write(t target, frame []byte) (r packet.Reason) {
	for _, p := range s.ports {
		if t.has(p) {
			if failed := p.write(frame); failed != packet.None {
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
	s := e.lanes[out.port].segment
	if out.exit != exitPort || s == nil {
		return packet.None
	}
	if !out.asIs {
		dst, ok := v.Tuple.Dst, false
		if out.edited {
			dst = out.edit.To.Dst
		}
		if out.hop, ok = e.world.Load().hop(dst); !ok {
			return packet.NoRoute
		}
	}
	var state neigh.State
	out.mac, state = s.neigh.Lookup(out.hop, e.now())
	s.collectLocked(&l.sender)
	switch {
	case state == neigh.Failed:
		return packet.Unresolved
	case out.mac.IsZero():
		return packet.None
	}
	out.target = s.toLocked(out.mac)
	s.countLocked(&l.sender, out.target, traffic{uint64(v.Segments()), uint64(v.PacketLen())})
	return packet.None
}

// transmit sends a packet, in a frame with room for its Ethernet header, to a station, or keeps it until
// the station that has the address hop is known.
func (s *segment) transmit(from *sender, frame []byte, hop [16]byte, mac packet.MAC, t target) packet.Reason {
	if !mac.IsZero() {
		packet.SetMACs(frame, mac, s.mac)
		return s.write(t, frame)
	}
	e := s.engine
	e.mu.Lock()
	r := s.neigh.Hold(hop, frame)
	if r != packet.None {
		// It may have been resolved in this moment.
		if mac, _ = s.neigh.Lookup(hop, e.now()); !mac.IsZero() {
			t, r = s.toLocked(mac), packet.None
		}
	}
	s.collectLocked(from)
	e.mu.Unlock()
	from.flush(e)
	if r == packet.None && !mac.IsZero() {
		packet.SetMACs(frame, mac, s.mac)
		return s.write(t, frame)
	}
	return r
}

// transmitFromHost is for a packet of the host's own.
func (s *segment) transmitFromHost(frame []byte, hop [16]byte) packet.Reason {
	e, from := s.engine, &sender{tx: s.engine.ownTx}
	e.mu.Lock()
	mac, state := s.neigh.Lookup(hop, e.now())
	t := s.toLocked(mac)
	if !mac.IsZero() {
		n, _ := measure(frame, nil)
		s.countLocked(from, t, n)
	}
	s.collectLocked(from)
	e.mu.Unlock()
	from.flush(e)
	if state == neigh.Failed {
		return packet.Unresolved
	}
	return s.transmit(from, frame, hop, mac, t)
}

// tick does what time brings: requests again, refreshes, announcements, forgetting.
func (s *segment) tick(from *sender) {
	e := s.engine
	e.mu.Lock()
	now := e.now()
	s.neigh.Tick(now)
	if now-s.aged >= stationLife/20 {
		s.aged = now
		s.stations.expire(now)
	}
	events, passing, loop := s.neigh.Events(), s.passingLocked(), s.loopLocked(now)
	s.collectLocked(from)
	e.mu.Unlock()
	from.flush(e)
	s.tell(events, passing, loop)
}
