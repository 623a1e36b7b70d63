package packet

import (
	"fmt"
	"net"
)

// An Ethernet frame is virtio_net_hdr | destination (6) | source (6) | type (2) | payload (IEEE 802.3,
// 3.2). A VLAN tag stands where the type is.
const (
	etherDst  = VnetLen
	etherSrc  = VnetLen + 6
	etherType = VnetLen + 12
)

// Types of Ethernet frames.
const (
	EtherIPv4 = 0x0800
	EtherARP  = 0x0806
	EtherIPv6 = 0x86dd
)

// EtherTypeOf is the type of frames that carry the family.
func EtherTypeOf(is6 bool) uint16 {
	if is6 {
		return EtherIPv6
	}
	return EtherIPv4
}

// MAC is an Ethernet address; the zero value is none.
type MAC [6]byte

// Broadcast is every station of a segment.
var Broadcast = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// ParseMAC reads 02:00:5e:10:00:01, or with hyphens.
func ParseMAC(s string) (MAC, error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 {
		return MAC{}, fmt.Errorf("%q is no MAC address: want six bytes such as 02:00:5e:10:00:01", s)
	}
	return MAC(hw), nil
}

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// MarshalText and UnmarshalText are for JSON as people write it.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads what ParseMAC does.
func (m *MAC) UnmarshalText(b []byte) (err error) {
	*m, err = ParseMAC(string(b))
	return err
}

// IsZero says whether it is none at all.
func (m MAC) IsZero() bool { return m == MAC{} }

// IsGroup says whether it means many stations: multicast or broadcast. No frame comes from one.
func (m MAC) IsGroup() bool { return m[0]&1 != 0 }

// IsLinkControl says whether frames to it are for the neighbouring bridge only and no bridge passes
// them on: 01-80-C2-00-00-01 to 0F (IEEE 802.1D, table 7-10). The first of that range is spanning tree's;
// bridges that take no part in it, as we don't, pass it on, or those on both sides could not find a loop.
func (m MAC) IsLinkControl() bool {
	return [5]byte(m[:]) == [5]byte{0x01, 0x80, 0xc2, 0, 0} && 0 < m[5] && m[5] < 16
}

// Ethernet is the header of a frame on an Ethernet port.
type Ethernet struct {
	Dst, Src MAC
	Type     uint16
}

// DecodeEthernet reads the header; ok is false if the frame is too short to have one.
func DecodeEthernet(frame []byte) (h Ethernet, ok bool) {
	if len(frame) < VnetLen+EthernetLen {
		return h, false
	}
	return Ethernet{
		Dst:  MAC(frame[etherDst:]),
		Src:  MAC(frame[etherSrc:]),
		Type: be.Uint16(frame[etherType:]),
	}, true
}

// Put writes the header into a frame that has room for it.
func (h Ethernet) Put(frame []byte) {
	_ = frame[VnetLen+EthernetLen-1]
	*(*MAC)(frame[etherDst:]) = h.Dst
	*(*MAC)(frame[etherSrc:]) = h.Src
	be.PutUint16(frame[etherType:], h.Type)
}

// SetMACs puts in another destination and source: all that direct routing changes in a frame.
func SetMACs(frame []byte, dst, src MAC) {
	_ = frame[VnetLen+EthernetLen-1]
	*(*MAC)(frame[etherDst:]) = dst
	*(*MAC)(frame[etherSrc:]) = src
}

// StripEthernet turns an Ethernet frame into one that starts with IP, in place: the vnet header moves
// over the Ethernet header, its offsets follow. What it returns shares frame's memory. frame is one
// that ParseEthernet has taken.
func StripEthernet(frame []byte) []byte {
	var vnet [VnetLen]byte
	copy(vnet[:], frame)
	moveVnet(&vnet, -EthernetLen)
	frame = frame[EthernetLen:]
	copy(frame, vnet[:])
	return frame
}

// AppendEthernet appends an IP frame to dst with an Ethernet header between its vnet header, whose
// offsets follow, and its packet.
func AppendEthernet(dst, frame []byte, to, from MAC) []byte {
	var head [VnetLen + EthernetLen]byte
	copy(head[:], frame[:VnetLen])
	moveVnet((*[VnetLen]byte)(head[:]), EthernetLen)
	Ethernet{Dst: to, Src: from, Type: EtherTypeOf(frame[VnetLen]>>4 == 6)}.Put(head[:])
	return append(append(dst, head[:]...), frame[VnetLen:]...)
}

// moveVnet moves what a vnet header points to. Where it points to nothing there are zeros, which stay.
func moveVnet(b *[VnetLen]byte, by int) {
	h := DecodeVnet(b[:])
	if h.HdrLen != 0 {
		h.HdrLen = uint16(int(h.HdrLen) + by)
	}
	if h.Flags&FlagNeedsCsum != 0 {
		h.CsumStart = uint16(int(h.CsumStart) + by)
	}
	h.Encode(b[:])
}
