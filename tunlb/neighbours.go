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
	MAC        packet.MAC        `json:"mac"` // tunlb's own
	Own        []netip.Addr      `json:"own"`
	Stations   int               `json:"stations"` // MACs heard of late
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
	Kind   string        `json:"kind"` // of its last message: request, probe, reply or announcement
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
	out := SegmentStatus{MAC: s.mac, Stations: len(s.stations), Neighbours: []NeighbourStatus{}, Suppressed: map[string]uint64{}}
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

// reachLocked has the schedulers avoid the servers of the segment that do not answer for their address.
func (s *segment) reachLocked() {
	for _, svc := range s.engine.services.Services() {
		if svc.Mode != policy.DR {
			continue
		}
		for _, srv := range svc.Servers {
			if addr := srv.Address.Addr().As16(); s.reaches(addr) {
				_, state := s.neigh.Lookup(addr, s.engine.now())
				srv.Unreachable = state == neigh.Failed
			}
		}
	}
}

// passingLocked finds the directly routed servers of the segment whose answers have begun to pass, as
// service and server.
func (s *segment) passingLocked() (found [][2]string) {
	for _, svc := range s.engine.services.Services() {
		if svc.Mode != policy.DR {
			continue
		}
		for _, srv := range svc.Servers {
			if srv.Stats.OutPackets > 0 && !s.passing[srv.ID] && s.reaches(srv.Address.Addr().As16()) {
				s.passing[srv.ID] = true
				found = append(found, [2]string{svc.Name, srv.Name})
			}
		}
	}
	return found
}

// log tells people what the neighbour table has found out.
func (s *segment) log(e neigh.Event) {
	log := s.engine.log.With().Str("event", e.Kind.String()).Stringer("address", e.Addr).Logger()
	if !e.MAC.IsZero() {
		log = log.With().Stringer("mac", e.MAC).Logger()
	}
	if e.Name != "" {
		log = log.With().Str("server", e.Name).Logger()
	}
	switch e.Kind {
	case neigh.ServerUp:
		log.Info().Msg("the server answers")
	case neigh.ServerDown:
		log.Warn().Msg("the server does not answer for its address: it takes no new connections until it does")
	case neigh.ServerMoved:
		log.Warn().Msg("the server has another MAC")
	case neigh.PinnedClaim:
		log.Warn().Msg("somebody else claims the server's address: ignored, since its mac is configured")
	case neigh.AddressConflict:
		log.Warn().Str("port", s.engine.lanes[e.Conflict.Port].Port.Name()).Str("fix", e.Conflict.Fix()).
			Msgf("another station claims %s (%s)", e.Addr, e.Conflict.Form)
	}
}
