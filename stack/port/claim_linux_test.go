package port

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
)

// machine runs the part of a claim's program that looks at the frame alone: x/net's knows no ancillary data.
func machine(t interface{ Fatalf(string, ...any) }, c packet.Claim, g grain) *bpf.VM {
	a, drop, accept := newAssembler()
	a.to(claimBody(a, c, g, drop, accept))
	var raw []bpf.RawInstruction
	for _, i := range a.program() {
		raw = append(raw, bpf.RawInstruction{Op: i.Code, Jt: i.Jt, Jf: i.Jf, K: i.K})
	}
	program, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatalf("not all is an instruction: %v", raw)
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatalf("%v\n%v", err, program)
	}
	return vm
}

// passes tells whether a frame does. It begins with the vnet header, which a filter does not see.
func passes(t interface{ Fatalf(string, ...any) }, vm *bpf.VM, frame []byte) bool {
	n, err := vm.Run(frame[packet.VnetLen:])
	if err != nil {
		t.Fatalf("%v", err)
	}
	return n > 0
}

// world is a small one, so that what is drawn from it often meets.
type world struct {
	addrs []netip.Addr
	ports []uint16
	icmp  uint8
}

var worlds = []world{
	{
		[]netip.Addr{
			netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3"), netip.MustParseAddr("10.0.1.2"),
			netip.MustParseAddr("8.255.255.255"), netip.MustParseAddr("223.255.255.255"),
		},
		[]uint16{0, 1, 79, 80, 81, 443, 65534, 65535},
		packet.ProtoICMP,
	},
	{
		[]netip.Addr{
			netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("2001:db8:0:0:1::1"),
			netip.MustParseAddr("2001:db8:0:1::1"), netip.MustParseAddr("2001:db9::1"), netip.MustParseAddr("fd00::ffff:ffff"),
		},
		[]uint16{0, 1, 79, 80, 81, 443, 65534, 65535},
		packet.ProtoICMPv6,
	},
}

func (w world) addr(t *rapid.T, what string) netip.Addr {
	return rapid.SampledFrom(w.addrs).Draw(t, what)
}

func drawClaim(t *rapid.T) packet.Claim {
	endpoints := rapid.Custom(func(t *rapid.T) packet.Endpoints {
		w := rapid.SampledFrom(worlds).Draw(t, "family")
		e := packet.Endpoints{Addr: w.addr(t, "address"), Proto: rapid.SampledFrom([]uint8{6, 17, 1, 58}).Draw(t, "proto")}
		a, b := rapid.SampledFrom(w.ports).Draw(t, "first"), rapid.SampledFrom(w.ports).Draw(t, "last")
		e.First, e.Last = min(a, b), max(a, b)
		return e
	})
	own := rapid.Custom(func(t *rapid.T) netip.Addr { return rapid.SampledFrom(worlds).Draw(t, "family").addr(t, "own") })
	return packet.Claim{
		VIPs:    rapid.SliceOfN(endpoints, 0, 6).Draw(t, "VIPs"),
		Servers: rapid.SliceOfN(endpoints, 0, 6).Draw(t, "servers"),
		Own:     rapid.SliceOfN(own, 0, 3).Draw(t, "own"),
	}
}

// drawn is a packet and what a claim is about in it.
type drawn struct {
	frame    []byte
	src, dst netip.AddrPort
	proto    uint8
	later    bool       // a later fragment
	ping     bool       // an echo request
	error    bool       // an ICMP error, about a packet from src to dst
	to       netip.Addr // whom the packet is for
	hidden   bool       // what it is stands behind IPv6 options, its own or the quoted packet's
}

