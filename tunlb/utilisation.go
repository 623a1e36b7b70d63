package tunlb

import (
	"sync/atomic"
	"time"
)

// thread is the one that a lane is locked to, so that its CPU time can be asked for: how busy a lane is costs
// nothing while nobody asks. The zero value is none. Safe for concurrent use.
type thread struct{ id atomic.Int64 }

// enter is called on the thread, by the lane that is locked to it; leave before it gives the thread back.
func (t *thread) enter() { t.id.Store(threadID()) }
func (t *thread) leave() { t.id.Store(0) }

// busy is the thread's CPU time since it was made, in the kernel and outside; 0 where this is not known, or with the
// lane not running.
func (t *thread) busy() time.Duration {
	id := t.id.Load()
	if id == 0 {
		return 0
	}
	return cpuTime(id)
}
