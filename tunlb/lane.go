package tunlb

// The way of a packet. A lane is one for each port, and some share a goroutine; it runs each packet to completion in its own
// buffer, so there are no pools, reference counts or channels on this way:
//
//  1. read a frame from the port                                  crew.go
//     from a ring many at a time, looked up together              batch.go
//     on an Ethernet port: sort out what is a packet for us       ethernet.go
//  2. parse it once, validating                                   handle
//  3. find its flow and direction                                 decide
//  4. open a flow where there is none                             open.go
//  5. track the connection's state, count                         track
//     on the way to an Ethernet port: find the next hop's MAC     outgoing.go
//     out of the box's own interfaces: likewise, from its kernel  direct.go, box.go
//  6. check TTL and MTU, then edit addresses, ports, checksums    forward
//  7. leave by the flow's exit                                    send
//  8. write; on an Ethernet port to the next hop's MAC            emit
//
// Steps 3 to 5 run under the engine's lock, 6 to 8 need none. Errors and fragments leave this file
// at step 3 (related.go, fragment.go). The only other ending is drop(Reason): a counter with a name,
// and for some reasons an ICMP error to the sender (answer.go).

import (
	"errors"
	"net/netip"
	"sync/atomic"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/tunlb/flow"
)

// exit is where a packet leaves.
type exit uint8

const (
	exitPort   exit = iota // routed out of a port
	exitBack               // handed back, unchanged, to the box's kernel that it came from
	exitDirect             // out of an interface of the box, to a directly routed server
	exitHost               // to the stack that owns the VIPs and tunlb's own addresses
	exitHeld               // kept: a fragment that waits for the first of its datagram
)

// verdict is what happens to a packet. It is plain data: the later fragments of a datagram get the
// verdict of the first.
type verdict struct {
	exit   exit
	port   uint8 // valid iff exit is exitPort
	edited bool  // edit is to be applied
	edit   packet.Edit

	// asIs is direct routing: nothing of the packet is touched, it goes to the station that has hop.
	asIs   bool
	hop    [16]byte // valid if asIs, or if port is a segment's, see resolveLocked; so are
	mac    packet.MAC
	target target

	// server is who the packet is counted for, nil if no service's; reply is its direction.
	server *policy.Server
	reply  bool
}

// lane works on one port. Its fields but the counters belong to its goroutine.
type lane struct {
	Attachment
	engine  *Engine
	id      uint8
	home    uint8        // the port that routes and flows name: its own, or the first of its segment or box
	link    packet.Link  // what its frames start with
	segment *segment     // nil on an IP port, and on one of the box's
	portMTU atomic.Int32 // the port's
	mtu     atomic.Int32 // of the link: on a segment the least of its ports'
	view    packet.View
	now     flow.Tick    // of the frame in hand
	batch   *batch       // nil if the port is no ring
	lookup  *flow.Lookup // of its tuple; nil if it is not prepared
	out     verdict
	buf     []byte
	way     Way    // valid iff out.exit is exitDirect
	fits    int    // the MTU that a packet was too big for
	answer  []byte // scratch for ICMP errors
	convert []byte // scratch for frames that leave by another kind of port
	sender
	// waiting are fragments to be sent behind the packet in hand.
	waiting [][]byte

	// What came in, and what was sent on by port; guarded by the engine's lock. Each lane counts what it
	// sends itself: counting at the port it leaves by would move a cache line between lanes each time.
	rx traffic

	thread thread
	notes  witness // sender's witness points here while somebody looks on
}

// traffic counts packets as they are on the wire, so a super-packet counts as its segments.
type traffic struct{ Packets, Bytes uint64 }

func trafficOf(v *packet.View) traffic { return traffic{uint64(v.Segments()), uint64(v.PacketLen())} }

func (t *traffic) add(n traffic) {
	t.Packets += n.Packets
	t.Bytes += n.Bytes
}

func newLane(e *Engine, id uint8, a Attachment, ports int) *lane {
	return &lane{
		Attachment: a,
		engine:     e,
		id:         id,
		home:       id,
		link:       a.Port.Link(),
		buf:        make([]byte, packet.BufferSize),
		answer:     make([]byte, 0, 2048),
		sender:     sender{tx: make([]traffic, ports)},
	}
}

