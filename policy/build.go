package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// What Build refuses; the errors that it returns wrap one of them and name the place.
var (
	ErrDuplicateService = errors.New("two services at one address, port and protocol")
	ErrDuplicateServer  = errors.New("two servers at one address and port")
	ErrUnknownScheduler = errors.New("unknown scheduler")
	ErrMixedFamilies    = errors.New("server of another address family than its service")
	ErrInvalidAddress   = errors.New("invalid address")
	ErrUnequalPorts     = errors.New("server of a dr service at another port, though its packets stay as they are")
)

// Build makes the table for specs and takes the live objects over from prev, if that is not nil. Services
// are the same by VIP, port and protocol, servers of a service by address and port, whatever else changes:
// they keep IDs, counts and counters, and a service keeps its scheduler's state as IPVS would; another
// scheduler starts anew. A deleted server that is configured again while it has flows is the same again, as
// IPVS finds it in its trash.
//
// On an error nothing has changed. Otherwise the live objects have, also for those who still use prev.
func Build(specs []Spec, prev *Table) (*Table, error) {
	specs, err := normalize(specs)
	if err != nil {
		return nil, err
	}
	r := &registry{servers: []*Server{nil}}
	if prev != nil {
		r = prev.registry
	}
	t := &Table{
		specs:    specs,
		services: make([]*Service, 0, len(specs)),
		index:    make(map[serviceKey]*Service, len(specs)),
		vips:     make(map[[16]byte]struct{}),
		registry: r,
	}
	living := r.living()
	for i := range specs {
		key := keyOf(&specs[i])
		svc := r.services[key]
		if svc == nil {
			svc = &Service{}
		}
		svc.apply(specs[i], r, living)
		t.services = append(t.services, svc)
		t.index[key] = svc
		t.vips[key.addr] = struct{}{}
	}
	for key, svc := range r.services {
		if t.index[key] == nil {
			svc.clear(r)
		}
	}
	r.services = t.index
	return t, nil
}

// normalize copies the specs with their defaults filled in and checks what tables rely on.
func normalize(specs []Spec) ([]Spec, error) {
	specs = slices.Clone(specs)
	seen := make(map[serviceKey]string, len(specs))
	for i := range specs {
		s := &specs[i]
		s.Servers = slices.Clone(s.Servers)
		if err := s.normalize(); err != nil {
			return nil, fmt.Errorf("service %q: %w", s.Name, err)
		}
		key := keyOf(s)
		if other, ok := seen[key]; ok {
			return nil, fmt.Errorf("service %q: %w: %s is %q's", s.Name, ErrDuplicateService, endpoint(s), other)
		}
		seen[key] = s.Name
	}
	return specs, nil
}

func (s *Spec) normalize() (err error) {
	if s.Scheduler == "" {
		s.Scheduler = defaultScheduler
	}
	if newScheduler(s.Scheduler) == nil {
		return fmt.Errorf("%w %q", ErrUnknownScheduler, s.Scheduler)
	}
	if s.Listen, err = plain(s.Listen); err != nil {
		return err
	}
	seen := make(map[netip.AddrPort]string, len(s.Servers))
	for i := range s.Servers {
		server := &s.Servers[i]
		if server.Address, err = plain(server.Address); err != nil {
			return fmt.Errorf("server %q: %w", server.Name, err)
		}
		if server.Address.Addr().Is4() != s.Listen.Addr().Is4() {
			return fmt.Errorf("server %q: %w: %s for %s", server.Name, ErrMixedFamilies, server.Address, s.Listen)
		}
		if s.Mode == DR && server.Address.Port() != s.Listen.Port() {
			return fmt.Errorf("server %q: %w: %s for %s", server.Name, ErrUnequalPorts, server.Address, s.Listen)
		}
		if other, ok := seen[server.Address]; ok {
			return fmt.Errorf("server %q: %w: %s is %q's", server.Name, ErrDuplicateServer, server.Address, other)
		}
		seen[server.Address] = server.Name
	}
	return nil
}

// plain unmaps an address. A zone is refused: packets do not carry it, so it could not tell two apart.
func plain(a netip.AddrPort) (netip.AddrPort, error) {
	if !a.IsValid() || a.Addr().Zone() != "" {
		return a, fmt.Errorf("%w %s", ErrInvalidAddress, a)
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()), nil
}

// apply makes the service, new or not, what the spec says.
func (s *Service) apply(spec Spec, r *registry, living map[serverKey]*Server) {
	old, list := s.Servers, make([]*Server, 0, len(spec.Servers))
	for _, server := range old {
		server.Deleted = true // until found in the spec
	}
	key, reweighted := keyOf(&spec), false
	for _, want := range spec.Servers {
		server := living[serverKey{key, want.Address}]
		if server == nil {
			server = &Server{}
			r.enroll(server)
		}
		reweighted = reweighted || server.Weight != want.Weight
		server.apply(want, s)
		list = append(list, server)
	}
	for _, server := range old {
		r.release(server)
	}
	before := s.Scheduler
	s.Spec, s.Servers = spec, list
	switch {
	case before == "":
		s.scheduler = newScheduler(spec.Scheduler)
		s.scheduler.update(nil, list)
	case before != spec.Scheduler:
		s.scheduler = newScheduler(spec.Scheduler)
		s.scheduler.start(list)
	case reweighted || !slices.Equal(old, list):
		s.scheduler.update(old, list)
	}
}

// apply makes the server one of the service's. Coming back to a service that was made anew meanwhile, it
// starts with new counters as that one did.
func (s *Server) apply(spec ServerSpec, svc *Service) {
	if s.Service != svc {
		s.Service, s.Stats = svc, Counters{}
	}
	s.ServerSpec, s.Deleted = spec, false
}

// clear empties a service that is no longer configured, for those who still hold it.
func (s *Service) clear(r *registry) {
	old := s.Servers
	s.Servers = nil
	s.scheduler.update(old, nil)
	for _, server := range old {
		server.Deleted = true
		r.release(server)
	}
}
