package policy

import (
	"cmp"
	"net/netip"
	"slices"
)

// What outlives a process: which server has which ID, as connections name them by it, and what operators and
// health checks have said. The next process recalls it, and then goes over to its own configuration as in a reload.

// Known is a server with its ID. A plain value, of which JSON loses nothing.
type Known struct {
	ID      uint32
	Service string   // name
	Listen  []Listen // of its service; both of these say which it is
	Mark    Mark
	Server  ServerSpec
}

// Known lists all servers that have an ID, also those that are no longer configured.
func (t *Table) Known() (known []Known) {
	for _, s := range t.registry.servers {
		if s != nil {
			svc := &s.Service.Spec
			known = append(known, Known{s.ID, svc.Name, svc.Listen, svc.Mark, s.ServerSpec})
		}
	}
	return known
}

// maxID bounds the memory that IDs take: connections have 24 bits for one.
const maxID = 1<<24 - 1

// Recall makes a table without services, whose servers are deleted ones with the IDs that they had. Build finds
// them again where they are configured; the others are there for their connections, and Settle is called when all of those have been
// counted. In a recalled table, be it of nobody, an ID that is given back is used again only as Reuse allows.
func Recall(known []Known) *Table {
	r := newRegistry()
	r.holdsBack = true
	services := map[place]*Service{}
	for _, k := range slices.SortedFunc(slices.Values(known), func(a, b Known) int { return cmp.Compare(a.ID, b.ID) }) {
		spec := Spec{Name: k.Service, Listen: k.Listen, Mark: k.Mark}
		places := spec.places()
		if k.ID < uint32(len(r.servers)) || k.ID > maxID || len(places) == 0 {
			continue // twice, or nobody's
		}
		svc := services[places[0]]
		if svc == nil {
			svc = &Service{Spec: spec}
			services[places[0]] = svc
		}
		for id := uint32(len(r.servers)); id < k.ID; id++ {
			r.servers = append(r.servers, nil)
			r.released = append(r.released, id)
		}
		r.servers = append(r.servers, &Server{ServerSpec: k.Server, ID: k.ID, Service: svc, Deleted: true, registry: r})
	}
	return &Table{registry: r}
}

// Settle takes their IDs back from deleted servers that nothing holds.
func (t *Table) Settle() {
	for _, s := range t.registry.servers {
		if s != nil {
			t.registry.release(s)
		}
	}
}

// Released is how many IDs have been given back and may not be used again yet.
func (t *Table) Released() int { return len(t.registry.released) }

// Reuse lets the first n of them be used again. Whoever keeps what Known says, for somebody to recall, asks Released at the same
// moment and calls it when that is kept: until then an ID has to stay what was kept before.
func (t *Table) Reuse(n int) {
	r := t.registry
	r.free = append(r.free, r.released[:n]...)
	r.released = slices.Delete(r.released, 0, n)
}

// Recall has a client's next connections go to the server that it is known to have one to, as if persistence had
// sent it there now. Services without persistence forget it.
func (s *Service) Recall(c Client, server *Server) {
	if s.epoch == 0 {
		return
	}
	var key templateKey
	s.key(&key, &c)
	hash := s.templates.hash(&key)
	if e, _ := s.templates.find(&key, hash); e == nil {
		s.templates.insert(&key, hash, server, ticks(c.Now), ticksUp(c.Now+s.Persistence.Timeout))
	}
}

// Said is what operators and health checks have said of a server. A plain value, of which JSON loses nothing.
type Said struct {
	Service int            // number among those configured
	Server  netip.AddrPort // its address
	Drained bool
	Ordered *int   // weight
	Health  string // "up" or "down"; "" if there is nothing that would be worth knowing
	Cause   string // of the last failure
}

// Said lists what differs from what a new roster says.
func (r *Roster) Said() (said []Said) {
	for i, s := range r.services {
		for _, m := range s.members {
			x := Said{Service: i, Server: m.address, Drained: m.drained}
			if m.hasOrdered {
				ordered := m.ordered
				x.Ordered = &ordered
			}
			if m.health == up || m.health == down {
				x.Health, x.Cause = healthNames[m.health], m.cause
			}
			if x != (Said{Service: i, Server: m.address}) {
				said = append(said, x)
			}
		}
	}
	return said
}

// Recall puts into force what another roster of the same specs has Said, without events. It is to be called after Configure.
func (r *Roster) Recall(said []Said) {
	for _, x := range said {
		if x.Service < 0 || x.Service >= len(r.services) {
			continue
		}
		s := r.services[x.Service]
		m := s.byAddress[x.Server]
		if m == nil {
			continue
		}
		m.drained = x.Drained
		if x.Ordered != nil {
			m.ordered, m.hasOrdered = *x.Ordered, true
		}
		if m.health != unchecked {
			switch x.Health {
			case healthNames[up]:
				m.health = up
			case healthNames[down]:
				m.health, m.cause = down, x.Cause
			}
		}
	}
	for _, s := range r.services {
		s.upWeight = s.weigh()
		s.below, s.stale = s.upWeight < s.quorum(), true
	}
	r.dirty = true
}
