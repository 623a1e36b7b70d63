package packet_test

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"testing"

	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
)

// patch overwrites bytes of a built packet (not frame) at an offset.
func patch(frame []byte, at int, b ...byte) []byte {
	copy(frame[packet.VnetLen+at:], b)
	return frame
}

// resum makes the IPv4 header checksum right again after a patch.
func resum(frame []byte) []byte {
	ip := frame[packet.VnetLen:]
	ip[10], ip[11] = 0, 0
	var s uint32
	for i := 0; i < int(ip[0]&15)*4; i += 2 {
		s += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(s))
	return frame
}

func cut(frame []byte, n int) []byte { return frame[:packet.VnetLen+n] }

func TestParseReasons(t *testing.T) {
	addr := netip.MustParseAddr
	tcp := func(src, dst netip.AddrPort, o ...pt.Option) []byte { return pt.TCP(t, src, dst, o...) }
	udp := func(src, dst netip.AddrPort, o ...pt.Option) []byte { return pt.UDP(t, src, dst, o...) }
	tcp4 := func(o ...pt.Option) []byte { return tcp(client4, vip4, o...) }
	tcp6 := func(o ...pt.Option) []byte { return tcp(client6, vip6, o...) }
	udp4 := func(o ...pt.Option) []byte { return udp(client4, vip4, o...) }
	udp6 := func(o ...pt.Option) []byte { return udp(client6, vip6, o...) }
	back4, back6 := pt.TCP(t, vip4, client4), pt.TCP(t, vip6, client6)
	err4 := func(typ uint8, quoted []byte, o ...pt.Option) []byte {
		return pt.ICMPError(t, router4, vip4.Addr(), typ, 0, quoted, o...)
	}
	err6 := func(typ uint8, quoted []byte, o ...pt.Option) []byte {
		return pt.ICMPError(t, router6, vip6.Addr(), typ, 0, quoted, o...)
	}
	raw4 := func(proto uint8, o ...pt.Option) []byte { return pt.Raw(t, proto, client4.Addr(), vip4.Addr(), o...) }
	raw6 := func(proto uint8, o ...pt.Option) []byte { return pt.Raw(t, proto, client6.Addr(), vip6.Addr(), o...) }
	vnet := func(h packet.Vnet) pt.Option { return pt.Vnet(h) }
	ext := func(n int, proto uint8) (o []pt.Option) {
		for range n {
			o = append(o, pt.Extension(proto))
		}
		return o
	}
	const all = 0x3f
	for _, tt := range []struct {
		name  string
		frame []byte
		want  packet.Reason
	}{
		{"nil", nil, packet.Truncated},
		{"vnet only", make([]byte, packet.VnetLen), packet.Truncated},
		{"v4 header cut", cut(tcp4(), 19), packet.Truncated},
		{"v6 header cut", cut(tcp6(), 39), packet.Truncated},
		{"v4 packet cut", cut(tcp4(), 39), packet.Truncated},
		{"v6 packet cut", cut(tcp6(), 59), packet.Truncated},
		{"version 5", patch(tcp4(), 0, 0x55), packet.BadVersion},
		{"version 0", patch(tcp6(), 0, 0x00), packet.BadVersion},
		{"v4 ihl 4", resum(patch(tcp4(), 0, 0x44)), packet.BadLength},
		{"v4 total length below header", resum(patch(tcp4(), 2, 0, 19)), packet.BadLength},
		{"v4 total length 0 (big TCP)", resum(patch(tcp4(), 2, 0, 0)), packet.BadLength},
		{"v4 ihl beyond total length", patch(tcp4(), 0, 0x4f), packet.BadLength},
		{"v6 longer than a buffer", append(patch(tcp6(), 4, 0xff, 0xff), make([]byte, 65535)...), packet.BadLength},
		{"v6 payload length 0 (big TCP)", patch(tcp6(), 4, 0, 0), packet.BadTransport},
		{"v4 header checksum", tcp4(pt.BadHeaderChecksum()), packet.BadHeaderChecksum},
		{"v4 header checksum with options", tcp4(pt.IPOptions(1, 1, 1, 1), pt.BadHeaderChecksum()), packet.BadHeaderChecksum},
		{"v4 option length 0", tcp4(pt.IPOptions(7, 0)), packet.BadOptions},
		{"v4 option too long", tcp4(pt.IPOptions(7, 5)), packet.BadOptions},
		{"v4 option cut", tcp4(pt.IPOptions(1, 1, 1, 7)), packet.BadOptions},
		{"v4 loose source route", tcp4(pt.IPOptions(131, 7, 4, 10, 0, 0, 1)), packet.SourceRoute},
		{"v4 strict source route after nop", tcp4(pt.IPOptions(1, 137, 7, 4, 10, 0, 0, 1)), packet.SourceRoute},
		{"v4 router alert", tcp4(pt.IPOptions(148, 4, 0, 0)), packet.None},
		{"v4 option after end", tcp4(pt.IPOptions(0, 131, 7, 4)), packet.None},
		{"v6 routing type 0", tcp6(pt.Extension(43, 0, 1)), packet.SourceRoute},
		{"v6 routing type 0, none left", tcp6(pt.Extension(43, 0, 0)), packet.SourceRoute},
		{"v6 routing type 4, some left", tcp6(pt.Extension(43, 4, 1)), packet.SourceRoute},
		{"v6 routing type 4, none left", tcp6(pt.Extension(43, 4, 0)), packet.None},
		{"v6 hop-by-hop first", tcp6(pt.Extension(0), pt.Extension(60)), packet.None},
		{"v6 hop-by-hop second", tcp6(pt.Extension(60), pt.Extension(0)), packet.BadExtension},
		{"v6 8 extensions", tcp6(ext(8, 60)...), packet.None},
		{"v6 9 extensions", tcp6(ext(9, 60)...), packet.BadExtension},
		{"v6 extension cut", raw6(60, pt.PayloadLen(7)), packet.BadExtension},
		{"v6 extension too long", raw6(60, pt.Payload([]byte{6, 1, 0, 0, 0, 0, 0, 0})), packet.BadExtension},
		{"v6 fragment header twice", tcp6(pt.Extension(44, 0, 1, 0, 0, 0, 1), pt.Fragment(1, 0, true), pt.PayloadLen(12)), packet.BadExtension},

		{"v4 land", tcp(vip4, vip4), packet.Land},
		{"v6 land", tcp(vip6, vip6), packet.Land},
		{"v4 land, UDP", udp(vip4, vip4), packet.Land},
		{"v6 land, UDP", udp(vip6, vip6), packet.Land},
		{"v4 land, other port", tcp(ap("203.0.113.22:81"), vip4), packet.None},
		{"v4 land, later fragment", udp(vip4, vip4, pt.Fragment(1, 8, false), pt.PayloadLen(8)), packet.None},
		{"v4 unspecified source", tcp(ap("0.0.0.0:1"), vip4), packet.MartianSource},
		{"v6 unspecified source", tcp(ap("[::]:1"), vip6), packet.MartianSource},
		{"v4 loopback source", tcp(ap("127.1.2.3:1"), vip4), packet.MartianSource},
		{"v6 loopback source", tcp(ap("[::1]:1"), vip6), packet.MartianSource},
		{"v4 multicast source", tcp(ap("239.0.0.1:1"), vip4), packet.MartianSource},
		{"v6 multicast source", tcp(ap("[ff0e::1]:1"), vip6), packet.MartianSource},
		{"v4 link-local source", tcp(ap("169.254.1.1:1"), vip4), packet.LinkLocal},
		{"v6 link-local source", tcp(ap("[fe80::1]:1"), vip6), packet.LinkLocal},
		{"v4 link-local destination", tcp(client4, ap("169.254.1.1:1")), packet.LinkLocal},
		{"v6 link-local destination", tcp(client6, ap("[febf::1]:1")), packet.LinkLocal},
		{"v4 group of the link", udp(client4, ap("224.0.0.251:5353")), packet.LinkLocal},
		{"v6 group of the link", udp(client6, ap("[ff02::fb]:5353")), packet.LinkLocal},
		{"v6 group report without an address", udp(ap("[::]:1"), ap("[ff02::16]:1")), packet.LinkLocal},
		{"v4 group beyond the link", udp(client4, ap("224.0.1.1:123")), packet.None},
		{"v6 group beyond the link", udp(client6, ap("[ff05::101]:123")), packet.None},
		{"v4 broadcast source", tcp(ap("255.255.255.255:1"), vip4), packet.MartianSource},
		{"v6 mapped source", patch(tcp6(), 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 1, 2, 3, 4), packet.MartianSource},
		{"v4 unspecified destination", tcp(client4, ap("0.0.0.0:1")), packet.MartianDestination},
		{"v6 unspecified destination", tcp(client6, ap("[::]:1")), packet.MartianDestination},
		{"v4 loopback destination", tcp(client4, ap("127.0.0.1:1")), packet.MartianDestination},
		{"v6 loopback destination", tcp(client6, ap("[::1]:1")), packet.MartianDestination},
		{"v6 mapped destination", patch(tcp6(), 24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 1, 2, 3, 4), packet.MartianDestination},
		{"v4 multicast destination", udp(client4, ap("224.0.1.1:1")), packet.None},
		{"v6 multicast destination", udp(client6, ap("[ff05::1]:1")), packet.None},

		{"v4 first fragment without whole TCP header", raw4(6, pt.Fragment(1, 0, true), pt.PayloadLen(16)), packet.TinyFragment},
		{"v6 first fragment without whole TCP header", raw6(6, pt.Fragment(1, 0, true), pt.PayloadLen(16)), packet.TinyFragment},
		{"v4 first fragment without TCP options", cutFragment(tcp4(pt.TCPOptions(make([]byte, 12)...), pt.Fragment(1, 0, true)), 4, 24), packet.TinyFragment},
		{"v6 first fragment without TCP options", cutFragment(tcp6(pt.TCPOptions(make([]byte, 12)...), pt.Fragment(1, 0, true)), 6, 24), packet.TinyFragment},
		{"v6 first fragment without whole chain", raw6(60, pt.Fragment(1, 0, true), pt.Payload([]byte{6, 1, 0, 0, 0, 0, 0, 0})), packet.TinyFragment},
		{"v4 TCP fragment at 8", raw4(6, pt.Fragment(1, 8, true), pt.PayloadLen(16)), packet.TinyFragment},
		{"v6 TCP fragment at 8", raw6(6, pt.Fragment(1, 8, true), pt.PayloadLen(16)), packet.TinyFragment},
		{"v4 TCP fragment at 16", raw4(6, pt.Fragment(1, 16, true), pt.PayloadLen(16)), packet.None},
		{"v6 TCP fragment at 16", raw6(6, pt.Fragment(1, 16, true), pt.PayloadLen(16)), packet.None},
		{"v4 UDP fragment at 8", raw4(17, pt.Fragment(1, 8, true), pt.PayloadLen(16)), packet.None},
		{"v4 fragment beyond 65535", raw4(17, pt.Fragment(1, 65512, false), pt.PayloadLen(16)), packet.BadLength},
		{"v6 fragment beyond 65535", raw6(17, pt.Fragment(1, 65528, false), pt.PayloadLen(8)), packet.BadLength},
		{"v4 fragment up to 65535", raw4(17, pt.Fragment(1, 65504, false), pt.PayloadLen(11)), packet.None},
		{"v6 fragment up to 65535", raw6(17, pt.Fragment(1, 65528, false), pt.PayloadLen(7)), packet.None},
		{"v4 fragment not in eights", raw4(17, pt.Fragment(1, 8, true), pt.PayloadLen(9)), packet.BadLength},
		{"v6 fragment not in eights", raw6(17, pt.Fragment(1, 8, true), pt.PayloadLen(9)), packet.BadLength},
		{"v4 empty fragment", raw4(17, pt.Fragment(1, 8, false)), packet.BadLength},
		{"v6 empty fragment", raw6(17, pt.Fragment(1, 8, false)), packet.BadLength},
		{"v6 atomic fragment", tcp6(pt.Fragment(1, 0, false)), packet.None},
		{"v4 first UDP fragment", pt.Fragments(t, udp4(pt.PayloadLen(3000)), 1500, 1)[0], packet.None},
		{"v6 first UDP fragment", pt.Fragments(t, udp6(pt.PayloadLen(3000)), 1500, 1)[0], packet.None},

		{"v4 no flags", tcp4(pt.Flags(0)), packet.BadTCPFlags},
		{"v6 no flags", tcp6(pt.Flags(0)), packet.BadTCPFlags},
		{"v4 ECE+CWR only", tcp4(pt.Flags(packet.TCPEce | packet.TCPCwr)), packet.BadTCPFlags},
		{"v4 SYN+FIN", tcp4(pt.Flags(packet.TCPSyn | packet.TCPFin)), packet.BadTCPFlags},
		{"v6 SYN+RST", tcp6(pt.Flags(packet.TCPSyn | packet.TCPRst)), packet.BadTCPFlags},
		{"v4 all flags", tcp4(pt.Flags(all)), packet.BadTCPFlags},
		{"v4 SYN+ECE+CWR", tcp4(pt.Flags(packet.TCPSyn | packet.TCPEce | packet.TCPCwr)), packet.None},
		{"v4 FIN alone", tcp4(pt.Flags(packet.TCPFin)), packet.None},
		{"v4 RST alone", tcp4(pt.Flags(packet.TCPRst)), packet.None},

		{"v4 TCP header cut", raw4(6, pt.PayloadLen(19)), packet.BadTransport},
		{"v6 TCP header cut", raw6(6, pt.PayloadLen(19)), packet.BadTransport},
		{"v4 TCP data offset 4", patch(tcp4(), 32, 0x40), packet.BadTransport},
		{"v6 TCP data offset 4", patch(tcp6(), 52, 0x40), packet.BadTransport},
		{"v4 TCP data offset beyond", patch(tcp4(), 32, 0x60), packet.BadTransport},
		{"v4 UDP header cut", raw4(17, pt.PayloadLen(7)), packet.BadTransport},
		{"v6 UDP header cut", raw6(17, pt.PayloadLen(7)), packet.BadTransport},
		{"v4 UDP length 7", patch(udp4(), 24, 0, 7), packet.BadTransport},
		{"v4 UDP length beyond", patch(udp4(), 24, 0, 9), packet.BadTransport},
		{"v6 UDP length beyond", patch(udp6(), 44, 0, 9), packet.BadTransport},
		{"v4 ICMP cut", raw4(1, pt.PayloadLen(7)), packet.BadTransport},
		{"v6 ICMP cut", raw6(58, pt.PayloadLen(7)), packet.BadTransport},
		{"v4 GRE", raw4(47, pt.PayloadLen(1)), packet.None},
		{"v6 no next header", raw6(59), packet.None},
		{"v6 with ICMPv4", raw6(1, pt.PayloadLen(1)), packet.None},

		{"v4 unreachable", err4(3, back4), packet.None},
		{"v6 unreachable", err6(1, back6), packet.None},
		{"v4 quote of 8 bytes", err4(11, back4, pt.QuoteLen(28)), packet.None},
		{"v6 quote of 8 bytes", err6(3, back6, pt.QuoteLen(48)), packet.None},
		{"v4 quote of 7 bytes", err4(11, back4, pt.QuoteLen(27)), packet.BadICMP},
		{"v6 quote of 7 bytes", err6(3, back6, pt.QuoteLen(47)), packet.BadICMP},
		{"v4 quote without header", err4(3, back4, pt.QuoteLen(19)), packet.BadICMP},
		{"v6 quote without header", err6(1, back6, pt.QuoteLen(39)), packet.BadICMP},
		{"v4 quotes v6", err4(3, back6), packet.BadICMP},
		{"v6 quotes v4", err6(1, back4, pt.QuoteLen(40)), packet.BadICMP},
		{"v4 wrong checksum", err4(3, back4, pt.BadChecksum()), packet.BadICMP},
		{"v6 wrong checksum", err6(1, back6, pt.BadChecksum()), packet.BadICMP},
		{"v4 wrong checksum, DATA_VALID", err4(3, back4, pt.BadChecksum(), pt.DataValid()), packet.None},
		{"v6 error with NEEDS_CSUM", err6(1, back6, pt.PartialChecksum()), packet.None},
		{"v4 quotes a later fragment", err4(3, raw4(17, pt.Fragment(1, 8, false), pt.PayloadLen(8))), packet.BadICMP},
		{"v6 quotes a later fragment", err6(1, raw6(17, pt.Fragment(1, 8, false), pt.PayloadLen(8))), packet.BadICMP},
		{"v4 quotes a first fragment", err4(3, udp4(pt.Fragment(1, 0, true))), packet.None},
		{"v6 quotes a first fragment", err6(1, udp6(pt.Fragment(1, 0, true))), packet.None},
		{"v4 quotes an error", err4(3, err4(3, back4)), packet.BadICMP},
		{"v6 quotes an error", err6(1, err6(1, back6)), packet.BadICMP},
		{"v4 quotes GRE", err4(3, raw4(47)), packet.None},
		{"v6 quotes extensions", err6(1, udp6(ext(8, 60)...)), packet.None},
		{"v6 quotes too many extensions", err6(1, udp6(ext(9, 60)...)), packet.BadICMP},
		{"v4 source quench", err4(4, back4), packet.BadICMP},
		{"v4 error in fragments", err4(3, back4, pt.Fragment(1, 0, true), pt.QuoteLen(32)), packet.BadICMP},
		{"v6 error in fragments", err6(1, back6, pt.Fragment(1, 0, true), pt.QuoteLen(48)), packet.BadICMP},
		{"v4 redirect", err4(5, back4), packet.None},
		{"v6 packet of ICMPv6 type 137", err6(137, back6), packet.None},
		{"v6 quotes a mapped address", err6(1, patch(pt.TCP(t, vip6, client6), 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff)), packet.BadICMP},

		{"v4 partial", tcp4(pt.PartialChecksum()), packet.None},
		{"v6 partial", tcp6(pt.PartialChecksum()), packet.None},
		{"v4 DATA_VALID", tcp4(pt.DataValid()), packet.None},
		{"v4 csum_start off", tcp4(vnet(packet.Vnet{Flags: 1, CsumStart: 22, CsumOffset: 16})), packet.BadVnet},
		{"v6 csum_start off", tcp6(vnet(packet.Vnet{Flags: 1, CsumStart: 20, CsumOffset: 16})), packet.BadVnet},
		{"v4 csum_offset of UDP", tcp4(vnet(packet.Vnet{Flags: 1, CsumStart: 20, CsumOffset: 6})), packet.BadVnet},
		{"v4 csum_start beyond", raw4(47, pt.PayloadLen(4), vnet(packet.Vnet{Flags: 1, CsumStart: 20, CsumOffset: 3})), packet.BadVnet},
		{"v4 csum_start in an unknown protocol", raw4(47, pt.PayloadLen(4), vnet(packet.Vnet{Flags: 1, CsumStart: 20, CsumOffset: 2})), packet.None},
		{"v4 csum_start in the header", raw4(47, pt.PayloadLen(4), vnet(packet.Vnet{Flags: 1, CsumStart: 10})), packet.BadVnet},
		{"v4 partial fragment", udp4(pt.Fragment(1, 0, true), pt.PartialChecksum()), packet.BadVnet},
		{"v6 partial fragment", udp6(pt.Fragment(1, 0, true), pt.PartialChecksum()), packet.BadVnet},
		{"v4 partial UDP with slack", patch(udp4(pt.PartialChecksum(), pt.PayloadLen(4)), 24, 0, 11), packet.BadVnet},
		{"v4 TSO", tcp4(pt.PayloadLen(3000), pt.GSO(1448)), packet.None},
		{"v6 TSO", tcp6(pt.PayloadLen(3000), pt.GSO(1428)), packet.None},
		{"v4 USO", udp4(pt.PayloadLen(3000), pt.GSO(1448)), packet.None},
		{"v6 USO", udp6(pt.PayloadLen(3000), pt.GSO(1428)), packet.None},
		{"v4 TSO with ECN", tcp4(vnet(packet.Vnet{Flags: 1, GSOType: 0x81, HdrLen: 40, GSOSize: 9, CsumStart: 20, CsumOffset: 16})), packet.None},
		{"v4 gso_size 0", tcp4(vnet(packet.Vnet{Flags: 1, GSOType: 1, HdrLen: 40, CsumStart: 20, CsumOffset: 16})), packet.BadVnet},
		{"v6 gso_size 0", tcp6(vnet(packet.Vnet{Flags: 1, GSOType: 4, HdrLen: 60, CsumStart: 40, CsumOffset: 16})), packet.BadVnet},
		{"v4 TSO of v6", tcp4(vnet(packet.Vnet{Flags: 1, GSOType: 4, HdrLen: 40, GSOSize: 9, CsumStart: 20, CsumOffset: 16})), packet.BadVnet},
		{"v6 TSO of v4", tcp6(vnet(packet.Vnet{Flags: 1, GSOType: 1, HdrLen: 60, GSOSize: 9, CsumStart: 40, CsumOffset: 16})), packet.BadVnet},
		{"v4 TSO of UDP", udp4(vnet(packet.Vnet{Flags: 1, GSOType: 1, HdrLen: 28, GSOSize: 9, CsumStart: 20, CsumOffset: 6})), packet.BadVnet},
		{"v4 USO of TCP", tcp4(vnet(packet.Vnet{Flags: 1, GSOType: 5, HdrLen: 40, GSOSize: 9, CsumStart: 20, CsumOffset: 16})), packet.BadVnet},
		{"v4 UFO", udp4(vnet(packet.Vnet{Flags: 1, GSOType: 3, HdrLen: 28, GSOSize: 9, CsumStart: 20, CsumOffset: 6})), packet.BadVnet},
		{"v4 TSO without NEEDS_CSUM", tcp4(vnet(packet.Vnet{GSOType: 1, HdrLen: 40, GSOSize: 9})), packet.BadVnet},
		{"v4 USO without NEEDS_CSUM", udp4(vnet(packet.Vnet{GSOType: 5, HdrLen: 28, GSOSize: 9})), packet.BadVnet},
		{"v4 echo with NEEDS_CSUM", pt.Echo(t, client4.Addr(), vip4.Addr(), 1, 1, pt.PartialChecksum()), packet.None},
		{"v6 link-local echo", pt.Echo(t, addr("fe80::1"), addr("fe80::2"), 1, 1), packet.LinkLocal},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var v packet.View
			if got := v.Parse(tt.frame); got != tt.want {
				t.Errorf("got %v, want %v\n%s", got, tt.want, hex.Dump(tt.frame[:min(len(tt.frame), 128)]))
			}
		})
	}
}

