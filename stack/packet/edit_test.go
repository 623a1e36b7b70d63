package packet_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
)

// TestEditGolden builds each packet twice with gVisor, as it comes in and as it is to go out, and
// wants the edit of the one to be the other to the byte.
func TestEditGolden(t *testing.T) {
	type build func(src, dst netip.AddrPort, o ...pt.Option) []byte
	tcp := build(func(s, d netip.AddrPort, o ...pt.Option) []byte { return pt.TCP(t, s, d, o...) })
	udp := build(func(s, d netip.AddrPort, o ...pt.Option) []byte { return pt.UDP(t, s, d, o...) })
	echo := build(func(s, d netip.AddrPort, o ...pt.Option) []byte {
		return pt.Echo(t, s.Addr(), d.Addr(), s.Port(), 1, o...)
	})
	reply := build(func(s, d netip.AddrPort, o ...pt.Option) []byte {
		return pt.EchoReply(t, s.Addr(), d.Addr(), d.Port(), 1, o...)
	})
	gre := build(func(s, d netip.AddrPort, o ...pt.Option) []byte { return pt.Raw(t, 47, s.Addr(), d.Addr(), o...) })
	stamp := build(func(s, d netip.AddrPort, o ...pt.Option) []byte { // not an echo: its checksum is kept right
		return pt.ICMPError(t, s.Addr(), d.Addr(), 137, 0, make([]byte, 40), o...)
	})
	for _, tt := range []struct {
		name  string
		build build
		opts  []pt.Option
	}{
		{"TCP SYN with options", tcp, []pt.Option{pt.Flags(packet.TCPSyn), pt.TCPOptions(2, 4, 5, 0xb4)}},
		{"TCP data, odd length", tcp, []pt.Option{pt.PayloadLen(101)}},
		{"TCP partial", tcp, []pt.Option{pt.PayloadLen(101), pt.PartialChecksum()}},
		{"TCP DATA_VALID", tcp, []pt.Option{pt.DataValid()}},
		{"TCP super-packet", tcp, []pt.Option{pt.PayloadLen(60000), pt.GSO(1448)}},
		{"TCP with IPv4 options", tcp, []pt.Option{pt.IPOptions(148, 4, 0, 0)}},
		{"TCP with IPv6 extensions", tcp, []pt.Option{pt.Extension(0), pt.Extension(60, 1, 2, 3)}},
		{"TCP first fragment", tcp, []pt.Option{pt.Fragment(1, 0, true), pt.PayloadLen(4)}},
		{"TCP atomic fragment", tcp, []pt.Option{pt.Fragment(1, 0, false)}},
		{"UDP", udp, []pt.Option{pt.PayloadLen(11)}},
		{"UDP without checksum", udp, []pt.Option{pt.PayloadLen(11), pt.NoChecksum()}},
		{"UDP partial", udp, []pt.Option{pt.PayloadLen(11), pt.PartialChecksum()}},
		{"UDP super-packet", udp, []pt.Option{pt.PayloadLen(5000), pt.GSO(1000)}},
		{"UDP later fragment", udp, []pt.Option{pt.Fragment(1, 1480, true), pt.PayloadLen(48)}},
		{"TCP later fragment", tcp, []pt.Option{pt.Fragment(1, 1480, false), pt.PayloadLen(48)}},
		{"ICMP echo request", echo, []pt.Option{pt.PayloadLen(56)}},
		{"ICMP echo reply", reply, []pt.Option{pt.PayloadLen(56)}},
		{"ICMP echo request, first fragment", echo, []pt.Option{pt.Fragment(1, 0, true)}},
		{"ICMP of another type", stamp, nil},
		{"unknown protocol", gre, []pt.Option{pt.PayloadLen(5)}},
	} {
		for _, ends := range []struct {
			name                 string
			src, dst, src2, dst2 netip.AddrPort
		}{
			{"v4 DNAT", client4, vip4, client4, server4},
			{"v6 DNAT", client6, vip6, client6, server6},
			{"v4 SNAT", server4, client4, vip4, client4},
			{"v6 SNAT", server6, client6, vip6, client6},
			{"v4 full NAT", client4, vip4, ap("192.168.0.100:12345"), server4},
			{"v6 full NAT", client6, vip6, ap("[fd00::1]:12345"), server6},
			{"v4 nothing", client4, vip4, client4, vip4},
			{"v6 nothing", client6, vip6, client6, vip6},
		} {
			t.Run(tt.name+"/"+ends.name, func(t *testing.T) {
				in, want := tt.build(ends.src, ends.dst, tt.opts...), tt.build(ends.src2, ends.dst2, tt.opts...)
				v, to := parse(t, bytes.Clone(in)), parse(t, bytes.Clone(want)).Tuple
				from := v.Tuple
				edit := packet.NewEdit(from, to)
				edit.Apply(v)
				same(t, v.Frame, want)
				if v.Tuple != to {
					t.Errorf("View says %v, want %v", v.Tuple, to)
				}
				pt.Check(t, v.Frame, pt.ValidChecksums())

				back := packet.Edit{To: from, Delta: edit.Delta.Invert()}
				back.Apply(v)
				same(t, v.Frame, in)
			})
		}
	}
}

