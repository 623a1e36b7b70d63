package tunlb

// Who looks on while packets pass. Off, it costs a lane one load of a pointer that does not change; on, each lane
// takes notes of the packet in hand and offers them to the subscriptions, which never make it wait.

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/tunlb/flow"
	"github.com/tunlb/tunlb/tunlb/watch"
)

// explainedPerSecond bounds the openings that are explained: an explanation costs more than the opening.
const explainedPerSecond = 1000

// maxCandidates is up to how many servers of a service all are listed: 64 cost 15 us with the lock held.
const maxCandidates = 64

// watching is the engine's list of subscriptions.
type watching struct {
	now  atomic.Pointer[watchers] // nil: nobody looks on
	seq  atomic.Uint64
	lost atomic.Uint64 // of subscriptions that have ended

	mu sync.Mutex // one change of the list at a time
}

// watchers are an immutable list of those who look on, and the most that any of them asks for.
type watchers struct {
	subscriptions []*watch.Subscription
	snap          int
	explain       *rate.Limiter // nil: nobody asks why
}

func newWatchers(subscriptions []*watch.Subscription) *watchers {
	if len(subscriptions) == 0 {
		return nil
	}
	w := &watchers{subscriptions: subscriptions}
	for _, s := range subscriptions {
		w.snap = max(w.snap, s.Options().Snap)
		if s.Options().Why {
			w.explain = rate.NewLimiter(explainedPerSecond, explainedPerSecond/10)
		}
	}
	return w
}

// Watch subscribes to the journeys of packets. Whoever asks closes the subscription.
func (e *Engine) Watch(o watch.Options) *watch.Subscription {
	w := &e.watching
	change := func(edit func([]*watch.Subscription) []*watch.Subscription) {
		w.mu.Lock()
		defer w.mu.Unlock()
		var list []*watch.Subscription
		if on := w.now.Load(); on != nil {
			list = slices.Clone(on.subscriptions)
		}
		w.now.Store(newWatchers(edit(list)))
	}
	s := watch.NewSubscription(o, func(ended *watch.Subscription) {
		change(func(list []*watch.Subscription) []*watch.Subscription {
			return slices.DeleteFunc(list, func(s *watch.Subscription) bool { return s == ended })
		})
		w.lost.Add(ended.Lost())
	})
	change(func(list []*watch.Subscription) []*watch.Subscription { return append(list, s) })
	return s
}

// WatchLost counts the records that found a subscription's queue full, of all subscriptions that there were.
func (e *Engine) WatchLost() uint64 {
	n := e.watching.lost.Load()
	if on := e.watching.now.Load(); on != nil {
		for _, s := range on.subscriptions {
			n += s.Lost()
		}
	}
	return n
}

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
	w.record.SetIn(l.Port.Name(), l.segment != nil, frame, on.snap)
	l.witness = w
	l.handle(frame)
	l.witness = nil
	if w.record.Exit == "" && w.record.Drop == "" {
		w.record.Exit = exitNames[l.out.exit]
	}
	w.end()
}

var exitNames = [...]string{exitPort: "port", exitBack: "kernel", exitDirect: "direct", exitHost: "host", exitHeld: "held"}

// ownWitness takes notes of a packet that none of the ports has brought. It is nil unless somebody looks on.
func (e *Engine) ownWitness(exit string) *witness {
	on := e.watching.now.Load()
	if on == nil {
		return nil
	}
	w := &witness{}
	w.begin(e, on)
	w.record.Exit = exit
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
	if w.record.Protocol == "" {
		w.name()
	}
	for _, s := range w.on.subscriptions {
		s.Offer(&w.record)
	}
}

// name says what a packet is that has come to no flow: from whom, to whom.
func (w *witness) name() {
	r := &w.record
	f := r.In
	if f == nil {
		if len(r.Out) == 0 {
			return
		}
		f = &r.Out[0]
	}
	ip := f.Data[packet.VnetLen:]
	if f.Ethernet {
		if h, ok := packet.DecodeEthernet(f.Data); ok && h.Type == packet.EtherARP {
			r.Protocol = "arp"
			return
		}
		ip = ip[min(len(ip), packet.EthernetLen):]
	}
	if tu, ok := peek(ip); ok {
		r.Protocol, r.Client, r.VIP = protocolName(tu.Proto), tu.Source(), tu.Destination()
	}
}

// peek reads what the fixed headers say of a packet that may be malformed or cut off. Ports behind options and
// extension headers are not looked for.
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
		tu.Proto, tu.Src, tu.Dst, ports = ip[6], [16]byte(ip[8:]), [16]byte(ip[24:]), ip[ip6Len:]
	default:
		return tu, false
	}
	if (tu.Proto == packet.ProtoTCP || tu.Proto == packet.ProtoUDP) && len(ports) >= 4 {
		tu.SrcPort, tu.DstPort = binary.BigEndian.Uint16(ports), binary.BigEndian.Uint16(ports[2:])
	}
	return tu, true
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
		w.record.Drop = r.String()
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
		w.record.AddOut(to.Port.Name(), to.segment != nil, frame, w.on.snap)
	}
}

// wroteDirect notes a frame that is written to an interface of the box.
func (w *witness) wroteDirect(link int, frame []byte) {
	if w != nil {
		w.record.AddOut(fmt.Sprintf("interface %d", link), true, frame, w.on.snap)
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

// belongs notes the packet's flow. The engine's lock is held.
func (w *witness) belongs(f *flow.Flow, dir flow.Direction, now flow.Tick) {
	if w == nil {
		return
	}
	r, c := &w.record, w.engine.connLocked(f, now)
	r.Flow, r.Reply, r.State = numberOf(f), dir == flow.Reverse, c.State
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
