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

	"github.com/tunlb/tunlb/stack/packet"
)

// Options say what a subscription is to see.
type Options struct {
	Filter Filter
	Snap   int  // bytes of each frame behind its vnet header that are kept; 0 means DefaultSnap
	Slots  int  // records that may wait; 0 means DefaultSlots, or as many of Snap bytes as Memory has room for
	Memory int  // bytes that the waiting records may take; 0 means DefaultMemory
	Why    bool // explain how servers are picked
}

// Defaults of Options. Headers fit into DefaultSnap.
const (
	DefaultSnap   = 192
	DefaultSlots  = 1024
	DefaultMemory = 64 << 20
)

// Room is how many records memory has room for, each of a packet of which snap bytes are kept as it came and as it left.
func Room(memory, snap int) int {
	return max(1, memory/(recordSize+frameSize+2*(packet.VnetLen+snap)))
}

// Subscription is a bounded queue of records between the engine, which never waits, and one reader. Make it with
// NewSubscription; Close it after use. Offer may be called by any number of goroutines, Next by one at a time. It takes
// twice its Memory at most: once for what waits, and once for the buffers that are kept for what comes.
type Subscription struct {
	opts       Options
	free, full chan *Record
	share      int64        // a free record's of the memory: with larger buffers it gives them up
	taken      atomic.Int64 // by the records that are not free
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
	if o.Memory <= 0 {
		o.Memory = DefaultMemory
	}
	if o.Slots <= 0 {
		o.Slots = min(DefaultSlots, Room(o.Memory, o.Snap))
	}
	s := &Subscription{
		opts: o, free: make(chan *Record, o.Slots), full: make(chan *Record, o.Slots), share: int64(max(o.Memory/o.Slots, recordSize)),
		closed: make(chan struct{}), end: end,
	}
	for range o.Slots {
		s.free <- &Record{}
	}
	return s
}

// Options are those it was made with, defaults filled in.
func (s *Subscription) Options() Options { return s.opts }

// Offer copies the record if the filter takes it. It never waits: with the queue or its memory full the record is lost,
// and counted, and Offer is false.
func (s *Subscription) Offer(r *Record) bool {
	if !s.opts.Filter.Match(r) {
		return true
	}
	size := r.size(s.opts.Snap)
	if s.taken.Add(size) > int64(s.opts.Memory) || !s.put(r, size) {
		s.taken.Add(-size)
		s.lost.Add(1)
		return false
	}
	return true
}

func (s *Subscription) put(r *Record, size int64) bool {
	select {
	case slot := <-s.free:
		slot.copy(r, s.opts.Snap)
		slot.charged = size
		s.full <- slot // has room for all slots
		return true
	default:
		return false
	}
}

// Lost counts the records that found the queue or its memory full.
func (s *Subscription) Lost() uint64 { return s.lost.Load() }

// Next waits for a record, which is the caller's until it calls Release. After Close, and with ctx ended, it waits no
// more: it gives what there is, and then ok is false.
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
func (s *Subscription) Release(r *Record) {
	s.taken.Add(-r.charged)
	if r.Reset(); r.kept() > s.share {
		r = &Record{}
	}
	s.free <- r
}

// Close ends the subscription. Idempotent.
func (s *Subscription) Close() {
	s.once.Do(func() {
		close(s.closed)
		if s.end != nil {
			s.end(s)
		}
	})
}