// packetKind is what the random tests choose from.
type packetKind struct {
	proto   uint8
	partial bool
}

var packetKinds = []packetKind{{6, false}, {6, true}, {17, false}, {17, true}, {1, false}}

// TestEditRandom edits random packets and wants what gVisor computes from scratch, TTL included.
func TestEditRandom(t *testing.T) {
	const rounds = 100_000
	rng := rand.New(rand.NewPCG(1, 2))
	for range rounds {
		is6 := rng.IntN(2) == 0
		kind := packetKinds[rng.IntN(len(packetKinds))]
		from, to := [2]netip.AddrPort{randomEnd(rng, is6), randomEnd(rng, is6)}, [2]netip.AddrPort{randomEnd(rng, is6), randomEnd(rng, is6)}
		if rng.IntN(2) == 0 {
			to[0] = from[0]
		}
		payload := make([]byte, rng.IntN(64))
		for i := range payload {
			payload[i] = byte(rng.Uint32() & rng.Uint32() & rng.Uint32()) // many zeroes: sums near the edges
		}
		ttl := uint8(1 + rng.IntN(255))
		opts := []pt.Option{pt.Payload(payload), pt.ID(uint16(rng.Uint32())), pt.Seq(rng.Uint32())}
		if kind.partial {
			opts = append(opts, pt.PartialChecksum())
		}
		in := buildKind(t, kind.proto, from, append(opts, pt.TTL(ttl)))
		want := buildKind(t, kind.proto, to, append(opts, pt.TTL(ttl-1)))
		if kind.proto == 17 && rng.IntN(8) == 0 && !kind.partial {
			opts = append(opts, pt.NoChecksum())
			in, want = buildKind(t, 17, from, append(opts, pt.TTL(ttl))), buildKind(t, 17, to, append(opts, pt.TTL(ttl-1)))
		}
		v := new(packet.View)
		if r := v.Parse(bytes.Clone(in)); r == packet.Land {
			continue
		} else if r != packet.None {
			t.Fatalf("%v\n%s", r, hex.Dump(in))
		}
		edit := packet.NewEdit(v.Tuple, tupleOf(kind.proto, is6, to))
		v.DecrementTTL()
		edit.Apply(v)
		if !bytes.Equal(v.Frame, want) {
			t.Fatalf("%v -> %v\ngot\n%swant\n%s", from, to, hex.Dump(v.Frame), hex.Dump(want))
		}
	}
}

// randomEnd has often few bits set, and never an address that Parse refuses.
func randomEnd(rng *rand.Rand, is6 bool) netip.AddrPort {
	var b [16]byte
	for i := range b {
		b[i] = []byte{0, 0xff, byte(rng.Uint32())}[rng.IntN(3)]
	}
	b[0], b[12] = 0x20, 10
	port := []uint16{0, 0xffff, uint16(rng.Uint32())}[rng.IntN(3)]
	if is6 {
		return netip.AddrPortFrom(netip.AddrFrom16(b), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[12:])), port)
}

func buildKind(t testing.TB, proto uint8, ends [2]netip.AddrPort, opts []pt.Option) []byte {
	t.Helper()
	switch proto {
	case 6:
		return pt.TCP(t, ends[0], ends[1], opts...)
	case 17:
		return pt.UDP(t, ends[0], ends[1], opts...)
	}
	return pt.Echo(t, ends[0].Addr(), ends[1].Addr(), ends[0].Port(), 1, opts...)
}

func tupleOf(proto uint8, is6 bool, ends [2]netip.AddrPort) packet.Tuple {
	if proto == 1 {
		if is6 {
			proto = 58
		}
		ends[1] = netip.AddrPortFrom(ends[1].Addr(), 0)
	}
	return packet.TupleOf(proto, ends[0], ends[1])
}

