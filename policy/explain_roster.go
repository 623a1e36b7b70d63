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
		if len(servers) > 0 && servers[0].Address == m.address { // nearly always: they are in the members' order
			candidate, servers = servers[0], servers[1:]
		} else if i := slices.IndexFunc(servers, func(c Candidate) bool { return c.Address == m.address }); i >= 0 {
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

// Snapshot is a service at one time, with all that decides on one client: a copy that shares nothing that changes with
// the original, so that it may be asked elsewhere while that one goes on. Made by Roster.Snapshot; needs no closing.
// Not safe for concurrent use.
type Snapshot struct {
	client Client
	of     *roll // a copy, of which byAddress is the original's
	roster *Roster
	table  *Table
	left   []*member // of of, in its order: those that Suppose has left out
}

// Snapshot copies a service of the table, which is from Build of Compose; it fails with ErrNoSuchService. It takes half
// a millisecond for 1000 servers.
func (r *Roster) Snapshot(t *Table, s *Service, c Client) (*Snapshot, error) {
	at := slices.Index(t.services, s)
	if at < 0 || at >= len(r.services) {
		return nil, fmt.Errorf("%w: %q", ErrNoSuchService, s.Name)
	}
	of := *r.services[at]
	members := make([]member, len(of.members))
	pointers := make([]*member, len(members))
	for i, m := range of.members {
		members[i], pointers[i] = *m, &members[i]
	}
	of.members = pointers
	return &Snapshot{client: c, of: &of, table: t.fork(s, &c)}, nil
}

// own gives the copied roll its index, for which there is time once the original is let go.
func (p *Snapshot) own() {
	if p.roster == nil {
		p.of.byAddress = make(map[netip.AddrPort]*member, len(p.of.members))
		for _, m := range p.of.members {
			p.of.byAddress[m.address] = m
		}
		p.roster = &Roster{services: []*roll{p.of}}
	}
}

// Service is the copy; not to be changed.
func (p *Snapshot) Service() *Service { return p.table.services[0] }

// Explain is Roster.Explain.
func (p *Snapshot) Explain() Explanation {
	p.own()
	x := p.roster.Explain(p.table, p.Service(), p.client)
	if len(p.left) == 0 {
		return x
	}
	servers := make([]Candidate, 0, len(x.Servers)+len(p.left))
	left, others := p.left, x.Servers
	for _, m := range p.of.members {
		switch {
		case len(left) > 0 && left[0] == m:
			left = left[1:]
			servers = append(servers, Candidate{Server: m.name, Address: m.address, Excluded: "left out, as asked"})
		case len(others) > 0:
			servers, others = append(servers, others[0]), others[1:]
		}
	}
	x.Servers = append(servers, others...) // the sorry server
	return x
}

// Suppose has the snapshot be without some of its servers, and others with other weights: both by name, address, or
// address and port. It goes the way of a reload and of an operator's order, and may be called once. It fails with
// ErrNoSuchServer, ErrAmbiguousServer or ErrWeight.
func (p *Snapshot) Suppose(without []string, weights map[string]int) error {
	p.own()
	spec := p.of.spec
	spec.Servers = slices.Clone(spec.Servers)
	left := make(map[netip.AddrPort]bool)
	for _, name := range without {
		found := p.of.find(name)
		switch {
		case len(found) > 0:
			for _, m := range found {
				left[m.address] = true
			}
		case p.of.spec.Sorry != nil && p.of.spec.Sorry.Name == name:
			spec.Sorry = nil
		default:
			return p.of.noSuch(name)
		}
	}
	weighed := slices.Sorted(maps.Keys(weights))
	for _, server := range weighed {
		found := p.of.find(server)
		switch {
		case len(found) == 0:
			return p.of.noSuch(server)
		case left[found[0].address]:
			return fmt.Errorf("%w: %q is to have a weight, and to be left out", ErrNoSuchServer, server)
		}
	}
	spec.Servers = slices.DeleteFunc(spec.Servers, func(server ServerSpec) bool {
		address, _ := plain(server.Address)
		return left[address]
	})
	now := p.client.Now
	if err := p.roster.Configure([]Spec{spec}, now); err != nil {
		return err
	}
	for _, server := range weighed {
		if _, err := p.roster.SetWeight("", server, weights[server], now); err != nil {
			return err
		}
	}
	table, err := Build(p.roster.Compose(now), p.table)
	if err != nil {
		return err
	}
	p.roster.Mark(table)
	p.table = table
	for _, m := range p.of.members {
		if left[m.address] {
			p.left = append(p.left, m)
		}
	}
	return nil
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
