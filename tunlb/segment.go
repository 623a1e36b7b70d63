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
	// own that came back, and when there was the last. told is how many there were, and when, at the last
	// word about it.
	moves, loops uint64
	signAt       time.Duration
	told         struct {
		signs uint64
		at    time.Duration
	}
}

// newSegments finds the segments among the lanes: the ports with a side are one, every other Ethernet
// port is one of its own.
func newSegments(e *Engine) (segments []*segment) {
	var inline *segment
	for _, l := range e.lanes {
		if l.link != packet.LinkEthernet || l.Box {
			continue
		}
		s := inline
		if l.Side == neigh.Shared || s == nil {
			s = &segment{engine: e, mac: l.MAC, stations: stations{}, passing: map[uint32]bool{}}
			s.neigh = neigh.New(neigh.Config{MAC: l.MAC, Heard: s.stations.heard, Seed: e.seed}, e.now())
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
		servers := svc.Servers
		if svc.Sorry != nil {
			servers = append(slices.Clip(servers), *svc.Sorry)
		}
		for _, srv := range servers {
			if !s.reaches(srv.Address.Addr().As16()) {
				continue
			}
			direct = direct || srv.Mode == policy.DR
			c.Servers = append(c.Servers, neigh.Server{Name: srv.Name, Addr: srv.Address.Addr(), MAC: packet.MAC(srv.MAC)})
		}
		for _, l := range svc.Listen {
			if (direct || s.reaches(l.Addr.As16())) && !slices.Contains(c.VIPs, l.Addr) {
				c.VIPs = append(c.VIPs, l.Addr)
			}
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
