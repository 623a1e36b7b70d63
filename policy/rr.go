package policy

import "slices"

// roundRobin picks the next available server after the last pick. Weights matter only as zero or not.
type roundRobin struct {
	last int // index of the last pick, or head
}

func (r *roundRobin) start([]*Server) { r.last = head }

func (r *roundRobin) pick(list []*Server, _ Client) *Server {
	at := r.last
	for range list {
		if at++; at == len(list) {
			at = 0
		}
		if list[at].available() {
			r.last = at
			return list[at]
		}
	}
	return nil
}

// update keeps the cursor on its server. If that one is gone, the cursor steps back to the nearest server
// in front of it that is still there, so that its successor is next, as when IPVS unlinks a destination.
func (r *roundRobin) update(old, list []*Server) {
	for ; r.last > head; r.last-- {
		if at := slices.Index(list, old[r.last]); at >= 0 {
			r.last = at
			return
		}
	}
}
