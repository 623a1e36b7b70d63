package neigh

import (
	"encoding/binary"

	"github.com/tunlb/tunlb/stack/packet"
)

// IPv6 (RFC 8200) with neighbour discovery right behind it (RFC 4861, 4.3, 4.4).
const (
	ip6Length = l3 + 4
	ip6Next   = l3 + 6
	ip6Hop    = l3 + 7
	ip6Src    = l3 + 8
	ip6Dst    = l3 + 24
	ndType    = l3 + 40
	ndCode    = l3 + 41
	ndSum     = l3 + 42
	ndFlags   = l3 + 44
	ndTarget  = l3 + 48
	ndOptions = l3 + 64
	ndEnd     = ndOptions + 8 // of those that we write

	solicitation  = 135
	advertisement = 136

	optionSource = 1 // link-layer address of a solicitation's sender
	optionTarget = 2 // of an advertisement's target

	flagSolicited = 1 << 30
	flagOverride  = 1 << 29
)

// allNodes is ff02::1, every host of the link.
var allNodes = [16]byte{0: 0xff, 1: 2, 15: 1}

// solicitedNode is the group of an address (RFC 4291, 2.7.1): only its owners listen.
func solicitedNode(a [16]byte) [16]byte {
	return [16]byte{0: 0xff, 1: 2, 11: 1, 12: 0xff, 13: a[13], 14: a[14], 15: a[15]}
}

// isSolicitedNode says whether a is such a group.
func isSolicitedNode(a [16]byte) bool {
	g := solicitedNode(a)
	return a == g
}

// groupMAC is a multicast group's MAC (RFC 2464, 7).
func groupMAC(a [16]byte) packet.MAC { return packet.MAC{0x33, 0x33, a[12], a[13], a[14], a[15]} }

// nd says whether an IPv6 packet is neighbour discovery.
type nd uint8

const (
	ndNone   nd = iota
	ndPlain     // right behind the IPv6 header, as it has to be
	ndHidden    // behind something, or perhaps: nobody can tell
)

// maxExtensions is as in packet.Parse.
const maxExtensions = 8

// discovery follows the header chain to its end.
func discovery(frame []byte) nd {
	if len(frame) <= ndType || frame[l3]>>4 != 6 {
		return ndNone
	}
	next, at := frame[ip6Next], ndType
	if next == packet.ProtoICMPv6 {
		if isDiscovery(frame[ndType]) {
			return ndPlain
		}
		return ndNone
	}
	cut := ndNone // what a chain is that doesn't end in the packet
	for n := 0; isExtension(next); n++ {
		if n == maxExtensions {
			return ndHidden
		}
		if len(frame) < at+8 {
			return cut
		}
		size := 8 + int(frame[at+1])*8
		switch next {
		case extFragment:
			if be.Uint16(frame[at+2:])&^7 != 0 {
				return ndNone // a later one is of no use without the first
			}
			size, cut = 8, ndHidden // the first has to hold the whole chain (RFC 7112)
		case extAuthentication:
			size = 8 + int(frame[at+1])*4
		}
		next = frame[at]
		at += size
	}
	switch {
	case next != packet.ProtoICMPv6:
		return ndNone
	case at >= len(frame):
		return cut
	case isDiscovery(frame[at]):
		return ndHidden
	}
	return ndNone
}

func isDiscovery(icmpType byte) bool { return icmpType == solicitation || icmpType == advertisement }

const (
	extFragment       = 44
	extAuthentication = 51
)

// isExtension knows the headers that a receiver looks behind: hop-by-hop, routing, fragment,
// authentication, destination, mobility, HIP, Shim6.
func isExtension(next byte) bool {
	switch next {
	case 0, 43, extFragment, extAuthentication, 60, 135, 139, 140:
		return true
	}
	return false
}

