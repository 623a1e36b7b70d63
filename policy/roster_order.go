package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Target is a server that an operator's order is about.
type Target struct {
	Service string         `json:"service"`
	Server  string         `json:"server"`
	Address netip.AddrPort `json:"address"`
}

// Drain has servers take no new connections, until Undrain, over reloads too. The service is a name or a place
// such as 203.0.113.22:80/tcp, or "" for all that have the server; the server is a name, an address, or an
// address and port. It lists all servers that it is about, also those that were drained before, or fails with
// ErrNoSuchService, ErrNoSuchServer or ErrAmbiguousServer.
func (r *Roster) Drain(service, server string, now time.Duration) ([]Target, error) {
	return r.order(service, server, func(s *roll, m *member) {
		if !m.drained {
			m.drained = true
			r.tell(s, m, ServerDrained, now, "")
			r.changed(s, now, "server is drained")
		}
	})
}

// Undrain ends Drain.
func (r *Roster) Undrain(service, server string, now time.Duration) ([]Target, error) {
	return r.order(service, server, func(s *roll, m *member) {
		if m.drained {
			m.drained = false
			r.tell(s, m, ServerUndrained, now, "")
			r.changed(s, now, "server is no longer drained")
		}
	})
}

// SetWeight gives servers another weight until their configured one changes. It fails as Drain does, or with
// ErrWeight.
func (r *Roster) SetWeight(service, server string, weight int, now time.Duration) ([]Target, error) {
	if weight < 0 || weight > MaxWeight {
		return nil, fmt.Errorf("%w: %d: want 0 to %d", ErrWeight, weight, MaxWeight)
	}
	return r.order(service, server, func(s *roll, m *member) {
		before := m.configured
		if m.hasOrdered {
			before = m.ordered
		}
		if weight == before {
			return
		}
		m.ordered, m.hasOrdered = weight, weight != m.configured
		r.tell(s, m, ServerWeight, now, fmt.Sprintf("%d -> %d", before, weight))
		r.changed(s, now, "weight was changed")
	})
}

// order carries out what an operator wants of all servers that are meant, or of none.
func (r *Roster) order(service, server string, do func(*roll, *member)) ([]Target, error) {
	rolls, err := r.find(service)
	if err != nil {
		return nil, err
	}
	var targets []Target
	var members []*member
	var of []*roll
	for _, s := range rolls {
		for _, m := range s.find(server) {
			targets = append(targets, Target{s.spec.Name, m.name, m.address})
			members, of = append(members, m), append(of, s)
		}
	}
	if len(members) == 0 {
		if service != "" {
			return nil, fmt.Errorf("%w: %q in service %q: it has %s", ErrNoSuchServer, server, service, rolls[0].names())
		}
		return nil, fmt.Errorf("%w: %q in any service", ErrNoSuchServer, server)
	}
	if a, b := ambiguous(targets); a != b {
		return nil, fmt.Errorf("%w: %q is %s in service %q and %s in %q: name the service, or the address", ErrAmbiguousServer,
			server, targets[a].Address, targets[a].Service, targets[b].Address, targets[b].Service)
	}
	for i, m := range members {
		do(of[i], m)
	}
	return targets, nil
}

// find lists the services of a name or place, at least one.
func (r *Roster) find(service string) ([]*roll, error) {
	if service == "" {
		return r.services, nil
	}
	if s := r.byName[service]; s != nil {
		return []*roll{s}, nil
	}
	if l, err := ParseListen(service); err == nil {
		for _, s := range r.services {
			for _, p := range s.plain.Listen {
				if p == l {
					return []*roll{s}, nil
				}
			}
		}
	}
	return nil, fmt.Errorf("%w: %q", ErrNoSuchService, service)
}

// find lists the servers that a name or address means; a name goes before an address.
func (s *roll) find(server string) (found []*member) {
	for _, m := range s.members {
		if m.name == server {
			return []*member{m}
		}
	}
	if at, err := netip.ParseAddrPort(server); err == nil {
		at, _ = plain(at)
		if m := s.byAddress[at]; m != nil {
			found = append(found, m)
		}
		return found
	}
	if addr, err := netip.ParseAddr(server); err == nil {
		for _, m := range s.members {
			if m.address.Addr() == addr.Unmap() {
				found = append(found, m)
			}
		}
	}
	return found
}

// ambiguous finds two servers that cannot be the same machine, as they have two addresses of one family.
func ambiguous(targets []Target) (a, b int) {
	first := map[bool]int{} // of IPv4, or not
	for i, t := range targets {
		k, ok := first[t.Address.Addr().Is4()]
		if !ok {
			first[t.Address.Addr().Is4()] = i
		} else if targets[k].Address.Addr() != t.Address.Addr() {
			return k, i
		}
	}
	return 0, 0
}

// names lists a service's servers for people.
func (s *roll) names() string {
	const most = 10
	var names []string
	for i, m := range s.members {
		if i == most {
			names = append(names, fmt.Sprintf("%d more", len(s.members)-most))
			break
		}
		names = append(names, fmt.Sprintf("%s (%s)", m.name, m.address))
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
