package tunlb

import (
	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/tunlb/flow"
)

// The servers' own outbound connections leave with the gateway's address (RFC 4787, 5382, 5508):
// endpoint-independent mapping and filtering, so that one inside address:port is one outside
// address:port whatever it talks to, reachable as such from outside and (hairpin) from inside.

// mapping finds the inside endpoint that the packet's destination stands for, or nil.
func (e *Engine) mapping(w *world, v *packet.View) *flow.Mapping {
	for i, g := range w.gateways {
		if g.masquerade == v.Tuple.Dst {
			return e.mappings[i].ByExternal(v.Tuple.Proto, v.Tuple.DstPort)
		}
	}
	return nil
}

// openGateway opens a flow from inside gateway from (-1: from elsewhere) to the mapping to (nil: to
// elsewhere). It is not ok where there is nothing to translate.
func (l *lane) openGateway(w *world, from int, to *flow.Mapping, v *packet.View, now flow.Tick) (f *flow.Flow, r packet.Reason, ok bool) {
	e := l.engine
	if to == nil && !w.outbound(from, v.Tuple.Dst) {
		return nil, packet.None, false
	}
	if !translatable(v) {
		return nil, packet.UnknownProtocol, true
	}
	if !opens(v) {
		return nil, packet.NoFlow, true
	}
	inner := v.Tuple
	if to != nil {
		inner.Dst, inner.DstPort = to.Inside()
	}
	out, routed := w.route(inner.Dst)
	if !routed {
		return nil, packet.NoRoute, true
	}
	var source *flow.Mapping
	if from >= 0 {
		var err error
		source, err = e.mappings[from].Acquire(v.Tuple.Proto, v.Tuple.Src, v.Tuple.SrcPort)
		if err != nil {
			return nil, packet.PortsExhausted, true
		}
		inner.Src, inner.SrcPort = source.External()
	}
	f, err := e.flows.Insert(v.Tuple, inner, now)
	if err != nil {
		if source != nil {
			source.Release()
		}
		return nil, refusal(err), true
	}
	f.SetGateway()
	if to != nil {
		to.Hold()
	}
	f.SetExit(flow.Forward, out)
	f.SetExit(flow.Reverse, l.id)
	return f, packet.None, true
}

// translatable says whether the packet has something like a port.
func translatable(v *packet.View) bool {
	switch v.Tuple.Proto {
	case packet.ProtoTCP, packet.ProtoUDP:
		return true
	case packet.ProtoICMP, packet.ProtoICMPv6:
		return v.Tuple.SrcPort != 0 // an echo request
	default:
		return false
	}
}

// releaseMappings gives back what a gateway's flow held: its source's mapping and, for a flow that
// came in, its destination's.
func (e *Engine) releaseMappings(f *flow.Flow) {
	outer, inner := f.Outer(), f.Inner()
	for i, g := range e.config.Gateways {
		external := g.Masquerade.As16()
		if inner.Src == external {
			e.mappings[i].Release(inner.Proto, inner.SrcPort)
		}
		if outer.Dst == external {
			e.mappings[i].Release(outer.Proto, outer.DstPort)
		}
	}
}
