// Package watch is what those get who look on while packets pass: a record of each packet's journey, the filter that
// chooses among them, and the bounded queue between the engine and them.
//
// It owns the record, the filter's language and the queue. It does not own what happens to packets (package tunlb),
// nor how records are shown (cmd/tunlb) or filed (tunlb/capture).
package watch

import (
	"context"
	"sync"
	"sync/atomic"
)

// Options say what a subscription is to see.
type Options struct {
	Filter Filter
	Snap   int  // bytes of each frame behind its vnet header that are kept; 0 means DefaultSnap
	Slots  int  // records that may wait; 0 means DefaultSlots
	Why    bool // explain how servers are picked
}

// Defaults of Options. Headers fit into DefaultSnap.
const (
	DefaultSnap  = 192
	DefaultSlots = 1024
)

// Subscription is a bounded queue of records between the engine, which never waits, and one reader. Make it with
// NewSubscription; Close it after use. Offer may be called by any number of goroutines, Next by one at a time.
type Subscription struct {
	opts       Options
	free, full chan *Record
	lost       atomic.Uint64
	closed     chan struct{}
	once       sync.Once
	end        func(*Subscription)
}

// NewSubscription makes a subscription; end, which may be nil, is called once by Close.
func NewSubscription(o Options, end func(*Subscription)) *Subscription {
	if o.Snap <= 0 {
		o.Snap = DefaultSnap
	}
	if o.Slots <= 0 {
		o.Slots = DefaultSlots
	}
	s := &Subscription{opts: o, free: make(chan *Record, o.Slots), full: make(chan *Record, o.Slots), closed: make(chan struct{}), end: end}
	for range o.Slots {
		s.free <- &Record{}
	}
	return s
}

// Options are those it was made with, defaults filled in.
func (s *Subscription) Options() Options { return s.opts }

// Offer copies the record if the filter takes it. It never waits: with the queue full the record is lost, and counted.
func (s *Subscription) Offer(r *Record) {
	if !s.opts.Filter.Match(r) {
		return
	}
	select {
	case slot := <-s.free:
		slot.copy(r, s.opts.Snap)
		s.full <- slot // has room for all slots
	default:
		s.lost.Add(1)
	}
}

// Lost counts the records that found the queue full.
func (s *Subscription) Lost() uint64 { return s.lost.Load() }

// Next waits for a record, which is the caller's until it calls Release. After Close, and with ctx ended, ok is false.
func (s *Subscription) Next(ctx context.Context) (r *Record, ok bool) {
	select {
	case r := <-s.full:
		return r, true
	default:
	}
	select {
	case r := <-s.full:
		return r, true
	case <-s.closed:
	case <-ctx.Done():
	}
	return nil, false
}

// Release gives a record of Next back.
func (s *Subscription) Release(r *Record) { s.free <- r }

// Close ends the subscription. Idempotent.
func (s *Subscription) Close() {
	s.once.Do(func() {
		close(s.closed)
		if s.end != nil {
			s.end(s)
		}
	})
}
