package tunlb

import (
	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/tunlb/flow"
)

// The servers' own outbound connections leave with the gateway's address (RFC 4787, 5382, 5508):
// endpoint-independent mapping and filtering, so that one inside address:port is one outside
// address:port whatever it talks to, reachable as such from outside and (hairpin) from inside.

// mapping finds the inside endpoint that the packet's destination stands for, or nil.
func (e *Engine) mapping(v *packet.View) *flow.Mapping {
	if m := e.mappingsOf(v.Tuple.Dst, v.Tuple.DstPort); m != nil {
		return m.ByExternal(v.Tuple.Proto, v.Tuple.DstPort)
	}
	return nil
}

// mappingsOf finds the mappings that an outside endpoint belongs to, or nil.
func (e *Engine) mappingsOf(addr [16]byte, port uint16) *flow.Mappings {
	for i, g := range e.config.Gateways {
		if g.Masquerade.As16() == addr && g.FirstPort <= port && port <= g.LastPort {
			return e.mappings[i]
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
	if !opens(v) || isICMP(v) && !translatable(v) {
		// Of a connection that was not opened through the gateway: from outside straight to the server.
		return nil, packet.None, false
	}
	if !translatable(v) {
		return nil, packet.UnknownProtocol, true
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
	if to != nil {
		to.Hold() // before the insertion, which may evict its last flow
	}
	f, err := e.flows.Insert(v.Tuple, inner, now)
	if err != nil {
		for _, m := range []*flow.Mapping{source, to} {
			if m != nil {
				m.Release()
			}
		}
		return nil, refusal(err), true
	}
	f.SetGateway()
	e.setExits(f, out, l.home)
	return f, packet.None, true
}

// readopt takes the mappings of a flow that a predecessor has left, as openGateway did when it was opened. False: another has them.
func (e *Engine) readopt(f *flow.Flow) bool {
	outer, inner := f.Outer(), f.Inner()
	var held []*flow.Mapping
	take := func(proto uint8, outside [16]byte, outsidePort uint16, inside [16]byte, insidePort uint16) bool {
		of := e.mappingsOf(outside, outsidePort)
		if of == nil {
			return false
		}
		m, err := of.Readopt(proto, inside, insidePort, outsidePort)
		held = append(held, m)
		return err == nil
	}
	ok := (inner.Src == outer.Src || take(inner.Proto, inner.Src, inner.SrcPort, outer.Src, outer.SrcPort)) &&
		(inner.Dst == outer.Dst || take(outer.Proto, outer.Dst, outer.DstPort, inner.Dst, inner.DstPort))
	if !ok {
		for _, m := range held {
			if m != nil {
				m.Release()
			}
		}
	}
	return ok
}

func isICMP(v *packet.View) bool {
	return v.Tuple.Proto == packet.ProtoICMP || v.Tuple.Proto == packet.ProtoICMPv6
}

// translatable says whether the packet has something like a port.
func translatable(v *packet.View) bool {
	switch v.Tuple.Proto {
	case packet.ProtoTCP, packet.ProtoUDP:
		return true
	default:
		return isICMP(v) && v.Tuple.SrcPort != 0 // an echo request
	}
}

// releaseMappings gives back what a gateway's flow held: its source's mapping and, for a flow that
// came in, its destination's.
func (e *Engine) releaseMappings(f *flow.Flow) {
	outer, inner := f.Outer(), f.Inner()
	if inner.Src != outer.Src {
		e.releaseMapping(inner.Proto, inner.Src, inner.SrcPort, outer.Src, outer.SrcPort)
	}
	if inner.Dst != outer.Dst {
		e.releaseMapping(outer.Proto, outer.Dst, outer.DstPort, inner.Dst, inner.DstPort)
	}
}

// releaseMapping gives back one hold of the mapping from outside to inside. After a reload that has
// changed the gateway the port may be another's, and there is nothing to give back.
func (e *Engine) releaseMapping(proto uint8, outside [16]byte, outsidePort uint16, inside [16]byte, insidePort uint16) {
	m := e.mappingsOf(outside, outsidePort)
	if m == nil {
		return
	}
	if mp := m.ByExternal(proto, outsidePort); mp != nil {
		if addr, port := mp.Inside(); addr == inside && port == insidePort {
			mp.Release()
		}
	}
}