// parseND reads a solicitation or advertisement and checks what RFC 4861, 7.1.1 and 7.1.2 want checked.
func (m *Message) parseND(frame []byte) bool {
	if discovery(frame) != ndPlain || len(frame) < ndOptions || frame[ip6Hop] != 255 || frame[ndCode] != 0 {
		return false
	}
	end := ndType + int(be.Uint16(frame[ip6Length:]))
	if end < ndOptions || end > len(frame) {
		return false
	}
	frame = frame[:end]
	m.Is6 = true
	m.Sender, m.Dest, m.Target = [16]byte(frame[ip6Src:]), [16]byte(frame[ip6Dst:]), [16]byte(frame[ndTarget:])
	probe := m.Sender == unspecified(true)
	// A v4-mapped address is none for the wire, and would pass for an IPv4 neighbour's here.
	if !probe && (!unicast(m.Sender) || is4(m.Sender)) || !unicast(m.Target) || is4(m.Target) {
		return false
	}
	if frame[1] != packet.GSONone || !checkedND(frame) {
		return false
	}
	group := m.Dest[0] == 0xff
	if frame[ndType] == solicitation {
		switch {
		case probe:
			m.Form = Probe
		case m.Sender == m.Target: // asks for itself: as ARP does, this can only be meant to be heard
			m.Form = Announcement
		}
		return m.parseOptions(frame[ndOptions:], optionSource) &&
			!(probe && (!isSolicitedNode(m.Dest) || !m.MAC.IsZero()))
	}
	flags := be.Uint32(frame[ndFlags:])
	m.Solicited, m.Override = flags&flagSolicited != 0, flags&flagOverride != 0
	m.Form = Announcement
	if m.Solicited {
		m.Form = Reply
	}
	return m.parseOptions(frame[ndOptions:], optionTarget) && !(group && m.Solicited) && !probe
}

// parseOptions finds the link-layer address option. Two of them are refused: receivers differ in
// which one they take.
func (m *Message) parseOptions(b []byte, kind byte) bool {
	for len(b) > 0 {
		if len(b) < 8 || b[1] == 0 || len(b) < int(b[1])*8 {
			return false
		}
		if b[0] == kind {
			mac := packet.MAC(b[2:])
			if b[1] != 1 || !station(mac) || !m.MAC.IsZero() {
				return false
			}
			m.MAC = mac
		}
		b = b[int(b[1])*8:]
	}
	return true
}

// checkedND says whether the ICMPv6 checksum is right, or left to the device and then in its place.
func checkedND(frame []byte) bool {
	if frame[0]&packet.FlagNeedsCsum == 0 {
		return sumND(frame) == 0xffff
	}
	h := packet.DecodeVnet(frame)
	return int(h.CsumStart) == ndType-packet.VnetLen && h.CsumOffset == ndSum-ndType
}

// sumND is the one's complement sum of the ICMPv6 message and its pseudo-header.
func sumND(frame []byte) uint16 {
	sum := uint32(packet.ProtoICMPv6) + uint32(len(frame)-ndType)
	for b := frame[ip6Src:]; len(b) > 0; b = b[2:] { // addresses and message are side by side
		if len(b) == 1 {
			sum += uint32(b[0]) << 8
			break
		}
		sum += uint32(binary.BigEndian.Uint16(b)) // 64 KiB at most: no carry is lost
	}
	sum = sum>>16 + sum&0xffff
	return uint16(sum>>16 + sum)
}

// finishND writes the checksum of a message that ends with the frame, and says so.
func finishND(frame []byte) {
	clear(frame[:packet.VnetLen])
	be.PutUint16(frame[ndSum:], 0)
	be.PutUint16(frame[ndSum:], ^sumND(frame))
}

// putND writes a solicitation or advertisement from the station src, whose MAC goes into option, or
// into none if that is 0.
func (f *Frame) putND(kind byte, flags uint32, src, dst packet.MAC, from, to, target [16]byte, mac packet.MAC) {
	n, option := ndEnd, byte(optionSource)
	if kind == advertisement {
		option = optionTarget
	} else if from == unspecified(true) {
		n = ndOptions // who has no address must not give a MAC for it
	}
	b := f.reset(n)
	packet.Ethernet{Dst: dst, Src: src, Type: packet.EtherIPv6}.Put(b)
	b[l3] = 6 << 4
	be.PutUint16(b[ip6Length:], uint16(n-ndType))
	b[ip6Next], b[ip6Hop] = packet.ProtoICMPv6, 255
	copy(b[ip6Src:], from[:])
	copy(b[ip6Dst:], to[:])
	b[ndType] = kind
	be.PutUint32(b[ndFlags:], flags)
	copy(b[ndTarget:], target[:])
	if n == ndEnd {
		b[ndOptions], b[ndOptions+1] = option, 1
		copy(b[ndOptions+2:], mac[:])
	}
	finishND(b)
}

// setSenderND puts another source into a solicitation that Parse has taken.
func setSenderND(frame []byte, sender [16]byte) {
	copy(frame[ip6Src:ip6Dst], sender[:])
	finishND(frame[:ndType+int(be.Uint16(frame[ip6Length:]))])
}
