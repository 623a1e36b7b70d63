package policy

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// What Build refuses; the errors that it returns wrap one of them and name the place.
var (
	ErrDuplicateService = errors.New("two services at one address, port and protocol")
	ErrDuplicateServer  = errors.New("two servers at one address and port")
	ErrUnknownScheduler = errors.New("unknown scheduler")
	ErrMixedFamilies    = errors.New("addresses of two families")
	ErrInvalidAddress   = errors.New("invalid address")
	ErrNowhere          = errors.New("neither an address to listen on nor a mark")
	ErrOnePacket        = errors.New("one-packet scheduling is for UDP")
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
	specs, err := Normalize(specs)
	if err != nil {
		return nil, err
	}
	r := newRegistry()
	if prev != nil {
		r = prev.registry
	}
	t := &Table{
		specs:    specs,
		services: make([]*Service, 0, len(specs)),
		index:    make(map[serviceKey]*Service, len(specs)),
		wide:     make(map[vipKey][]wide),
		vips:     make(map[[16]byte]struct{}),
		registry: r,
	}
	living, before := r.living(), make([]Spec, len(r.services))
	for i, svc := range r.services {
		before[i] = svc.Spec
	}
	old, kept := match(specs, before), make(map[*Service]bool)
	for i := range specs {
		svc := &Service{}
		if old[i] >= 0 {
			svc = r.services[old[i]]
		}
		kept[svc] = true
		svc.apply(specs[i], r, living)
		t.services = append(t.services, svc)
		t.enter(svc)
	}
	for _, svc := range r.services {
		if !kept[svc] {
			svc.clear(r)
		}
	}
	r.services = t.services
	return t, nil
}

// Normalize copies the specs with their defaults filled in and checks what tables rely on. Build does it, too.
func Normalize(specs []Spec) ([]Spec, error) {
	specs = slices.Clone(specs)
	places := make(map[place]string, len(specs))
	for i := range specs {
		s := &specs[i]
		if err := s.normalize(); err != nil {
			return nil, fmt.Errorf("service %q: %w", s.Name, err)
		}
		for _, p := range s.places() {
			if other, ok := places[p]; ok {
				return nil, fmt.Errorf("service %q: %w: %s is %q's", s.Name, ErrDuplicateService, p, other)
			}
			places[p] = s.Name
		}
	}
	if err := overlap(places); err != nil {
		return nil, err
	}
	return specs, nil
}

// overlap finds two places that have a port in common: in order of their ports these are neighbours, if there
// are any.
func overlap(places map[place]string) error {
	sorted := slices.SortedFunc(maps.Keys(places), func(p, q place) int {
		a, b := p.listen, q.listen
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last))
	})
	for i := 1; i < len(sorted); i++ {
		if p, q := sorted[i-1], sorted[i]; p.mark == (Mark{}) && q.mark == (Mark{}) && p.listen.Overlaps(q.listen) {
			return fmt.Errorf("service %q: %w: %s overlaps %s of %q", places[q], ErrDuplicateService, q, p, places[p])
		}
	}
	return nil
}

func (p place) String() string {
	if p.mark.Value != 0 {
		if p.mark.IPv6 {
			return fmt.Sprintf("mark %d IPv6", p.mark.Value)
		}
		return fmt.Sprintf("mark %d", p.mark.Value)
	}
	return p.listen.String()
}

