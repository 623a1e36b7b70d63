package tunlb

import (
	"net/netip"
	"time"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/neigh"
	"github.com/tunlb/tunlb/stack/packet"
)

// SegmentStatus is an Ethernet segment and who is on it.
type SegmentStatus struct {
	Ports      []string          `json:"ports"`
	NetNS      string            `json:"netns,omitempty"` // of the first port; "" is the caller's
	MAC        packet.MAC        `json:"mac"`             // tunlb's own
	Own        []netip.Addr      `json:"own"`
	Stations   int               `json:"stations"`    // MACs heard of late
	Moves      uint64            `json:"moves"`       // stations heard at another port than before
	Loops      uint64            `json:"loops"`       // frames of tunlb's own that came back
	LoopAge    time.Duration     `json:"loop_age_ns"` // since the last of either; -1: never
	Asked      uint64            `json:"asked"`       // requests of tunlb's own, ARP and neighbour discovery
	Answered   uint64            `json:"answered"`    // other stations' requests
	Announced  uint64            `json:"announced"`   // own addresses and VIPs, unasked
	Foreign    uint64            `json:"foreign"`     // claims to a neighbour's address by another MAC; not believed
	Pinned     uint64            `json:"pinned"`      // the same where the MAC is configured
	Neighbours []NeighbourStatus `json:"neighbours"`
	Suppressed map[string]uint64 `json:"suppressed"` // servers' claims to VIPs, by kind of message
	Conflicts  []ConflictStatus  `json:"conflicts,omitempty"`
}

// NeighbourStatus is a station that tunlb sends to: a server, a client, a router.
type NeighbourStatus struct {
	Address netip.Addr    `json:"address"`
	MAC     string        `json:"mac,omitempty"` // empty: not known yet
	State   string        `json:"state"`         // reachable, stale, probing, incomplete, failed or static
	Server  string        `json:"server,omitempty"`
	Port    string        `json:"port,omitempty"` // where it was heard last
	Age     time.Duration `json:"age_ns"`         // since it was last confirmed; -1: never
}

// ConflictStatus is a station that claims an address of tunlb's.
type ConflictStatus struct {
	VIP    netip.Addr    `json:"vip"`
	MAC    packet.MAC    `json:"mac"`
	Server string        `json:"server,omitempty"`
	Kind   string        `json:"kind"` // of its last message: request, reply or announcement
	Port   string        `json:"port"`
	Count  uint64        `json:"count"`
	Age    time.Duration `json:"age_ns"` // since its last message
	Fix    string        `json:"fix"`
}

// sideName is the side as in the configuration.
func sideName(s neigh.Side) string {
	if s == neigh.Shared {
		return ""
	}
	return s.String()
}

// statusLocked takes a snapshot.
func (s *segment) statusLocked() SegmentStatus {
	now := s.engine.now()
	counters := s.neigh.Counters()
	out := SegmentStatus{NetNS: s.ports[0].NetNS, MAC: s.mac, Stations: len(s.stations), Moves: s.moves, Loops: s.loops, LoopAge: -1,
		Asked: counters.Asked, Answered: counters.Answered, Announced: counters.Announced,
		Foreign: counters.Foreign, Pinned: counters.Pinned, Neighbours: []NeighbourStatus{}, Suppressed: map[string]uint64{}}
	if s.moves+s.loops > 0 {
		out.LoopAge = now - s.signAt
	}
	for _, l := range s.ports {
		out.Ports = append(out.Ports, l.Port.Name())
		out.Own = append(out.Own, l.Own...)
	}
	for _, n := range s.neigh.Neighbours(now) {
		status := NeighbourStatus{Address: n.Addr, State: n.State.String(), Server: n.Server, Age: n.Age}
		if !n.MAC.IsZero() {
			status.MAC = n.MAC.String()
		}
		if id, ok := s.stations.port(n.MAC); ok {
			status.Port = s.engine.lanes[id].Port.Name()
		}
		out.Neighbours = append(out.Neighbours, status)
	}
	for kind, n := range s.neigh.Suppressed() {
		if n > 0 {
			out.Suppressed[kind] = n
		}
	}
	for _, c := range s.neigh.Conflicts() {
		out.Conflicts = append(out.Conflicts, ConflictStatus{
			VIP: c.VIP, MAC: c.MAC, Server: c.Server, Kind: c.Form.String(), Port: s.engine.lanes[c.Port].Port.Name(),
			Count: c.Count, Age: now - c.Last, Fix: c.Fix(),
		})
	}
	return out
}

