package policy

import "time"

// Counters count the traffic of a service or a server. In is from the client, out is to the client.
// The zero value is ready.
type Counters struct {
	Conns, InPackets, OutPackets, InBytes, OutBytes uint64
}

// Client is what a scheduler may know of a new connection, as the client sent it.
// Addresses are v4-mapped for IPv4, ports in host order.
type Client struct {
	Src, Dst         [16]byte
	SrcPort, DstPort uint16
	Proto            uint8
	// Now is the time on the caller's monotonic clock, for templates and caches of destinations.
	Now time.Duration
}

// Service is a live virtual service. Made and changed by Build only; the zero value is of no use.
// Not safe for concurrent use: see the package doc.
type Service struct {
	Spec              // as built last, not to be changed: Scheduler is never empty, addresses are unmapped
	Servers []*Server // the scheduler's list, in the order of Spec.Servers; empty once the service is gone
	Stats   Counters

	scheduler scheduler
	persistence
	meter
}

// Pick schedules a new connection. Nil: no server is available. Quiesced servers (weight 0) and those that
// are overloaded are picked by persistence alone, deleted ones never. The caller tells the outcome by
// Server.Add and Server.Opened before it picks again, since the least-connection schedulers look at the
// counts; a pick that comes to nothing needs no undoing.
func (s *Service) Pick(c Client) *Server {
	if s.epoch != 0 {
		return s.pickPersistent(&c)
	}
	return s.scheduler.pick(s.Servers, c)
}

// Server is a live real server of one service. Made and changed by Build only; the zero value is of no use.
// Not safe for concurrent use: see the package doc.
//
// A flow is counted in exactly one of Active and Inactive. IPVS counts ESTABLISHED and SYN_RECV as active,
// every other TCP state (TIME_WAIT too) and all of UDP as inactive.
type Server struct {
	ServerSpec          // as built last
	ID         uint32   // never 0; stable for as long as the server is configured or has flows
	Service    *Service // the one that it belongs to, or belonged to when deleted
	Deleted    bool     // no longer configured, kept for its flows
	Active     int      // flows
	Inactive   int      // flows
	Stats      Counters

	unreachable bool
	down        bool
	drained     bool
	overloaded  bool
	holds       int    // of the ID, by others than counted flows
	at          int    // index in the service's list; valid unless Deleted
	lastWeight  int    // the last one above 0 since the server was added, or 0
	persistent  int    // templates; valid iff epoch is the service's
	epoch       uint32 // of the templates that are counted
	meter
	registry *registry
}

// SetUnreachable tells that nobody answers for the server's address, or that somebody does again. It takes
// no new connections meanwhile; what it has is kept.
func (s *Server) SetUnreachable(is bool) {
	s.unreachable = is
	s.changed()
}

// Unreachable tells what SetUnreachable has set.
func (s *Server) Unreachable() bool { return s.unreachable }

// SetDown tells that health checks have failed, or that they succeed again. What that means for the weight is the
// specs' to say; here it is that persistence sends nobody there any more.
func (s *Server) SetDown(is bool) { s.down = is }

// Down tells what SetDown has set.
func (s *Server) Down() bool { return s.down }

// SetDrained tells that an operator drains the server, or no longer does. As with SetDown the weight is the specs'
// to say, and persistence sends nobody there meanwhile.
func (s *Server) SetDrained(is bool) { s.drained = is }

// Overloaded says whether the server has reached its upper bound of flows and not yet got below the lower. It
// takes no new connections meanwhile.
func (s *Server) Overloaded() bool { return s.overloaded }

// Hold keeps the ID for somebody who does not count as a flow, such as the answers to a single datagram.
func (s *Server) Hold() { s.holds++ }

// Unhold ends one Hold: the caller has neither ID nor server afterwards.
func (s *Server) Unhold() {
	s.holds--
	s.registry.release(s)
}

// CountConn counts a connection in the statistics that is no flow, such as a single datagram.
func (s *Server) CountConn() {
	s.Stats.Conns++
	s.Service.Stats.Conns++
}

// Flows is the number of flows that hold the server's ID.
func (s *Server) Flows() int { return s.Active + s.Inactive }

// Overhead is the load that lc and wlc compare: an active flow weighs as much as 256 inactive ones.
func (s *Server) Overhead() int64 { return int64(s.Active)<<8 + int64(s.Inactive) }

// Add counts a new flow to the server and a connection in the statistics.
func (s *Server) Add(active bool) {
	*s.flows(active)++
	s.overloaded = s.overloaded || s.Upper > 0 && s.Flows() >= s.Upper
	s.CountConn()
	s.changed()
}

// Move recounts a flow that becomes active, or else inactive. Only for a flow that was the opposite.
func (s *Server) Move(active bool) {
	*s.flows(!active)--
	*s.flows(active)++
	s.changed()
}

// Remove uncounts a flow that is gone and was active, or else inactive. The last flow of a deleted server
// gives its ID back: the caller holds neither ID nor server afterwards.
func (s *Server) Remove(active bool) {
	*s.flows(active)--
	s.overloaded = s.overloaded && s.full()
	s.changed()
	s.registry.release(s)
}

// full says whether an overloaded server is to stay so. Without a lower bound it is down to 3/4 of the upper.
func (s *Server) full() bool {
	if s.Lower > 0 {
		return s.Flows() >= s.Lower
	}
	return 4*s.Flows() >= 3*s.Upper && s.Upper > 0
}

// CountIn counts packets from the client, for the server and its service.
func (s *Server) CountIn(packets, bytes uint64) {
	s.Stats.InPackets += packets
	s.Stats.InBytes += bytes
	s.Service.Stats.InPackets += packets
	s.Service.Stats.InBytes += bytes
}

// CountOut counts packets to the client, for the server and its service.
func (s *Server) CountOut(packets, bytes uint64) {
	s.Stats.OutPackets += packets
	s.Stats.OutBytes += bytes
	s.Service.Stats.OutPackets += packets
	s.Service.Stats.OutBytes += bytes
}

func (s *Server) flows(active bool) *int {
	if active {
		return &s.Active
	}
	return &s.Inactive
}

// available says whether new connections may go to the server at all. Schedulers have indexes of those that
// are, which changed keeps up to date. They ask once more before they pick, as no index that is behind must
// ever send a client to a server that takes none.
func (s *Server) available() bool {
	return s.Weight > 0 && !s.Deleted && !s.unreachable && !s.overloaded
}

// changed tells the scheduler that the server's counts or its availability are others now. All that changes
// one of them ends with it, but Build, which goes over the whole list.
func (s *Server) changed() {
	if !s.Deleted {
		s.Service.scheduler.changed(s)
	}
}
