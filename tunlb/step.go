package tunlb

import (
	"fmt"

	"github.com/tunlb/tunlb/stack/packet"
)

// An engine can be stepped instead of run, so that what it does depends on nothing but its frames and its clock.

// Inject takes a frame all the way that came in by a port, and returns when it has been written or dropped. Frame is
// as the port would read it, and borrowed until then. Neither Inject nor Advance may be called while Run works, nor at once.
func (e *Engine) Inject(port int, frame []byte) error {
	l := e.lanes[port]
	buf := l.buf[packet.Headroom:]
	if len(frame) < packet.VnetLen || len(frame) > len(buf) {
		return fmt.Errorf("port %s: no frame has %d bytes: want %d to %d", l.Port.Name(), len(frame), packet.VnetLen, len(buf))
	}
	l.take(buf[:copy(buf, frame)])
	e.host.Settle()
	return nil
}

// Advance does what time brings. Run does it every StepPeriod of its clock.
func (e *Engine) Advance() {
	e.tickSegments(&sender{tx: e.ownTx})
	e.expire()
	e.sweepSome()
	if e.direct != nil {
		e.sendWaited(&sender{tx: make([]traffic, len(e.lanes))})
	}
}

// StepPeriod is how often Advance is due.
const StepPeriod = expirePeriod