// TestEditUDPZero goes through every value of a payload word, so that the checksum takes every value
// before and after the edit: 0 must be written 0xffff (RFC 768).
func TestEditUDPZero(t *testing.T) {
	for _, ends := range [][3]netip.AddrPort{{client4, vip4, server4}, {client6, vip6, server6}} {
		sawBefore, sawAfter := 0, 0
		for word := range 1 << 16 {
			payload := []byte{byte(word >> 8), byte(word)}
			in, want := pt.UDP(t, ends[0], ends[1], pt.Payload(payload)), pt.UDP(t, ends[0], ends[2], pt.Payload(payload))
			at := len(in) - 4
			v := parse(t, in)
			sawBefore += boolInt(binary.BigEndian.Uint16(in[at:]) == 0xffff)
			edit := packet.NewEdit(v.Tuple, packet.TupleOf(17, ends[0], ends[2]))
			edit.Apply(v)
			same(t, v.Frame, want)
			sawAfter += boolInt(binary.BigEndian.Uint16(in[at:]) == 0xffff)
		}
		if sawBefore == 0 || sawAfter == 0 {
			t.Errorf("checksum 0xffff seen %d times before and %d times after the edit", sawBefore, sawAfter)
		}
	}
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// TestEditDoesNotRepair: what came in corrupt goes out corrupt.
func TestEditDoesNotRepair(t *testing.T) {
	for _, frame := range [][]byte{
		pt.TCP(t, client4, vip4, pt.BadChecksum()),
		pt.UDP(t, client4, vip4, pt.BadChecksum()),
		pt.Echo(t, client4.Addr(), vip4.Addr(), 1, 1, pt.BadChecksum()),
		pt.TCP(t, client4, vip4, pt.BadChecksum(), pt.PartialChecksum()),
	} {
		v := parse(t, frame)
		to := packet.TupleOf(v.Tuple.Proto, v.Tuple.Source(), server4)
		edit := packet.NewEdit(v.Tuple, to)
		edit.Apply(v)
		p, err := pt.Decode(v.Frame)
		if err != nil {
			t.Fatal(err)
		}
		if pt.ValidChecksums()(p) == "" {
			t.Errorf("%v: a corrupt packet was repaired", v.Tuple)
		}
	}
}

func TestDecrementTTLStopsAtZero(t *testing.T) {
	for _, frame := range [][]byte{pt.TCP(t, client4, vip4, pt.TTL(1)), pt.TCP(t, client6, vip6, pt.TTL(1))} {
		v := parse(t, frame)
		for range 2 {
			v.DecrementTTL()
			pt.Check(t, v.Frame, pt.HasTTL(0), pt.ValidChecksums())
		}
		if v.TTL != 0 {
			t.Errorf("View says TTL %d", v.TTL)
		}
	}
}

// TestHotPathAllocations: one Parse, edit and TTL per packet, nothing on the heap.
func TestHotPathAllocations(t *testing.T) {
	var v packet.View
	buf := make([]byte, 0, packet.BufferSize)
	back := pt.Unreachable(t, router4, vip4.Addr(), pt.TCP(t, vip4, client4))
	forward := packet.NewEdit(packet.TupleOf(6, client4, vip4), packet.TupleOf(6, client4, server4))
	for _, tt := range []struct {
		name  string
		frame []byte
		run   func()
	}{
		{"parse, TTL and edit", pt.TCP(t, client4, vip4), func() { v.DecrementTTL(); forward.Apply(&v) }},
		{"new edit", pt.TCP(t, client6, vip6), func() { e := packet.NewEdit(v.Tuple, v.Tuple.Reverse()); e.Apply(&v) }},
		{"translate error", back, func() { v.TranslateError(&forward) }},
		{"append error", pt.UDP(t, client6, vip6), func() { packet.AppendError(buf, &v, packet.PortUnreachable, vip6.Addr().As16(), 0) }},
		{"complete", pt.TCP(t, client6, vip6, pt.PartialChecksum()), func() { packet.Complete(&v) }},
	} {
		work := make([]byte, len(tt.frame))
		if n := testing.AllocsPerRun(100, func() {
			copy(work, tt.frame)
			if v.Parse(work) != packet.None {
				panic("does not parse")
			}
			tt.run()
		}); n != 0 {
			t.Errorf("%s: %v allocations", tt.name, n)
		}
	}
}
