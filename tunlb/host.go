package tunlb

import (
	"fmt"

	"github.com/tunlb/tunlb/stack/packet"
)

// fromHost sends what the host originates: echo replies, resets, unreachables. It runs on the host's
// goroutines.
func (e *Engine) fromHost(frame []byte) error {
	r := e.sendFromHost(frame)
	if r == packet.None {
		return nil
	}
	e.drop(r)
	return fmt.Errorf("send from host: %v", r)
}

func (e *Engine) sendFromHost(frame []byte) packet.Reason {
	var v packet.View
	if r := v.Parse(frame); r != packet.None {
		return r
	}
	w := e.world.Load()
	port, ok := w.route(v.Tuple.Dst)
	if !ok {
		return packet.NoRoute
	}
	to, from := e.lanes[port], &sender{tx: e.ownTx, witness: e.ownWitness("port")}
	defer from.witness.end()
	if to.segment == nil {
		return from.write(to, frame)
	}
	hop, probe := e.probeFromHost(&v)
	if !probe {
		hop, _ = w.hop(v.Tuple.Dst)
	}
	return to.segment.transmitFromHost(from, packet.AppendEthernet(nil, frame, packet.MAC{}, packet.MAC{}), hop)
}