func drawPacket(tb testing.TB, t *rapid.T) drawn {
	w := rapid.SampledFrom(worlds).Draw(t, "family")
	d := drawn{
		src:   netip.AddrPortFrom(w.addr(t, "src"), rapid.SampledFrom(w.ports).Draw(t, "sport")),
		dst:   netip.AddrPortFrom(w.addr(t, "dst"), rapid.SampledFrom(w.ports).Draw(t, "dport")),
		proto: rapid.SampledFrom([]uint8{6, 17, 47, 1, 58, 6, 17, w.icmp, w.icmp}).Draw(t, "proto"),
	}
	d.to = d.dst.Addr()
	var opts []pt.Option
	six := w.addrs[0].Is6()
	if rapid.Bool().Draw(t, "options") {
		if six {
			opts, d.hidden = append(opts, pt.Extension(60, 1, 4, 0, 0, 0, 0)), true
		} else {
			opts = append(opts, pt.IPOptions(1, 1, 1, 1, 1))
		}
	}
	switch rapid.SampledFrom([]string{"whole", "first", "later", "atomic"}).Draw(t, "fragment") {
	case "first":
		length := 24 // a multiple of 8, with the transport header
		if d.proto == packet.ProtoTCP {
			length = 28
		}
		opts = append(opts, pt.Fragment(7, 0, true), pt.PayloadLen(length))
	case "later":
		d.later = true
		opts = append(opts, pt.Fragment(7, 1480, false), pt.PayloadLen(16))
	case "atomic":
		if six {
			opts = append(opts, pt.Fragment(7, 0, false))
		}
	}
	switch d.proto {
	case packet.ProtoTCP:
		d.frame = pt.TCP(tb, d.src, d.dst, opts...)
	case packet.ProtoUDP:
		d.frame = pt.UDP(tb, d.src, d.dst, opts...)
	case 1, 58:
		typ := rapid.SampledFrom([]uint8{0, 8, 8, 13, 128, 128, 129, 133, 135, 136}).Draw(t, "message")
		d.ping = d.proto == w.icmp && typ == map[uint8]uint8{1: 8, 58: 128}[d.proto]
		message := append([]byte{typ}, make([]byte, 23)...)
		d.frame = pt.Raw(tb, d.proto, d.src.Addr(), d.dst.Addr(), append(opts[:len(opts):len(opts)], pt.Payload(message))...)
	default:
		d.frame = pt.Raw(tb, d.proto, d.src.Addr(), d.dst.Addr(), append([]pt.Option{pt.PayloadLen(16)}, opts...)...)
	}
	if !d.later && rapid.Bool().Draw(t, "error") {
		from := w.addr(t, "router")
		d.to, d.error = w.addr(t, "error for"), true
		typ := rapid.SampledFrom([]uint8{3, 11, 12}).Draw(t, "type")
		if six {
			typ = rapid.SampledFrom([]uint8{1, 2, 3, 4}).Draw(t, "type")
		}
		d.hidden = d.hidden || six && len(opts) > 0
		opts = nil
		if !six && rapid.Bool().Draw(t, "error options") {
			opts = append(opts, pt.IPOptions(1, 1, 1, 1))
		}
		if six && rapid.Bool().Draw(t, "atomic error") {
			opts = append(opts, pt.Fragment(8, 0, false))
		}
		d.frame = pt.ICMPError(tb, from, d.to, typ, 0, d.frame, opts...)
	}
	d.frame = onCable(d.frame)
	return d
}

func onCable(frame []byte) []byte {
	return packet.AppendEthernet(nil, frame, packet.MAC{2, 1}, packet.MAC{2, 2})
}

// in is the meaning of Endpoints.
func (d *drawn) in(list []packet.Endpoints, at netip.AddrPort) bool {
	for _, e := range list {
		all := e.First == 0 && e.Last == 0
		if e.Addr == at.Addr() && e.Proto == d.proto && (d.later || all || e.First <= at.Port() && at.Port() <= e.Last) {
			return true
		}
	}
	return false
}

// meant is what the documentation of packet.Claim says.
func (d *drawn) meant(c packet.Claim) bool {
	if d.proto != packet.ProtoTCP && d.proto != packet.ProtoUDP {
		echo := slices.ContainsFunc(c.VIPs, func(e packet.Endpoints) bool {
			return e.Addr == d.dst.Addr() && e.Proto == d.proto && (e.Proto == 1) == e.Addr.Is4() && (e.Proto == 58) == e.Addr.Is6()
		})
		return echo && !d.error && (d.ping || d.later)
	}
	own := false
	for _, a := range c.Own {
		own = own || a == d.to
	}
	vip, server := d.dst, d.src
	if d.error {
		vip, server = d.src, d.dst
	}
	return d.in(c.VIPs, vip) || d.in(c.Servers, server) && !own
}

// TestClaim: filter, Taker and documentation agree on random claims and packets; and coarser filters take what is to be taken.
func TestClaim(t *testing.T) {
	taken, seen := 0, 0
	rapid.Check(t, func(r *rapid.T) {
		c := drawClaim(r)
		taker := packet.NewTaker(c)
		var vms []*bpf.VM
		for _, g := range grains {
			vms = append(vms, machine(r, c, g))
		}
		for range 20 {
			d := drawPacket(t, r)
			want := d.meant(c)
			var v packet.View
			if reason := v.ParseEthernet(append([]byte{}, d.frame...)); reason == packet.None {
				seen++
				if got := taker.Takes(&v); got != want {
					r.Fatalf("taker: %t, want %t: %s\n%s", got, want, v.Tuple, hex.Dump(d.frame))
				} else if got {
					taken++
				}
			} else if d.src != d.dst && reason != packet.Land {
				if !d.error { // of some errors the quote is of no use
					r.Fatalf("%s\n%s", reason, hex.Dump(d.frame))
				}
				continue
			}
			for i, vm := range vms {
				got := passes(r, vm, d.frame)
				if want && !got || got && !want && i == 0 && !d.hidden {
					r.Fatalf("filter %d: %t, want %t\n%s", i, got, want, hex.Dump(d.frame))
				}
			}
		}
	})
	if taken < seen/50 {
		t.Errorf("%d of %d packets are taken", taken, seen)
	}
	t.Logf("%d of %d packets are taken", taken, seen)
}

