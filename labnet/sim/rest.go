package sim

import (
	"runtime"
	"runtime/metrics"
	"sync/atomic"
	"time"
)

const (
	// looks is how often in a row nobody must be seen at work: a goroutine may be on its way from one queue of
	// Go's scheduler to another.
	looks = 3
	// patience is how long nothing must have happened in a lab that shares its process with something that computes all
	// the time. It is longer than a thread of ours waits for its turn on a busy machine.
	patience = 20 * time.Millisecond
)

// rest knows whether all of a lab waits. Nobody in it need say so: Go's scheduler is asked whether any goroutine runs or
// could, and frames are counted while they are somebody's to handle (a lane's thread that is about to wake up is
// in no queue of the scheduler's).
type rest struct {
	frames  atomic.Int64  // queued for, or in the hands of, a host or a lane
	noises  atomic.Uint64 // something has happened
	samples []metrics.Sample

	heard uint64 // of noises, and
	since time.Time
}

func newRest() *rest {
	return &rest{samples: []metrics.Sample{
		{Name: "/sched/goroutines/running:goroutines"},
		{Name: "/sched/goroutines/runnable:goroutines"},
	}, since: time.Now()}
}

// disturb notes that something happens. Safe for concurrent use.
func (r *rest) disturb() { r.noises.Add(1) }

// is says whether nothing goes on. It has one caller, the clock's loop.
func (r *rest) is() bool {
	if heard := r.noises.Load(); heard != r.heard {
		r.heard, r.since = heard, time.Now()
	}
	if r.frames.Load() != 0 {
		r.disturb()
		return false
	}
	for range looks {
		runtime.Gosched()
		if !r.alone() {
			return time.Since(r.since) > patience && r.frames.Load() == 0
		}
	}
	return r.frames.Load() == 0 && r.noises.Load() == r.heard
}

// alone says whether the caller is the only goroutine that runs or could.
func (r *rest) alone() bool {
	metrics.Read(r.samples)
	return r.samples[0].Value.Uint64()+r.samples[1].Value.Uint64() <= 1
}
