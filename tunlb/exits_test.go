package tunlb

import (
	"errors"
	"fmt"
	"testing"
)

// TestExitNumbers: a port has the number that it had, and a new one none that anybody had.
func TestExitNumbers(t *testing.T) {
	lanes := func(names ...string) (lanes []*lane) {
		for i, name := range names {
			lanes = append(lanes, &lane{Attachment: Attachment{Port: newRecorder(name, 1500)}, id: uint8(i), home: uint8(i)})
		}
		return lanes
	}
	for _, c := range []struct {
		before []portName
		now    []string
		want   []uint8
	}{
		{nil, []string{"a", "b", "c"}, []uint8{0, 1, 2}},
		{[]portName{{0, "a", ""}, {1, "b", ""}}, []string{"b", "a"}, []uint8{1, 0}},
		{[]portName{{0, "a", ""}, {1, "b", ""}}, []string{"c", "b", "d"}, []uint8{2, 1, 3}},
		{[]portName{{7, "a", ""}, {3, "b", "other"}}, []string{"b", "a"}, []uint8{0, 7}},
		{[]portName{{2, "a", ""}, {2, "b", ""}, {255, "c", ""}}, []string{"a", "b", "c"}, []uint8{2, 0, 1}}, // nonsense
	} {
		var x exits
		ls := lanes(c.now...)
		if err := x.assign(ls, c.before); err != nil {
			t.Fatal(err)
		}
		for i, l := range ls {
			if n := x.number[l.id]; n != c.want[i] || x.lane[n] != l.id || !x.taken[n] {
				t.Errorf("%v after %v: %s has number %d, of lane %d, want %d", c.now, c.before, l.Port.Name(), n, x.lane[n], c.want[i])
			}
		}
		if x.lane[exitHostPort] != exitHostPort || x.number[exitDirectPort] != exitDirectPort {
			t.Error("what is no port is called otherwise")
		}
	}
	var many []portName
	for i := range uint8(maxPorts) {
		many = append(many, portName{i, fmt.Sprint("old", i), ""})
	}
	var x exits
	if err := x.assign(lanes("new"), many); !errors.Is(err, errPorts) || x != (exits{}) {
		t.Errorf("no number is left: %v", err)
	}
}
