package packettest_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
)

// recorder is a testing.TB that counts failures rather than fails.
type recorder struct {
	testing.TB
	failures []string
}

func (r *recorder) Helper() {}
func (r *recorder) Errorf(format string, a ...any) {
	r.failures = append(r.failures, fmt.Sprintf(format, a...))
}

var ends = [][2]netip.AddrPort{
	{netip.MustParseAddrPort("198.51.100.7:40000"), netip.MustParseAddrPort("203.0.113.22:80")},
	{netip.MustParseAddrPort("[2001:db8:1::7]:40000"), netip.MustParseAddrPort("[2001:db8::22]:80")},
}

// TestCheckers: every checker passes what it should, and fails what it should.
func TestCheckers(t *testing.T) {
	for _, e := range ends {
		src, dst := e[0], e[1]
		tcp := pt.TCP(t, src, dst, pt.Flags(packet.TCPSyn), pt.Seq(1), pt.Ack(2), pt.TTL(9), pt.TOS(4), pt.Payload([]byte("abc")))
		udp := pt.UDP(t, src, dst, pt.NoChecksum())
		icmp := pt.Unreachable(t, src.Addr(), dst.Addr(), pt.TCP(t, dst, src), pt.NextMTU(5))
		late := pt.Raw(t, 17, src.Addr(), dst.Addr(), pt.Fragment(7, 16, true), pt.PayloadLen(8))
		flip := func(frame []byte, fromEnd int) []byte { frame[len(frame)-fromEnd] ^= 1; return frame }
		for _, tt := range []struct {
			name  string
			frame []byte
			check pt.Checker
			want  bool
		}{
			{"SrcDst", tcp, pt.SrcDst(src, dst), true},
			{"SrcDst", tcp, pt.SrcDst(dst, src), false},
			{"HasTTL", tcp, pt.HasTTL(9), true},
			{"HasTTL", tcp, pt.HasTTL(8), false},
			{"HasTOS", tcp, pt.HasTOS(4), true},
			{"HasTOS", tcp, pt.HasTOS(5), false},
			{"HasProto", tcp, pt.HasProto(6), true},
			{"HasProto", udp, pt.HasProto(6), false},
			{"HasFlags", tcp, pt.HasFlags(packet.TCPSyn), true},
			{"HasFlags", tcp, pt.HasFlags(packet.TCPAck), false},
			{"HasFlags of UDP", udp, pt.HasFlags(0), false},
			{"HasSeq", tcp, pt.HasSeq(1), true},
			{"HasSeq", tcp, pt.HasSeq(2), false},
			{"HasAck", tcp, pt.HasAck(2), true},
			{"HasAck", tcp, pt.HasAck(1), false},
			{"HasPayload", tcp, pt.HasPayload([]byte("abc")), true},
			{"HasPayload", tcp, pt.HasPayload([]byte("abd")), false},
			{"HasICMP", icmp, pt.HasICMP(icmp[l4(src)], icmp[l4(src)+1]), true},
			{"HasICMP", icmp, pt.HasICMP(99, 0), false},
			{"HasMTU", icmp, pt.HasMTU(5), true},
			{"HasMTU", icmp, pt.HasMTU(6), false},
			{"Quoted", icmp, pt.Quoted(pt.SrcDst(dst, src), pt.ValidChecksums()), true},
			{"Quoted", icmp, pt.Quoted(pt.SrcDst(src, dst)), false},
			{"Quoted of TCP", tcp, pt.Quoted(), false},
			{"HasID", late, pt.HasID(7), true},
			{"HasID", late, pt.HasID(8), false},
			{"IsFragment", late, pt.IsFragment(16, true), true},
			{"IsFragment", late, pt.IsFragment(16, false), false},
			{"NoUDPChecksum", udp, pt.NoUDPChecksum(), true},
			{"NoUDPChecksum", pt.UDP(t, src, dst), pt.NoUDPChecksum(), false},
			{"HasVnet", tcp, pt.HasVnet(packet.Vnet{}), true},
			{"HasVnet", tcp, pt.HasVnet(packet.Vnet{Flags: 2}), false},
			{"ValidChecksums", tcp, pt.ValidChecksums(), true},
			{"ValidChecksums", udp, pt.ValidChecksums(), true},
			{"ValidChecksums", icmp, pt.ValidChecksums(), true},
			{"ValidChecksums", late, pt.ValidChecksums(), true},
			{"ValidChecksums, partial", pt.TCP(t, src, dst, pt.PartialChecksum()), pt.ValidChecksums(), true},
			{"ValidChecksums, wrong", flip(pt.TCP(t, src, dst, pt.PayloadLen(4)), 1), pt.ValidChecksums(), false},
			{"ValidChecksums, wrong partial", flip(pt.TCP(t, src, dst, pt.PartialChecksum()), 3), pt.ValidChecksums(), false},
			{"ValidChecksums, wrong UDP", pt.UDP(t, src, dst, pt.BadChecksum()), pt.ValidChecksums(), false},
			{"ValidChecksums, wrong ICMP", pt.Echo(t, src.Addr(), dst.Addr(), 1, 1, pt.BadChecksum()), pt.ValidChecksums(), false},
			{"ValidChecksums, csum_start", pt.TCP(t, src, dst, pt.Vnet(packet.Vnet{Flags: 1, CsumStart: 1, CsumOffset: 16})), pt.ValidChecksums(), false},
		} {
			r := &recorder{TB: t}
			pt.Check(r, tt.frame, tt.check)
			if got := len(r.failures) == 0; got != tt.want {
				t.Errorf("%s of %v: passes %v, want %v: %v", tt.name, src, got, tt.want, r.failures)
			}
		}
	}
	r := &recorder{TB: t}
	pt.Check(r, pt.TCP(t, ends[0][0], ends[0][1], pt.BadHeaderChecksum()), pt.ValidChecksums())
	pt.Check(r, pt.TCP(t, ends[0][0], ends[0][1])[:30])
	if len(r.failures) != 2 {
		t.Errorf("got %d failures, want 2", len(r.failures))
	}
}

// l4 is where the transport header is in a frame without options.
func l4(a netip.AddrPort) int {
	if a.Addr().Is4() {
		return packet.VnetLen + 20
	}
	return packet.VnetLen + 40
}

// TestFragments puts the fragments together again.
func TestFragments(t *testing.T) {
	for _, e := range ends {
		whole, err := pt.Decode(pt.UDP(t, e[0], e[1], pt.PayloadLen(3000)))
		if err != nil {
			t.Fatal(err)
		}
		var data []byte
		frames := pt.Fragments(t, whole.Frame, 1500, 9)
		for i, f := range frames {
			p, err := pt.Decode(f)
			if err != nil {
				t.Fatal(err)
			}
			pt.Check(t, f, pt.ValidChecksums(), pt.HasID(9), pt.IsFragment(len(data), i < len(frames)-1), pt.HasProto(17))
			data = append(data, p.L4...)
		}
		if string(data) != string(whole.L4) || len(frames) != 3 {
			t.Errorf("%d fragments with %d bytes, want 3 with %d", len(frames), len(data), len(whole.L4))
		}
	}
}
