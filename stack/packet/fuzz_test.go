package packet_test

import (
	"bytes"
	"encoding/hex"
	"testing"

	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
)

// seeds has one frame of every kind.
func seeds(f *testing.F) [][]byte {
	f.Helper()
	back4, back6 := pt.TCP(f, vip4, client4, pt.PayloadLen(9)), pt.TCP(f, vip6, client6, pt.PayloadLen(9))
	return [][]byte{
		nil,
		make([]byte, packet.VnetLen),
		back4, back6,
		pt.TCP(f, client4, vip4, pt.PayloadLen(300), pt.GSO(100)),
		pt.TCP(f, client6, vip6, pt.PayloadLen(300), pt.GSO(100), pt.TCPOptions(1, 1, 8, 10)),
		pt.TCP(f, client4, vip4, pt.PartialChecksum(), pt.IPOptions(148, 4, 0, 0)),
		pt.TCP(f, client6, vip6, pt.PartialChecksum(), pt.Extension(0), pt.Extension(43), pt.Extension(60), pt.Fragment(1, 0, false)),
		pt.UDP(f, client4, vip4, pt.PayloadLen(9), pt.NoChecksum()),
		pt.UDP(f, client6, vip6, pt.PayloadLen(300), pt.GSO(100)),
		pt.UDP(f, client4, vip4, pt.Fragment(1, 0, true)),
		pt.UDP(f, client6, vip6, pt.Fragment(1, 0, true)),
		pt.Raw(f, 17, client4.Addr(), vip4.Addr(), pt.Fragment(1, 16, true), pt.PayloadLen(16)),
		pt.Raw(f, 17, client6.Addr(), vip6.Addr(), pt.Fragment(1, 16, false), pt.PayloadLen(16)),
		pt.Raw(f, 47, client4.Addr(), vip4.Addr(), pt.PayloadLen(16)),
		pt.Echo(f, client4.Addr(), vip4.Addr(), 1, 1),
		pt.EchoReply(f, client6.Addr(), vip6.Addr(), 1, 1),
		pt.Unreachable(f, router4, vip4.Addr(), back4, pt.DataValid()),
		pt.Unreachable(f, router6, vip6.Addr(), back6, pt.DataValid()),
		pt.Unreachable(f, router4, vip4.Addr(), pt.Echo(f, vip4.Addr(), client4.Addr(), 1, 1), pt.DataValid()),
		pt.Unreachable(f, router6, vip6.Addr(), pt.UDP(f, vip6, client6, pt.Extension(0), pt.Fragment(1, 0, true)), pt.DataValid()),
	}
}

// fixHeader makes the IPv4 header checksum right, or the fuzzer would get no further.
func fixHeader(frame []byte) {
	if len(frame) >= packet.VnetLen+20 && frame[packet.VnetLen]>>4 == 4 && len(frame) >= packet.VnetLen+int(frame[packet.VnetLen]&15)*4 && frame[packet.VnetLen]&15 >= 5 {
		resum(frame)
	}
}

// FuzzParse: any bytes; whatever is done with a frame that parses must stay inside of it.
func FuzzParse(f *testing.F) {
	for _, s := range seeds(f) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		var raw packet.View
		raw.Parse(bytes.Clone(frame))
		fixHeader(frame)
		v := new(packet.View)
		if v.Parse(frame) != packet.None {
			return
		}
		if v.L3 != packet.VnetLen || v.L4 < v.L3+20 || v.Payload < v.L4 || len(v.Frame) < v.Payload || len(v.Frame) > len(frame) ||
			v.Segments() < 1 || v.SegmentLen() > v.PacketLen() || v.Tuple.Is6() != v.Is6 || int(v.Vnet.HdrLen) > v.PacketLen() {
			t.Fatalf("%+v", v)
		}
		if v.Vnet.GSOType != packet.GSONone && int(v.Vnet.HdrLen) < v.Payload-v.L3 {
			t.Fatalf("hdr_len %d, headers have %d", v.Vnet.HdrLen, v.Payload-v.L3)
		}
		p, err := pt.Decode(v.Frame)
		if err != nil {
			t.Fatalf("gVisor: %v\n%s", err, hex.Dump(v.Frame))
		}
		want := packet.TupleOf(p.Proto, p.Src, p.Dst)
		if v.Tuple != want || p.Offset != v.FragOffset || p.Fragment != v.Fragment {
			t.Fatalf("got %v, gVisor sees %v", v.Tuple, want)
		}
		for kind := packet.PortUnreachable; kind <= packet.ReassemblyTimeExceeded; kind++ {
			src := v.Tuple.Dst
			if e := packet.AppendError(nil, v, kind, src, 1400); e != nil {
				pt.Check(t, e, pt.ValidChecksums())
			}
		}
		v.DecrementTTL()
		packet.Complete(v)
		pt.Check(t, v.Frame, func(p *pt.Packet) string { return "" })
	})
}

