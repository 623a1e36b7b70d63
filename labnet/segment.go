package labnet

import (
	"bytes"
	"encoding/binary"
	"net/netip"
)

const (
	protoTCP = 6
	protoUDP = 17
)

// segment is a captured packet of TCP or UDP, as far as a journey needs it.
type segment struct {
	out, device    bool
	srcMAC, dstMAC MAC // zero without an Ethernet header
	proto          uint8
	src, dst       netip.AddrPort
	ttl            uint8
	seq, ack       uint32 // TCP
	flags          uint8  // TCP
	checksum       uint16
	state          ChecksumState
	payload        []byte
}

// same tells whether two captures are of one packet. Super-packets are cut and merged on the way,
// so that only the beginning of the payload counts.
func (s *segment) same(o segment) bool {
	if s.proto != o.proto || s.seq != o.seq || s.ack != o.ack {
		return false
	}
	const syn, rst = 0x02, 0x04
	if (s.flags^o.flags)&(syn|rst) != 0 || (len(s.payload) == 0) != (len(o.payload) == 0) {
		return false
	}
	n := min(len(s.payload), len(o.payload))
	return bytes.Equal(s.payload[:n], o.payload[:n])
}

// parse reads a packet; false for whatever else than an unfragmented TCP or UDP packet.
func parse(p Packet) (s segment, ok bool) {
	ip := p.Payload()
	s.out, s.device = p.Out, p.Device
	s.srcMAC, s.dstMAC, _ = p.MACs()
	var src, dst netip.Addr
	var l4 []byte
	switch {
	case len(ip) >= 20 && ip[0]>>4 == 4:
		header, total := int(ip[0]&15)*4, int(binary.BigEndian.Uint16(ip[2:]))
		if header < 20 || total < header || total > len(ip) || binary.BigEndian.Uint16(ip[6:])&0x3fff != 0 {
			return s, false
		}
		s.proto, s.ttl, l4 = ip[9], ip[8], ip[header:total]
		src, dst = netip.AddrFrom4([4]byte(ip[12:])), netip.AddrFrom4([4]byte(ip[16:]))
	case len(ip) >= 40 && ip[0]>>4 == 6:
		total := 40 + int(binary.BigEndian.Uint16(ip[4:]))
		if total > len(ip) {
			return s, false
		}
		s.proto, s.ttl, l4 = ip[6], ip[7], ip[40:total]
		src, dst = netip.AddrFrom16([16]byte(ip[8:])), netip.AddrFrom16([16]byte(ip[24:]))
	default:
		return s, false
	}
	if !s.parseTransport(l4) {
		return s, false
	}
	s.src = netip.AddrPortFrom(src, binary.BigEndian.Uint16(l4))
	s.dst = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(l4[2:]))
	switch {
	case p.Partial:
		s.state = Partial
	case s.proto == protoUDP && s.checksum == 0:
		s.state = None
	case verify(src, dst, s.proto, l4):
		s.state = Valid
	default:
		s.state = Wrong
	}
	return s, true
}

func (s *segment) parseTransport(b []byte) bool {
	switch {
	case s.proto == protoTCP && len(b) >= 20 && len(b) >= int(b[12]>>4)*4:
		s.seq, s.ack, s.flags = binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:]), b[13]
		s.checksum, s.payload = binary.BigEndian.Uint16(b[16:]), b[int(b[12]>>4)*4:]
		return true
	case s.proto == protoUDP && len(b) >= 8:
		s.checksum, s.payload = binary.BigEndian.Uint16(b[6:]), b[8:]
		return true
	}
	return false
}

// verify sums pseudo-header and segment (RFC 1071): all ones if nothing was damaged.
func verify(src, dst netip.Addr, proto uint8, l4 []byte) bool {
	sum := uint64(proto) + uint64(len(l4))
	for _, b := range [...][]byte{src.AsSlice(), dst.AsSlice(), l4} {
		for len(b) >= 2 {
			sum += uint64(binary.BigEndian.Uint16(b))
			b = b[2:]
		}
		if len(b) == 1 {
			sum += uint64(b[0]) << 8
		}
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return sum == 0xffff
}
