package tunlb

import (
	"hash/maphash"

	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/tunlb/flow"
)

// Whoever has a connection can send any number of errors about it that are believed: it knows the numbers, and UDP has
// none. With a share for each connection they do not use up what is there for all.
const (
	shareSlots = 1024
	// A path that changes says so once or twice, and again for what was on the way.
	sharePerSecond = 10
	shareWindow    = 1000 // ms
)

// shares bounds how often something is done for each flow. Flows share a slot at random, and nobody can choose which. The zero value is
// not useful: see newShares.
type shares struct {
	seed  maphash.Seed
	slots [shareSlots]share
}

// share counts since its window began.
type share struct {
	began flow.Tick
	n     int32
}

func newShares() shares { return shares{seed: maphash.MakeSeed()} }

// slot is where a flow is counted, by what its client sends.
func (s *shares) slot(outer *packet.Tuple) *share {
	return &s.slots[maphash.Comparable(s.seed, *outer)%shareSlots]
}

// allow says whether it may be done once more.
func (s *share) allow(now flow.Tick) bool {
	if d := now.Sub(s.began); d < 0 || d >= shareWindow {
		*s = share{began: now}
	}
	s.n++
	return s.n <= sharePerSecond
}
