package packet_test

import (
	"bytes"
	"testing"

	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/stack/packet/packettest"
)

// benchFrames are what a lane sees most of.
func benchFrames(t testing.TB) []struct {
	name  string
	frame []byte
} {
	t.Helper()
	return []struct {
		name  string
		frame []byte
	}{
		{"tcp4", packettest.TCP(t, client4, vip4, packettest.PayloadLen(100))},
		{"tcp4-gso", packettest.TCP(t, client4, vip4, packettest.PayloadLen(60000), packettest.GSO(1448))},
		{"tcp6", packettest.TCP(t, client6, vip6, packettest.PayloadLen(100))},
		{"udp4", packettest.UDP(t, client4, vip4, packettest.PayloadLen(100))},
	}
}

func BenchmarkParse(b *testing.B) {
	for _, bb := range benchFrames(b) {
		b.Run(bb.name, func(b *testing.B) {
			var v packet.View
			b.ReportAllocs()
			for b.Loop() {
				if r := v.Parse(bb.frame); r != packet.None {
					b.Fatal(r)
				}
			}
		})
	}
}

func BenchmarkEdit(b *testing.B) {
	for _, bb := range benchFrames(b) {
		b.Run(bb.name, func(b *testing.B) {
			v := parse(b, bytes.Clone(bb.frame))
			server := server4
			if v.Is6 {
				server = server6
			}
			edit := packet.NewEdit(v.Tuple, packet.TupleOf(v.Tuple.Proto, v.Tuple.Source(), server))
			b.ReportAllocs()
			for b.Loop() { // again and again on the same frame: its checksums go wrong, at the same cost
				edit.Apply(v)
			}
		})
	}
}

func BenchmarkComplete(b *testing.B) {
	frame := packettest.TCP(b, client4, vip4, packettest.PayloadLen(60000), packettest.GSO(1448))
	pristine := append([]byte(nil), frame[:packet.VnetLen]...)
	var v packet.View
	b.SetBytes(60000)
	for b.Loop() {
		copy(frame, pristine)
		v.Parse(frame)
		packet.Complete(&v)
	}
}

func BenchmarkSegment(b *testing.B) {
	frame := packettest.TCP(b, client4, vip4, packettest.PayloadLen(60000), packettest.GSO(1448))
	b.SetBytes(60000)
	b.ReportAllocs()
	for b.Loop() {
		if err := packet.Segment(packet.LinkIP, frame, func([]byte) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}
