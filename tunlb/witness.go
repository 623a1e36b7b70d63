package tunlb

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/tunlb/flow"
	"github.com/tunlb/tunlb/tunlb/watch"
)

// witness takes notes of the packet in hand while somebody looks on. A nil witness takes none: whoever has one calls
// it without asking, but for what has to be got together first.
type witness struct {
	engine *Engine
	on     *watchers
	record watch.Record
}

// witnessed handles a frame with somebody looking on.
func (l *lane) witnessed(on *watchers, frame []byte) {
	w := &l.notes
	w.begin(l.engine, on)
	w.record.SetIn(l.Port.Name(), l.link == packet.LinkEthernet, frame, on.snap)
	l.witness = w
	l.handle(frame)
	l.witness = nil
	if w.record.Protocol == "" {
		w.name(l.link, w.record.In.Data)
	}
	if w.record.Exit == "" && w.record.Drop == "" {
		w.record.Exit = exitNames[l.out.exit]
	}
	w.end()
}

var exitNames = [...]string{exitPort: "port", exitBack: "kernel", exitDirect: "direct", exitHost: "host", exitHeld: "parked"}

// ownWitness takes notes of a packet that none of the ports has brought, in a frame as link says. It is nil unless
// somebody looks on.
func (e *Engine) ownWitness(exit string, link packet.Link, frame []byte) *witness {
	on := e.watching.now.Load()
	if on == nil {
		return nil
	}
	w := &witness{}
	w.begin(e, on)
	w.record.Exit = exit
	w.name(link, frame)
	return w
}

// waitedLocked takes notes of a packet that goes on, or is given up, after it has waited for a MAC. It is as it was to leave.
func (e *Engine) waitedLocked(frame []byte) *witness {
	w := e.ownWitness("port", packet.LinkEthernet, frame)
	if w == nil {
		return nil
	}
	w.record.Waited = true
	var v packet.View
	if v.ParseEthernet(slices.Clone(frame)) == packet.None {
		answer := v.Tuple.Reverse() // a packet that has been translated is found by what would answer it
		if f, dir := e.flows.Find(&answer); f != nil {
			w.belongs(f, dir^1, e.tick())
		}
	}
	return w
}

func (w *witness) begin(e *Engine, on *watchers) {
	w.engine, w.on = e, on
	w.record.Reset()
	w.record.Seq, w.record.Time, w.record.At = e.watching.seq.Add(1), time.Now(), e.now()
}

func (w *witness) end() {
	if w == nil {
		return
	}
	for _, s := range w.on.subscriptions {
		if !s.Offer(&w.record) {
			w.engine.watching.lost.Add(1)
		}
	}
}

// name says what a packet is that has come to no flow: from whom, to whom.
func (w *witness) name(link packet.Link, frame []byte) {
	r, ip := &w.record, frame[packet.VnetLen:]
	if link == packet.LinkEthernet {
		if h, ok := packet.DecodeEthernet(frame); ok && h.Type == packet.EtherARP {
			r.Protocol = "arp"
			return
		}
		ip = ip[min(len(ip), packet.EthernetLen):]
	}
	if tu, ok := peek(ip); ok {
		r.Protocol, r.Client, r.VIP = protocolName(tu.Proto), tu.Source(), tu.Destination()
	}
}

// peek reads what the headers say of a packet that may be malformed or cut off. Ports behind IPv4 options are not
// looked for.
func peek(ip []byte) (tu packet.Tuple, ok bool) {
	const ip4Len, ip6Len = 20, 40
	var ports []byte
	switch {
	case len(ip) >= ip4Len && ip[0]>>4 == 4:
		tu.Proto = ip[9]
		tu.Src, tu.Dst = netip.AddrFrom4([4]byte(ip[12:])).As16(), netip.AddrFrom4([4]byte(ip[16:])).As16()
		if first := binary.BigEndian.Uint16(ip[6:])&0x1fff == 0; first && ip[0]&15 == ip4Len/4 {
			ports = ip[ip4Len:]
		}
	case len(ip) >= ip6Len && ip[0]>>4 == 6:
		tu.Src, tu.Dst = [16]byte(ip[8:]), [16]byte(ip[24:])
		tu.Proto, ports = skipExtensions(ip[6], ip[ip6Len:])
	default:
		return tu, false
	}
	if (tu.Proto == packet.ProtoTCP || tu.Proto == packet.ProtoUDP) && len(ports) >= 4 {
		tu.SrcPort, tu.DstPort = binary.BigEndian.Uint16(ports), binary.BigEndian.Uint16(ports[2:])
	}
	return tu, true
}

// skipExtensions finds what is behind IPv6 extension headers (RFC 8200, 4): a protocol, and its header if there is one.
func skipExtensions(next uint8, b []byte) (uint8, []byte) {
	const hopByHop, routing, fragment, destination, fragmentLen = 0, 43, 44, 60, 8
	for len(b) >= fragmentLen {
		n := fragmentLen
		switch next {
		case hopByHop, routing, destination:
			n += int(b[1]) * 8
		case fragment:
			if binary.BigEndian.Uint16(b[2:])&^7 != 0 {
				return b[0], nil // a later fragment begins with no header
			}
		default:
			return next, b
		}
		next, b = b[0], b[min(len(b), n):]
	}
	return next, b
}

