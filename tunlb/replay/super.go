package replay

import (
	"github.com/tunlb/tunlb/stack/packet"
)

// superPacket says of a packet that is longer than the MTU what the device said that it came by: it stands for
// segments, and its checksum is still to be made. Files don't have the vnet header that says so. segment is their
// length, 0 if nobody knows: then it is what fits. Packets that may be fragmented, or are no longer than the MTU, stay
// as they are.
func superPacket(v *packet.View, link packet.Link, frame []byte, segment, mtu int) {
	if v.ParseOn(link, frame) != packet.None || v.Fragment {
		return
	}
	headers := v.Payload - v.L3
	switch {
	case segment > 0:
	case v.Tuple.Proto == packet.ProtoTCP && v.DontFragment && v.PacketLen() > mtu && headers < mtu:
		segment = mtu - headers
	default:
		return
	}
	base := packet.VnetLen
	h := packet.Vnet{
		Flags: packet.FlagNeedsCsum, HdrLen: uint16(v.Payload - base), GSOSize: uint16(segment),
		CsumStart: uint16(v.L4 - base),
	}
	switch {
	case v.Tuple.Proto == packet.ProtoUDP:
		h.GSOType, h.CsumOffset = packet.GSOUDPL4, 6
	case v.Tuple.Proto != packet.ProtoTCP:
		return
	case v.Is6:
		h.GSOType, h.CsumOffset = packet.GSOTCPv6, 16
	default:
		h.GSOType, h.CsumOffset = packet.GSOTCPv4, 16
	}
	h.Encode(frame)
	be.PutUint16(frame[v.L4+int(h.CsumOffset):], pseudoSum(v))
}

// pseudoSum is the sum of the pseudo-header, which a device continues (RFC 9293, 3.1; RFC 8200, 8.1).
func pseudoSum(v *packet.View) uint16 {
	addresses := v.Frame[v.L3+12 : v.L3+20]
	if v.Is6 {
		addresses = v.Frame[v.L3+8 : v.L3+40]
	}
	sum := uint32(v.Tuple.Proto) + uint32(len(v.Frame)-v.L4)
	for ; len(addresses) > 0; addresses = addresses[2:] {
		sum += uint32(be.Uint16(addresses))
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}
