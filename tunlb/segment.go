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
}

// sender is whoever writes to segments: a lane, the host, the clock. Its fields belong to its goroutine,
// but for tx, which the engine's lock guards.
type sender struct {
	tx     []traffic // by port
	outbox []letter
}

// target says by which ports of a segment a frame leaves.
type target struct {
	only       *lane // nil: all ports
	except     *lane // but this one
	clientSide bool  // and but those that servers are behind
}

func (t target) has(p *lane) bool {
	if t.only != nil {
		return p == t.only
	}
	return p != t.except && !(t.clientSide && p.Side == neigh.Servers)
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
	}
	return segments
}

// neighConfig is what the segment's neighbour table has to know of a configuration. The VIPs that are
// answered for are those that somebody on the segment may ask for.
func (s *segment) neighConfig(cfg Config) neigh.Config {
	c := neigh.Config{MAC: s.mac, Inline: len(s.ports) > 1, Heard: s.stations.heard}
	for _, l := range s.ports {
		for _, own := range l.Own {
			for _, p := range l.Subnets {
				if p.Contains(own) {
					c.Own = append(c.Own, netip.PrefixFrom(own, p.Bits()))
				}
			}
		}
	}
	for _, svc := range cfg.Services {
		direct := false
		for _, srv := range svc.Servers {
			if svc.Mode != policy.DR || !s.reaches(srv.Address.Addr().As16()) {
				continue
			}
			direct = true
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
	s.reachLocked()
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
func (s *segment) switchLocked(from *lane, dst packet.MAC, frame []byte) (t target, r packet.Reason) {
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
	s.countLocked(&from.sender, t, frame)
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

// countLocked counts a frame for the ports that it leaves by.
func (s *segment) countLocked(from *sender, t target, frame []byte) {
	for _, p := range s.ports {
		if t.has(p) {
			from.tx[p.id].addFrame(frame)
		}
	}
}

// collectLocked takes what the neighbour table wants sent into the sender's outbox.
func (s *segment) collectLocked(from *sender) {
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
		from.put(letter{segment: s, target: target{only: s.locateLocked(held.MAC)}, packet: held.Frame})
	}
}

func (s *segment) targetLocked(f *neigh.Frame) target {
	switch f.Scope {
	case neigh.Back:
		return target{only: s.engine.lanes[f.Port]}
	case neigh.Unicast:
		h, _ := packet.DecodeEthernet(f.Bytes())
		return target{only: s.locateLocked(h.Dst)}
	case neigh.ClientSide:
		return target{clientSide: true}
	default:
		return target{}
	}
}

// put has a letter written by the next flush.
func (from *sender) put(l letter) {
	from.outbox = append(from.outbox, l)
	last := &from.outbox[len(from.outbox)-1]
	l.segment.countLocked(from, l.target, last.frame())
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
		switch {
		case !t.has(p):
		case !fits(frame, p.mtu): // stations behind another port may send longer frames: a bridge drops them, too
			r = packet.TooBig
		default:
			if failed := p.write(frame); failed != packet.None {
				r = failed
			}
		}
	}
	return r
}

// fits says whether a frame is no longer than a port may send. The segments of a super-packet are made by
// the kernel behind the port, which knows.
func fits(frame []byte, mtu int) bool {
	const vlanTag = 4
	return len(frame)-packet.VnetLen-packet.EthernetLen <= mtu+vlanTag || packet.DecodeVnet(frame).GSOSize > 0
}

// transmit sends a packet, in a frame with room for its Ethernet header, to the station that has the
// address hop, or keeps it until that is known.
func (s *segment) transmit(from *sender, frame []byte, hop [16]byte) packet.Reason {
	e := s.engine
	e.mu.Lock()
	mac, state := s.neigh.Lookup(hop, e.now())
	if mac.IsZero() {
		r := packet.Unresolved
		if state != neigh.Failed {
			r = s.neigh.Hold(hop, frame)
		}
		s.collectLocked(from)
		e.mu.Unlock()
		from.flush(e)
		return r
	}
	t := target{only: s.locateLocked(mac)}
	s.countLocked(from, t, frame)
	e.mu.Unlock()
	packet.SetMACs(frame, mac, s.mac)
	return s.write(t, frame)
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
	events := s.neigh.Events()
	if len(events) > 0 {
		s.reachLocked()
	}
	passing := s.passingLocked()
	s.collectLocked(from)
	e.mu.Unlock()
	from.flush(e)
	for _, ev := range events {
		s.log(ev)
	}
	for _, names := range passing {
		e.log.Info().Str("event", "answers-pass").Str("service", names[0]).Str("server", names[1]).
			Msg("this server's replies pass the LB: it is the server's gateway; with another one they would take the short way")
	}
}
