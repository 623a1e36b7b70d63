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
	if l.foreign(v) {
		return nil, nil, packet.OtherHost
	}
	if r := l.admits(w, &v.Tuple); r != packet.None {
		return nil, nil, r
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

// admits says whether a packet that no flow knows may come in here, or else why not.
func (l *lane) admits(w *world, tu *packet.Tuple) packet.Reason {
	switch {
	case isGroup(tu.Dst):
		return packet.MartianDestination // a router passes no broadcast on, and no multicast unasked
	case !l.Kernel && !w.livesBehind(l, tu.Src) && !l.fromDirectServer(tu.Src):
		return packet.MartianSource // RFC 2827; the box's kernel has its own rp_filter
	}
	return packet.None
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
	client := e.clientOf(&v.Tuple)
	l.witness.picks(svc, client)
	srv := svc.Pick(client)
	if srv == nil {
		return nil, nil, packet.NoServer
	}
	server := srv.Address.Addr().As16()
	out, r := l.exitTo(w, srv, server)
	if r != packet.None {
		return nil, nil, r
	}
	if svc.OnePacket {
		return l.openOnePacket(w, srv, out, v, now)
	}
	f, r := l.insert(w, srv, out, v, now)
	if r != packet.None {
		return nil, nil, r
	}
	f.SetServer(srv.ID)
	f.SetClass(e.classOf(svc))
	e.setExits(f, out, l.home)
	srv.Add(f.Active())
	srv.Opened(client)
	return f, srv, packet.None
}

// clientOf is what a scheduler may know of a packet.
func (e *Engine) clientOf(tu *packet.Tuple) policy.Client {
	return policy.Client{Src: tu.Src, SrcPort: tu.SrcPort, Dst: tu.Dst, DstPort: tu.DstPort, Proto: tu.Proto, Now: e.now()}
}

// exitTo finds where packets to a server leave: by a port, or in direct routing by an interface of the box.
func (l *lane) exitTo(w *world, srv *policy.Server, server [16]byte) (out uint8, r packet.Reason) {
	e := l.engine
	out, ok := w.route(server)
	switch {
	case srv.Mode == policy.Tunnelled, !ok && (srv.Mode != policy.DR || e.direct == nil):
		return 0, packet.NoRoute
	case srv.Mode != policy.DR || ok && e.lanes[out].segment != nil:
		return out, packet.None
	case e.direct == nil:
		return 0, packet.NoRoute // there is no MAC to send it to
	}
	if way, known := e.direct.Way(server); known && way.Local && ok {
		return out, packet.None // into the TUN, whose kernel has the VIP and the server
	}
	return exitDirectPort, packet.None
}

// insert adds the flow between a client and the server picked for it.
func (l *lane) insert(w *world, srv *policy.Server, out uint8, v *packet.View, now flow.Tick) (*flow.Flow, packet.Reason) {
	e := l.engine
	if srv.Mode == policy.DR {
		f, err := e.flows.Insert(v.Tuple, plan(srv, v.Tuple, netip.Addr{}), now)
		if err != nil {
			return nil, refusal(err)
		}
		f.SetOneWay()
		return f, packet.None
	}
	if !l.translates(w, srv, out, v) {
		f, err := e.flows.Insert(v.Tuple, plan(srv, v.Tuple, netip.Addr{}), now)
		if err == nil {
			return f, packet.None
		}
		// One client port can reach two VIPs that share a server: the second such connection is told
		// from the first by another source, as those are whose answers would bypass us.
		if !errors.Is(err, flow.ErrCollision) {
			return nil, refusal(err)
		}
	}
	own := e.lanes[out].source(w, srv.Address.Addr().As16(), v.Tuple.Dst)
	if !own.IsValid() {
		return nil, packet.NoSource
	}
	f, err := e.flows.InsertTranslated(v.Tuple, plan(srv, v.Tuple, own), translatedFirst, translatedLast, now)
	if err != nil {
		return nil, refusal(err)
	}
	return f, packet.None
}

// translates says whether the source of a connection to the server is translated as well.
func (l *lane) translates(w *world, srv *policy.Server, out uint8, v *packet.View) bool {
	return srv.Mode == policy.FullNAT || srv.Mode == policy.NAT && w.wouldBypass(l, l.engine.lanes[out], v.Tuple.Src, srv.Address.Addr().As16()) != ""
}

// openOnePacket sends one datagram to the server picked for it. What it leaves behind is a flow that only the
// answers find, so that they are translated; the next datagram is scheduled anew. Where the source is
// translated as well, the datagrams of one client port share a flow and so a server.
func (l *lane) openOnePacket(w *world, srv *policy.Server, out uint8, v *packet.View, now flow.Tick) (*flow.Flow, *policy.Server, packet.Reason) {
	e := l.engine
	if srv.Mode == policy.DR {
		srv.CountConn()
		l.out.direct(srv, out)
		return nil, srv, packet.None
	}
	var f *flow.Flow
	if l.translates(w, srv, out, v) {
		var r packet.Reason
		if f, r = l.insert(w, srv, out, v, now); r != packet.None {
			return nil, nil, r
		}
		srv.Add(f.Active())
		srv.Opened(e.clientOf(&v.Tuple))
	} else {
		var err error
		var added bool
		inner := plan(srv, v.Tuple, netip.Addr{})
		if f, added, err = e.flows.InsertAnswers(v.Tuple, inner, now); err == nil && !added && f.Server() != srv.ID {
			e.flows.Delete(f) // another service's, which has had the place before a reload
			f, added, err = e.flows.InsertAnswers(v.Tuple, inner, now)
		}
		if err != nil {
			return nil, nil, refusal(err)
		}
		if added {
			srv.Hold()
		}
		srv.CountConn()
	}
	f.SetServer(srv.ID)
	f.SetClass(e.classOf(srv.Service))
	e.setExits(f, out, l.home)
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
	case out != l.home || !l.Kernel && !(l.Box && l.engine.box.tun != nil):
		l.out = verdict{exit: exitPort, port: out}
	case w.onLink(l, v.Tuple.Dst):
		// The kernel would route it into the device again, until its TTL is gone.
		return packet.NoRoute
	default:
		l.out = verdict{exit: exitBack}
	}
	return packet.None
}
