package tunlb

// Many frames for a wake-up, of ports that have them (port.Ring): they are looked up together, so that the waits for memory
// overlap, and sent together.

import (
	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/stack/port"
	"github.com/tunlb/tunlb/tunlb/flow"
)

// batchSize is how many frames a lane takes at a time.
const batchSize = 64

// batch is what a lane has for a ring. A lane without one has a nil batch.
type batch struct {
	ring    port.Ring
	frames  [batchSize][]byte
	views   [batchSize]packet.View
	faults  [batchSize]packet.Reason
	lookups [batchSize]flow.Lookup
}

// takeAll takes the first n frames of the batch all the way.
func (l *lane) takeAll(n int) {
	if n == 0 {
		return
	}
	b := l.batch
	l.now = l.engine.tick()
	switch frames := b.frames[:n]; {
	case l.engine.watching.now.Load() != nil:
		for _, frame := range frames {
			l.take(frame)
		}
	case l.segment != nil:
		for _, frame := range frames {
			l.handle(frame)
		}
	default:
		l.together(b, n)
	}
	l.hurry()
}

// together parses all of them before the first is looked up.
func (l *lane) together(b *batch, n int) {
	e := l.engine
	for i, frame := range b.frames[:n] {
		v := &b.views[i]
		b.faults[i] = v.ParseOn(l.link, frame)
		b.lookups[i] = e.flows.Prepare(&v.Tuple)
	}
	if n > 1 {
		e.mu.Lock()
		e.flows.Warm(b.lookups[:n])
		e.mu.Unlock()
	}
	for i := range n {
		l.lookup = &b.lookups[i]
		l.parsed(&b.views[i], b.faults[i])
	}
	l.lookup = nil
}

// bursts are what a sender writes by when it has many frames at a time. Frames that have been put must stay as they are,
// so only those go in that are in the ring itself.
type bursts struct {
	inPlace bool         // the frame in hand is
	direct  port.Burst   // out of the box's interfaces; nil as long as nothing has left by them
	ports   []port.Burst // by port; nil if it is no ring
	dirty   []port.Burst // those that hold something
}

func newBursts(e *Engine) *bursts {
	b := &bursts{ports: make([]port.Burst, len(e.lanes))}
	for i, l := range e.lanes {
		if ring, ok := l.Port.(port.Ring); ok {
			b.ports[i] = ring.NewBurst()
		}
	}
	return b
}

// put has a frame sent by hurry, if it may wait.
func (b *bursts) put(by port.Burst, frame []byte, link int) {
	by.Put(frame, link)
	for _, d := range b.dirty {
		if d == by {
			return
		}
	}
	b.dirty = append(b.dirty, by)
}

// hurry sends what waits. Whoever writes a frame by itself calls it before, or packets would overtake each other.
func (l *lane) hurry() {
	if l.bursts == nil {
		return
	}
	for _, b := range l.bursts.dirty {
		if failed, _ := b.Flush(); failed > 0 { // a device that is gone shows in its lane's own read
			l.engine.drops[packet.PortWrite].Add(uint64(failed))
		}
	}
	l.bursts.dirty = l.bursts.dirty[:0]
}
