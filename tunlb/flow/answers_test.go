package flow

import (
	"errors"
	"testing"

	"github.com/tunlb/tunlb/stack/packet"
)

// TestInsertAnswers: one client port may have such a flow to each server, found by that server's answers.
func TestInsertAnswers(t *testing.T) {
	for _, c := range families {
		table := New(Options{})
		outer, first := c.outer, c.inner
		outer.Proto, first.Proto = packet.ProtoUDP, packet.ProtoUDP
		second := first
		second.DstPort++
		var flows [2]*Flow
		for i, inner := range []packet.Tuple{first, second} {
			f, added, err := table.InsertAnswers(outer, inner, 1)
			if err != nil || !added {
				t.Fatalf("server %d: %v, added %v", i, err, added)
			}
			flows[i] = f
			answer := inner.Reverse()
			if got, d := table.Find(&answer); got != f || d != Reverse {
				t.Errorf("server %d: its answer finds %p, want %p", i, got, f)
			}
		}
		checkTable(t, table)
		if f, added, err := table.InsertAnswers(outer, first, 2); f != flows[0] || added || err != nil {
			t.Errorf("again: %p added %v, %v, want the first", f, added, err)
		}
		// An ordinary flow of the same client port: only its answers may not be taken already.
		if _, err := table.Insert(outer, first, 3); !errors.Is(err, ErrCollision) {
			t.Errorf("answers that are another's: %v", err)
		}
		other := outer
		other.SrcPort++
		if _, _, err := table.InsertAnswers(other, withSource(first, other.SrcPort), 4); err != nil {
			t.Error(err)
		}
		elsewhere := outer
		elsewhere.DstPort++
		if _, _, err := table.InsertAnswers(elsewhere, first, 5); !errors.Is(err, ErrCollision) {
			t.Errorf("another VIP's answers: %v", err)
		}
		table.Delete(flows[0])
		checkTable(t, table)
		if got, _ := table.Find(ptr(second.Reverse())); got != flows[1] {
			t.Error("the second went with the first")
		}
	}
}

func withSource(tu packet.Tuple, port uint16) packet.Tuple {
	tu.SrcPort = port
	return tu
}

func ptr[T any](v T) *T { return &v }