// own returns tunlb's own address to speak from to another of this link, or the zero Addr.
func (l *lane) own(to [16]byte) netip.Addr {
	a := packet.Addr(to)
	if l.segment != nil {
		return l.segment.source(a)
	}
	addrs := l.Own
	if l.Box && l.engine.box.tun != nil {
		addrs = l.engine.box.tun.Own
	}
	for _, own := range addrs {
		if own.Is4() == a.Is4() {
			return own
		}
	}
	return netip.Addr{}
}

// take takes one frame all the way, watched or not.
func (l *lane) take(frame []byte) {
	l.now = l.engine.tick()
	if on := l.engine.watching.now.Load(); on != nil && len(frame) >= packet.VnetLen {
		l.witnessed(on, frame)
		return
	}
	l.handle(frame)
}

// handle takes one frame all the way.
func (l *lane) handle(frame []byte) {
	if l.segment != nil && !l.receive(frame) {
		return
	}
	l.parsed(&l.view, l.view.ParseOn(l.link, frame))
}

// parsed takes a packet on; r is what parsing it has found.
func (l *lane) parsed(v *packet.View, r packet.Reason) {
	e := l.engine
	if r == packet.None {
		e.mu.Lock()
		l.rx.add(trafficOf(v))
		if r = l.decide(v, l.now); r == packet.None {
			r = l.resolveLocked(v)
		}
		if r == packet.None {
			l.count(v)
		}
		e.mu.Unlock()
		if len(l.outbox) > 0 {
			l.flush(e)
		}
	}
	if r == packet.None {
		r = l.send(v)
	}
	if r != packet.None {
		e.drop(r)
		l.witness.dropped(r)
		l.reject(v, r)
	}
	if l.waiting != nil {
		l.sendWaiting()
	}
}

// decide finds or opens the packet's flow and sets the verdict.
func (l *lane) decide(v *packet.View, now flow.Tick) packet.Reason {
	switch {
	case v.Fragment && v.FragOffset > 0:
		return l.laterFragment(v, now)
	case v.ICMPError:
		return l.related(v)
	}
	f, dir := l.find(&v.Tuple)
	var srv *policy.Server
	r := packet.None
	if f != nil {
		f, srv, r = l.revalidate(f, dir, v)
	}
	if f == nil && r == packet.None {
		dir = flow.Forward
		if f, srv, r = l.open(v, now); f != nil {
			l.witness.opened()
		} else {
			l.witness.sent(srv, &v.Tuple)
		}
	}
	if f != nil {
		l.track(f, srv, dir, v, now)
		l.out.follow(f, dir, l.engine.exitOf(f, dir), srv)
		if l.witness != nil {
			l.witness.belongs(f, dir, now)
		}
	}
	if v.Fragment && r == packet.None {
		return l.firstFragment(v, now)
	}
	return r
}

// find finds the flow of the packet in hand.
func (l *lane) find(tu *packet.Tuple) (*flow.Flow, flow.Direction) {
	if l.lookup != nil {
		return l.engine.flows.FindPrepared(tu, l.lookup)
	}
	return l.engine.flows.Find(tu)
}

// follow is the verdict for a packet of direction d of f. What comes back of a directly routed connection
// has the director for its gateway, and is routed as any packet. Field by field: a whole verdict is
// copied twice.
func (out *verdict) follow(f *flow.Flow, d flow.Direction, port uint8, srv *policy.Server) {
	out.exit, out.port = exitPort, port
	switch out.port {
	case exitDirectPort:
		out.exit = exitDirect
	case exitHostPort:
		out.exit = exitHost
	}
	out.server, out.reply = srv, d == flow.Reverse
	out.edited, out.asIs = !f.OneWay(), f.OneWay() && d == flow.Forward
	if out.edited {
		out.edit = f.Edit(d)
	} else if out.asIs {
		out.hop = srv.Address.Addr().As16()
	}
}

// direct is the verdict for a packet to a directly routed server that no flow stands for.
func (out *verdict) direct(srv *policy.Server, exit uint8) {
	*out = verdict{exit: exitPort, port: exit, asIs: true, hop: srv.Address.Addr().As16(), server: srv}
	if exit == exitDirectPort {
		out.exit = exitDirect
	}
}

