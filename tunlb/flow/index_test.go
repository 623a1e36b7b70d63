package flow

import (
	"math/rand/v2"
	"testing"
)

// The index grows through several doublings, shrinks in entries and grows again, and never loses or
// keeps one.
func TestIndexGrowsAndChurns(t *testing.T) {
	const n = 60_000
	table := New(Options{})
	random := rand.New(rand.NewPCG(1, 2))
	flows := map[uint32]*Flow{}
	for round := range 4 {
		for len(flows) < n {
			i := random.Uint32N(1 << 20)
			if flows[i] == nil {
				outer, inner := tuples(i)
				flows[i] = mustInsert(t, table, outer, inner, 0)
			}
		}
		checkTable(t, table)
		for i, f := range flows {
			if random.IntN(4) != 0 {
				table.Delete(f)
				delete(flows, i)
			}
		}
		checkTable(t, table)
		if table.index.depth != 6 {
			t.Errorf("round %d: 2^%d pages for %d entries", round, table.index.depth, 2*n)
		}
	}
}

// probes is the mean number of slots that a Find of a known tuple looks at.
func probes(table *Table) float64 {
	sum, count := 0, 0
	var last *page
	for _, p := range table.index.dir {
		if p == last {
			continue
		}
		last = p
		for i, e := range p.slots {
			if e != 0 {
				sum += distance(home(uint64(e)), i) + 1
				count++
			}
		}
	}
	return float64(sum) / float64(count)
}

// Tuples that differ as little as possible spread like random ones.
func TestSequentialTuplesSpread(t *testing.T) {
	for name, at := range map[string]func(i uint32) uint32{
		"consecutive": func(i uint32) uint32 { return i },
		"one port":    func(i uint32) uint32 { return i << 15 },
		"strides":     func(i uint32) uint32 { return i * 4096 },
	} {
		table := New(Options{})
		for i := range uint32(1 << 16) {
			outer, inner := tuples(at(i))
			mustInsert(t, table, outer, inner, 0)
		}
		// Two thirds full: linear probing expects (1+1/(1-2/3))/2 = 2.
		if got := probes(table); got > 2.3 {
			t.Errorf("%s: %.2f slots looked at per search, want 2.0", name, got)
		}
	}
}

// Churn does not make searches longer.
func TestProbesAfterChurn(t *testing.T) {
	table := New(Options{})
	const n = 1 << 15
	var ring [n]*Flow
	insert := func(i uint32) {
		outer, inner := tuples(shuffle(i&(1<<24-1), 24))
		ring[i%n] = mustInsert(t, table, outer, inner, 0)
	}
	for i := range uint32(n) {
		insert(i)
	}
	before := probes(table)
	for i := uint32(n); i < 20*n; i++ {
		table.Delete(ring[i%n])
		insert(i)
	}
	if after := probes(table); after > before+0.2 {
		t.Errorf("%.2f slots looked at per search, before the churn %.2f", after, before)
	}
	checkTable(t, table)
}

// Two tables hash differently, so what collides cannot be found out elsewhere.
func TestSeedIsRandom(t *testing.T) {
	a, b := New(Options{}), New(Options{})
	same := 0
	for i := range uint32(1000) {
		outer, _ := tuples(i)
		if home(a.index.hash(&outer)) == home(b.index.hash(&outer)) {
			same++
		}
	}
	if same > 20 {
		t.Errorf("%d of 1000 tuples have the same home in two tables", same)
	}
}
