package flow

// failer is a testing.TB or a *rapid.T.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// checkTable asserts what holds of a table between any two calls.
func checkTable(t failer, table *Table) {
	t.Helper()
	checkIndex(t, table)
	checkWheel(t, table)
	free := 0
	for ref := table.free; ref != 0; ref = table.record(ref).next {
		if table.record(ref).flags != 0 {
			t.Fatalf("record %d is free and live", ref)
		}
		free++
	}
	if table.len+free != int(table.top) {
		t.Fatalf("%d live and %d free of %d records", table.len, free, table.top)
	}
	if table.len > table.cap {
		t.Fatalf("%d flows, cap %d", table.len, table.cap)
	}
}

// checkIndex: every entry leads to a live flow, and every flow is found by both tuples.
func checkIndex(t failer, table *Table) {
	t.Helper()
	x := &table.index
	entries := 0
	var last *page
	for i, p := range x.dir {
		if p == last {
			continue
		}
		last = p
		count := 0
		for _, e := range p.slots {
			if e == 0 {
				continue
			}
			count++
			if got := int(uint64(e) >> (64 - x.depth)); got>>(x.depth-p.depth) != i>>(x.depth-p.depth) {
				t.Fatalf("entry %x in page %d of 2^%d", e, i, x.depth)
			}
		}
		if count != int(p.count) {
			t.Fatalf("page has %d entries, says %d", count, p.count)
		}
		entries += count
	}
	want := 2 * table.len
	for ref := uint32(1); ref <= table.top; ref++ {
		f := table.record(ref)
		if f.flags == 0 {
			continue
		}
		outer, answer := f.Outer(), f.Inner().Reverse()
		if f.AnswersOnly() {
			want--
			if got, _ := table.Find(&outer); got == f {
				t.Fatalf("%v is found by its outer tuple", outer)
			}
		} else if got, d := table.Find(&outer); got != f || d != Forward {
			t.Fatalf("%v is not found by its outer tuple", outer)
		}
		if got, d := table.Find(&answer); got != f || d != Reverse {
			t.Fatalf("%v is not found by its answers", outer)
		}
	}
	if entries != want {
		t.Fatalf("%d entries for %d flows, want %d", entries, table.len, want)
	}
}

// checkWheel: every flow is in the one list that it says, and no list has others.
func checkWheel(t failer, table *Table) {
	t.Helper()
	w, linked := &table.wheel, 0
	for bucket := range w.head {
		prev := uint32(0)
		for ref := w.head[bucket]; ref != 0; ref = table.record(ref).next {
			f := table.record(ref)
			if f.flags == 0 || int(f.bucket) != bucket || f.prev != prev || table.ref(f) != ref {
				t.Fatalf("bucket %d: record %d: %+v", bucket, ref, f)
			}
			l := list(uint16(bucket))
			if f.is(assured) != (l != unassuredList) || f.feigned() != (l == feignedList) {
				t.Fatalf("bucket %d: assured %v, feigned %v", bucket, f.is(assured), f.feigned())
			}
			prev = ref
			linked++
		}
		if w.tail[bucket] != prev {
			t.Fatalf("bucket %d ends with %d, says %d", bucket, prev, w.tail[bucket])
		}
		if l := list(uint16(bucket)); l != firmList {
			if word, bit := mark(uint16(bucket)); (w.waiting[l][word]&bit != 0) != (prev != 0) {
				t.Fatalf("bucket %d: wrong bit", bucket)
			}
		}
	}
	if linked != table.len {
		t.Fatalf("%d flows wait, of %d", linked, table.len)
	}
}
