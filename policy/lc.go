package policy

// leastLoad picks the server with the least load, of equal ones the first in the list. What load is makes
// the scheduler: lc, wlc, sed, nq, and fo and ovf as well.
type leastLoad struct {
	load  func(*Server) load   // of a server that is available
	words func(*Server) string // the same, for people
	least string               // what the least load is called
	tree  tournament
}

func (l *leastLoad) start(list []*Server)     { l.tree = newTournament(list, l.measure) }
func (l *leastLoad) update(_, list []*Server) { l.start(list) }
func (l *leastLoad) changed(s *Server)        { l.tree.set(s.at, l.measure(s)) }

func (l *leastLoad) measure(s *Server) load {
	if !s.available() {
		return infinite
	}
	return l.load(s)
}

func (l *leastLoad) pick(list []*Server, _ Client) *Server {
	for {
		at := l.tree.least()
		if at < 0 {
			return nil
		}
		if s := list[at]; s.available() {
			return s
		}
		l.changed(list[at]) // the index is behind: see Server.available
	}
}

// connections is lc's load: the server's overhead.
func connections(s *Server) load { return load{s.Overhead(), 1} }

// weightedConnections is wlc's load: overhead per weight.
func weightedConnections(s *Server) load { return load{s.Overhead(), int64(s.Weight)} }

// expectedDelay is sed's load: active connections per weight, the new one included. Inactive ones do not
// count: while connections come one after another, each closed before the next, one server gets them all.
// The kernel's does the same; wlc is for such clients.
func expectedDelay(s *Server) load { return load{int64(s.Active) + 1, int64(s.Weight)} }

// expectedDelayUnlessIdle is nq's load: sed's, but a server without an active connection goes before all
// that have one, whatever its weight. Short connections one after another all go to the first server.
func expectedDelayUnlessIdle(s *Server) load {
	if s.Active == 0 {
		return load{0, 1}
	}
	return expectedDelay(s)
}
