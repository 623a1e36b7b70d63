package tunlb

import (
	"net/netip"
	"testing"

	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
)

// null is a port that takes everything.
type null struct{ *recorder }

func (null) Write([]byte) error { return nil }

// established is a rig with one open connection, and a segment of it from the client.
func established(t testing.TB) (*lane, []byte) {
	f := families[0]
	r := newBox(t)
	client, vip, rs := at(f.client, 40000), at(f.vip, 80), at(f.rs1, 8080)
	r.one(0, 0, pt.TCP(t, client, vip, syn, pt.Seq(10)))
	r.one(0, 0, pt.TCP(t, rs, client, pt.Flags(packet.TCPSyn|packet.TCPAck), pt.Seq(90), pt.Ack(11)))
	r.e.lanes[0].Port = null{r.ports[0]}
	return r.e.lanes[0], pt.TCP(t, client, vip, ack(), pt.Seq(11), pt.Ack(91), pt.PayloadLen(100))
}

// TestAllocations: the packet's way allocates nothing.
func TestAllocations(t *testing.T) {
	l, frame := established(t)
	l.engine.watching.now.Store(nil) // see TestWatchAllocations
	if n := testing.AllocsPerRun(1000, func() {
		l.take(l.buf[packet.Headroom:][:copy(l.buf[packet.Headroom:], frame)])
	}); n != 0 {
		t.Errorf("%v allocations per packet, want 0", n)
	}
	if n := l.engine.Drops(); len(n) != 0 {
		t.Errorf("drops: %v", n)
	}
}

// BenchmarkHandle is a packet of an established flow from the read to the write, both left out.
func BenchmarkHandle(b *testing.B) {
	l, frame := established(b)
	b.ReportAllocs()
	for b.Loop() {
		l.take(l.buf[packet.Headroom:][:copy(l.buf[packet.Headroom:], frame)])
	}
}

// BenchmarkOpen is a SYN that opens a flow: parse, schedule, insert, edit. The table is at its cap, as
// under load, so that every insertion takes another's place.
func BenchmarkOpen(b *testing.B) {
	f := families[0]
	r := newBox(b, func(o *Options, _ *Config) { o.MaxFlows = 100_000 })
	l := r.e.lanes[0]
	l.Port = null{r.ports[0]}
	frame := pt.TCP(b, at(f.client, 1), at(f.vip, 80), syn)
	vnet := append([]byte(nil), frame...)
	n := uint32(0)
	b.ReportAllocs()
	for b.Loop() {
		n++
		l.take(l.buf[packet.Headroom:][:copy(l.buf[packet.Headroom:], fromClient(vnet, n))])
	}
	if n := r.e.Drops(); len(n) != 0 {
		b.Errorf("drops: %v", n)
	}
}

// fromClient gives the frame the nth of 2^32 client endpoints, checksums kept right.
func fromClient(frame []byte, n uint32) []byte {
	var v packet.View
	v.Parse(frame)
	a := netip.AddrFrom4([4]byte{100, byte(n >> 24), byte(n >> 16), 1})
	to := v.Tuple
	to.Src, to.SrcPort = a.As16(), uint16(n)|1
	e := packet.NewEdit(v.Tuple, to)
	e.Apply(&v)
	return frame
}

// BenchmarkDirect is a packet of a directly routed connection, from the read to the write.
func BenchmarkDirect(b *testing.B) {
	n := lans[0]
	r := newOneArm(b)
	l := r.e.lanes[0]
	l.Port = null{r.ports[0]}
	l.handle(from(macClient, pt.TCP(b, at(n.client, 40000), at(n.vip, 80), syn)))
	frame := from(macClient, pt.TCP(b, at(n.client, 40000), at(n.vip, 80), ack(), pt.PayloadLen(100)))
	b.ReportAllocs()
	for b.Loop() {
		l.take(l.buf[packet.Headroom:][:copy(l.buf[packet.Headroom:], frame)])
	}
}

// BenchmarkSwitched is a frame from one side of the switch to the other.
func BenchmarkSwitched(b *testing.B) {
	n := lans[0]
	r := newSwitch(b)
	r.send(0, 1, packet.AppendEthernet(nil, pt.UDP(b, at(n.client, 1), at(n.rs1, 2)), packet.Broadcast, macClient))
	l := r.e.lanes[1]
	r.e.lanes[0].Port = null{r.ports[0]}
	frame := packet.AppendEthernet(nil, pt.TCP(b, at(n.vip, 80), at(n.client, 40000), ack(), pt.PayloadLen(100)), macClient, macRS[0])
	b.ReportAllocs()
	for b.Loop() {
		l.take(l.buf[packet.Headroom:][:copy(l.buf[packet.Headroom:], frame)])
	}
}
