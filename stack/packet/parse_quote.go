package packet

// parseError verifies an ICMP error and parses its quote into Quote, QuoteL3, QuoteL4.
func (v *View) parseError() Reason {
	v.ICMPError = true
	// A fragment cannot be verified, and no error needs to be one (RFC 1812 section 4.3.2.3). With
	// NEEDS_CSUM or DATA_VALID the kernel vouches for the bytes.
	if v.Fragment || v.Frame[0]&(FlagNeedsCsum|FlagDataValid) == 0 && !v.validICMP() {
		return BadICMP
	}
	v.Quote = Tuple{}
	v.QuoteL3 = v.L4 + icmpMin
	ok := false
	if v.Is6 {
		ok = v.quote6()
	} else {
		ok = v.quote4()
	}
	if !ok || !v.quoteTransport() {
		return BadICMP
	}
	return None
}

func (v *View) validICMP() bool {
	b := v.Frame[v.L4:]
	var pseudo uint16
	if v.Is6 {
		pseudo = pseudoSum(v.Frame[v.L3:], true, ProtoICMPv6, len(b))
	}
	return sumBytes(b, pseudo) == 0xffff
}

// quote4 parses a quoted IPv4 header. Its checksum is not verified: routers quote what they have
// already changed, and we only ever update it. A later fragment is of no use, having no ports.
func (v *View) quote4() bool {
	b := v.Frame[v.QuoteL3:]
	if len(b) < ip4Min || b[0]>>4 != 4 {
		return false
	}
	ihl := int(b[0]&15) * 4
	if ihl < ip4Min || ihl > len(b) || be.Uint16(b[ip4Frag:])&ip4OffsetMask != 0 {
		return false
	}
	q := &v.Quote
	be.PutUint16(q.Src[10:], 0xffff)
	be.PutUint16(q.Dst[10:], 0xffff)
	copy(q.Src[12:], b[ip4Src:ip4Dst])
	copy(q.Dst[12:], b[ip4Dst:ip4Min])
	q.Proto = b[ip4Proto]
	v.QuoteL4 = v.QuoteL3 + ihl
	return true
}

func (v *View) quote6() bool {
	b := v.Frame[v.QuoteL3:]
	if len(b) < ip6Min || b[0]>>4 != 6 {
		return false
	}
	q := &v.Quote
	q.Src, q.Dst = [16]byte(b[ip6Src:]), [16]byte(b[ip6Dst:])
	if reserved6(&q.Src) || reserved6(&q.Dst) {
		return false
	}
	next, at := b[ip6Next], ip6Min
	for n := 0; isExtension(next); n++ {
		if n == maxExtensions || len(b) < at+8 {
			return false
		}
		size := 8
		if next != extFragment {
			size += int(b[at+1]) * 8
		} else if be.Uint16(b[at+2:])&^7 != 0 {
			return false
		}
		next = b[at]
		at += size
	}
	if at > len(b) {
		return false
	}
	q.Proto = next
	v.QuoteL4 = v.QuoteL3 + at
	return true
}

// quoteTransport takes the ports from the quoted transport header; routers must quote 8 bytes of it
// (RFC 792). Protocols that have no ports are quoted without.
func (v *View) quoteTransport() bool {
	b := v.Frame[v.QuoteL4:]
	q := &v.Quote
	switch {
	case q.Proto == ProtoTCP || q.Proto == ProtoUDP:
		if len(b) < 8 {
			return false
		}
		q.SrcPort, q.DstPort = be.Uint16(b), be.Uint16(b[2:])
	case q.Proto == icmpProto(v.Is6):
		if len(b) < icmpMin || isError(v.Is6, b[0]) {
			return false // no error may answer an error (RFC 1122 section 3.2.2)
		}
		switch echoKind(v.Is6, b[0]) {
		case portsRequest:
			q.SrcPort = be.Uint16(b[icmpID:])
		case portsReply:
			q.DstPort = be.Uint16(b[icmpID:])
		}
	}
	return true
}

func icmpProto(is6 bool) uint8 {
	if is6 {
		return ProtoICMPv6
	}
	return ProtoICMP
}