// cutFragment shortens a built fragment to n bytes of transport.
func cutFragment(frame []byte, version, n int) []byte {
	if version == 4 {
		frame = cut(frame, 20+n)
		return resum(patch(frame, 2, 0, byte(20+n)))
	}
	frame = cut(frame, 48+n)
	return patch(frame, 4, 0, byte(8+n))
}

// TestParseResets parses a frame that sets every flag and then a plain one with the same View.
func TestParseResets(t *testing.T) {
	plain := pt.TCP(t, client4, vip4, pt.PayloadLen(9))
	want := parse(t, plain)
	for _, before := range [][]byte{
		pt.Raw(t, 17, client6.Addr(), vip6.Addr(), pt.Fragment(9, 16, true), pt.PayloadLen(16)),
		pt.TCP(t, client6, vip6, pt.GSO(10), pt.PayloadLen(100), pt.TOS(9)),
		pt.Unreachable(t, router4, vip4.Addr(), pt.UDP(t, vip4, client4)),
		nil,
	} {
		v := new(packet.View)
		v.Parse(before)
		if r := v.Parse(plain); r != packet.None {
			t.Fatal(r)
		}
		if v.Tuple != want.Tuple || v.Vnet != want.Vnet || v.Fragment || v.FragMore || v.FragOffset != 0 || v.ICMPError || v.Is6 ||
			v.L4 != want.L4 || v.Payload != want.Payload || v.TOS != 0 || v.DontFragment {
			t.Errorf("after another frame: got %+v, want %+v", v, want)
		}
	}
}

