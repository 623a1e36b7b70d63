package policy

import "slices"

// What is asked without being done is asked of copies. A copy of a scheduler shares the indexes: none of them changes
// by a pick, but to catch up with a server (see Server.available), which the next real pick would do as well.

// mapping gives the copy of a server, or the server itself where servers are not copied.
type mapping func(*Server) *Server

func itself(s *Server) *Server { return s }

func (r *roundRobin) fork(*Client, mapping) scheduler         { f := *r; return &f }
func (w *weightedRoundRobin) fork(*Client, mapping) scheduler { f := *w; return &f }
func (l *leastLoad) fork(*Client, mapping) scheduler          { f := *l; return &f }
func (d *destinationHash) fork(*Client, mapping) scheduler    { f := *d; return &f }
func (h *sourceHash) fork(*Client, mapping) scheduler         { f := *h; return &f }
func (m *maglev) fork(*Client, mapping) scheduler             { f := *m; return &f }
func (t *twoChoices) fork(*Client, mapping) scheduler         { f := *t; return &f }
func (t *twoWeighted) fork(*Client, mapping) scheduler        { f := *t; return &f }

// fork knows of the client's destination only: there may be thousands of others.
func (l *locality) fork(c *Client, of mapping) scheduler {
	f := *l
	f.cache = make(map[[16]byte]*destination, 1)
	if d := l.cache[c.Dst]; d != nil {
		known := *d
		known.servers = slices.Clone(d.servers)
		for i, s := range known.servers {
			known.servers[i] = of(s)
		}
		f.cache[c.Dst] = &known
	}
	return &f
}

func (r *roundRobin) detach()         { r.up = slices.Clone(r.up) }
func (w *weightedRoundRobin) detach() { w.up = slices.Clone(w.up) }
func (l *leastLoad) detach() {
	l.tree.loads, l.tree.winners = slices.Clone(l.tree.loads), slices.Clone(l.tree.winners)
}
func (d *destinationHash) detach() {}
func (h *sourceHash) detach()      { h.up.detach() }
func (m *maglev) detach()          { m.up.detach() } // a ring never changes: another takes its place
func (t *twoChoices) detach()      { t.up.detach() }
func (t *twoWeighted) detach()     { t.sums = slices.Clone(t.sums) }
func (l *locality) detach() {
	l.wlc.detach()
	l.spare.detach()
}

func (p *pool) detach() { p.members, p.places = slices.Clone(p.members), slices.Clone(p.places) }

// peek is what Pick would return for a client. If a template decides it is not nil; forgotten is the server of one
// that Pick would forget first.
func (s *Service) peek(c *Client) (server *Server, by *template, forgotten *Server) {
	if s.epoch != 0 {
		var key templateKey
		s.key(&key, c)
		e, _ := s.templates.find(&key, s.templates.hash(&key))
		if e != nil {
			server = s.templates.registry.servers[e.server]
			if e.decides(server, ticks(c.Now)) {
				return server, e, nil
			}
			forgotten = server
		}
	}
	return s.scheduler.fork(c, itself).pick(s.Servers, *c), nil, forgotten
}

// fork copies a service of the table into one of its own, with all that decides on a client, and shares nothing with
// it that changes. Build may change it and Pick pick from it.
func (t *Table) fork(s *Service, c *Client) *Table {
	r, copied := newRegistry(), *s
	n := 0
	for _, server := range t.registry.servers {
		if server != nil && server.Service == s { // those that linger as well: they may be wanted again
			n++
		}
	}
	block, copies := make([]Server, 0, n), make([]*Server, len(t.registry.servers)) // by ID
	r.servers = slices.Grow(r.servers, n)
	for id, server := range t.registry.servers {
		if server != nil && server.Service == s {
			block = append(block, *server)
			f := &block[len(block)-1]
			f.Service = &copied
			r.enroll(f)
			copies[id] = f
		}
	}
	copied.Servers = make([]*Server, len(s.Servers))
	for i, server := range s.Servers {
		copied.Servers[i] = copies[server.ID]
	}
	copied.scheduler = s.scheduler.fork(c, func(s *Server) *Server { return copies[s.ID] })
	copied.scheduler.detach()
	copied.persistence.templates, r.templates.epoch = r.templates, s.epoch
	if s.epoch != 0 {
		if e := s.templates.of(&s.persistence, c); e != nil && copies[e.server] != nil {
			key := e.templateKey
			r.templates.insert(&key, r.templates.hash(&key), copies[e.server], ticks(c.Now), e.deadline)
			r.templates.of(&copied.persistence, c).flows = e.flows
		}
	}
	r.services = []*Service{&copied}
	return &Table{services: r.services, registry: r}
}