// reachLocked has the schedulers avoid the servers that do not answer for their address: those that have
// failed, and, as long as a service has others, those that are about to.
func (e *Engine) reachLocked() {
	now := e.now()
	for _, svc := range e.services.Services() {
		sure := false
		for _, srv := range svc.Servers {
			_, doubtful := e.reachedLocked(srv, now)
			srv.SetUnreachable(doubtful)
			sure = sure || srv.Weight > 0 && !doubtful
		}
		if sure {
			continue
		}
		for _, srv := range svc.Servers {
			failed, _ := e.reachedLocked(srv, now)
			srv.SetUnreachable(failed)
		}
	}
}

// reachedLocked asks the segment that a server is on, if it is on one. Who has failed is doubtful as well.
func (e *Engine) reachedLocked(srv *policy.Server, now time.Duration) (failed, doubtful bool) {
	addr := srv.Address.Addr().As16()
	for _, s := range e.segments {
		if s.reaches(addr) {
			_, state := s.neigh.Lookup(addr, now)
			return state == neigh.Failed, s.neigh.Doubtful(addr, now)
		}
	}
	if srv.Mode == policy.DR && e.direct != nil {
		way, ok := e.direct.Way(addr)
		return ok && way.Down, ok && way.Down
	}
	return false, false
}

// passingLocked finds the directly routed servers of the segment whose answers have begun to pass, as
// service and server.
func (s *segment) passingLocked() (found [][2]string) {
	for _, svc := range s.engine.services.Services() {
		for _, srv := range svc.Servers {
			if srv.Mode == policy.DR && srv.Stats.OutPackets > 0 && !s.passing[srv.ID] && s.reaches(srv.Address.Addr().As16()) {
				s.passing[srv.ID] = true
				found = append(found, [2]string{svc.Name, srv.Name})
			}
		}
	}
	return found
}

// loopLocked says, once a minute, whether there are signs of a loop between the ports.
func (s *segment) loopLocked(now time.Duration) bool {
	const many, again = 200, time.Minute
	if signs := s.moves + s.loops; signs-s.told.signs < many || s.told.at > 0 && now-s.told.at < again {
		if s.told.at == 0 || now-s.told.at >= again {
			s.told.signs = signs // a few a tick are stations that do move
		}
		return false
	}
	s.told.signs, s.told.at = s.moves+s.loops, now
	return true
}

// tell logs what a tick has found.
func (s *segment) tell(events []neigh.Event, passing [][2]string, loop bool) {
	for _, ev := range events {
		s.log(ev)
	}
	for _, names := range passing {
		s.engine.log.Info().Str("event", "answers-pass").Str("service", names[0]).Str("server", names[1]).
			Msg("this server's replies pass the LB: it is the server's gateway; with another one they would take the short way")
	}
	if loop {
		var ports []string
		for _, l := range s.ports {
			ports = append(ports, l.Port.Name())
		}
		s.engine.log.Error().Str("event", "loop").Strs("ports", ports).
			Msg("stations move from port to port, or our own frames come back: something joins what these ports lead to (see `bridge link`)")
	}
}

// log tells people what the neighbour table has found out.
func (s *segment) log(e neigh.Event) {
	words := map[neigh.EventKind]string{
		neigh.ServerUp:        "the server answers",
		neigh.ServerDown:      "the server does not answer for its address: it takes no new connections until it does",
		neigh.ServerMoved:     "the server has another MAC",
		neigh.PinnedClaim:     "somebody else claims the server's address: ignored, since its mac is configured",
		neigh.AddressConflict: "another station claims " + e.Addr.String(),
	}[e.Kind]
	log := s.engine.log.Warn()
	if e.Kind == neigh.ServerUp {
		log = s.engine.log.Info()
	}
	log = log.Str("event", e.Kind.String()).Stringer("address", e.Addr)
	if !e.MAC.IsZero() {
		log = log.Stringer("mac", e.MAC)
		words += ": " + e.MAC.String()
	}
	if e.Name != "" {
		log = log.Str("server", e.Name)
	}
	if e.Kind == neigh.AddressConflict {
		log = log.Str("port", s.engine.lanes[e.Conflict.Port].Port.Name()).Str("fix", e.Conflict.Fix())
	}
	log.Msg(words)
	s.engine.journal.add(Event{
		Time: time.Now(), Kind: e.Kind.String(), Server: e.Name, Address: netip.AddrPortFrom(e.Addr, 0), Cause: words,
	})
}