func TestParseFields(t *testing.T) {
	v := parse(t, append(pt.TCP(t, client6, vip6, pt.Extension(0), pt.Flags(packet.TCPSyn|packet.TCPEce), pt.Seq(7), pt.Ack(8), pt.TTL(9),
		pt.TOS(0xb8), pt.TCPOptions(2, 4, 5, 0xb4), pt.PayloadLen(3)), "padding"...))
	if v.Tuple != packet.TupleOf(6, client6, vip6) || v.L3 != 10 || v.L4 != 58 || v.Payload != 82 || len(v.Frame) != 85 || !v.Is6 || !v.DontFragment ||
		v.TTL != 9 || v.TOS != 0xb8 || v.Seq != 7 || v.Ack != 8 || v.TCPFlags != packet.TCPSyn|packet.TCPEce || v.Fragment ||
		v.PacketLen() != 75 || v.SegmentLen() != 75 || v.Segments() != 1 {
		t.Errorf("IPv6 SYN: %+v", v)
	}
	v = parse(t, pt.Raw(t, 17, client4.Addr(), vip4.Addr(), pt.Fragment(0xabcd, 1480, true), pt.PayloadLen(16), pt.TOS(0xb8)))
	if v.Tuple.SrcPort != 0 || v.Tuple.DstPort != 0 || !v.Fragment || !v.FragMore || v.FragOffset != 1480 || v.FragID != 0xabcd || v.Payload != v.L4 || v.TOS != 0xb8 {
		t.Errorf("IPv4 later fragment: %+v", v)
	}
	v = parse(t, pt.UDP(t, client6, vip6, pt.Fragment(0xabcdef01, 0, true)))
	if v.Tuple != packet.TupleOf(17, client6, vip6) || !v.Fragment || !v.FragMore || v.FragID != 0xabcdef01 {
		t.Errorf("IPv6 first fragment: %+v", v)
	}
	v = parse(t, pt.TCP(t, client6, vip6, pt.Fragment(1, 0, false)))
	if v.Fragment || v.Tuple != packet.TupleOf(6, client6, vip6) {
		t.Errorf("IPv6 atomic fragment: %+v", v)
	}
	if v = parse(t, pt.TCP(t, client4, vip4, pt.DontFragment())); !v.DontFragment {
		t.Errorf("IPv4 DF: %+v", v)
	}
	v = parse(t, pt.EchoReply(t, client4.Addr(), vip4.Addr(), 77, 1))
	if v.Tuple.SrcPort != 0 || v.Tuple.DstPort != 77 {
		t.Errorf("echo reply: %v", v.Tuple)
	}
	v = parse(t, pt.ICMPError(t, router6, vip6.Addr(), 3, 1, pt.EchoReply(t, vip6.Addr(), client6.Addr(), 77, 1, pt.Fragment(1, 0, true))))
	if want := packet.TupleOf(58, netip.AddrPortFrom(vip6.Addr(), 0), netip.AddrPortFrom(client6.Addr(), 77)); !v.ICMPError || v.Quote != want ||
		v.QuoteL3 != 58 || v.QuoteL4 != 106 || v.ICMPType != 3 || v.ICMPCode != 1 {
		t.Errorf("ICMPv6 error: %+v", v)
	}
}