// numberOf is a short name for a connection: a hash of what the client sends, the same wherever it is seen.
func numberOf(f *flow.Flow) uint32 {
	const offset, prime = 2166136261, 16777619 // FNV-1a
	h, tu := uint32(offset), f.Outer()
	add := func(bytes ...byte) {
		for _, b := range bytes {
			h = (h ^ uint32(b)) * prime
		}
	}
	add(tu.Src[:]...)
	add(tu.Dst[:]...)
	add(byte(tu.SrcPort>>8), byte(tu.SrcPort), byte(tu.DstPort>>8), byte(tu.DstPort), tu.Proto)
	return max(h, 1) // 0 is no flow
}

// dropped notes why the packet goes no further.
func (w *witness) dropped(r packet.Reason) {
	if w != nil {
		w.record.Drop, w.record.Exit = r.String(), ""
	}
}

// went notes where the packet goes that leaves the way of all packets.
func (w *witness) went(exit string) {
	if w != nil {
		w.record.Exit = exit
	}
}

// wrote notes a frame that is written to a port.
func (w *witness) wrote(to *lane, frame []byte) {
	if w != nil {
		w.record.AddOut(to.Port.Name(), to.link == packet.LinkEthernet, frame, w.on.snap)
	}
}

// refused forgets the frame that has just been noted: the device has not taken it.
func (w *witness) refused() {
	if w != nil {
		w.record.Out = w.record.Out[:len(w.record.Out)-1]
	}
}

// wroteDirect notes a frame that is written to an interface of the box.
func (w *witness) wroteDirect(link int, frame []byte) {
	if w != nil {
		name := fmt.Sprintf("interface %d", link)
		if to := w.engine.box.port(link); to != nil {
			name = to.Port.Name()
		}
		w.record.AddOut(name, true, frame, w.on.snap)
	}
}

// picks notes why the scheduler is going to pick as it does.
func (w *witness) picks(svc *policy.Service, client policy.Client) {
	if w != nil && w.on.explain != nil && w.on.explain.AllowN(time.Unix(0, int64(w.record.At)), 1) {
		explain := svc.Explain
		if len(svc.Servers) > maxCandidates {
			explain = svc.Reason
		}
		why := explain(client)
		w.record.Why = &why
	}
}

// sent notes the server of a packet that no flow stands for.
func (w *witness) sent(srv *policy.Server, tu *packet.Tuple) {
	if w == nil || srv == nil {
		return
	}
	r := &w.record
	r.Protocol, r.Client, r.VIP = protocolName(tu.Proto), tu.Source(), tu.Destination()
	r.Service, r.ServerName, r.Server, r.Mode = srv.Service.Name, srv.Name, srv.Address, srv.Mode.String()
}

var fastpathNames = [...]string{flow.ByUs: "", flow.Offered: "offered", flow.Asked: "offered", flow.ByKernel: "carried", flow.Refused: ""}

// belongs notes the packet's flow. The engine's lock is held.
func (w *witness) belongs(f *flow.Flow, dir flow.Direction, now flow.Tick) {
	if w == nil {
		return
	}
	r, c := &w.record, w.engine.connLocked(f, now)
	r.Flow, r.Reply, r.State, r.Fastpath = numberOf(f), dir == flow.Reverse, c.State, fastpathNames[f.Carriage()]
	r.Protocol, r.Client, r.VIP, r.Source = c.Protocol, c.Client, c.VIP, c.Source
	r.Server, r.Service, r.ServerName = c.Server, c.Service, c.ServerName
	if srv := w.engine.services.Server(f.Server()); srv != nil {
		r.Mode = srv.Mode.String()
	} else {
		r.Mode = "gateway"
	}
}

// opened notes that the packet has opened its flow.
func (w *witness) opened() {
	if w != nil {
		w.record.Opened = true
	}
}

// like notes that the packet belongs where another does, of which this is a copy of the notes: a fragment to its first.
func (w *witness) like(first *watch.Record) {
	if w == nil || first == nil {
		return
	}
	r := &w.record
	r.Protocol, r.Client, r.VIP, r.Reply = first.Protocol, first.Client, first.VIP, first.Reply
	r.Flow, r.State, r.Fastpath, r.Mode, r.Source = first.Flow, first.State, first.Fastpath, first.Mode, first.Source
	r.Server, r.Service, r.ServerName = first.Server, first.Service, first.ServerName
}

// identity is a copy of what has been noted about where the packet belongs; nil unless somebody looks on.
func (w *witness) identity() *watch.Record {
	if w == nil {
		return nil
	}
	of := &witness{}
	of.like(&w.record)
	return &of.record
}

// sentOn notes that the fragment has waited for its first, whose notes are given.
func (w *witness) sentOn(first *witness) {
	if w != nil {
		w.record.Waited = true
		w.like(first.identity())
	}
}
