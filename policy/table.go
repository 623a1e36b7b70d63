package policy

import "net/netip"

// Table is the index of virtual services that the packet path asks. Made by Build, immutable itself; for
// the objects behind it see the package doc. A table stays usable after Build has made the next one from
// it, but shows the objects as they are now.
type Table struct {
	specs    []Spec // as built: what Diff compares
	services []*Service
	index    map[serviceKey]*Service
	vips     map[[16]byte]struct{}
	registry *registry
}

// serviceKey has no gaps, so that the map hashes it as plain bytes.
type serviceKey struct {
	addr  [16]byte
	port  uint16
	proto uint16
}

func keyOf(s *Spec) serviceKey {
	return serviceKey{s.Listen.Addr().As16(), s.Listen.Port(), uint16(s.Proto)}
}

// Service finds the service at a VIP, port and protocol; nil if there is none.
// IPv4 addresses are v4-mapped, the port is in host order.
func (t *Table) Service(proto uint8, addr [16]byte, port uint16) *Service {
	return t.index[serviceKey{addr, port, uint16(proto)}]
}

// IsVIP says whether any service listens on the address.
func (t *Table) IsVIP(addr [16]byte) bool {
	_, ok := t.vips[addr]
	return ok
}

// Services are all services in the order of their specs; not to be changed.
func (t *Table) Services() []*Service { return t.services }

// Server finds a server by its ID: a configured one, or a deleted one that still has flows. Nil if there
// is none. Servers of later tables are found as well.
func (t *Table) Server(id uint32) *Server {
	if servers := t.registry.servers; uint64(id) < uint64(len(servers)) {
		return servers[id]
	}
	return nil
}

// registry is what all tables of one line of Builds share: the live objects.
type registry struct {
	services map[serviceKey]*Service // configured now
	servers  []*Server               // by ID; [0] is nil, and so are the free ones
	free     []uint32                // IDs to use again
}

// enroll gives the server an ID that no living server has.
func (r *registry) enroll(s *Server) {
	s.registry = r
	if n := len(r.free); n > 0 {
		s.ID, r.free = r.free[n-1], r.free[:n-1]
		r.servers[s.ID] = s
		return
	}
	s.ID = uint32(len(r.servers))
	r.servers = append(r.servers, s)
}

// release takes the ID back from a server that is deleted and has no flows. Others keep theirs.
func (r *registry) release(s *Server) {
	if !s.Deleted || s.Flows() > 0 || r.servers[s.ID] != s {
		return
	}
	r.servers[s.ID] = nil
	r.free = append(r.free, s.ID)
}

// serverKey is what makes a server the same over reloads.
type serverKey struct {
	service serviceKey
	address netip.AddrPort
}

// living are all servers that have an ID: the configured ones and those that linger for their flows.
func (r *registry) living() map[serverKey]*Server {
	living := make(map[serverKey]*Server, len(r.servers))
	for _, s := range r.servers {
		if s != nil {
			living[serverKey{keyOf(&s.Service.Spec), s.Address}] = s
		}
	}
	return living
}
