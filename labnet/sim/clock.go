package sim

import (
	"container/heap"
	"context"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// maxRate is how much faster than ours the lab's time passes on average while nothing happens: what the detection of
// rest misses, such as a program in a system call, then sees little of it pass. burst is what may pass at once.
const (
	maxRate = 200
	burst   = time.Second
)

// clock is the lab's time. It passes as ours does, but that it jumps to the next timer when somebody waits for it (see
// hurry) and nothing else goes on. Safe for concurrent use; close it.
type clock struct {
	start  time.Time
	ahead  atomic.Int64 // nanoseconds, of our time
	hasty  atomic.Int64 // who is in a hurry
	rest   *rest
	wakeUp chan struct{} // the loop is to look again
	closed chan struct{}
	ended  chan struct{}

	mu     sync.Mutex
	timers timerHeap
}

var _ tcpip.Clock = (*clock)(nil)

func newClock() *clock {
	c := &clock{
		start: time.Now(), rest: newRest(),
		wakeUp: make(chan struct{}, 1), closed: make(chan struct{}), ended: make(chan struct{}),
	}
	go c.run()
	return c
}

// close ends the clock: no timer fires any more.
func (c *clock) close() {
	close(c.closed)
	<-c.ended
}

// now is the time since the lab's start.
func (c *clock) now() time.Duration {
	return time.Since(c.start) + time.Duration(c.ahead.Load())
}

// Now implements tcpip.Clock and health.Clock.
func (c *clock) Now() time.Time { return c.start.Add(c.now()) }

// NowMonotonic implements tcpip.Clock. It starts late, since zero means never to some of gVisor.
func (c *clock) NowMonotonic() tcpip.MonotonicTime {
	return tcpip.MonotonicTime{}.Add(time.Second + c.now())
}

// AfterFunc implements tcpip.Clock.
func (c *clock) AfterFunc(d time.Duration, f func()) tcpip.Timer {
	t := &timer{clock: c, f: f, index: -1}
	t.Reset(d)
	return t
}

// after is time.After of the lab's time.
func (c *clock) after(d time.Duration) <-chan time.Time {
	due := make(chan time.Time, 1)
	c.AfterFunc(d, func() { due <- c.Now() })
	return due
}

// WithTimeout implements health.Clock.
func (c *clock) WithTimeout(ctx context.Context, d time.Duration, cause error) (context.Context, context.CancelFunc) {
	ctx, end := context.WithCancelCause(ctx)
	t := c.AfterFunc(d, func() { end(cause) })
	return ctx, func() {
		t.Stop()
		end(nil)
	}
}

// hurry lets time jump until calm is called as often.
func (c *clock) hurry() {
	if c.hasty.Add(1) == 1 {
		c.wake()
	}
}

func (c *clock) calm() { c.hasty.Add(-1) }

func (c *clock) wake() {
	select {
	case c.wakeUp <- struct{}{}:
	default:
	}
}

// How long the loop looks away from a lab where something goes on: a fifth of what has passed since that began, so
// that one at full load does not notice it, and one that comes to rest is noticed soon.
const (
	minPause = 20 * time.Microsecond
	maxPause = time.Millisecond
)

// run fires timers until close.
func (c *clock) run() {
	defer close(c.ended)
	sleep := time.NewTimer(0)
	credit, credited, pause := burst, time.Now(), minPause
	for {
		next, any := c.fire()
		switch {
		case !any:
			next = time.Hour
		case c.hasty.Load() > 0:
			if !c.rest.is() {
				next, pause = min(next, pause), min(pause+pause/4, maxPause)
				break
			}
			now := time.Now()
			credit, credited = min(credit+maxRate*now.Sub(credited), burst), now
			jump := min(next, credit)
			credit -= jump
			c.ahead.Add(int64(jump))
			if jump == next {
				pause = minPause
				continue
			}
			next = maxPause
		}
		sleep.Reset(next)
		select {
		case <-c.closed:
			sleep.Stop()
			return
		case <-c.wakeUp:
		case <-sleep.C:
		}
	}
}

// fire starts what is due and says how long it is to the next timer, if there is any.
func (c *clock) fire() (next time.Duration, any bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for now := c.now(); len(c.timers) > 0; {
		t := c.timers[0]
		if t.at > now {
			return t.at - now, true
		}
		heap.Pop(&c.timers)
		c.rest.disturb()
		go t.f()
	}
	return 0, false
}

// timer is a tcpip.Timer.
type timer struct {
	clock *clock
	f     func()
	at    time.Duration // guarded by the clock's lock, as is
	index int           // in the heap; -1: not there
}

// Stop implements tcpip.Timer.
func (t *timer) Stop() bool {
	t.clock.mu.Lock()
	defer t.clock.mu.Unlock()
	if t.index < 0 {
		return false
	}
	heap.Remove(&t.clock.timers, t.index)
	return true
}

// Reset implements tcpip.Timer.
func (t *timer) Reset(d time.Duration) {
	c := t.clock
	c.mu.Lock()
	t.at = c.now() + max(d, 0)
	if t.index < 0 {
		heap.Push(&c.timers, t)
	} else {
		heap.Fix(&c.timers, t.index)
	}
	first := t.index == 0
	c.mu.Unlock()
	if first {
		c.wake()
	}
}

// timerHeap implements heap.Interface.
type timerHeap []*timer

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].at < h[j].at }

func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *timerHeap) Push(x any) {
	t := x.(*timer)
	t.index = len(*h)
	*h = append(*h, t)
}

func (h *timerHeap) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	t.index = -1
	return t
}
