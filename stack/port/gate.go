package port

import (
	"math"
	"sync/atomic"
)

// gate counts the calls that use a descriptor, so that Close does not give its
// number back under them: the next open file would get it, and our frames.
// Two atomic adds a call are nothing beside the system call between them.
type gate struct {
	state atomic.Int64  // calls inside; plus gateShut once shut
	idle  chan struct{} // closed when shut and nobody is inside
	ended atomic.Bool   // idle is closed
}

const gateShut = math.MinInt64

func newGate() gate { return gate{idle: make(chan struct{})} }

// enter says whether the descriptor may be used, until leave.
func (g *gate) enter() bool {
	if g.state.Add(1) > 0 {
		return true
	}
	g.leave()
	return false
}

func (g *gate) leave() {
	if g.state.Add(-1) == gateShut && g.ended.CompareAndSwap(false, true) {
		close(g.idle)
	}
}

// shut lets nobody in any more. idle tells when the last one has left.
func (g *gate) shut() {
	g.state.Add(1) // shut counts as inside, so that one place notices the end
	g.state.Or(gateShut)
	g.leave()
}
