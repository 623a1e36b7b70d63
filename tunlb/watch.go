package tunlb

// Who looks on while packets pass. Off, it costs a lane one load of a pointer that does not change; on, each lane
// takes notes of the packet in hand and offers them to the subscriptions, which never make it wait.

import (
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/time/rate"

	"github.com/tunlb/tunlb/tunlb/watch"
)

// explainedPerSecond bounds the openings that are explained: an explanation costs more than the opening.
const explainedPerSecond = 1000

// maxCandidates is up to how many servers of a service all are listed: 64 cost 15 us with the lock held.
const maxCandidates = 64

// watching is the engine's list of subscriptions.
type watching struct {
	now  atomic.Pointer[watchers] // nil: nobody looks on
	seq  atomic.Uint64
	lost atomic.Uint64

	mu sync.Mutex // one change of the list at a time
}

// watchers are an immutable list of those who look on, and the most that any of them asks for.
type watchers struct {
	subscriptions []*watch.Subscription
	snap          int
	explain       *rate.Limiter // nil: nobody asks why
}

func newWatchers(subscriptions []*watch.Subscription) *watchers {
	if len(subscriptions) == 0 {
		return nil
	}
	w := &watchers{subscriptions: subscriptions}
	for _, s := range subscriptions {
		w.snap = max(w.snap, s.Options().Snap)
		if s.Options().Why {
			w.explain = rate.NewLimiter(explainedPerSecond, explainedPerSecond/10)
		}
	}
	return w
}

// Watch subscribes to the journeys of packets. Whoever asks closes the subscription.
func (e *Engine) Watch(o watch.Options) *watch.Subscription {
	w := &e.watching
	change := func(edit func([]*watch.Subscription) []*watch.Subscription) {
		w.mu.Lock()
		defer w.mu.Unlock()
		var list []*watch.Subscription
		if on := w.now.Load(); on != nil {
			list = slices.Clone(on.subscriptions)
		}
		w.now.Store(newWatchers(edit(list)))
	}
	s := watch.NewSubscription(o, func(ended *watch.Subscription) {
		change(func(list []*watch.Subscription) []*watch.Subscription {
			return slices.DeleteFunc(list, func(s *watch.Subscription) bool { return s == ended })
		})
	})
	change(func(list []*watch.Subscription) []*watch.Subscription { return append(list, s) })
	return s
}

// WatchLost counts the records that found a subscription's queue full, of all subscriptions that there were.
func (e *Engine) WatchLost() uint64 { return e.watching.lost.Load() }
