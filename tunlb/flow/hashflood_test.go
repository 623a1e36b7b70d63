package flow

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/tunlb/tunlb/stack/packet"
)

// entriesRead is how many entries are looked at to find each tuple once, on the average.
func entriesRead(t *testing.T, table *Table, tuples []packet.Tuple) float64 {
	sum := 0
	for i := range tuples {
		hash := table.index.hash(&tuples[i])
		p := table.index.page(hash)
		for k := home(hash); ; k = next(k) {
			sum++
			e := *p.slot(k)
			if e == 0 {
				t.Fatalf("%v is not in the table", tuples[i])
			}
			if (e^entry(hash))&^whoMask == 0 && table.record(uint32(e&refMask)).carries(&tuples[i], Direction(e>>refBits&1)) {
				break
			}
		}
	}
	return float64(sum) / float64(len(tuples))
}

// TestHashFlood: who knows the hash but not the table's key finds no tuples that collide; who knows it does, which is why
// it is drawn for each table. (The second half is the control of the first.)
func TestHashFlood(t *testing.T) {
	const n = 2000
	collide := func(key uint64) (tuples []packet.Tuple) { // one factor of the first product is 0
		for i := range n {
			tu := families[1].outer
			binary.LittleEndian.PutUint64(tu.Src[:8], uint64(i)<<32|0x0120)
			binary.LittleEndian.PutUint64(tu.Src[8:], -key)
			tuples = append(tuples, tu)
		}
		return tuples
	}
	filled := func(table *Table, tuples []packet.Tuple) float64 {
		for i, outer := range tuples {
			inner := families[1].inner
			inner.Src, inner.SrcPort = outer.Src, uint16(i)
			mustInsert(t, table, outer, inner, 0)
		}
		return entriesRead(t, table, tuples)
	}
	ours, theirs := New(Options{}), New(Options{})
	if ours.index.key == theirs.index.key {
		t.Fatal("two tables have the same key")
	}
	random := make([]packet.Tuple, n)
	for i := range random {
		random[i] = families[1].outer
		binary.LittleEndian.PutUint64(random[i].Src[:8], rand.Uint64())
		binary.LittleEndian.PutUint64(random[i].Src[8:], rand.Uint64())
	}
	usual := filled(New(Options{}), random)
	if got := filled(ours, collide(theirs.index.key[1])); got > 2*usual {
		t.Errorf("%.1f entries are looked at for each tuple that was chosen by another key, %.1f for random ones", got, usual)
	}
	if got := filled(theirs, collide(theirs.index.key[1])); got < 100*usual {
		t.Errorf("%.1f entries are looked at for each tuple that was chosen by the table's own key, %.1f for random ones: that should have been bad", got, usual)
	}
}
