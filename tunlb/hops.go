package tunlb

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/tunlb/tunlb/stack/packet"
)

// Packets whose next hop has no MAC yet, on the way out of the box's interfaces: the first ones to a neighbour that the
// kernel has only now been asked for. They wait as they would in its own neighbour table.
const (
	maxHops       = 256 // packets in all
	maxHopPackets = 3   // for one address: what Linux kept for decades, and enough for a handshake
	hopPatience   = 3 * time.Second
	hopPeriod     = 2 * time.Millisecond // how often is looked; only while something waits
)

// hops are the packets that wait. Safe for concurrent use.
type hops struct {
	mu      sync.Mutex
	waiting []hopPacket // the oldest first
	wake    chan struct{}
}

type hopPacket struct {
	to    [16]byte
	frame []byte // with room for the MACs
	since time.Duration
}

func newHops() *hops { return &hops{wake: make(chan struct{}, 1)} }

// hold keeps a copy of a frame until somebody answers for the address. It is false if there is no room.
func (h *hops) hold(to [16]byte, frame []byte, now time.Duration) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	same := 0
	for i := range h.waiting {
		if h.waiting[i].to == to {
			same++
		}
	}
	if same >= maxHopPackets || len(h.waiting) >= maxHops {
		return false
	}
	h.waiting = append(h.waiting, hopPacket{to, slices.Clone(frame), now})
	select {
	case h.wake <- struct{}{}:
	default:
	}
	return true
}

// hold keeps a copy of a frame until its next hop is known.
func (e *Engine) hold(from *sender, to [16]byte, frame []byte) packet.Reason {
	if !e.hops.hold(to, frame, e.now()) {
		return packet.HopQueue
	}
	from.witness.went("held")
	return packet.None
}

// take removes those that settled says something of, and tells whether others are left.
func (h *hops) take(settled func(*hopPacket) bool) (out []hopPacket, more bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiting = slices.DeleteFunc(h.waiting, func(p hopPacket) bool {
		if !settled(&p) {
			return false
		}
		out = append(out, p)
		return true
	})
	return out, len(h.waiting) > 0
}

// Waiting is how many packets wait for a next hop behind the box's interfaces.
func (e *Engine) Waiting() int {
	e.hops.mu.Lock()
	defer e.hops.mu.Unlock()
	return len(e.hops.waiting)
}

// hopLoop sends what has waited until ctx ends.
func (e *Engine) hopLoop(ctx context.Context) {
	from := &sender{tx: make([]traffic, len(e.lanes))} // counted by the lane that brought the packet
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.hops.wake:
		}
		tick := time.NewTicker(hopPeriod)
		for e.sendWaited(from) {
			select {
			case <-ctx.Done():
				tick.Stop()
				return
			case <-tick.C:
			}
		}
		tick.Stop()
	}
}

// sendWaited sends what can be, gives up what has waited too long, and tells whether something is left.
func (e *Engine) sendWaited(from *sender) (more bool) {
	now := e.now()
	done, more := e.hops.take(func(p *hopPacket) bool {
		_, known := e.direct.Way(p.to)
		return known || now-p.since > hopPatience
	})
	for _, p := range done {
		from.witness = e.ownWitness("port", packet.LinkEthernet, p.frame)
		way, known := e.direct.Way(p.to)
		r := packet.Unresolved
		if known && !way.Down && !way.Local {
			packet.SetMACs(p.frame, way.MAC, way.Source)
			r = from.writeDirect(e.direct, p.frame, way.Link)
		}
		if r != packet.None {
			e.drop(r)
			from.witness.dropped(r)
		}
		from.witness.end()
	}
	return more
}