// FuzzEdit: an edit keeps a right checksum right and a wrong one wrong, and its inverse undoes it.
func FuzzEdit(f *testing.F) {
	for _, s := range seeds(f) {
		f.Add(s, []byte("0123456789abcdef"), uint16(1), []byte{255, 1}, uint16(65535))
	}
	f.Fuzz(func(t *testing.T, frame, src []byte, sport uint16, dst []byte, dport uint16) {
		fixHeader(frame)
		v := new(packet.View)
		if v.Parse(frame) != packet.None || v.ICMPError {
			return
		}
		to := v.Tuple
		to.SrcPort, to.DstPort = sport, dport
		first := 0
		if !v.Is6 {
			first = 12
		}
		copy(to.Src[first:], src)
		copy(to.Dst[first:], dst)
		switch {
		case v.Tuple.Proto == packet.ProtoTCP || v.Tuple.Proto == packet.ProtoUDP:
		case v.Tuple.Proto == packet.ProtoICMP && !v.Is6 && v.ICMPType == 8, v.Tuple.Proto == packet.ProtoICMPv6 && v.Is6 && v.ICMPType == 128:
			to.DstPort = 0
		case v.Tuple.Proto == packet.ProtoICMP && !v.Is6 && v.ICMPType == 0, v.Tuple.Proto == packet.ProtoICMPv6 && v.Is6 && v.ICMPType == 129:
			to.SrcPort = 0
		default:
			to.SrcPort, to.DstPort = 0, 0
		}
		if v.FragOffset > 0 {
			to.SrcPort, to.DstPort = 0, 0
		}
		if v.Is6 && !to.Is6() || v.Is6 && !to.Reverse().Is6() {
			return
		}
		before, from := bytes.Clone(v.Frame), v.Tuple
		wasValid := verdict(t, v.Frame)
		edit := packet.NewEdit(from, to)
		edit.Apply(v)
		if got := verdict(t, v.Frame); got != wasValid {
			t.Fatalf("checksums: before %q, after %q\n%s", wasValid, got, hex.Dump(v.Frame))
		}
		back := packet.NewEdit(to, from)
		back.Apply(v)
		if wasValid == "" && !equalButMinusZero(v.Frame, before) {
			t.Fatalf("%v -> %v and back: got\n%swant\n%s", from, to, hex.Dump(v.Frame), hex.Dump(before))
		}
	})
}

// equalButMinusZero compares frames; ffff may stand where 0000 does. Both are zero to one's complement,
// and a sender may write the other one.
func equalButMinusZero(a, b []byte) bool {
	for i := 0; i < len(a); i += 2 {
		x, y := a[i:min(i+2, len(a))], b[i:min(i+2, len(b))]
		zero := func(z []byte) bool { return z[0] == z[len(z)-1] && (z[0] == 0 || z[0] == 0xff) }
		if !bytes.Equal(x, y) && !(zero(x) && zero(y)) {
			return false
		}
	}
	return true
}

// verdict says whether gVisor finds the checksums right: "" or not.
func verdict(t *testing.T, frame []byte) string {
	p, err := pt.Decode(frame)
	if err != nil {
		t.Fatalf("%v\n%s", err, hex.Dump(frame))
	}
	if pt.ValidChecksums()(p) != "" {
		return "wrong"
	}
	return ""
}

