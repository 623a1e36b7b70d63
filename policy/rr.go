package policy

import "slices"

// roundRobin picks the next available server after the last pick. Weights matter only as zero or not.
type roundRobin struct {
	last int // index of the last pick, or head
	up   heights
}

func (r *roundRobin) start(list []*Server) { r.last, r.up = head, newHeights(list) }

func (r *roundRobin) changed(s *Server) { r.up.changed(s) }

func (r *roundRobin) pick(list []*Server, _ Client) *Server {
	for {
		at := r.up.next(r.last+1, 1)
		if at < 0 {
			at = r.up.next(0, 1)
		}
		if at < 0 {
			return nil
		}
		if s := list[at]; s.available() {
			r.last = at
			return s
		}
		r.up.changed(list[at]) // the index is behind: see Server.available
	}
}

// update keeps the cursor on its server. If that one is gone, the cursor steps back to the nearest server
// in front of it that is still there, so that its successor is next, as when IPVS unlinks a destination.
func (r *roundRobin) update(old, list []*Server) {
	r.up = newHeights(list)
	for ; r.last > head; r.last-- {
		if at := slices.Index(list, old[r.last]); at >= 0 {
			r.last = at
			return
		}
	}
}
