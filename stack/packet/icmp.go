package packet

// TranslateError rewrites an ICMP error that travels in the direction which e describes: e.To is what
// ordinary packets of that direction get. What it quotes went the other way, so the quote becomes
// e.To.Reverse(), with quoted checksums brought along as far as they are inside the quote. Its own
// destination changes if that direction's destination does, and its source if that direction's source
// does (so a server's router hides behind the VIP); else the source is some router's and stays.
//
// The ICMP checksum is written anew: the quoted transport checksum may be a partial one or cut off,
// so there is no delta that would fit. Parse has verified the old one. NEEDS_CSUM is cleared. v is a
// parsed frame with v.ICMPError, whose Quote belongs to e's flow.
func (v *View) TranslateError(e *Edit) {
	outer := v.Tuple
	if v.Quote.Src != e.To.Dst {
		outer.Dst = e.To.Dst
	}
	if v.Quote.Dst != e.To.Src {
		outer.Src = e.To.Src
	}
	quote := NewEdit(v.Quote, e.To.Reverse())
	v.applyQuote(&quote)
	v.Quote = quote.To

	edit := NewEdit(v.Tuple, outer)
	edit.Apply(v)
	v.clearVnet()
	writeChecksum(v.Frame, v.L3, v.L4, v.sumAt)
}

// QuoteSeq is the quoted segment's sequence number. Valid iff v.ICMPError and v.Quote.Proto is ProtoTCP: Parse has
// seen to it that the quote has that much.
func (v *View) QuoteSeq() uint32 { return be.Uint32(v.Frame[v.QuoteL4+tcpSeq:]) }

// PathMTU is the MTU that an ICMP error tells of (RFC 1191, RFC 8201), and whether it is such an error. Routers from
// before 1990 say 0.
func (v *View) PathMTU() (mtu int, ok bool) {
	switch {
	case !v.ICMPError:
		return 0, false
	case v.Is6:
		return int(min(be.Uint32(v.Frame[v.L4+4:]), MaxPacket)), v.ICMPType == icmp6TooBig
	}
	return int(be.Uint16(v.Frame[v.L4+6:])), v.ICMPType == icmp4Unreachable && v.ICMPCode == 4
}

// applyQuote is Edit.Apply for the quoted packet, of which there may be as little as 8 bytes behind
// the IP header.
func (v *View) applyQuote(e *Edit) {
	quote := View{Frame: v.Frame, L3: v.QuoteL3, L4: v.QuoteL4, Is6: v.Is6}
	kind, at := checksumOf(v.Is6, v.Quote.Proto)
	switch v.Quote.Proto {
	case ProtoTCP, ProtoUDP:
		quote.ports = portsPair
	case icmpProto(v.Is6):
		quote.ports = echoKind(v.Is6, v.Frame[v.QuoteL4])
	}
	if v.QuoteL4+at+2 <= len(v.Frame) {
		quote.sum, quote.sumAt = kind, v.QuoteL4+at
	}
	e.Apply(&quote)
}

// ErrorKind is an ICMP error that we send, named as in IPv4.
type ErrorKind uint8

const (
	PortUnreachable ErrorKind = iota
	HostUnreachable
	NetUnreachable
	AdminProhibited
	TimeExceeded
	FragmentationNeeded // IPv6: packet too big
	ReassemblyTimeExceeded

	errorKinds
)

// errorTypes has type and code per kind, IPv4 and IPv6 (RFC 792, 1812 section 5.2.7; RFC 4443).
var errorTypes = [errorKinds][2][2]uint8{
	PortUnreachable:        {{icmp4Unreachable, 3}, {icmp6Unreachable, 4}},
	HostUnreachable:        {{icmp4Unreachable, 1}, {icmp6Unreachable, 3}},
	NetUnreachable:         {{icmp4Unreachable, 0}, {icmp6Unreachable, 0}},
	AdminProhibited:        {{icmp4Unreachable, 13}, {icmp6Unreachable, 1}},
	TimeExceeded:           {{icmp4TimeExceeded, 0}, {icmp6TimeExceeded, 0}},
	FragmentationNeeded:    {{icmp4Unreachable, 4}, {icmp6TooBig, 0}},
	ReassemblyTimeExceeded: {{icmp4TimeExceeded, 1}, {icmp6TimeExceeded, 1}},
}

const (
	errorTTL   = 64
	errorTOS   = 0xc0 // internetwork control, as RFC 1812 section 4.3.2.5 asks of routers
	errorSize4 = 576  // RFC 1812 section 4.3.2.3
	errorSize6 = 1280 // RFC 4443 section 2.4 (c)
)

