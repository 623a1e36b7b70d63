package watch

import (
	"context"
	"testing"

	"github.com/tunlb/tunlb/policy"
)

// long is a record of a packet with length bytes that has left by so many ports.
func long(length, outs int) *Record {
	r := &Record{}
	frame := make([]byte, length)
	r.SetIn("in", false, frame, length)
	for range outs {
		r.AddOut("out", false, frame, length)
	}
	return r
}

// memory is what a subscription takes, besides what its reader has.
func (s *Subscription) memory() (n int64) {
	for _, queue := range []chan *Record{s.free, s.full} {
		for range len(queue) {
			r := <-queue
			n += r.kept()
			queue <- r
		}
	}
	return n
}

// TestMemory: whatever the packets are, a subscription that is read and one that is not take no more than they may.
func TestMemory(t *testing.T) {
	const allowed = 1 << 20
	ended, stop := context.WithCancel(t.Context())
	stop()
	for name, test := range map[string]struct {
		o    Options
		what *Record
	}{
		"whole super-packets":    {Options{Snap: 65549, Slots: 500}, long(65559, 1)},
		"flooded":                {Options{Snap: 192, Slots: 500}, long(1500, 300)},
		"many slots":             {Options{Snap: 65549, Slots: 1 << 10}, long(1500, 1)},
		"as many as it has room": {Options{Snap: 65549}, long(65559, 1)},
		"reasons":                {Options{Slots: 500}, &Record{Why: &policy.Explanation{Servers: make([]policy.Candidate, 64)}}},
	} {
		t.Run(name, func(t *testing.T) {
			test.o.Memory = allowed
			s := NewSubscription(test.o, nil)
			for n := range 2 * cap(s.free) { // each of the records gets its turn
				if !s.Offer(test.what) {
					t.Fatalf("record %d is lost, and nothing waits", n)
				}
				r, ok := s.Next(ended)
				if !ok {
					t.Fatal("it was not lost, and did not come")
				}
				s.Release(r)
			}
			if n := s.memory(); n > allowed+int64(cap(s.free))*recordSize {
				t.Errorf("%d bytes of buffers with nothing in them, want %d at most", n, allowed)
			}
			for s.Offer(test.what) {
			}
			if n := s.memory(); n > 2*allowed {
				t.Errorf("%d bytes while nobody reads, want %d at most", n, 2*allowed)
			}
			size := test.what.size(s.Options().Snap)
			if waits := int64(len(s.full)); waits*size > allowed || waits < int64(cap(s.full)) && (waits+1)*size <= allowed {
				t.Errorf("%d of %d bytes each wait in %d slots", waits, size, cap(s.full))
			}
			if s.Lost() != 1 {
				t.Errorf("%d lost, want the one that found no room", s.Lost())
			}
			for r, ok := s.Next(ended); ok; r, ok = s.Next(ended) {
				s.Release(r)
			}
			if taken := s.taken.Load(); taken != 0 || len(s.free) != cap(s.free) {
				t.Errorf("%d bytes and %d of %d slots are taken with nothing that waits", taken, cap(s.free)-len(s.free), cap(s.free))
			}
		})
	}
}

// TestRoom: without a number of slots there are no more than their memory allows, and no more than anybody needs.
func TestRoom(t *testing.T) {
	for snap, want := range map[int]int{0: DefaultSlots, 65549: 507, 1 << 30: 1} {
		if got := NewSubscription(Options{Snap: snap}, nil).Options().Slots; got != want {
			t.Errorf("snap %d: %d slots, want %d", snap, got, want)
		}
	}
}

// TestClosed: what waits at the end can still be read, and then there is no more, without a wait.
func TestClosed(t *testing.T) {
	s := NewSubscription(Options{Slots: 4}, nil)
	for range 3 {
		s.Offer(long(100, 1))
	}
	s.Close()
	for n := range 3 {
		if _, ok := s.Next(t.Context()); !ok {
			t.Errorf("record %d has not come", n)
		}
	}
	if r, ok := s.Next(t.Context()); ok {
		t.Errorf("%+v after the last", r)
	}
}
