package packet

import "encoding/binary"

// IPv6 header layout (RFC 8200).
const (
	ip6Min  = 40
	ip6Len  = 4
	ip6Next = 6
	ip6Hop  = 7
	ip6Src  = 8
	ip6Dst  = 24

	extHopByHop    = 0
	extRouting     = 43
	extFragment    = 44
	extDestination = 60

	maxExtensions = 8 // RFC 8504 section 5.3 lets a receiver set such a limit
)

// parse6 is parse4's twin.
func (v *View) parse6() Reason {
	b := v.Frame[v.L3:]
	if len(b) < ip6Min {
		return Truncated
	}
	total := ip6Min + int(be.Uint16(b[ip6Len:]))
	if total > len(b) {
		return Truncated
	}
	if total > MaxPacket { // a buffer ends there
		return BadLength
	}
	v.Frame = v.Frame[:v.L3+total]
	v.L4 = v.L3 + ip6Min
	v.Is6, v.DontFragment = true, true
	v.TOS, v.TTL = uint8(be.Uint16(b)>>4), b[ip6Hop]

	v.Tuple.Src, v.Tuple.Dst = [16]byte(b[ip6Src:]), [16]byte(b[ip6Dst:])
	if linkLocal6(&v.Tuple.Src) || linkLocal6(&v.Tuple.Dst) {
		return LinkLocal
	}
	if v.Tuple.Src[0] == 0xff || reserved6(&v.Tuple.Src) {
		return MartianSource
	}
	if reserved6(&v.Tuple.Dst) {
		return MartianDestination
	}
	v.Tuple.Proto = b[ip6Next]
	if isExtension(v.Tuple.Proto) {
		return v.parseExtensions()
	}
	return None
}

// linkLocal6 tells whether a is fe80::/10, or a group of the interface or the link (RFC 4291, 2.5.6, 2.7).
// Every kernel reports its groups on every device (MLD), so these are no sign of anything wrong.
func linkLocal6(a *[16]byte) bool {
	return a[0] == 0xfe && a[1]&0xc0 == 0x80 || a[0] == 0xff && a[1]&0x0f <= 2
}

// reserved6 tells whether a is unspecified, loopback or v4-mapped. The last is no address for the
// wire, and here it would pass for an IPv4 packet's.
func reserved6(a *[16]byte) bool {
	if binary.LittleEndian.Uint64(a[:]) != 0 {
		return false
	}
	low := be.Uint64(a[8:])
	return low <= 1 || low>>32 == 0xffff
}

func isExtension(proto uint8) bool {
	return proto == extHopByHop || proto == extRouting || proto == extFragment || proto == extDestination
}

// parseExtensions walks from the IPv6 header to the transport header, or to a later fragment's data.
// Tuple.Proto is the next header all the way.
func (v *View) parseExtensions() Reason {
	for n := 0; isExtension(v.Tuple.Proto); n++ {
		b := v.Frame[v.L4:]
		if n == maxExtensions || v.Tuple.Proto == extHopByHop && n > 0 {
			return BadExtension
		}
		if len(b) < 8 {
			return v.cutExtension()
		}
		size := 8
		switch v.Tuple.Proto {
		case extFragment:
			frag := be.Uint16(b[2:])
			offset, more := int(frag&^7), frag&1 != 0
			if v.Fragment {
				return BadExtension
			}
			v.Tuple.Proto = b[0]
			v.L4 += size
			if offset == 0 && !more {
				continue // atomic: a whole packet (RFC 6946)
			}
			if r := v.checkFragment(be.Uint32(b[4:]), offset, more, len(b)-size, v.L4-v.L3-size-ip6Min); r != None {
				return r
			}
			if offset > 0 {
				return None
			}
			continue
		case extRouting:
			// Type 0 is forbidden (RFC 5095). While segments are left, the destination is not the one
			// in the transport checksum's pseudo-header, so it cannot be translated.
			if b[2] == 0 || b[3] != 0 {
				return SourceRoute
			}
		}
		size += int(b[1]) * 8
		if size > len(b) {
			return v.cutExtension()
		}
		if v.Tuple.Proto != extRouting && !optionsFit(b[2:size]) {
			return BadExtension
		}
		v.Tuple.Proto = b[0]
		v.L4 += size
	}
	return None
}

// optionsFit tells whether a header's options end where it does (RFC 8200, 4.2): its receiver would go astray.
func optionsFit(b []byte) bool {
	const pad1, routerAlert = 0, 5 // the latter has two bytes (RFC 2711)
	for len(b) > 0 {
		n := 1
		if b[0] != pad1 {
			if len(b) < 2 {
				return false
			}
			n = 2 + int(b[1])
		}
		if n > len(b) || b[0] == routerAlert && n != 4 {
			return false
		}
		b = b[n:]
	}
	return true
}

// cutExtension is the reason for a header chain that doesn't end in the packet: a first fragment has
// to hold it whole (RFC 7112).
func (v *View) cutExtension() Reason {
	if v.Fragment {
		return TinyFragment
	}
	return BadExtension
}