// revalidate forgets a flow that its packet can't go on with: the client has reused the port for a
// new connection, or the server has been removed (IPVS: expire_nodest_conn). The client's packet then
// goes as if there had been no flow: a datagram to another server, a segment to who resets it.
func (l *lane) revalidate(f *flow.Flow, dir flow.Direction, v *packet.View) (*flow.Flow, *policy.Server, packet.Reason) {
	e := l.engine
	if e.exitOf(f, dir^1) != l.home {
		return nil, nil, packet.MartianSource // its sender does not live behind this port
	}
	srv := e.services.Server(f.Server())
	switch fateOf(f, srv, dir, v, l.now) {
	case goesOn:
		return f, srv, packet.None
	case isBarred:
		return nil, nil, packet.ServerGone
	default:
		e.flows.Delete(f)
		return nil, nil, packet.None
	}
}

// fate is what its next packet means for a flow.
type fate uint8

const (
	goesOn        fate = iota
	isOver             // forgotten: the packet opens a new connection
	isSilent           // forgotten: its server does not answer
	hasLostServer      // forgotten: its server has been removed
	isBarred           // kept, and the packet dropped: the server's answer must not reach the client untranslated
)

// fateOf decides on a flow by its packet, and changes nothing. srv is the flow's server, nil if there is none.
func fateOf(f *flow.Flow, srv *policy.Server, dir flow.Direction, v *packet.View, now flow.Tick) fate {
	switch {
	case f.ReusedBy(dir, v, now):
		return isOver
	case f.Server() == 0: // the gateway's
		return goesOn
	case srv != nil && (srv.Unreachable() || srv.Down()) && dir == flow.Forward && (v.Tuple.Proto == packet.ProtoUDP || !f.Assured() && (!f.LearnsAnew() || opens(v))):
		// Nothing is lost by trying another server: a client that sends its SYN or its query once more
		// would keep the flow to this one alive. What has been in the kernel's hands may be established, unseen.
		return isSilent
	case srv != nil && (!srv.Deleted || srv.Keep):
		return goesOn
	case dir == flow.Reverse:
		return isBarred
	}
	return hasLostServer
}

// track follows the connection's state.
func (l *lane) track(f *flow.Flow, srv *policy.Server, dir flow.Direction, v *packet.View, now flow.Tick) {
	was := f.Active()
	l.engine.flows.Track(f, dir, v, now)
	if srv == nil {
		return
	}
	if is := f.Active(); is != was {
		srv.Move(is)
	}
	if c := l.engine.carrier; c != nil {
		c.followLocked(f, srv)
	}
}

// count counts what is going to be written: for the port, and for server and service.
func (l *lane) count(v *packet.View) {
	switch l.out.exit {
	case exitPort:
		if l.engine.lanes[l.out.port].segment == nil { // resolveLocked has counted the others
			l.tx[l.out.port].add(trafficOf(v))
		}
	case exitBack:
		l.tx[l.id].add(trafficOf(v))
	case exitDirect:
		if to := l.engine.box.port(l.way.Link); to != nil {
			l.tx[to.id].add(trafficOf(v))
		}
	}
	switch packets, bytes := uint64(v.Segments()), uint64(v.PacketLen()); {
	case l.out.server == nil:
	case l.out.reply:
		l.out.server.CountOut(packets, bytes)
	default:
		l.out.server.CountIn(packets, bytes)
	}
}

// send leaves by the verdict's exit.
func (l *lane) send(v *packet.View) packet.Reason {
	switch l.out.exit {
	case exitHeld:
		return packet.None
	case exitBack:
		return l.handBack(v)
	case exitDirect:
		return l.forward(v, false, l.way.MTU, nil)
	case exitHost:
		switch { // of a health check, by DialDirect
		case l.out.edited && v.ICMPError:
			v.TranslateError(&l.out.edit)
		case l.out.edited:
			l.out.edit.Apply(v)
		}
		frame := v.Frame
		if l.link == packet.LinkEthernet {
			frame = packet.StripEthernet(frame)
		}
		if !l.engine.host.Deliver(frame) {
			return packet.SlowPathFull
		}
		return packet.None
	default:
		to := l.engine.lanes[l.out.port]
		return l.forward(v, to.Kernel, l.narrowest(v, to), to)
	}
}

