package policy

import (
	"slices"
	"time"
)

// A server's weight rises in rampSteps steps, whose shares of it are the middles of what a straight line has
// there, 1/20, 3/20 and so on: weights are in parts of rampParts meanwhile.
const (
	rampSteps = 10
	rampParts = 2 * rampSteps
)

// Dirty says whether Compose would give other specs than last time because of what was observed or ordered.
func (r *Roster) Dirty() bool { return r.dirty }

// Urgent says that Compose would give a server to a service which has had none: its clients are turned away until then.
func (r *Roster) Urgent() bool { return r.urgent }

// Next is when the specs change by themselves, since a server's weight rises; not ok if they do not. It may be
// over, if Compose was not called since.
func (r *Roster) Next(now time.Duration) (at time.Duration, ok bool) {
	for _, s := range r.services {
		step, ramping := s.rampStep, s.ramping
		if s.stale {
			step, ramping = s.nextStep(now)
		}
		if ramping && (!ok || step < at) {
			at, ok = step, true
		}
	}
	return at, ok
}

// Compose makes the specs that are to be in force, in the order of those configured. They share what has not
// changed with those and with what other calls have given: they are not to be changed.
func (r *Roster) Compose(now time.Duration) []Spec {
	specs := make([]Spec, len(r.services))
	for i, s := range r.services {
		s.compose(now)
		specs[i] = s.composed
	}
	r.dirty, r.urgent = false, false
	return specs
}

// Mark tells the servers of a table that was built from Compose who of them is down or drained, so that persistence
// does not send its clients there: a drained server is to become idle. One whose weight was set to 0 keeps them, as
// in IPVS.
func (r *Roster) Mark(t *Table) {
	for i, svc := range t.services {
		if i >= len(r.services) {
			return
		}
		for _, server := range svc.Servers {
			m := r.services[i].byAddress[server.Address]
			server.SetDown(m != nil && m.isDown())
			server.SetDrained(m != nil && m.drained)
		}
	}
}

// compose brings composed up to date.
func (s *roll) compose(now time.Duration) {
	if !s.stale && (!s.ramping || now < s.rampStep) {
		return
	}
	weights, scale := s.weights(now)
	s.stale, s.scale = false, scale
	s.rampStep, s.ramping = s.nextStep(now)
	s.composed = s.spec
	servers := slices.Clone(s.spec.Servers)
	kept := servers[:0]
	sorry := s.spec.Sorry
	for i, m := range s.members {
		server := servers[i]
		server.Weight = weights[i]
		if s.plain.Health.Remove && m.isDown() {
			continue
		}
		if s.sorry() && s.plain.Sorry.Address == m.address { // one of them is the other's last resort
			server.Weight, sorry = 1, nil
		}
		kept = append(kept, server)
	}
	if s.sorry() && sorry != nil {
		last := *sorry
		last.Weight, last.Keep = 1, true // so that its flows go on when the servers are back
		kept = append(kept, last)
	}
	if !slices.Equal(kept, s.spec.Servers) {
		s.composed.Servers = kept
	}
}

// weights are what the servers have at a time, and what they are multiplied by.
//
// Weights in parts, so that even a weight of 1 can rise, keep the ratios of all others exact. But schedulers
// that look at the weight itself and not at ratios, and those that lay out their buckets by it, get it rounded
// up instead. Whoever has come furthest counts as all there: servers that come up together need not wait for
// each other, and one that is alone has nobody to leave its share to.
func (s *roll) weights(now time.Duration) (weights []int, scale int) {
	weights = make([]int, len(s.members))
	if s.sorry() {
		return weights, 1
	}
	furthest, equal, largest := 0, true, 0
	for i, m := range s.members {
		if weights[i] = m.weight(); weights[i] == 0 {
			continue
		}
		share := m.share(s.spec.SlowStart, now)
		equal = equal && (furthest == 0 || share == furthest)
		furthest, largest = max(furthest, share), max(largest, weights[i])
	}
	if equal {
		return weights, 1
	}
	exact := scales(s.plain.Scheduler) && largest <= MaxWeight/rampParts
	for i, m := range s.members {
		switch share := m.share(s.spec.SlowStart, now); {
		case exact:
			weights[i] *= share
		case weights[i] > 0:
			weights[i] = max(1, int((int64(weights[i])*int64(share)+int64(furthest)-1)/int64(furthest)))
		}
	}
	if exact {
		return weights, furthest
	}
	return weights, 1
}

// scales says whether a scheduler picks alike when all weights are multiplied.
func scales(scheduler string) bool {
	switch scheduler {
	case "fo", "ovf", "lblc", "lblcr", "sh", "dh":
		return false
	}
	return true
}

// share is how many parts of its weight a server has at a time.
func (m *member) share(slowStart, now time.Duration) int {
	if step, ok := m.step(slowStart, now); ok {
		return 2*step + 1
	}
	return rampParts
}

// step is the one that a server is at while its weight rises.
func (m *member) step(slowStart, now time.Duration) (step int, ok bool) {
	passed := now - m.risesFrom
	if !m.rises || slowStart <= 0 || passed >= slowStart {
		return 0, false
	}
	// In this order nothing overflows, and the last step is never passed.
	return int(min(max(passed, 0)/max(1, slowStart/rampSteps), rampSteps-1)), true
}

// nextStep is when the first of the servers gets to its next step.
func (s *roll) nextStep(now time.Duration) (at time.Duration, ok bool) {
	if s.sorry() {
		return 0, false
	}
	for _, m := range s.members {
		step, rising := m.step(s.spec.SlowStart, now)
		if !rising || m.weight() == 0 {
			continue
		}
		next := m.risesFrom + s.spec.SlowStart
		if step < rampSteps-1 {
			next = m.risesFrom + time.Duration(step+1)*max(1, s.spec.SlowStart/rampSteps)
		}
		if !ok || next < at {
			at, ok = next, true
		}
	}
	return at, ok
}
