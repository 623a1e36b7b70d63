package policy

// weightedRoundRobin walks the list again and again with a falling threshold and picks every server whose
// weight reaches it. The threshold runs from top down to 1 in steps of the weights' greatest common
// divisor; hence in a full period a server of weight w is picked w/step times. Where the walk would stop
// next is looked up: it can be long, with one heavy server among a thousand light ones.
type weightedRoundRobin struct {
	last      int // index of the last pick, or head
	threshold int // 0 as long as no server has had a weight
	step      int // greatest common divisor of the weights
	top       int // highest threshold: the largest weight less step-1; 0 if no server has a weight
	up        heights
}

// start begins at the top. A new service does not: see update.
func (w *weightedRoundRobin) start(list []*Server) {
	w.measure(list)
	w.last, w.threshold = head, w.top
}

func (w *weightedRoundRobin) changed(s *Server) { w.up.changed(s) }

func (w *weightedRoundRobin) pick(list []*Server, _ Client) *Server {
	if w.top == 0 {
		return nil
	}
	for {
		at := w.up.next(w.last+1, w.threshold)
		if at < 0 {
			if w.up.highest() == 0 {
				w.exhaust()
				return nil
			}
			w.lower()
			at = w.up.next(0, w.threshold)
		}
		if s := list[at]; s.available() {
			w.last = at
			return s
		}
		w.up.changed(list[at]) // the index is behind: see Server.available
	}
}

// lower goes back to the list's head with the next threshold that an available server reaches. The walks in
// between pick nobody: if all heavy servers are unavailable, there may be very many of them.
func (w *weightedRoundRobin) lower() {
	w.last = head
	if w.threshold -= w.step; w.threshold <= 0 {
		w.threshold = w.top
	}
	// Thresholds are multiples of step plus 1, weights are multiples: the right one is above 0.
	if above := w.threshold - w.up.highest(); above > 0 {
		w.threshold -= (above + w.step - 1) / w.step * w.step
	}
}

// exhaust leaves things as IPVS does after having found nobody: in the last walk of a period it has come
// round to where it began, otherwise it has given up at the period's end.
func (w *weightedRoundRobin) exhaust() {
	if w.threshold > w.step || w.last == head {
		w.last, w.threshold = head, w.top
	}
}

// update goes back to the list's head and keeps the threshold, fitted to the new weights.
//
// IPVS learns of changes one by one. The first server with a weight w makes the top 1 (w less w-1), thus
// the threshold 1, and further servers raise the top alone: the first walk of a new service picks every
// server once. Several changes in one Build are fitted at once; IPVS would do as much for additions
// followed by one removal or change of weight, whereas for more it depends on their order.
func (w *weightedRoundRobin) update(_, list []*Server) {
	w.measure(list)
	w.last = head
	switch {
	case w.threshold == 0:
		w.threshold = min(1, w.top)
	case w.threshold > w.top:
		w.threshold = w.top
	case w.step > 1: // thresholds are multiples of step, plus 1
		w.threshold = w.threshold/w.step*w.step + 1
	}
}

func (w *weightedRoundRobin) measure(list []*Server) {
	divisor, largest := 0, 0
	for _, s := range list {
		if s.Weight > 0 {
			divisor, largest = gcd(s.Weight, divisor), max(largest, s.Weight)
		}
	}
	w.up = newHeights(list)
	w.step = max(1, divisor)
	w.top = largest - (w.step - 1)
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
