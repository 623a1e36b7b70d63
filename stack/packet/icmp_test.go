package packet_test

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
)

// TestTranslateErrorGolden builds the error as it comes in and as it is to go out with gVisor, and
// wants the same bytes.
func TestTranslateErrorGolden(t *testing.T) {
	type build func(src, dst netip.AddrPort, o ...pt.Option) []byte
	tcp := build(func(s, d netip.AddrPort, o ...pt.Option) []byte { return pt.TCP(t, s, d, o...) })
	udp := build(func(s, d netip.AddrPort, o ...pt.Option) []byte { return pt.UDP(t, s, d, o...) })
	request := build(func(s, d netip.AddrPort, o ...pt.Option) []byte {
		return pt.Echo(t, s.Addr(), d.Addr(), s.Port(), 1, o...)
	})
	reply := build(func(s, d netip.AddrPort, o ...pt.Option) []byte {
		return pt.EchoReply(t, s.Addr(), d.Addr(), d.Port(), 1, o...)
	})
	inside4, inside6 := ap("192.168.0.100:50000"), ap("[fd00::100]:50000")
	router := func(a netip.AddrPort) netip.Addr {
		if a.Addr().Is4() {
			return router4
		}
		return router6
	}
	for _, ends := range []struct {
		name                        string
		src, dst, toSrc, toDst      netip.AddrPort // the direction that the error travels in
		translatesSrc, translateDst bool
	}{
		{"v4 NAT forward", client4, vip4, client4, server4, false, true},
		{"v6 NAT forward", client6, vip6, client6, server6, false, true},
		{"v4 NAT reverse", server4, client4, vip4, client4, true, false},
		{"v6 NAT reverse", server6, client6, vip6, client6, true, false},
		{"v4 full NAT forward", client4, vip4, inside4, server4, true, true},
		{"v6 full NAT forward", client6, vip6, inside6, server6, true, true},
		{"v4 full NAT reverse", server4, inside4, vip4, client4, true, true},
		{"v6 full NAT reverse", server6, inside6, vip6, client6, true, true},
	} {
		for _, tt := range []struct {
			name   string
			proto  uint8
			quoted build
			quote  []pt.Option
			outer  []pt.Option
		}{
			{"TCP", 6, tcp, nil, nil},
			{"TCP, 8 bytes quoted", 6, tcp, nil, []pt.Option{pt.QuoteLen(28)}},
			{"TCP, all but the checksum quoted", 6, tcp, nil, []pt.Option{pt.QuoteLen(36)}},
			{"TCP, checksum just quoted", 6, tcp, nil, []pt.Option{pt.QuoteLen(38)}},
			{"TCP, long", 6, tcp, []pt.Option{pt.PayloadLen(1400), pt.TTL(1)}, []pt.Option{pt.NextMTU(1400)}},
			{"TCP with IPv4 options", 6, tcp, []pt.Option{pt.IPOptions(148, 4, 0, 0)}, nil},
			{"TCP with IPv6 extensions", 6, tcp, []pt.Option{pt.Extension(0), pt.Fragment(1, 0, true), pt.PayloadLen(4)}, nil},
			{"UDP", 17, udp, []pt.Option{pt.PayloadLen(5)}, []pt.Option{pt.TTL(3)}},
			{"UDP without checksum", 17, udp, []pt.Option{pt.NoChecksum()}, nil},
			{"UDP, outer DATA_VALID", 17, udp, nil, []pt.Option{pt.DataValid()}},
			{"echo request", 1, request, nil, nil},
			{"echo reply", 1, reply, nil, nil},
		} {
			t.Run(ends.name+"/"+tt.name, func(t *testing.T) {
				is6 := ends.src.Addr().Is6()
				outer := tt.outer
				if is6 { // the lengths above are for 20 bytes of IPv4 header
					switch tt.name {
					case "TCP, 8 bytes quoted":
						outer = []pt.Option{pt.QuoteLen(48)}
					case "TCP, all but the checksum quoted":
						outer = []pt.Option{pt.QuoteLen(56)}
					case "TCP, checksum just quoted":
						outer = []pt.Option{pt.QuoteLen(58)}
					}
				}
				quoteIn, quoteOut := tt.quoted(ends.dst, ends.src, tt.quote...), tt.quoted(ends.toDst, ends.toSrc, tt.quote...)
				from := parse(t, bytes.Clone(quoteIn)).Tuple.Reverse()
				to := parse(t, bytes.Clone(quoteOut)).Tuple.Reverse()
				// An error from a router on the way, and one from the end itself.
				for _, self := range []bool{false, true} {
					src, toSrc := router(ends.src), router(ends.src)
					if self {
						src = ends.src.Addr()
					}
					if self || ends.translatesSrc {
						toSrc = ends.toSrc.Addr()
					}
					v := parse(t, pt.Unreachable(t, src, ends.dst.Addr(), quoteIn, outer...))
					want := pt.Unreachable(t, toSrc, ends.toDst.Addr(), quoteOut, outer...)
					clear(want[:packet.VnetLen])
					edit := packet.NewEdit(from, to)
					v.TranslateError(&edit)
					same(t, v.Frame, want)
					if again := parse(t, bytes.Clone(v.Frame)); again.Quote != v.Quote || again.Tuple != v.Tuple || v.Quote != to.Reverse() {
						t.Errorf("View says %v quoting %v, the frame %v quoting %v", v.Tuple, v.Quote, again.Tuple, again.Quote)
					}
				}
			})
		}
	}
}

