package sim

import (
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
)

// Bounds of a queue. TCP's windows keep far below them; whoever floods a host loses frames, as with real ones.
const (
	queueFrames = 4096
	queueBytes  = 16 << 20
)

// queue is the frames for one host's interface, or for one port of the director's. One goroutine takes them; any number
// put. A frame is a buffer.View: virtio_net_hdr, Ethernet header, packet; it has one owner, and whoever puts it gives it
// away.
type queue struct {
	rest *rest

	mu     sync.Mutex
	filled sync.Cond
	frames []*buffer.View
	bytes  int
	lost   uint64
	closed bool
}

func newQueue(r *rest) *queue {
	q := &queue{rest: r}
	q.filled.L = &q.mu
	return q
}

// put takes a frame over and never waits.
func (q *queue) put(frame *buffer.View) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || len(q.frames) >= queueFrames || q.bytes >= queueBytes {
		q.lost++
		frame.Release()
		return
	}
	q.rest.frames.Add(1)
	q.rest.disturb()
	q.frames = append(q.frames, frame)
	q.bytes += frame.Size()
	if len(q.frames) == 1 {
		q.filled.Signal()
	}
}

// take waits for frames and gives them all; empty is used for those to come. After close there are none. Each is to be
// reported by done once it has been handled.
func (q *queue) take(empty []*buffer.View) (frames []*buffer.View, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.frames) == 0 && !q.closed {
		q.filled.Wait()
	}
	if q.closed {
		return nil, false
	}
	frames, q.frames, q.bytes = q.frames, empty[:0], 0
	return frames, true
}

// done says that a frame taken has been handled.
func (q *queue) done() { q.rest.frames.Add(-1) }

// close lets go of the frames and of who waits for them. Idempotent.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for _, frame := range q.frames {
		frame.Release()
		q.done()
	}
	q.frames = nil
	q.filled.Broadcast()
}
