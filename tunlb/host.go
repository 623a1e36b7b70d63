package tunlb

import (
	"fmt"

	"github.com/tunlb/tunlb/stack/packet"
)

// fromHost sends what the host originates: echo replies, resets, unreachables. It runs on the host's
// goroutines.
func (e *Engine) fromHost(frame []byte) error {
	if r := e.sendOwn(frame, e.routeOwn); r != packet.None {
		return fmt.Errorf("send from host: %v", r)
	}
	return nil
}

// sendOwn sends a packet that no port has brought, vnet header | IP, and counts it if it is dropped.
func (e *Engine) sendOwn(frame []byte, send func(from *sender, frame []byte) packet.Reason) packet.Reason {
	from := &sender{tx: e.ownTx, witness: e.ownWitness("port", packet.LinkIP, frame)}
	r := send(from, frame)
	if r != packet.None {
		e.drop(r)
		from.witness.dropped(r)
	}
	from.witness.end()
	return r
}

// routeOwn sends a packet to where its destination lies.
func (e *Engine) routeOwn(from *sender, frame []byte) packet.Reason {
	var v packet.View
	if r := v.Parse(frame); r != packet.None {
		return r
	}
	w := e.world.Load()
	port, ok := w.route(v.Tuple.Dst)
	if !ok {
		return packet.NoRoute
	}
	to := e.lanes[port]
	if to.Box {
		return e.box.leave(from, e.direct, frame, v.Tuple.Dst)
	}
	if to.segment == nil {
		return from.write(to, frame)
	}
	hop, probe := e.probeFromHost(&v)
	if !probe {
		hop, _ = w.hop(v.Tuple.Dst)
	}
	return to.segment.transmitFromHost(from, packet.AppendEthernet(nil, frame, packet.MAC{}, packet.MAC{}), hop)
}
