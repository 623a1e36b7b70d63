package policy

// weightedRoundRobin walks the list again and again with a falling threshold and picks every server whose
// weight reaches it. The threshold runs from top down to 1 in steps of the weights' greatest common
// divisor; hence in a full period a server of weight w is picked w/step times.
type weightedRoundRobin struct {
	last      int // index of the last pick, or head
	threshold int // 0 as long as no server has had a weight
	step      int // greatest common divisor of the weights
	top       int // highest threshold: the largest weight less step-1; 0 if no server has a weight
}

// start begins at the top. A new service does not: see update.
func (w *weightedRoundRobin) start(list []*Server) {
	w.measure(list)
	w.last, w.threshold = head, w.top
}

func (w *weightedRoundRobin) pick(list []*Server, _ Client) *Server {
	if w.top == 0 {
		return nil
	}
	// The rest of this period and a whole one see every server, should none be available after all.
	for periods := 0; periods < 2; {
		for w.last++; w.last < len(list); w.last++ {
			if s := list[w.last]; s.Weight >= w.threshold && s.available() {
				return s
			}
		}
		w.last = head
		if w.threshold -= w.step; w.threshold <= 0 {
			w.threshold = w.top
			periods++
		}
	}
	return nil
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
	w.step = max(1, divisor)
	w.top = largest - (w.step - 1)
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