// TestSuperPacketLengths has payload, gso_size, segments, length of the largest.
func TestSuperPacketLengths(t *testing.T) {
	for _, tt := range []struct{ payload, size, segments, longest int }{
		{3000, 1448, 3, 1488},
		{2896, 1448, 2, 1488},
		{1448, 1448, 1, 1488},
		{100, 1448, 1, 140},
		{0, 1448, 1, 40},
		{65495, 1, 65495, 41},
	} {
		v := parse(t, pt.TCP(t, client4, vip4, pt.PayloadLen(tt.payload), pt.GSO(tt.size)))
		if v.Segments() != tt.segments || v.SegmentLen() != tt.longest || v.PacketLen() != 40+tt.payload {
			t.Errorf("%+v: got %d segments, longest %d, packet %d", tt, v.Segments(), v.SegmentLen(), v.PacketLen())
		}
	}
}

// TestHdrLen checks that a hdr_len which the kernel would refuse is corrected in the frame.
func TestHdrLen(t *testing.T) {
	for _, tt := range []struct {
		name           string
		gso            uint8
		hdrLen, wanted uint16
	}{
		{"right", 1, 40, 40},
		{"linear part", 1, 140, 140},
		{"whole packet", 1, 2040, 2040},
		{"zero", 1, 0, 40},
		{"short", 1, 39, 40},
		{"long", 1, 2041, 40},
		{"no GSO", 0, 0, 0},
		{"no GSO, some", 0, 36, 36},
		{"no GSO, long", 0, 2041, 0},
	} {
		h := packet.Vnet{Flags: 1, GSOType: tt.gso, HdrLen: tt.hdrLen, GSOSize: 1000, CsumStart: 20, CsumOffset: 16}
		v := parse(t, pt.TCP(t, client4, vip4, pt.PayloadLen(2000), pt.Vnet(h)))
		h.HdrLen = tt.wanted
		if got := packet.DecodeVnet(v.Frame); got != h || v.Vnet != h {
			t.Errorf("%s: frame has %+v, view %+v, want %+v", tt.name, got, v.Vnet, h)
		}
	}
}