// TestTranslateErrorClearsNeedsCsum: the outer checksum is full afterwards, whatever it was.
func TestTranslateErrorClearsNeedsCsum(t *testing.T) {
	for _, ends := range [][3]netip.AddrPort{{client4, vip4, server4}, {client6, vip6, server6}} {
		edit := packet.NewEdit(packet.TupleOf(6, ends[0], ends[1]), packet.TupleOf(6, ends[0], ends[2]))
		v := parse(t, pt.Unreachable(t, ends[0].Addr(), ends[1].Addr(), pt.TCP(t, ends[1], ends[0]), pt.PartialChecksum()))
		v.TranslateError(&edit)
		pt.Check(t, v.Frame, pt.HasVnet(packet.Vnet{}), pt.ValidChecksums(), pt.Quoted(pt.SrcDst(ends[2], ends[0]), pt.ValidChecksums()))
	}
}

func TestAppendError(t *testing.T) {
	lb4, lb6 := netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8::1")
	for _, tt := range []struct {
		name        string
		kind        packet.ErrorKind
		typ4, code4 uint8
		typ6, code6 uint8
		mtu4, mtu6  uint32
	}{
		{"port unreachable", packet.PortUnreachable, 3, 3, 1, 4, 0, 0},
		{"host unreachable", packet.HostUnreachable, 3, 1, 1, 3, 0, 0},
		{"net unreachable", packet.NetUnreachable, 3, 0, 1, 0, 0, 0},
		{"administratively prohibited", packet.AdminProhibited, 3, 13, 1, 1, 0, 0},
		{"time exceeded", packet.TimeExceeded, 11, 0, 3, 0, 0, 0},
		{"fragmentation needed", packet.FragmentationNeeded, 3, 4, 2, 0, 1400, 1400},
		{"reassembly time exceeded", packet.ReassemblyTimeExceeded, 11, 1, 3, 1, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dst := make([]byte, 3, 2000)
			e := packet.AppendError(dst, parse(t, pt.UDP(t, client4, vip4, pt.PayloadLen(32))), tt.kind, lb4.As16(), 1400)
			pt.Check(t, e[3:], pt.SrcDst(netip.AddrPortFrom(lb4, 0), netip.AddrPortFrom(client4.Addr(), 0)), pt.HasICMP(tt.typ4, tt.code4), pt.HasMTU(tt.mtu4),
				pt.HasTTL(64), pt.HasTOS(0xc0), pt.ValidChecksums(), pt.HasVnet(packet.Vnet{}), pt.Quoted(pt.SrcDst(client4, vip4), pt.ValidChecksums()))
			e = packet.AppendError(nil, parse(t, pt.UDP(t, client6, vip6, pt.PayloadLen(32))), tt.kind, lb6.As16(), 1400)
			pt.Check(t, e, pt.SrcDst(netip.AddrPortFrom(lb6, 0), netip.AddrPortFrom(client6.Addr(), 0)), pt.HasICMP(tt.typ6, tt.code6), pt.HasMTU(tt.mtu6),
				pt.HasTTL(64), pt.HasTOS(0), pt.ValidChecksums(), pt.HasVnet(packet.Vnet{}), pt.Quoted(pt.SrcDst(client6, vip6), pt.ValidChecksums()))
		})
	}
}