// FuzzSegment: the segments have valid checksums and lengths, and together the whole payload.
func FuzzSegment(f *testing.F) {
	for _, s := range seeds(f) {
		f.Add(s, 1500)
	}
	f.Fuzz(func(t *testing.T, frame []byte, mtu int) {
		fixHeader(frame)
		v := new(packet.View)
		if v.Parse(frame) != packet.None {
			return
		}
		payload := bytes.Clone(v.Frame[v.Payload:])
		longest, headers, segments, sums := v.SegmentLen(), v.Payload-v.L3, v.Segments(), v.Vnet.GSOType != packet.GSONone
		got := collect(t, func(emit func([]byte) error) error { return packet.Segment(packet.LinkIP, bytes.Clone(v.Frame), emit) })
		var whole []byte
		for _, s := range got {
			if sums {
				pt.Check(t, s, pt.ValidChecksums(), pt.HasVnet(packet.Vnet{}))
			}
			if len(s)-packet.VnetLen > longest {
				t.Fatalf("segment of %d bytes, longest is %d", len(s)-packet.VnetLen, longest)
			}
			whole = append(whole, s[packet.VnetLen+headers:]...)
		}
		if v.Payload == v.L4 && v.Vnet.Flags&packet.FlagNeedsCsum != 0 {
			whole = payload // an unknown protocol: its checksum is in what we take for payload
		}
		if len(got) != segments || !bytes.Equal(whole, payload) {
			t.Fatalf("%d segments, want %d; payload of %d, want %d", len(got), segments, len(whole), len(payload))
		}
		var data []byte
		l4 := v.L4
		if packet.Fragment(packet.LinkIP, v.Frame, mtu, func(b []byte) error {
			pt.Check(t, b, func(*pt.Packet) string { return "" })
			if len(b)-packet.VnetLen > mtu {
				t.Fatalf("fragment of %d bytes, mtu %d", len(b)-packet.VnetLen, mtu)
			}
			data = append(data, b[l4:]...)
			return nil
		}) == nil && !bytes.Equal(data, v.Frame[l4:]) {
			t.Fatal("the fragments are not the packet")
		}
	})
}

// FuzzTranslateError: the translated error has valid outer checksums, and translating it back restores
// the quote.
func FuzzTranslateError(f *testing.F) {
	for _, s := range seeds(f) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		fixHeader(frame)
		if len(frame) > 0 {
			frame[0] |= packet.FlagDataValid // or the fuzzer would have to find the checksum
		}
		v := new(packet.View)
		if v.Parse(frame) != packet.None || !v.ICMPError {
			return
		}
		from := v.Quote.Reverse()
		to := from
		if server := packet.TupleOf(0, client4, server4); !v.Is6 {
			to.Dst = server.Dst
		} else {
			to.Dst = packet.TupleOf(0, client6, server6).Dst
		}
		if to.DstPort != 0 {
			to.DstPort = 8080
		}
		before := bytes.Clone(v.Frame)
		edit := packet.NewEdit(from, to)
		v.TranslateError(&edit)
		if msg := verdictOuter(t, v.Frame); msg != "" {
			t.Fatalf("%s\n%s", msg, hex.Dump(v.Frame))
		}
		again := new(packet.View)
		if r := again.Parse(v.Frame); r != packet.None || again.Quote != v.Quote || again.Quote != to.Reverse() || again.Tuple != v.Tuple {
			t.Fatalf("%v: frame quotes %v, view %v", r, again.Quote, v.Quote)
		}
		back := packet.NewEdit(to, from)
		v.TranslateError(&back)
		if !equalButMinusZero(v.Frame[v.QuoteL3:], before[v.QuoteL3:]) {
			t.Fatalf("there and back: got\n%swant\n%s", hex.Dump(v.Frame), hex.Dump(before))
		}
	})
}

// verdictOuter is ValidChecksums without the quote, which may come in wrong.
func verdictOuter(t *testing.T, frame []byte) string {
	p, err := pt.Decode(frame)
	if err != nil {
		t.Fatalf("%v\n%s", err, hex.Dump(frame))
	}
	if msg := pt.ValidChecksums()(p); msg != "quoted IPv4 header checksum is wrong" {
		return msg
	}
	return ""
}
