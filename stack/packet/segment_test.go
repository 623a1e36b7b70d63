package packet_test

import (
	"bytes"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
)

// collect returns what a Segment or Fragment emits.
func collect(t testing.TB, run func(emit func([]byte) error) error) (frames [][]byte) {
	t.Helper()
	if err := run(func(b []byte) error { frames = append(frames, bytes.Clone(b)); return nil }); err != nil {
		t.Fatal(err)
	}
	return frames
}

// TestSegmentGolden builds the segments with gVisor too and wants the same bytes.
func TestSegmentGolden(t *testing.T) {
	payload := make([]byte, 3001)
	for i := range payload {
		payload[i] = byte(i * 13)
	}
	type part struct {
		from, to int
		flags    uint8
	}
	const size = 1400
	parts := []part{
		{0, 1400, packet.TCPAck | packet.TCPCwr},
		{1400, 2800, packet.TCPAck},
		{2800, 3001, packet.TCPAck | packet.TCPPsh | packet.TCPFin},
	}
	all := pt.Flags(packet.TCPAck | packet.TCPCwr | packet.TCPPsh | packet.TCPFin)
	for _, ends := range []struct {
		name     string
		src, dst netip.AddrPort
		opts     []pt.Option
	}{
		{"v4", client4, vip4, []pt.Option{pt.DontFragment(), pt.TOS(2)}},
		{"v6", client6, vip6, []pt.Option{pt.TOS(2)}},
		{"v4 with options", client4, vip4, []pt.Option{pt.IPOptions(148, 4, 0, 0)}},
		{"v6 with extensions", client6, vip6, []pt.Option{pt.Extension(0), pt.Extension(60)}},
	} {
		with := func(o ...pt.Option) []pt.Option { return append(slices.Clone(ends.opts), o...) }
		t.Run(ends.name+" TCP", func(t *testing.T) {
			options := pt.TCPOptions(1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8)
			super := pt.TCP(t, ends.src, ends.dst, with(all, options, pt.ID(0xfffe), pt.Seq(0xfffffff0), pt.Ack(7), pt.Payload(payload), pt.GSO(size))...)
			before := bytes.Clone(super)
			got := collect(t, func(emit func([]byte) error) error { return packet.Segment(packet.LinkIP, super, emit) })
			same(t, super, before)
			if len(got) != len(parts) {
				t.Fatalf("got %d segments, want %d", len(got), len(parts))
			}
			for i, p := range parts {
				same(t, got[i], pt.TCP(t, ends.src, ends.dst, with(pt.Flags(p.flags), options, pt.ID(0xfffe+uint16(i)),
					pt.Seq(0xfffffff0+uint32(p.from)), pt.Ack(7), pt.Payload(payload[p.from:p.to]))...))
			}
		})
		t.Run(ends.name+" UDP", func(t *testing.T) {
			super := pt.UDP(t, ends.src, ends.dst, with(pt.ID(5), pt.Payload(payload), pt.GSO(size))...)
			got := collect(t, func(emit func([]byte) error) error { return packet.Segment(packet.LinkIP, super, emit) })
			if len(got) != len(parts) {
				t.Fatalf("got %d segments, want %d", len(got), len(parts))
			}
			for i, p := range parts {
				same(t, got[i], pt.UDP(t, ends.src, ends.dst, with(pt.ID(5+uint16(i)), pt.Payload(payload[p.from:p.to]))...))
			}
		})
		t.Run(ends.name+" partial without GSO", func(t *testing.T) {
			got := collect(t, func(emit func([]byte) error) error {
				return packet.Segment(packet.LinkIP, pt.TCP(t, ends.src, ends.dst, with(pt.Payload(payload), pt.PartialChecksum())...), emit)
			})
			if len(got) != 1 {
				t.Fatalf("got %d frames, want 1", len(got))
			}
			same(t, got[0], pt.TCP(t, ends.src, ends.dst, with(pt.Payload(payload))...))
		})
	}
}

// TestSegmentPlain: a frame without GSO and NEEDS_CSUM goes through untouched, even one that wouldn't parse.
func TestSegmentPlain(t *testing.T) {
	for _, frame := range [][]byte{pt.TCP(t, client4, vip4, pt.BadChecksum(), pt.DataValid()), pt.TCP(t, client4, vip4, pt.BadHeaderChecksum())} {
		got := collect(t, func(emit func([]byte) error) error { return packet.Segment(packet.LinkIP, bytes.Clone(frame), emit) })
		if len(got) != 1 {
			t.Fatalf("got %d frames, want 1", len(got))
		}
		same(t, got[0], frame)
	}
}

func TestSegmentErrors(t *testing.T) {
	super := pt.TCP(t, client4, vip4, pt.PayloadLen(3000), pt.GSO(1000))
	failed, calls := errors.New("failed"), 0
	if err := packet.Segment(packet.LinkIP, super, func([]byte) error { calls++; return failed }); err != failed || calls != 1 {
		t.Errorf("got %v after %d calls, want %v after 1", err, calls, failed)
	}
	never := func([]byte) error { t.Error("emitted"); return nil }
	if packet.Segment(packet.LinkIP, nil, never) == nil || packet.Segment(packet.LinkIP, super[:100], never) == nil {
		t.Error("a short frame is no error")
	}
}

// TestComplete wants gVisor's full checksum, UDP's 0xffff included.
func TestComplete(t *testing.T) {
	for _, ends := range [][2]netip.AddrPort{{client4, vip4}, {client6, vip6}} {
		for _, o := range []pt.Option{pt.PayloadLen(0), pt.PayloadLen(1), pt.PayloadLen(1460), pt.PayloadLen(65000)} {
			v := parse(t, pt.TCP(t, ends[0], ends[1], o, pt.PartialChecksum()))
			packet.Complete(v)
			same(t, v.Frame, pt.TCP(t, ends[0], ends[1], o))
		}
		for word := range 1 << 16 {
			o := pt.Payload([]byte{byte(word >> 8), byte(word)})
			v := parse(t, pt.UDP(t, ends[0], ends[1], o, pt.PartialChecksum()))
			packet.Complete(v)
			same(t, v.Frame, pt.UDP(t, ends[0], ends[1], o))
		}
		// A TCP super-packet becomes one long packet; a UDP one must not.
		v := parse(t, pt.TCP(t, ends[0], ends[1], pt.PayloadLen(9000), pt.GSO(1400)))
		packet.Complete(v)
		same(t, v.Frame, pt.TCP(t, ends[0], ends[1], pt.PayloadLen(9000)))
		if v.Vnet != (packet.Vnet{}) || v.Segments() != 1 {
			t.Errorf("View says %+v", v.Vnet)
		}
		uso := pt.UDP(t, ends[0], ends[1], pt.PayloadLen(9000), pt.GSO(1400))
		v = parse(t, bytes.Clone(uso))
		packet.Complete(v)
		same(t, v.Frame, uso)
		// What is completed takes edits as a full checksum.
		v = parse(t, pt.TCP(t, ends[0], ends[1], pt.PartialChecksum()))
		packet.Complete(v)
		to := v.Tuple
		to.DstPort++
		edit := packet.NewEdit(v.Tuple, to)
		edit.Apply(v)
		pt.Check(t, v.Frame, pt.ValidChecksums())
	}
	v := parse(t, pt.TCP(t, client4, vip4, pt.BadChecksum(), pt.DataValid()))
	before := bytes.Clone(v.Frame)
	packet.Complete(v)
	same(t, v.Frame, before)
}
