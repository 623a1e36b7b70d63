package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Explain is Service.Explain, with what only the roster knows of the servers. The table is from Build of Compose.
func (r *Roster) Explain(t *Table, s *Service, c Client) Explanation {
	x := s.Explain(c)
	at := slices.Index(t.services, s)
	if at < 0 || at >= len(r.services) {
		return x
	}
	servers := x.Servers
	x.Servers = make([]Candidate, 0, len(servers)+1)
	of := r.services[at]
	for _, m := range of.members {
		candidate := Candidate{Server: m.name, Address: m.address}
		if i := slices.IndexFunc(servers, func(c Candidate) bool { return c.Address == m.address }); i >= 0 {
			candidate = servers[i]
			servers = slices.Delete(servers, i, i+1)
		}
		if reason := of.excludes(m); reason != "" && !of.isSorry(m.address) {
			candidate.Excluded = reason
		}
		switch {
		case candidate.Weight == 0:
		case m.share(of.spec.SlowStart, c.Now) < rampParts:
			candidate.Remark = of.rising(m, c.Now)
		case of.scale > 1:
			candidate.Remark = fmt.Sprintf("%d times its weight %d, for the slow start of others", of.scale, m.weight())
		}
		x.Servers = append(x.Servers, candidate)
	}
	x.Servers = append(x.Servers, servers...) // the sorry server
	for i := range x.Servers {
		if of.isSorry(x.Servers[i].Address) {
			x.Servers[i].Remark = fmt.Sprintf("the sorry server: it serves alone while the weight that is up, %d, is below the quorum of %d", of.upWeight, of.quorum())
		}
	}
	if of.sorry() && x.Server != "" && !x.Template {
		x.Why = fmt.Sprintf("%s is the sorry server, and the weight that is up, %d, is below the quorum of %d", x.Server, of.upWeight, of.quorum())
	}
	return x
}

// excludes is why a member takes no new connections; "" if the roster has nothing against it.
func (s *roll) excludes(m *member) string {
	switch {
	case m.drained:
		return "drained by an operator"
	case m.health == down && s.plain.Health.Remove:
		return "down and taken out of the service" + because(m.cause)
	case m.health == down:
		return "down" + because(m.cause)
	case m.health == checking:
		return "no health check has succeeded yet" + because(m.cause)
	case s.sorry():
		return fmt.Sprintf("below the quorum: weight %d is up of %d, so the sorry server serves alone", s.upWeight, s.quorum())
	}
	return ""
}

func because(cause string) string {
	if cause == "" {
		return ""
	}
	return ": " + cause
}

// isSorry says whether the server at an address serves alone as the last resort.
func (s *roll) isSorry(address netip.AddrPort) bool {
	return s.sorry() && s.plain.Sorry.Address == address
}

// rising is how far slow start has come with a member.
func (s *roll) rising(m *member, now time.Duration) string {
	return fmt.Sprintf("slow start: %d%% of its weight %d, the rest by %v from now", 100*m.share(s.spec.SlowStart, now)/rampParts, m.weight(),
		(m.risesFrom + s.spec.SlowStart - now).Round(time.Second))
}

// WhatIf is Explain as it would be without some of the servers, and with other weights for some: both by name, address,
// or address and port. It is worked out on copies of the service and its part of the roster, which go the way of a
// reload and of an operator's order. It fails with ErrNoSuchServer, ErrAmbiguousServer or ErrWeight.
func (r *Roster) WhatIf(t *Table, s *Service, c Client, without []string, weights map[string]int) (Explanation, error) {
	at := slices.Index(t.services, s)
	if at < 0 || at >= len(r.services) {
		return Explanation{}, fmt.Errorf("%w: %q", ErrNoSuchService, s.Name)
	}
	of := r.services[at]
	spec := of.spec
	spec.Servers = slices.Clone(spec.Servers)
	var left []*member
	for _, name := range without {
		found := of.find(name)
		switch {
		case len(found) > 0:
			left = append(left, found...)
		case spec.Sorry != nil && spec.Sorry.Name == name:
			spec.Sorry = nil
		default:
			return Explanation{}, of.noSuch(name)
		}
	}
	weighed := slices.Sorted(maps.Keys(weights))
	for _, server := range weighed {
		found := of.find(server)
		switch {
		case len(found) == 0:
			return Explanation{}, of.noSuch(server)
		case slices.Contains(left, found[0]):
			return Explanation{}, fmt.Errorf("%w: %q is to have a weight, and to be left out", ErrNoSuchServer, server)
		}
	}
	spec.Servers = slices.DeleteFunc(spec.Servers, func(server ServerSpec) bool {
		address, _ := plain(server.Address)
		return slices.ContainsFunc(left, func(m *member) bool { return m.address == address })
	})
	// Configure makes new rolls of the old ones, and leaves those as they are.
	copied := &Roster{services: []*roll{of}}
	if err := copied.Configure([]Spec{spec}, c.Now); err != nil {
		return Explanation{}, err
	}
	for _, server := range weighed {
		if _, err := copied.SetWeight("", server, weights[server], c.Now); err != nil {
			return Explanation{}, err
		}
	}
	table, err := Build(copied.Compose(c.Now), t.fork(s, &c))
	if err != nil {
		return Explanation{}, err
	}
	copied.Mark(table)
	x := copied.Explain(table, table.services[0], c)
	for i, m := range of.members {
		if slices.Contains(left, m) {
			x.Servers = slices.Insert(x.Servers, min(i, len(x.Servers)), Candidate{Server: m.name, Address: m.address, Excluded: "left out, as asked"})
		}
	}
	return x, nil
}

// noSuch says that there is no such server, and which the others are, those that it may have been meant for first.
func (s *roll) noSuch(server string) error {
	near := roll{members: slices.Clone(s.members)}
	slices.SortStableFunc(near.members, func(a, b *member) int { return alike(b.name, server) - alike(a.name, server) })
	return fmt.Errorf("%w: %q in service %q: it has %s", ErrNoSuchServer, server, s.spec.Name, near.names())
}

// alike is how many letters two names begin with together.
func alike(a, b string) int {
	a, b = strings.ToLower(a), strings.ToLower(b)
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}