// TestClaimEcho: of ICMP messages echo requests are taken and no others, neighbour discovery least of all, be the filter
// fine or coarse.
func TestClaimEcho(t *testing.T) {
	for _, w := range worlds {
		vip, client := w.addrs[0], w.addrs[len(w.addrs)-1]
		echo := uint8(8)
		if vip.Is6() {
			echo = 128
		}
		for i, g := range grains {
			vm := machine(t, packet.Claim{VIPs: []packet.Endpoints{{Addr: vip, Proto: w.icmp}}}, g)
			for _, typ := range []uint8{0, 5, 8, 13, 128, 129, 130, 133, 134, 135, 136, 137} {
				frame := onCable(pt.Raw(t, w.icmp, client, vip, pt.Payload(append([]byte{typ}, make([]byte, 23)...))))
				if got, want := passes(t, vm, frame), typ == echo; got != want {
					t.Errorf("filter %d: type %d to %s: %t, want %t", i, typ, vip, got, want)
				}
			}
		}
	}
}

// TestCover: ranges that overlap, adjoin or hold each other become pieces in order.
func TestCover(t *testing.T) {
	const miss, hit, top = label(1), label(2), 24
	rapid.Check(t, func(t *rapid.T) {
		var bounds []bound
		for range rapid.IntRange(0, 5).Draw(t, "ranges") {
			bounds = append(bounds, bound{rapid.Uint32Max(top).Draw(t, "first"), rapid.Uint32Max(top).Draw(t, "last")})
		}
		pieces := cover(slices.Clone(bounds), miss, hit)
		for i, p := range pieces[1:] {
			if p.from <= pieces[i].from || p.to == pieces[i].to {
				t.Fatalf("%v became %v", bounds, pieces)
			}
		}
		for x := range uint32(top + 2) {
			want, got := miss, miss
			for _, b := range bounds {
				if b.first <= x && x <= b.last {
					want = hit
				}
			}
			for _, p := range pieces {
				if p.from <= x {
					got = p.to
				}
			}
			if got != want {
				t.Fatalf("%d: %v became %v", x, bounds, pieces)
			}
		}
	})
}

// TestClaimSize: large claims have programs that the kernel takes, and that find every address and no other: their jumps are
// long.
func TestClaimSize(t *testing.T) {
	for _, tt := range []struct {
		addrs, ports int
		six          bool
		grain        int // that has to do
	}{
		{1, 1, false, 0}, {256, 1, false, 0}, {1000, 1, false, 0}, {500, 2, true, 0}, {1, 1000, false, 0}, {100, 1000, false, 1},
		{4000, 1, false, 3}, {4000, 1, true, 2},
	} {
		t.Run(fmt.Sprint(tt), func(t *testing.T) {
			var c packet.Claim
			for i := range tt.addrs {
				a := netip.AddrFrom4([4]byte{10, byte(i >> 7), byte(i << 1), 1}) // no two adjoin
				if tt.six {
					a = netip.AddrFrom16([16]byte{0: 0x20, 1: 1, 9: byte(i >> 7), 10: byte(i << 1)})
				}
				for p := range tt.ports {
					e := packet.Endpoints{Addr: a, Proto: packet.ProtoTCP, First: uint16(80 + 2*p), Last: uint16(80 + 2*p)}
					if i%2 == 0 {
						c.VIPs = append(c.VIPs, e)
					} else {
						c.Servers = append(c.Servers, e)
					}
				}
			}
			vm := machine(t, c, grains[0])
			for _, e := range slices.Concat(c.VIPs, c.Servers) {
				client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), 1)
				if tt.six {
					client = netip.AddrPortFrom(netip.AddrFrom16([16]byte{0: 0x20, 1: 2}), 1)
				}
				for next, want := range []bool{true, false} {
					at := netip.AddrPortFrom(e.Addr, e.First+uint16(next))
					got := passes(t, vm, onCable(pt.TCP(t, client, at))) || passes(t, vm, onCable(pt.TCP(t, at, client)))
					if got != want {
						t.Fatalf("%s: %t, want %t", at, got, want)
					}
				}
			}
			for i, g := range grains {
				n := len(claimFilter(c, g))
				t.Logf("grain %d: %d instructions", i, n)
				if n <= unix.BPF_MAXINSNS && i <= tt.grain {
					tt.grain = -1
				}
			}
			if tt.grain >= 0 {
				t.Errorf("too long for grain %d", tt.grain)
			}
		})
	}
}
