package policy

import (
	"net/netip"
	"slices"
)

// Table is the index of virtual services that the packet path asks. Made by Build, immutable itself; for
// the objects behind it see the package doc. A table stays usable after Build has made the next one from
// it, but shows the objects as they are now.
type Table struct {
	specs    []Spec // as built: what Diff compares
	services []*Service
	index    map[serviceKey]*Service // of single ports
	wide     map[vipKey][]wide       // of ranges, which do not overlap, and last of all ports
	vips     map[[16]byte]struct{}
	registry *registry
}

// serviceKey has no gaps, so that the map hashes it as plain bytes; so has vipKey.
type serviceKey struct {
	addr  [16]byte
	port  uint16
	proto uint16
}

type vipKey struct {
	addr  [16]byte
	proto uint16
}

// wide is a service with more than one port of a VIP.
type wide struct {
	listen  Listen
	service *Service
}

// enter makes the service found where it listens.
func (t *Table) enter(s *Service) {
	for _, l := range s.Listen {
		addr := l.Addr.As16()
		t.vips[addr] = struct{}{}
		if l.First == l.Last && !l.All() {
			t.index[serviceKey{addr, l.First, uint16(l.Proto)}] = s
			continue
		}
		key := vipKey{addr, uint16(l.Proto)}
		t.wide[key] = append(t.wide[key], wide{l, s})
	}
}

// Service finds the service at a VIP, port and protocol; nil if there is none. A single port goes before a
// range, and that before all ports. IPv4 addresses are v4-mapped, the port is in host order.
func (t *Table) Service(proto uint8, addr [16]byte, port uint16) *Service {
	if s := t.index[serviceKey{addr, port, uint16(proto)}]; s != nil || len(t.wide) == 0 {
		return s
	}
	var all *Service
	for _, w := range t.wide[vipKey{addr, uint16(proto)}] {
		switch {
		case w.listen.All():
			all = w.service
		case w.listen.Has(port):
			return w.service
		}
	}
	return all
}

// IsVIP says whether any service listens on the address.
func (t *Table) IsVIP(addr [16]byte) bool {
	_, ok := t.vips[addr]
	return ok
}

// ListensAt says whether the service listens at an address, port and protocol; a mark is no place. IPv4 addresses are v4-mapped.
func (s *Spec) ListensAt(proto uint8, addr [16]byte, port uint16) bool {
	return slices.ContainsFunc(s.Listen, func(l Listen) bool {
		return l.Proto == proto && l.Addr.As16() == addr && (l.All() || l.Has(port))
	})
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
	services []*Service // configured now
	servers  []*Server  // by ID; [0] is nil, and so are the free ones
	free     []uint32   // IDs to use again
	released []uint32   // IDs to use again once Reuse says so

	holdsBack bool // IDs go to released

	templates *templates
}

func newRegistry() *registry {
	r := &registry{servers: []*Server{nil}}
	r.templates = newTemplates(r)
	return r
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

// release takes the ID back from a server that is deleted and that nothing holds. Others keep theirs.
func (r *registry) release(s *Server) {
	if !s.Deleted || s.Flows() > 0 || s.holds > 0 || r.servers[s.ID] != s {
		return
	}
	r.servers[s.ID] = nil
	if r.holdsBack {
		r.released = append(r.released, s.ID)
		return
	}
	r.free = append(r.free, s.ID)
}

// place is one place of a service: where it listens, or its mark.
type place struct {
	listen Listen
	mark   Mark
}

// places are what makes a service the same over reloads: it is if it has one of them in common.
func (s *Spec) places() (places []place) {
	for _, l := range s.Listen {
		places = append(places, place{listen: l})
	}
	if s.Mark.Value != 0 {
		places = append(places, place{mark: s.Mark})
	}
	return places
}

// match finds for each spec the index of the same service in old, or -1. The first place of a spec goes
// before its others.
func match(specs, old []Spec) []int {
	at := make(map[place]int)
	for i := range old {
		for _, p := range old[i].places() {
			at[p] = i
		}
	}
	matched, taken := make([]int, len(specs)), make([]bool, len(old))
	for i := range matched {
		matched[i] = -1
	}
	for _, first := range []bool{true, false} {
		for i := range specs {
			for j, p := range specs[i].places() {
				if k, ok := at[p]; ok && matched[i] < 0 && !taken[k] && first == (j == 0) {
					matched[i], taken[k] = k, true
				}
			}
		}
	}
	return matched
}

// serverKey is what makes a server the same over reloads.
type serverKey struct {
	service place
	address netip.AddrPort
}

// living are all servers that have an ID: the configured ones and those that linger for their flows.
func (r *registry) living() map[serverKey]*Server {
	living := make(map[serverKey]*Server, len(r.servers))
	for _, s := range r.servers {
		if s == nil {
			continue
		}
		for _, p := range s.Service.Spec.places() {
			living[serverKey{p, s.Address}] = s
		}
	}
	return living
}

// find looks for the server among the living at all places of the spec.
func (s *Spec) find(living map[serverKey]*Server, address netip.AddrPort) *Server {
	for _, p := range s.places() {
		if server := living[serverKey{p, address}]; server != nil {
			return server
		}
	}
	return nil
}
