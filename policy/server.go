package policy

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
}

// Service is a live virtual service. Made and changed by Build only; the zero value is of no use.
// Not safe for concurrent use: see the package doc.
type Service struct {
	Spec              // as built last, not to be changed: Scheduler is never empty, addresses are unmapped
	Servers []*Server // the scheduler's list, in the order of Spec.Servers; empty once the service is gone
	Stats   Counters

	scheduler scheduler
}

// Pick schedules a new connection. Nil: no server is available. Quiesced servers (weight 0) and deleted
// ones are never picked. The caller tells the outcome by Server.Add before it picks again, since the
// least-connection schedulers look at the counts; a pick that comes to nothing needs no undoing.
func (s *Service) Pick(c Client) *Server {
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

	// Unreachable is set by the caller while nobody answers for the server's address. It takes no new
	// connections then; what it has is kept.
	Unreachable bool

	registry *registry
}

// Flows is the number of flows that hold the server's ID.
func (s *Server) Flows() int { return s.Active + s.Inactive }

// Overhead is the load that lc and wlc compare: an active flow weighs as much as 256 inactive ones.
func (s *Server) Overhead() int64 { return int64(s.Active)<<8 + int64(s.Inactive) }

// Add counts a new flow to the server and a connection in the statistics.
func (s *Server) Add(active bool) {
	*s.flows(active)++
	s.Stats.Conns++
	s.Service.Stats.Conns++
}

// Move recounts a flow that becomes active, or else inactive. Only for a flow that was the opposite.
func (s *Server) Move(active bool) {
	*s.flows(!active)--
	*s.flows(active)++
}

// Remove uncounts a flow that is gone and was active, or else inactive. The last flow of a deleted server
// gives its ID back: the caller holds neither ID nor server afterwards.
func (s *Server) Remove(active bool) {
	*s.flows(active)--
	s.registry.release(s)
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

// available says whether new connections may go to the server at all.
func (s *Server) available() bool { return s.Weight > 0 && !s.Deleted && !s.Unreachable }
