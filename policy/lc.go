package policy

// leastConnection picks the server with the least overhead, or with the least overhead per weight. Of
// equal ones the first in the list wins. It has no state but the servers' counts.
type leastConnection struct {
	weighted bool
}

func (leastConnection) start([]*Server)       {}
func (leastConnection) update(_, _ []*Server) {}

func (l leastConnection) pick(list []*Server, _ Client) *Server {
	var least *Server
	var leastOverhead, leastWeight int64
	for _, s := range list {
		if !s.available() {
			continue
		}
		overhead, weight := s.Overhead(), int64(1)
		if l.weighted {
			weight = int64(s.Weight)
		}
		// Overheads per weight are compared crosswise: a division would make unequal ones equal.
		if least == nil || leastOverhead*weight > overhead*leastWeight {
			least, leastOverhead, leastWeight = s, overhead, weight
		}
	}
	return least
}