// fitsAnywhere is what no link in use is too narrow for (RFC 791 has every host take it).
const fitsAnywhere = 576

// narrowest is the MTU of the way by a port. Behind one that leads into the box's kernel another interface may be
// narrower, of which that kernel would tell the sender in words about the translated packet. What may be cut it cuts by itself.
func (l *lane) narrowest(v *packet.View, to *lane) int {
	mtu := int(to.mtu.Load())
	if !to.Kernel || !v.DontFragment || l.engine.direct == nil || v.SegmentLen() <= fitsAnywhere {
		return mtu
	}
	dst := v.Tuple.Dst
	if l.out.edited {
		dst = l.out.edit.To.Dst
	}
	if way, known := l.engine.direct.Way(dst); known && way.MTU > 0 {
		mtu = min(mtu, way.MTU)
	}
	return mtu
}

// forward is the router's part: what can't go on is refused before it is edited, so that the sender
// is quoted its own packet. A kernel behind the port decrements the TTL itself; doing it here too
// would let that kernel be the one that finds it exceeded, and quote the translated packet. Direct
// routing is no hop: the TTL stays.
//
// to is nil for the box's own interfaces.
func (l *lane) forward(v *packet.View, kernel bool, mtu int, to *lane) packet.Reason {
	asIs := l.out.asIs
	if v.TTL <= 1 && !asIs {
		return packet.TTLExceeded
	}
	tooBig := v.SegmentLen() > mtu
	if tooBig && v.DontFragment {
		l.fits = mtu
		return packet.TooBig
	}
	if l.out.edited {
		if v.ICMPError {
			v.TranslateError(&l.out.edit)
		} else {
			l.out.edit.Apply(v)
		}
	}
	if !kernel && !asIs {
		v.DecrementTTL()
	}
	if tooBig {
		l.hurry()
		return l.emitPieces(v.Frame, mtu, to)
	}
	if l.bursts == nil {
		return l.emit(v.Frame, to)
	}
	l.bursts.inPlace = true
	r := l.emit(v.Frame, to)
	l.bursts.inPlace = false
	return r
}

// emit writes a frame of this lane's kind to a port of any kind: on an IP port as it is, on an Ethernet
// port to the verdict's station. What gets a header in front is copied, which only a director between both
// kinds has to pay for.
func (l *lane) emit(frame []byte, to *lane) packet.Reason {
	switch {
	case to == nil:
		return l.emitDirect(frame)
	case to.link == packet.LinkEthernet && l.link == packet.LinkIP:
		l.convert = packet.AppendEthernet(l.convert[:0], frame, packet.MAC{}, packet.MAC{})
		frame = l.convert
	case to.link == packet.LinkIP && l.link == packet.LinkEthernet:
		frame = packet.StripEthernet(frame)
	}
	if to.segment != nil {
		return to.segment.transmit(&l.sender, frame, l.out.hop, l.out.mac, l.out.target)
	}
	return l.write(to, frame)
}

// emitPieces is emit for a packet that is longer than the MTU and may be fragmented.
func (l *lane) emitPieces(frame []byte, mtu int, to *lane) packet.Reason {
	r := packet.None
	err := packet.Segment(l.link, frame, func(frame []byte) error {
		return packet.Fragment(l.link, frame, mtu, func(frame []byte) error {
			if r = l.emit(frame, to); r != packet.None {
				return errNotSent
			}
			return nil
		})
	})
	if err != nil && r == packet.None {
		return packet.PortWrite
	}
	return r
}

// errNotSent stops the cutting of a packet one of whose pieces could not be sent.
var errNotSent = errors.New("not sent")

// write hands a frame to a port. A device that is gone shows in its lane's own read.
func (from *sender) write(to *lane, frame []byte) packet.Reason {
	if from.witness != nil {
		from.witness.wrote(to, frame)
	}
	if from.bursts != nil && from.bursts.inPlace && from.bursts.ports[to.id] != nil {
		from.bursts.put(from.bursts.ports[to.id], frame, 0)
		return packet.None
	}
	if err := to.Port.Write(frame); err != nil {
		from.witness.refused()
		return packet.PortWrite
	}
	return packet.None
}