func (s *Spec) normalize() (err error) {
	s.Listen, s.Servers = slices.Clone(s.Listen), slices.Clone(s.Servers)
	if s.Scheduler == "" {
		s.Scheduler = defaultScheduler
	}
	if newScheduler(s) == nil {
		return fmt.Errorf("%w %q", ErrUnknownScheduler, s.Scheduler)
	}
	if s.Mode == 0 {
		s.Mode = NAT
	}
	if len(s.Listen) == 0 && s.Mark.Value == 0 {
		return ErrNowhere
	}
	for i := range s.Listen {
		l := &s.Listen[i]
		at, err := plain(l.AddrPort())
		if err != nil {
			return err
		}
		if l.Addr = at.Addr(); l.Addr.Is4() != s.Listen[0].Addr.Is4() {
			return fmt.Errorf("%w: %s and %s", ErrMixedFamilies, s.Listen[0], l)
		}
		if s.OnePacket && l.Proto != UDP {
			return fmt.Errorf("%w: %s", ErrOnePacket, l)
		}
	}
	seen := make(map[netip.AddrPort]string, len(s.Servers))
	for i := range s.Servers {
		server := &s.Servers[i]
		if err := s.normalizeServer(server); err != nil {
			return fmt.Errorf("server %q: %w", server.Name, err)
		}
		if other, ok := seen[server.Address]; ok {
			return fmt.Errorf("server %q: %w: %s is %q's", server.Name, ErrDuplicateServer, server.Address, other)
		}
		seen[server.Address] = server.Name
	}
	if s.Sorry != nil {
		sorry := *s.Sorry
		if err := s.normalizeServer(&sorry); err != nil {
			return fmt.Errorf("sorry server: %w", err)
		}
		s.Sorry = &sorry
	}
	return nil
}

func (s *Spec) normalizeServer(server *ServerSpec) (err error) {
	if server.Mode == 0 {
		server.Mode = s.Mode
	}
	server.Keep = server.Keep || s.Keep
	if server.Address, err = plain(server.Address); err != nil {
		return err
	}
	if server.Address.Addr().Is4() != s.Is4() && server.Mode != Tunnelled {
		return fmt.Errorf("%w: %s for %s", ErrMixedFamilies, server.Address, s.places()[0])
	}
	if server.Mode == DR && !s.hasPort(server.Address.Port()) {
		return fmt.Errorf("%w: %s for %s", ErrUnequalPorts, server.Address, s.places()[0])
	}
	return nil
}

// Is4 says whether the service is one of IPv4.
func (s *Spec) Is4() bool {
	if len(s.Listen) == 0 {
		return !s.Mark.IPv6
	}
	return s.Listen[0].Addr.Is4()
}

// hasPort says whether a server that gets packets as they are may have the port: any is the client's.
func (s *Spec) hasPort(port uint16) bool {
	for _, l := range s.Listen {
		if port != 0 && (l.First != port || l.Last != port) {
			return false
		}
	}
	return true
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
	reweighted := false
	for at, want := range spec.Servers {
		server := spec.find(living, want.Address)
		if server == nil || !server.Deleted { // no other service's, if one was split into two or two are one now
			server = &Server{}
			r.enroll(server)
		}
		reweighted = reweighted || server.Weight != want.Weight
		server.apply(want, s)
		server.at = at
		list = append(list, server)
	}
	for _, server := range old {
		if server.Deleted {
			server.lastWeight = 0
		}
		r.release(server)
	}
	before, flags := s.Scheduler, s.Flags
	s.Spec, s.Servers = spec, list
	s.persist(r)
	switch {
	case before == "":
		s.scheduler = newScheduler(&spec)
		s.scheduler.update(nil, list)
	case before != spec.Scheduler || flags != spec.Flags && hashes(spec.Scheduler):
		s.scheduler = newScheduler(&spec)
		s.scheduler.start(list)
	case reweighted || !slices.Equal(old, list):
		s.scheduler.update(old, list)
	default: // a change of thresholds may have made some available
		for _, server := range list {
			server.changed()
		}
	}
}

// apply makes the server one of the service's. Coming back to a service that was made anew meanwhile, it
// starts with new counters as that one did.
func (s *Server) apply(spec ServerSpec, svc *Service) {
	if s.Service != svc {
		s.Service, s.Stats, s.meter = svc, Counters{}, meter{}
	}
	if spec.Upper == 0 || spec.Upper > s.Upper {
		s.overloaded = false // until the next flow, as in IPVS
	}
	s.ServerSpec, s.Deleted = spec, false
	if spec.Weight > 0 {
		s.lastWeight = spec.Weight
	}
}

// clear empties a service that is no longer configured, for those who still hold it.
func (s *Service) clear(r *registry) {
	old := s.Servers
	s.Servers = nil
	if s.epoch != 0 {
		s.epoch = 0
		r.templates.startSweep()
	}
	s.scheduler.update(old, nil)
	for _, server := range old {
		server.Deleted, server.lastWeight = true, 0
		r.release(server)
	}
}
