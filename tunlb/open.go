package tunlb

import (
	"errors"
	"net/netip"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/tunlb/flow"
)

// open decides on a packet that no flow knows: a service's, the gateway's, or neither. With a nil
// flow and no reason the verdict is set.
func (l *lane) open(v *packet.View, now flow.Tick) (*flow.Flow, *policy.Server, packet.Reason) {
	e, w := l.engine, l.engine.world.Load()
	switch {
	case isGroup(v.Tuple.Dst):
		return nil, nil, packet.MartianDestination // a router passes no broadcast on, and no multicast unasked
	case !l.Kernel && !w.livesBehind(l, v.Tuple.Src) && !l.fromDirectServer(v.Tuple.Src):
		return nil, nil, packet.MartianSource // RFC 2827; the box's kernel has its own rp_filter
	}
	if svc := e.services.Service(v.Tuple.Proto, v.Tuple.Dst, v.Tuple.DstPort); svc != nil && opens(v) {
		return l.openService(w, svc, v, now)
	}
	if from, to := w.gateway(v.Tuple.Src), e.mapping(v); from >= 0 || to != nil {
		if f, r, ok := l.openGateway(w, from, to, v, now); ok {
			return f, nil, r
		}
	}
	return nil, nil, l.pass(w, v)
}

// fromDirectServer says whether the packet may be a directly routed server's answer that has the director
// for its gateway: its source is a VIP, and that of the flow may have been forgotten.
func (l *lane) fromDirectServer(src [16]byte) bool {
	return l.segment != nil && l.engine.services.IsVIP(src)
}

// isGroup says whether an address is one of many hosts: multicast, or IPv4's broadcast.
func isGroup(a [16]byte) bool {
	if packet.Addr(a).Is4() {
		return a[12] >= 0xe0
	}
	return a[0] == 0xff
}

// opens says whether the packet may begin a connection: TCP only by SYN. What may not is passed to
// the stack that owns the VIP, which resets it.
func opens(v *packet.View) bool {
	const relevant = packet.TCPFin | packet.TCPSyn | packet.TCPRst | packet.TCPAck
	return v.Tuple.Proto != packet.ProtoTCP || v.TCPFlags&relevant == packet.TCPSyn
}

// openService has the scheduler pick a server and inserts the flow.
func (l *lane) openService(w *world, svc *policy.Service, v *packet.View, now flow.Tick) (*flow.Flow, *policy.Server, packet.Reason) {
	e := l.engine
	srv := svc.Pick(policy.Client{Src: v.Tuple.Src, SrcPort: v.Tuple.SrcPort, Dst: v.Tuple.Dst, DstPort: v.Tuple.DstPort})
	if srv == nil {
		return nil, nil, packet.NoServer
	}
	server := srv.Address.Addr().As16()
	out, ok := w.route(server)
	if !ok {
		return nil, nil, packet.NoRoute
	}
	to := e.lanes[out]
	if svc.Mode == policy.DR && to.segment == nil {
		return nil, nil, packet.NoRoute // there is no MAC to send it to
	}
	translate := svc.Mode == policy.FullNAT || svc.Mode == policy.NAT && w.wouldBypass(l, to, v.Tuple.Src, server)
	var f *flow.Flow
	var err error
	if !translate {
		f, err = e.flows.Insert(v.Tuple, plan(svc.Mode, v.Tuple, srv.Address, netip.Addr{}), now)
	}
	// One client port can reach two VIPs that share a server: the second such connection is told
	// from the first by another source, as those are whose answers would bypass us.
	if translate || svc.Mode != policy.DR && errors.Is(err, flow.ErrCollision) {
		own := to.own(server)
		if !own.IsValid() {
			return nil, nil, packet.NoSource
		}
		f, err = e.flows.InsertTranslated(v.Tuple, plan(svc.Mode, v.Tuple, srv.Address, own), translatedFirst, translatedLast, now)
	}
	if err != nil {
		return nil, nil, refusal(err)
	}
	if svc.Mode == policy.DR {
		f.SetOneWay()
	}
	f.SetServer(srv.ID)
	f.SetExit(flow.Forward, out)
	f.SetExit(flow.Reverse, l.home)
	srv.Add(f.Active())
	return f, srv, packet.None
}

// refusal names why the table did not take a flow.
func refusal(err error) packet.Reason {
	switch {
	case errors.Is(err, flow.ErrFull):
		return packet.TableFull
	case errors.Is(err, flow.ErrPorts):
		return packet.PortsExhausted
	default:
		return packet.TupleCollision
	}
}

// pass decides on what is no service's: ours to answer, the kernel's to have back, or to be routed.
func (l *lane) pass(w *world, v *packet.View) packet.Reason {
	if w.owns(v.Tuple.Dst) {
		l.out = verdict{exit: exitHost}
		return packet.None
	}
	out, ok := w.route(v.Tuple.Dst)
	switch {
	case !ok:
		return packet.NoRoute
	case out != l.home || !l.Kernel:
		l.out = verdict{exit: exitPort, port: out}
	case w.onLink(l, v.Tuple.Dst):
		// The kernel would route it into the device again, until its TTL is gone.
		return packet.NoRoute
	default:
		l.out = verdict{exit: exitBack}
	}
	return packet.None
}