func TestReasons(t *testing.T) {
	seen := map[string]bool{packet.None.String(): true}
	for _, r := range packet.Reasons() {
		if name := r.String(); name == "" || name == "unknown" || seen[name] {
			t.Errorf("reason %d is named %q", r, name)
		} else {
			seen[name] = true
		}
	}
	if packet.None != 0 || packet.Reason(255).String() != "unknown" {
		t.Error("None must be 0, and what is no reason unknown")
	}
}

func TestTuple(t *testing.T) {
	for _, tt := range []struct {
		tuple packet.Tuple
		want  string
		is6   bool
	}{
		{packet.TupleOf(6, client4, vip4), "tcp 198.51.100.7:40000 > 203.0.113.22:80", false},
		{packet.TupleOf(17, client6, vip6), "udp [2001:db8:1::7]:40000 > [2001:db8::22]:80", true},
		{packet.TupleOf(1, client4, vip4).Reverse(), "icmp 203.0.113.22:80 > 198.51.100.7:40000", false},
		{packet.TupleOf(47, client4, vip4), "proto-47 198.51.100.7:40000 > 203.0.113.22:80", false},
	} {
		if got := tt.tuple.String(); got != tt.want || tt.tuple.Is6() != tt.is6 || tt.tuple.Reverse().Reverse() != tt.tuple {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}
