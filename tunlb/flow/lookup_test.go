package flow

import (
	"testing"

	"github.com/tunlb/tunlb/stack/packet"
)

// More are looked up at once than Warm takes in one go; half of them are not there.
func TestLookupsFindWhatFindDoes(t *testing.T) {
	table := New(Options{})
	const n = 1000
	for i := range uint32(n) {
		outer, inner := tuples(2 * i)
		mustInsert(t, table, outer, inner, 0)
	}
	var known []packet.Tuple
	for i := range uint32(2 * n) {
		outer, inner := tuples(i)
		known = append(known, outer, inner.Reverse())
	}
	for _, warmed := range []int{0, 1, warmAtOnce - 1, warmAtOnce, warmAtOnce + 1, len(known)} {
		lookups := make([]Lookup, len(known))
		for i := range known {
			lookups[i] = table.Prepare(&known[i])
		}
		table.Warm(lookups[:warmed])
		found := 0
		for i := range known {
			want, wantDir := table.Find(&known[i])
			if f, d := table.FindPrepared(&known[i], &lookups[i]); f != want || d != wantDir {
				t.Fatalf("%d of %d warmed: %v found %v %v, want %v %v", warmed, len(known), known[i], f, d, want, wantDir)
			}
			if want != nil {
				found++
			}
			guessed := lookups[i].guess != 0
			if guessed != (want != nil && i < warmed) {
				t.Fatalf("%d warmed: guess %x for number %d, which is %v", warmed, lookups[i].guess, i, want)
			}
		}
		if found != 2*n {
			t.Fatalf("%d found, want %d", found, 2*n)
		}
	}
}

// What was guessed does not matter: a record that is free, or used by a flow that the tuple must not find.
func TestGuessesAreChecked(t *testing.T) {
	outer, inner := tuples(1)
	otherOuter, otherInner := tuples(2)
	for _, c := range []struct {
		name   string
		change func(*testing.T, *Table)
	}{
		{"gone", func(*testing.T, *Table) {}},
		{"another's", func(t *testing.T, table *Table) { mustInsert(t, table, otherOuter, otherInner, 0) }},
		{"for answers only", func(t *testing.T, table *Table) {
			if _, _, err := table.InsertAnswers(outer, inner, 0); err != nil {
				t.Fatal(err)
			}
		}},
		{"the other way round", func(t *testing.T, table *Table) {
			mustInsert(t, table, inner.Reverse(), outer.Reverse(), 0)
		}},
		{"the same again", func(t *testing.T, table *Table) { mustInsert(t, table, outer, inner, 0) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			table := New(Options{})
			f := mustInsert(t, table, outer, inner, 0)
			answer := inner.Reverse()
			lookups := []Lookup{table.Prepare(&outer), table.Prepare(&answer)}
			table.Warm(lookups)
			table.Delete(f)
			c.change(t, table)
			for i, tu := range []*packet.Tuple{&outer, &answer} {
				want, wantDir := table.Find(tu)
				if got, d := table.FindPrepared(tu, &lookups[i]); got != want || d != wantDir {
					t.Errorf("%v: %v %v, want %v %v", tu, got, d, want, wantDir)
				}
			}
		})
	}
}
