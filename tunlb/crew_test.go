package tunlb

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/tunlb/tunlb/stack/port"
)

// tried is a port that has frames until it has none; log says what was asked of whom.
type tried struct {
	*recorder
	frames int
	err    error // in place of a frame, when there is none
	log    *[]string
	closed bool
}

func (p *tried) TryRead(frame []byte) (int, error) {
	if p.frames == 0 {
		*p.log = append(*p.log, p.name+" has none")
		return 0, p.err
	}
	p.frames--
	*p.log = append(*p.log, p.name)
	return copy(frame, "no packet, which the lane counts and drops"), nil
}

func (p *tried) Close() error { p.closed = true; return nil }

// waits is a Poll whose next waits are told beforehand.
type waits struct {
	next []func() error
	now  []bool
	log  *[]string
}

func (w *waits) Wait() error {
	*w.log = append(*w.log, "wait")
	next := w.next[0]
	w.next = w.next[1:]
	return next()
}

func (w *waits) Ready(i int) bool { return w.now[i] }

// TestCrew: lanes that share a thread take turns, wait only when nothing is left to do, look after a wait only where
// something has come, and end together.
func TestCrew(t *testing.T) {
	for name, c := range map[string]struct {
		last    func(a, b *tried, w *waits) error
		want    error
		asked   []string // after the last wait
		message string
	}{
		"closed": {last: func(*tried, *tried, *waits) error { return os.ErrClosed }},
		"gone": {
			last:    func(*tried, *tried, *waits) error { return fmt.Errorf("b: %w", port.ErrGone) },
			want:    port.ErrGone,
			message: "wait for ports: b: the device is gone",
		},
		"read fails": {
			last: func(_, b *tried, w *waits) error {
				w.now, b.err = []bool{false, true}, port.ErrGone
				return nil
			},
			want: port.ErrGone, asked: []string{"b has none"}, message: "read from port b: the device is gone",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, []Attachment{{}, {}})
			var log []string
			a := &tried{recorder: newRecorder("a", 1500), frames: turn + 2, log: &log}
			b := &tried{recorder: newRecorder("b", 1500), frames: 1, log: &log}
			w := &waits{log: &log}
			w.next = []func() error{
				func() error { a.frames, w.now = 1, []bool{true, false}; return nil },
				func() error { return c.last(a, b, w) },
			}
			r.e.lanes[0].Port, r.e.lanes[1].Port = a, b
			err := (&crew{lanes: r.e.lanes[:2], poll: w}).run()
			if !errors.Is(err, c.want) || err != nil && err.Error() != c.message {
				t.Errorf("it ended with %v, want %v", err, c.want)
			}
			if !a.closed || !b.closed {
				t.Error("a port is still open")
			}
			want := slices.Repeat([]string{"a"}, turn) // its turn
			want = append(want, "b", "b has none", "a", "a", "a has none", "b has none", "wait")
			want = append(want, "a", "a has none", "wait")
			if want = append(want, c.asked...); !slices.Equal(log, want) {
				t.Errorf("asked %v, want %v", log[turn:], want[turn:])
			}
		})
	}
}

// TestCrews: so many threads, and none for ports that can only be read.
func TestCrews(t *testing.T) {
	r := newRig(t, []Attachment{{}, {}})
	for _, c := range []struct{ threads, want int }{{1, 2}, {2, 2}, {9, 2}} { // recorders can't be waited for
		if got := newCrews(r.e.lanes, c.threads, false); len(got) != c.want {
			t.Errorf("%d threads of %d lanes: %d", c.threads, len(r.e.lanes), len(got))
		}
	}
}
