package packet_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
)

// TestFragmentGolden wants what packettest, and by it a sending host, makes of the same datagram.
func TestFragmentGolden(t *testing.T) {
	for _, mtu := range []int{1500, 1499, 576, 68, 28} {
		for _, size := range []int{3000, 1473, 1481, 2952} {
			whole := pt.UDP(t, client4, vip4, pt.PayloadLen(size))
			want := pt.Fragments(t, whole, mtu, 0x1234)
			in := pt.UDP(t, client4, vip4, pt.PayloadLen(size), pt.ID(0x1234), pt.PartialChecksum())
			got := collect(t, func(emit func([]byte) error) error { return packet.Fragment(packet.LinkIP, in, mtu, emit) })
			if len(got) != len(want) {
				t.Fatalf("%d bytes for mtu %d: got %d fragments, want %d", size, mtu, len(got), len(want))
			}
			for i := range want {
				same(t, got[i], want[i])
			}
		}
	}
}

// TestFragmentAgain cuts up fragments, the last and another one.
func TestFragmentAgain(t *testing.T) {
	whole := pt.UDP(t, client4, vip4, pt.PayloadLen(3000))
	var got [][]byte
	for _, f := range pt.Fragments(t, whole, 1500, 7) {
		got = append(got, collect(t, func(emit func([]byte) error) error { return packet.Fragment(packet.LinkIP, f, 576, emit) })...)
	}
	next := 0
	for i, f := range got {
		p, err := pt.Decode(f)
		if err != nil {
			t.Fatal(err)
		}
		pt.Check(t, f, pt.IsFragment(next, i < len(got)-1), pt.HasID(7), pt.ValidChecksums())
		if len(p.IP) > 576 {
			t.Errorf("fragment of %d bytes", len(p.IP))
		}
		next += len(p.L4)
	}
	if next != 3008 {
		t.Errorf("fragments have %d bytes, want 3008", next)
	}
}

// TestFragmentOptions: only options with the copied bit go into later fragments (RFC 791).
func TestFragmentOptions(t *testing.T) {
	in := pt.UDP(t, client4, vip4, pt.PayloadLen(600), pt.IPOptions(7, 3, 4, 148, 4, 0, 0, 0))
	got := collect(t, func(emit func([]byte) error) error { return packet.Fragment(packet.LinkIP, in, 576, emit) })
	if len(got) != 2 {
		t.Fatalf("got %d fragments, want 2", len(got))
	}
	for i, want := range [][]byte{{7, 3, 4, 148, 4, 0, 0, 0}, {1, 1, 1, 148, 4, 0, 0, 0}} {
		pt.Check(t, got[i], pt.ValidChecksums())
		if options := got[i][30:38]; !bytes.Equal(options, want) {
			t.Errorf("fragment %d: got options %v, want %v", i, options, want)
		}
	}
}

func TestFragmentErrors(t *testing.T) {
	failed := errors.New("failed")
	for _, tt := range []struct {
		name  string
		frame []byte
		mtu   int
		want  error
	}{
		{"fits", pt.UDP(t, client4, vip4, pt.PayloadLen(72)), 100, failed},
		{"fits, DF", pt.UDP(t, client4, vip4, pt.PayloadLen(72), pt.DontFragment()), 100, failed},
		{"fits, v6", pt.UDP(t, client6, vip6, pt.PayloadLen(52)), 100, failed},
		{"DF", pt.UDP(t, client4, vip4, pt.PayloadLen(73), pt.DontFragment()), 100, packet.ErrDontFragment},
		{"v6", pt.UDP(t, client6, vip6, pt.PayloadLen(53)), 100, packet.ErrDontFragment},
		{"no room", pt.UDP(t, client4, vip4, pt.PayloadLen(73)), 27, packet.ErrSmallMTU},
		{"negative mtu", pt.UDP(t, client4, vip4, pt.PayloadLen(73)), -1, packet.ErrSmallMTU},
		{"super-packet", pt.UDP(t, client4, vip4, pt.PayloadLen(73), pt.GSO(10)), 50, packet.ErrSuperPacket},
		{"emit fails", pt.UDP(t, client4, vip4, pt.PayloadLen(73)), 50, failed},
	} {
		if err := packet.Fragment(packet.LinkIP, tt.frame, tt.mtu, func([]byte) error { return failed }); err != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
	}
	if packet.Fragment(packet.LinkIP, nil, 1500, nil) == nil {
		t.Error("a short frame is no error")
	}
}
