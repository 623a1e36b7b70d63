package replay

import (
	"testing"

	"github.com/tunlb/tunlb/tunlb/watch"
)

// TestWaiting: a packet that had to wait is held when it comes, and written when it goes on: it is none of tunlb's own.
func TestWaiting(t *testing.T) {
	s := newSummary(1)
	frame := []watch.Frame{{Port: "inner"}}
	for _, exit := range []string{"held", "parked", "port"} {
		r := &watch.Record{In: &watch.Frame{Port: "outer"}, Exit: exit}
		s.note(r)
		s.noteIn(r)
	}
	if s.In != 3 || s.Held != 2 || s.Exits["held"] != 1 || s.Exits["parked"] != 1 || s.Out != 0 {
		t.Errorf("come: %+v", s)
	}
	s.note(&watch.Record{Waited: true, Exit: "port", Out: frame})
	if s.Out != 1 || s.Own != 0 {
		t.Errorf("gone on: %d written, %d own; want 1 and 0", s.Out, s.Own)
	}
	s.note(&watch.Record{Waited: true, Drop: "unresolved", Out: frame}) // the error to its sender is counted as that of any drop
	s.note(&watch.Record{Exit: "port", Out: frame})
	if s.Out != 3 || s.Own != 1 {
		t.Errorf("%d written, %d own; want 3 and 1", s.Out, s.Own)
	}
}
