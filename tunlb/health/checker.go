package health

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// First probes begin within startStep a target and at most maxStart, so that a few servers are known at
	// once, and many are not all asked in the same moment.
	startStep = 2 * time.Millisecond
	maxStart  = time.Second
	// minInterval keeps a target that says no interval from being probed in a busy loop.
	minInterval = 10 * time.Millisecond
	// jitter is the part of the interval by which probes come early or late, so that those of many boxes and
	// servers do not fall into step.
	jitter = 0.1
)

// Checker probes its targets and reports how that went. There is at most one probe of a target at a time,
// and none waits for that of another. Safe for concurrent use; Close it in the end.
type Checker struct {
	clock   Clock
	report  func(Result)
	workers sync.WaitGroup

	mu     sync.Mutex
	byKey  map[Key]*worker // those that are ending, too, until they have
	closed bool
}

// worker probes one target on a goroutine of its own until it is stopped.
type worker struct {
	target Target
	ctx    context.Context
	stop   context.CancelFunc
	done   chan struct{} // closed in the end
}

// New makes a Checker without targets. It calls report after every probe: for a target one call after the
// other, for several at once. A report should not take long, must not call Close, and may call Set. One that
// has begun as Set drops its target goes on: whoever gets it finds that it does not know the key.
func New(report func(Result)) *Checker { return NewOn(realTime{}, report) }

// NewOn is New for another time than the real one: the intervals and timeouts of all probes but exec's programs are of it.
func NewOn(clock Clock, report func(Result)) *Checker {
	return &Checker{clock: clock, report: report, byKey: map[Key]*worker{}}
}

// Set replaces the targets. Those that stay as they were go on undisturbed. Probes of those that are gone or
// changed end at once and unreported; those new or changed are probed for the first time soon, at most a second
// or their interval later. Of targets with the same key the first counts. It does not wait for anything, and
// does nothing after Close.
func (c *Checker) Set(targets []Target) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	wanted := make(map[Key]*Target, len(targets))
	var fresh []*Target
	for i := range targets {
		t := &targets[i]
		if wanted[t.Key] != nil {
			continue
		}
		wanted[t.Key] = t
		if w := c.byKey[t.Key]; w == nil || w.ctx.Err() != nil || !w.target.same(t) {
			fresh = append(fresh, t)
		}
	}
	for key, w := range c.byKey {
		if wanted[key] == nil {
			w.stop()
		}
	}
	spread := min(maxStart, time.Duration(len(fresh))*startStep)
	for _, t := range fresh {
		c.startLocked(t, min(spread, t.Health.Interval))
	}
}

// startLocked starts the worker of a target, in place of the one before. That ends first, so that there are
// never two probes of a target, and reports of the old do not come after those of the new.
func (c *Checker) startLocked(t *Target, spread time.Duration) {
	ctx, stop := context.WithCancel(context.Background())
	w := &worker{target: *t, ctx: ctx, stop: stop, done: make(chan struct{})}
	var before <-chan struct{}
	if old := c.byKey[t.Key]; old != nil {
		old.stop()
		before = old.done
	}
	c.byKey[t.Key] = w
	first := time.Duration(rand.Float64() * float64(spread))
	c.workers.Go(func() { c.run(w, before, first) })
}

// Close stops all probes and waits until they have ended.
func (c *Checker) Close() {
	c.mu.Lock()
	c.closed = true
	for _, w := range c.byKey {
		w.stop()
	}
	c.mu.Unlock()
	c.workers.Wait()
}

// run is the goroutine of a worker; its stop ends it.
func (c *Checker) run(w *worker, before <-chan struct{}, first time.Duration) {
	defer c.forget(w)
	defer close(w.done)
	defer w.stop()
	if before != nil {
		<-before
	}
	probe := newProbe(&w.target)
	probe.clock = c.clock
	interval := max(w.target.Health.Interval, minInterval)
	for wait := first; pause(w.ctx, c.clock, wait); {
		begin := c.clock.Now()
		cause := probe.run(w.ctx)
		if w.ctx.Err() != nil {
			return
		}
		end := c.clock.Now()
		c.report(Result{Key: w.target.Key, OK: cause == "", Cause: cause, Took: end.Sub(begin), At: end})
		next := time.Duration(float64(interval) * (1 - jitter + 2*jitter*rand.Float64()))
		wait = max(0, next-c.clock.Now().Sub(begin))
	}
}

func (c *Checker) forget(w *worker) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byKey[w.target.Key] == w {
		delete(c.byKey, w.target.Key)
	}
}
