package packet

import (
	"encoding/binary"
	"math/bits"
)

// be reads and writes network byte order.
var be = binary.BigEndian

// fold reduces a sum of 16-bit words (or of anything wider) to 16 bits, one's complement.
func fold(s uint64) uint16 {
	s = s>>32 + s&0xffffffff
	s = s>>32 + s&0xffffffff
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	return uint16(s)
}

// sumBytes is the one's complement sum of b's 16-bit words on top of initial; an odd last byte is
// padded with zero. Eight bytes at a time: one's complement does not care about the word's width
// (RFC 1071 section 2).
func sumBytes(b []byte, initial uint16) uint16 {
	s, c := uint64(initial), uint64(0)
	for len(b) >= 32 {
		s, c = bits.Add64(s, be.Uint64(b), c)
		s, c = bits.Add64(s, be.Uint64(b[8:]), c)
		s, c = bits.Add64(s, be.Uint64(b[16:]), c)
		s, c = bits.Add64(s, be.Uint64(b[24:]), c)
		b = b[32:]
	}
	for len(b) >= 8 {
		s, c = bits.Add64(s, be.Uint64(b), c)
		b = b[8:]
	}
	var tail [8]byte
	copy(tail[:], b)
	s, c = bits.Add64(s, be.Uint64(tail[:]), c)
	s, c = bits.Add64(s, 0, c)
	return fold(s + c)
}

// checksumOf says what kind of full checksum a protocol has, and where in the transport header.
func checksumOf(is6 bool, proto uint8) (kind sumKind, at int) {
	switch {
	case proto == ProtoTCP:
		return sumFull, tcpChecksum
	case proto == ProtoUDP:
		return sumUDP, udpChecksum
	case proto == ProtoICMP && !is6:
		return sumPorts, icmpChecksum
	case proto == ProtoICMPv6 && is6:
		return sumFull, icmpChecksum
	}
	return sumNone, 0
}

// pseudoSum is the pseudo-header's sum for the transport packet of n bytes in the IP packet b.
func pseudoSum(b []byte, is6 bool, proto uint8, n int) uint16 {
	addrs := b[ip4Src:ip4Min]
	if is6 {
		addrs = b[ip6Src:ip6Min]
	}
	return fold(uint64(sumBytes(addrs, 0)) + uint64(proto) + uint64(n))
}

// writeChecksum writes a full transport checksum at frame[at:], whatever is there. The packet starts
// at l3, its transport at l4; the protocol follows from where the checksum is, since the three that
// have a pseudo-header keep it in different places, and ICMPv4 has none.
func writeChecksum(frame []byte, l3, l4, at int) {
	frame[at], frame[at+1] = 0, 0
	is6 := frame[l3]>>4 == 6
	var proto uint8
	switch at - l4 {
	case tcpChecksum:
		proto = ProtoTCP
	case udpChecksum:
		proto = ProtoUDP
	case icmpChecksum:
		proto = icmpProto(is6)
	}
	var pseudo uint16
	if proto != ProtoICMP {
		pseudo = pseudoSum(frame[l3:], is6, proto, len(frame)-l4)
	}
	sum := ^sumBytes(frame[l4:], pseudo)
	if sum == 0 && proto == ProtoUDP {
		sum = 0xffff // 0 would say none (RFC 768)
	}
	be.PutUint16(frame[at:], sum)
}

// setLength writes an IP packet's length of n bytes, and the IPv4 header checksum that goes with it.
func setLength(b []byte, is6 bool, n int) {
	if is6 {
		be.PutUint16(b[ip6Len:], uint16(n-ip6Min))
		return
	}
	be.PutUint16(b[ip4Len:], uint16(n))
	writeHeaderChecksum(b)
}

// writeHeaderChecksum writes a full IPv4 header checksum. Parse has verified the old one.
func writeHeaderChecksum(b []byte) {
	ihl := int(b[0]&15) * 4
	be.PutUint16(b[ip4Checksum:], 0)
	be.PutUint16(b[ip4Checksum:], ^sumBytes(b[:ihl], 0))
}
