package flow

import "testing"

func TestHotPathAllocatesNothing(t *testing.T) {
	table := New(Options{})
	establish(t, table, 10_000)
	v := tcpView(ack, 1, 1, 100)
	i, lookups := uint32(0), make([]Lookup, 40)
	if n := testing.AllocsPerRun(1000, func() {
		outer, inner := tuples(i % 10_000)
		v.Tuple = outer
		if i&1 != 0 {
			v.Tuple = inner.Reverse()
		}
		i++
		f, d := table.Find(&v.Tuple)
		l := &lookups[i%40]
		*l = table.Prepare(&v.Tuple)
		table.Warm(lookups)
		if prepared, _ := table.FindPrepared(&v.Tuple, l); prepared != f {
			t.Fatalf("%v is another flow if prepared", v.Tuple)
		}
		table.Track(f, d, v, Tick(i))
		e := f.Edit(d)
		e.Apply(v)
	}); n != 0 {
		t.Errorf("%v allocations per packet", n)
	}
}

func TestChurnAllocatesNothing(t *testing.T) {
	table := New(Options{Cap: 20_000})
	for i := range uint32(20_000) {
		outer, inner := udpFlow(i)
		mustInsert(t, table, outer, inner, 0)
	}
	for i := range uint32(10_000) {
		outer, _ := udpFlow(i)
		f, _ := table.Find(&outer)
		table.Delete(f)
	}
	i := uint32(0)
	if n := testing.AllocsPerRun(20_000, func() {
		outer, _ := udpFlow(10_000 + i)
		f, _ := table.Find(&outer)
		table.Delete(f)
		outer, inner := udpFlow(20_000 + i)
		mustInsert(t, table, outer, inner, Tick(i))
		table.Expire(Tick(i), 10)
		i++
	}); n != 0 {
		t.Errorf("%v allocations per flow", n)
	}
	checkTable(t, table)
}