// AppendError appends a frame to dst, which must not share memory with v: an ICMP error from src to
// the sender of v's packet that quotes it as it is now (so call it before the packet is edited), a
// NEEDS_CSUM checksum as it stands, and of a super-packet the first segment. mtu is that of the next
// hop, for FragmentationNeeded. It returns nil if there must be no error: about an ICMP error or
// redirect, a later fragment, or a packet to or from what is not one host (RFC 1122 section 3.2.2,
// RFC 4443 section 2.4 (e)); also if src is of the other family. On an Ethernet port the error goes back
// to the station that the packet came from.
func AppendError(dst []byte, v *View, kind ErrorKind, src [16]byte, mtu int) []byte {
	if kind >= errorKinds || isMapped(&src) == v.Is6 || !v.mayAnswer(kind) {
		return nil
	}
	l3 := v.L3
	l4, limit, family := l3+ip4Min, errorSize4, 0
	if v.Is6 {
		l4, limit, family = l3+ip6Min, errorSize6, 1
	}
	quoted := min(v.SegmentLen(), l3+limit-l4-icmpMin)
	start := len(dst)
	var header [VnetLen + EthernetLen + ip6Min + icmpMin]byte
	if l3 > VnetLen {
		Ethernet{Dst: MAC(v.Frame[etherSrc:]), Src: MAC(v.Frame[etherDst:]), Type: EtherTypeOf(v.Is6)}.Put(header[:])
	}
	dst = append(dst, header[:l4+icmpMin]...)
	dst = append(dst, v.Frame[v.L3:v.L3+quoted]...)
	b := dst[start:]
	v.quoteFirstSegment(b[l4+icmpMin:])

	icmp := b[l4:]
	icmp[0], icmp[1] = errorTypes[kind][family][0], errorTypes[kind][family][1]
	if kind == FragmentationNeeded {
		if !v.Is6 {
			mtu = min(mtu, 0xffff) // the field is half as wide (RFC 1191)
		}
		be.PutUint32(icmp[4:], uint32(mtu))
	}
	if v.Is6 {
		writeIPv6(b[l3:], ProtoICMPv6, src, v.Tuple.Src)
	} else {
		writeIPv4(b[l3:], ProtoICMP, src, v.Tuple.Src)
	}
	writeChecksum(b, l3, l4, l4+icmpChecksum)
	return dst
}

// mayAnswer tells whether v may cause an ICMP error at all.
func (v *View) mayAnswer(kind ErrorKind) bool {
	if v.laterFragment() {
		return false
	}
	src, dst := &v.Tuple.Src, &v.Tuple.Dst
	if v.Is6 {
		if v.Tuple.Proto == ProtoICMPv6 && (v.ICMPType < icmp6Echo || v.ICMPType == icmp6Redirect) {
			return false
		}
		// Packet too big may answer multicast: path MTU discovery needs it.
		return src[0] != 0xff && (dst[0] != 0xff || kind == FragmentationNeeded)
	}
	if v.Tuple.Proto == ProtoICMP && (isError(false, v.ICMPType) || v.ICMPType == icmp4SourceQuench || v.ICMPType == icmp4Redirect) {
		return false
	}
	return src[12] < 0xe0 && dst[12] < 0xe0 // multicast, reserved, broadcast
}

// quoteFirstSegment makes the quoted beginning of a super-packet that of its first segment, which is
// the packet that would have been on the wire.
func (v *View) quoteFirstSegment(b []byte) {
	if v.Vnet.GSOType == GSONone {
		return
	}
	n := v.SegmentLen()
	setLength(b, v.Is6, n)
	if l4 := v.L4 - v.L3; v.Tuple.Proto == ProtoUDP && len(b) >= l4+udpMin {
		be.PutUint16(b[l4+udpLen:], uint16(n-l4))
	}
}

func writeIPv4(b []byte, proto uint8, src, dst [16]byte) {
	b[0], b[ip4TTL], b[ip4Proto] = 4<<4|ip4Min/4, errorTTL, proto
	if proto == ProtoICMP {
		b[ip4TOS] = errorTOS
	}
	be.PutUint16(b[ip4Frag:], ip4DF) // atomic, so that an identification of 0 will do (RFC 6864)
	copy(b[ip4Src:], src[12:])
	copy(b[ip4Dst:], dst[12:])
	setLength(b, false, len(b))
}

func writeIPv6(b []byte, proto uint8, src, dst [16]byte) {
	b[0], b[ip6Next], b[ip6Hop] = 6<<4, proto, errorTTL
	copy(b[ip6Src:], src[:])
	copy(b[ip6Dst:], dst[:])
	setLength(b, true, len(b))
}
