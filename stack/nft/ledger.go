package nft

import (
	"time"

	"github.com/tunlb/tunlb/stack/packet"
)

// ledger is which connections the kernel carries. Not safe for concurrent use; made by newLedger.
type ledger struct {
	list []entry // in no order, without gaps
	at   map[packet.Tuple]uint32
}

// entry is a connection as Conn has it, and when it was seen in use, in both directions.
type entry struct {
	outer, inner packet.Tuple
	seen         [2]sighting // forward, reverse
}

// sighting is how many packets there were when there were more than before.
type sighting struct {
	packets uint32 // of the number, the low half
	at      stamp
}

// stamp is a time in steps of 10 ms, which start anew after 497 days.
type stamp uint32

const stampStep = 10 * time.Millisecond

func stampOf(d time.Duration) stamp { return stamp(d / stampStep) }

// idle tells for how long there have been no more packets, and remembers if there are.
func (s *sighting) idle(packets uint64, now stamp) time.Duration {
	if uint32(packets) != s.packets {
		*s = sighting{uint32(packets), now}
	}
	return time.Duration(now-s.at) * stampStep
}

func newLedger() ledger { return ledger{at: make(map[packet.Tuple]uint32)} }

func (l *ledger) has(outer packet.Tuple) bool {
	_, ok := l.at[outer]
	return ok
}

// find is nil if the connection is not there.
func (l *ledger) find(outer, inner packet.Tuple) *entry {
	if i, ok := l.at[outer]; ok && l.list[i].inner == inner {
		return &l.list[i]
	}
	return nil
}

// add takes in a connection whose tuple it does not have.
func (l *ledger) add(e entry) {
	l.at[e.outer] = uint32(len(l.list))
	l.list = append(l.list, e)
}

// remove gives back the connection, or nothing. The last one takes its place: who goes through the list from behind
// misses none.
func (l *ledger) remove(outer, inner packet.Tuple) (e entry, ok bool) {
	i, ok := l.at[outer]
	if !ok || l.list[i].inner != inner {
		return e, false
	}
	e = l.list[i]
	last := l.list[len(l.list)-1]
	l.list[i] = last
	l.at[last.outer] = i
	l.list = l.list[:len(l.list)-1]
	delete(l.at, outer)
	return e, true
}

// before copies connections up to place i into some, as many as fit, and says where they begin.
func (l *ledger) before(i int, some []entry) ([]entry, int) {
	i = min(i, len(l.list))
	from := max(0, i-cap(some))
	return append(some[:0], l.list[from:i]...), from
}
