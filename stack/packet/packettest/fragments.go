package packettest

import (
	"encoding/binary"
	"testing"

	"github.com/tunlb/tunlb/stack/packet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Fragments cuts the packet of frame (with a full checksum, IPv4 without options or IPv6 without
// extension headers) into fragments of at most mtu bytes, as a sending host would.
func Fragments(t testing.TB, frame []byte, mtu int, id uint32) [][]byte {
	t.Helper()
	p, err := Decode(frame)
	if err != nil {
		t.Fatalf("packettest: %v", err)
	}
	if p.Fragment || p.Vnet.Flags&packet.FlagNeedsCsum != 0 {
		t.Fatal("packettest: Fragments takes whole packets with full checksums")
	}
	hdrLen := header.IPv4MinimumSize
	if p.Src.Addr().Is6() {
		hdrLen = header.IPv6MinimumSize + 8
	}
	room := (mtu - hdrLen) &^ 7
	if room < 8 {
		t.Fatalf("packettest: mtu %d leaves no room", mtu)
	}
	var out [][]byte
	for off := 0; off < len(p.L4); off += room {
		part := p.L4[off:min(off+room, len(p.L4))]
		more := off+room < len(p.L4)
		out = append(out, p.fragment(part, id, off, more))
	}
	return out
}

func (p *Packet) fragment(part []byte, id uint32, off int, more bool) []byte {
	b := make([]byte, packet.VnetLen, packet.VnetLen+len(p.IP)+8)
	if p.Src.Addr().Is4() {
		b = append(append(b, p.IP[:header.IPv4MinimumSize]...), part...)
		h := header.IPv4(b[packet.VnetLen:])
		flags := uint8(0)
		if more {
			flags = header.IPv4FlagMoreFragments
		}
		h.SetFlagsFragmentOffset(flags, uint16(off))
		h.SetID(uint16(id))
		h.SetTotalLength(uint16(len(h)))
		h.SetChecksum(0)
		h.SetChecksum(^h.CalculateChecksum())
		return b
	}
	b = append(b, p.IP[:header.IPv6MinimumSize]...)
	ext := [8]byte{0: p.Proto}
	binary.BigEndian.PutUint16(ext[2:], uint16(off))
	if more {
		ext[3] |= 1
	}
	binary.BigEndian.PutUint32(ext[4:], id)
	b = append(append(b, ext[:]...), part...)
	h := header.IPv6(b[packet.VnetLen:])
	h.SetNextHeader(44)
	h.SetPayloadLength(uint16(len(h) - header.IPv6MinimumSize))
	return b
}
