package packet

import (
	"encoding/binary"
	"math/bits"
)

// IPv4 header layout (RFC 791).
const (
	ip4Min      = 20
	ip4TOS      = 1
	ip4Len      = 2
	ip4ID       = 4
	ip4Frag     = 6
	ip4TTL      = 8
	ip4Proto    = 9
	ip4Checksum = 10
	ip4Src      = 12
	ip4Dst      = 16

	ip4DF         = 0x4000
	ip4MF         = 0x2000
	ip4OffsetMask = 0x1fff // in units of 8 bytes
)

// mappedPrefix is bytes 8..11 of a v4-mapped address, as the low half of a little-endian word.
const mappedPrefix = 0xffff0000

// parse4 checks the IPv4 header and sets L4, Tuple's addresses and protocol, and the fragment fields.
func (v *View) parse4() Reason {
	b := v.Frame[v.L3:]
	_ = b[ip4Min-1]
	total := int(be.Uint16(b[ip4Len:]))
	ihl := int(b[0]&15) * 4
	if total > len(b) {
		return Truncated
	}
	if ihl < ip4Min || total < ihl {
		return BadLength
	}
	v.Frame = v.Frame[:v.L3+total]
	v.L4 = v.L3 + ihl
	v.Is6 = false
	v.TOS, v.TTL = b[ip4TOS], b[ip4TTL]

	src, dst := binary.LittleEndian.Uint32(b[ip4Src:]), binary.LittleEndian.Uint32(b[ip4Dst:])
	binary.LittleEndian.PutUint64(v.Tuple.Src[8:], uint64(src)<<32|mappedPrefix)
	binary.LittleEndian.PutUint64(v.Tuple.Dst[8:], uint64(dst)<<32|mappedPrefix)
	v.Tuple.Proto = b[ip4Proto]

	// The sum over a right header is 0xffff in either byte order.
	s, c := bits.Add64(binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:]), 0)
	s, c = bits.Add64(s, uint64(dst), c)
	s, c = bits.Add64(s, 0, c)
	if ihl > ip4Min {
		if sumBytes(b[:ihl], 0) != 0xffff {
			return BadHeaderChecksum
		}
		if r := checkOptions(b[ip4Min:ihl]); r != None {
			return r
		}
	} else if fold(s+c) != 0xffff {
		return BadHeaderChecksum
	}
	if linkLocal4(b[ip4Src:]) || linkLocal4(b[ip4Dst:]) {
		return LinkLocal
	}
	if badSource4(b[ip4Src], src) {
		return MartianSource
	}
	if b[ip4Dst] == 0 || b[ip4Dst] == 127 {
		return MartianDestination
	}
	frag := be.Uint16(b[ip4Frag:])
	v.DontFragment = frag&ip4DF != 0
	if frag&(ip4MF|ip4OffsetMask) == 0 {
		return None
	}
	return v.checkFragment(uint32(be.Uint16(b[ip4ID:])), int(frag&ip4OffsetMask)*8, frag&ip4MF != 0, total-ihl, ihl)
}

// linkLocal4 tells whether a is in 169.254.0.0/16 (RFC 3927, 7) or 224.0.0.0/24 (RFC 5771, 4).
func linkLocal4(a []byte) bool {
	return a[0] == 169 && a[1] == 254 || a[0] == 224 && a[1]|a[2] == 0
}

// badSource4 tells whether no packet on the wire may come from an address with this first byte: this
// network, loopback, multicast, limited broadcast (RFC 1122 section 3.2.1.3).
func badSource4(first byte, addr uint32) bool {
	return first == 0 || first == 127 || first&0xf0 == 0xe0 || addr == 0xffffffff
}

// checkOptions walks IPv4 options (RFC 791 section 3.1).
func checkOptions(b []byte) Reason {
	const (
		end, nop   = 0, 1
		lsrr, ssrr = 131, 137
	)
	for len(b) > 0 && b[0] != end {
		if b[0] == nop {
			b = b[1:]
			continue
		}
		if len(b) < 2 || b[1] < 2 || int(b[1]) > len(b) {
			return BadOptions
		}
		if b[0] == lsrr || b[0] == ssrr {
			return SourceRoute
		}
		if !recordFits(b[:b[1]]) {
			return BadOptions
		}
		b = b[b[1]:]
	}
	return None
}

// recordFits tells whether the next router finds room where a record route or a timestamp option says that there is
// some, or that there is none left (RFC 791, 3.1).
func recordFits(b []byte) bool {
	const recordRoute, timestamp = 7, 68
	least, slot := 0, 0
	switch b[0] {
	case recordRoute:
		least, slot = 4, 4
	case timestamp:
		least, slot = 5, 4
		if len(b) > 3 && b[3]&15 != 0 {
			slot = 8 // with the router's address
		}
	default:
		return true
	}
	if len(b) < least-1 {
		return false
	}
	at := int(b[2])
	return at >= least && (at > len(b) || at-1+slot <= len(b))
}

// checkFragment sets the fragment fields and checks what can be checked without the other fragments:
// size bytes of data at offset; what precedes them counts against the largest datagram (before: the
// IPv4 header; IPv6 does not count its own).
func (v *View) checkFragment(id uint32, offset int, more bool, size, before int) Reason {
	v.Fragment, v.FragID, v.FragOffset, v.FragLen, v.FragMore = true, id, offset, size, more
	switch {
	case size == 0, more && size%8 != 0, before+offset+size > MaxPacket:
		return BadLength
	case offset > 0 && offset < 16 && v.Tuple.Proto == ProtoTCP:
		return TinyFragment // it would overwrite the flags of a TCP header (RFC 3128)
	}
	return None
}
