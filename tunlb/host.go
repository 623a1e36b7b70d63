package tunlb

import (
	"fmt"

	"github.com/tunlb/tunlb/stack/packet"
)

// fromHost sends what the host originates: echo replies, resets, unreachables. It runs on the host's
// goroutines.
func (e *Engine) fromHost(frame []byte) error {
	var v packet.View
	r := v.Parse(frame)
	if r == packet.None {
		to, ok := e.world.Load().route(v.Tuple.Dst)
		if ok {
			return e.lanes[to].Port.Write(frame)
		}
		r = packet.NoRoute
	}
	e.drop(r)
	return fmt.Errorf("send from host: %v", r)
}