// TestAppendErrorQuote: the quote is the packet as it is, cut to what the RFCs allow; of a super-packet
// it is the first segment.
func TestAppendErrorQuote(t *testing.T) {
	for _, tt := range []struct {
		name  string
		frame []byte
		limit int
		first []byte // what is quoted; nil: frame itself
	}{
		{"v4 long", pt.TCP(t, client4, vip4, pt.PayloadLen(1400)), 576, nil},
		{"v6 long", pt.TCP(t, client6, vip6, pt.PayloadLen(1400)), 1280, nil},
		{"v4 partial", pt.TCP(t, client4, vip4, pt.PartialChecksum()), 576, nil},
		{"v4 TSO", pt.TCP(t, client4, vip4, pt.PayloadLen(9000), pt.GSO(1448)), 576, pt.TCP(t, client4, vip4, pt.PayloadLen(1448), pt.PartialChecksum())},
		{"v6 TSO", pt.TCP(t, client6, vip6, pt.PayloadLen(9000), pt.GSO(1428)), 1280, pt.TCP(t, client6, vip6, pt.PayloadLen(1428), pt.PartialChecksum())},
		{"v4 USO, short segments", pt.UDP(t, client4, vip4, pt.PayloadLen(900), pt.GSO(90)), 576, pt.UDP(t, client4, vip4, pt.PayloadLen(90), pt.PartialChecksum())},
		{"v6 USO, short segments", pt.UDP(t, client6, vip6, pt.PayloadLen(900), pt.GSO(90)), 1280, pt.UDP(t, client6, vip6, pt.PayloadLen(90), pt.PartialChecksum())},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := parse(t, bytes.Clone(tt.frame))
			src := v.Tuple.Dst
			e := packet.AppendError(nil, v, packet.TimeExceeded, src, 0)
			same(t, v.Frame, tt.frame)
			want := tt.first
			if want == nil {
				want = tt.frame
			}
			want = bytes.Clone(want[packet.VnetLen:])
			hdr := v.Payload - v.L4
			l3 := v.L4 - v.L3
			quote := e[v.L3+map[bool]int{false: 28, true: 48}[v.Is6]:]
			if tt.first != nil { // the super-packet's own partial sum is quoted as it stands
				at := l3 + map[int]int{20: 16, 8: 6}[hdr]
				copy(want[at:at+2], tt.frame[packet.VnetLen+at:])
			}
			if got := len(e) - packet.VnetLen; got > tt.limit || got < tt.limit && len(quote) != len(want) {
				t.Errorf("error has %d bytes, quotes %d of %d, limit %d", got, len(quote), len(want), tt.limit)
			}
			same(t, quote, want[:len(quote)])
			pt.Check(t, e, pt.ValidChecksums())
		})
	}
}

func TestAppendErrorForbidden(t *testing.T) {
	lb4, lb6 := netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8::1")
	back4, back6 := pt.TCP(t, vip4, client4), pt.TCP(t, vip6, client6)
	for _, tt := range []struct {
		name  string
		frame []byte
		kind  packet.ErrorKind
		src   netip.Addr
		want  bool
	}{
		{"v4 echo", pt.Echo(t, client4.Addr(), vip4.Addr(), 1, 1), packet.TimeExceeded, lb4, true},
		{"v6 echo", pt.Echo(t, client6.Addr(), vip6.Addr(), 1, 1), packet.TimeExceeded, lb6, true},
		{"v4 error", pt.Unreachable(t, router4, vip4.Addr(), back4), packet.TimeExceeded, lb4, false},
		{"v6 error", pt.Unreachable(t, router6, vip6.Addr(), back6), packet.TimeExceeded, lb6, false},
		{"v4 redirect", pt.ICMPError(t, router4, vip4.Addr(), 5, 0, back4), packet.TimeExceeded, lb4, false},
		{"v6 redirect", pt.ICMPError(t, router6, vip6.Addr(), 137, 0, back6), packet.TimeExceeded, lb6, false},
		{"v6 unknown error type", pt.ICMPError(t, router6, vip6.Addr(), 99, 0, back6), packet.TimeExceeded, lb6, false},
		{"v4 first fragment", pt.UDP(t, client4, vip4, pt.Fragment(1, 0, true)), packet.ReassemblyTimeExceeded, lb4, true},
		{"v6 first fragment", pt.UDP(t, client6, vip6, pt.Fragment(1, 0, true)), packet.ReassemblyTimeExceeded, lb6, true},
		{"v4 later fragment", pt.UDP(t, client4, vip4, pt.Fragment(1, 8, true), pt.PayloadLen(8)), packet.TimeExceeded, lb4, false},
		{"v6 later fragment", pt.UDP(t, client6, vip6, pt.Fragment(1, 8, true), pt.PayloadLen(8)), packet.TimeExceeded, lb6, false},
		{"v4 multicast", pt.UDP(t, client4, ap("224.0.1.1:1")), packet.PortUnreachable, lb4, false},
		{"v6 multicast", pt.UDP(t, client6, ap("[ff05::1]:1")), packet.PortUnreachable, lb6, false},
		{"v4 multicast too big", pt.UDP(t, client4, ap("224.0.1.1:1")), packet.FragmentationNeeded, lb4, false},
		{"v6 multicast too big", pt.UDP(t, client6, ap("[ff05::1]:1")), packet.FragmentationNeeded, lb6, true},
		{"v4 broadcast", pt.UDP(t, client4, ap("255.255.255.255:1")), packet.PortUnreachable, lb4, false},
		{"v4 reserved source", pt.UDP(t, ap("240.0.0.1:1"), vip4), packet.PortUnreachable, lb4, false},
		{"v4 from v6", pt.UDP(t, client4, vip4), packet.PortUnreachable, lb6, false},
		{"v6 from v4", pt.UDP(t, client6, vip6), packet.PortUnreachable, lb4, false},
		{"no such kind", pt.UDP(t, client4, vip4), 99, lb4, false},
	} {
		if got := packet.AppendError(nil, parse(t, tt.frame), tt.kind, tt.src.As16(), 1400) != nil; got != tt.want {
			t.Errorf("%s: got an error: %v, want %v", tt.name, got, tt.want)
		}
	}
}
