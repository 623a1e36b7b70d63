package packet

// Transport header layouts (RFC 9293, 768, 792, 4443).
const (
	tcpMin      = 20
	tcpSeq      = 4
	tcpAck      = 8
	tcpOffset   = 12
	tcpFlags    = 13
	tcpChecksum = 16

	udpMin      = 8
	udpLen      = 4
	udpChecksum = 6

	icmpMin      = 8
	icmpChecksum = 2
	icmpID       = 4
)

// parseTransport checks the header at L4 and sets Payload, the ports and what Edit has to touch.
func (v *View) parseTransport() Reason {
	v.Payload = v.L4
	if v.FragOffset != 0 {
		return None
	}
	switch v.Tuple.Proto {
	case ProtoTCP:
		return v.parseTCP()
	case ProtoUDP:
		return v.parseUDP()
	case ProtoICMP:
		if !v.Is6 {
			return v.parseICMP()
		}
	case ProtoICMPv6:
		if v.Is6 {
			return v.parseICMP()
		}
	}
	return None
}

// cutTransport is the reason for a transport header that doesn't fit the packet (RFC 1858 for fragments).
func (v *View) cutTransport() Reason {
	if v.Fragment {
		return TinyFragment
	}
	return BadTransport
}

func (v *View) parseTCP() Reason {
	b := v.Frame[v.L4:]
	if len(b) < tcpMin {
		return v.cutTransport()
	}
	size := int(b[tcpOffset]>>4) * 4
	if size < tcpMin {
		return BadTransport
	}
	if size > len(b) {
		return v.cutTransport()
	}
	v.Payload = v.L4 + size
	v.setPorts(b)
	v.Seq, v.Ack, v.TCPFlags = be.Uint32(b[tcpSeq:]), be.Uint32(b[tcpAck:]), b[tcpFlags]
	v.sum, v.sumAt = sumFull, v.L4+tcpChecksum
	if badFlags>>(v.TCPFlags&63)&1 != 0 {
		return BadTCPFlags
	}
	return v.checkLand()
}

// badFlags has a bit for every combination of the six classic flags that no stack sends: none at all,
// SYN+FIN, SYN+RST. FIN without ACK is odd but real.
const badFlags uint64 = 1 |
	0xcccccccccccccccc&0xaaaaaaaaaaaaaaaa | // bit 1 (SYN) and bit 0 (FIN)
	0xcccccccccccccccc&0xf0f0f0f0f0f0f0f0 //   bit 1 (SYN) and bit 2 (RST)

func (v *View) parseUDP() Reason {
	b := v.Frame[v.L4:]
	if len(b) < udpMin {
		return v.cutTransport()
	}
	size := int(be.Uint16(b[udpLen:]))
	// A fragmented datagram's length is that of the whole.
	if size < udpMin || size > len(b) && !v.Fragment {
		return BadTransport
	}
	v.Payload = v.L4 + udpMin
	v.setPorts(b)
	v.sum, v.sumAt = sumUDP, v.L4+udpChecksum
	return v.checkLand()
}

func (v *View) setPorts(b []byte) {
	ports := be.Uint32(b)
	v.Tuple.SrcPort, v.Tuple.DstPort = uint16(ports>>16), uint16(ports)
	v.ports = portsPair
}

func (v *View) checkLand() Reason {
	if v.Tuple.SrcPort == v.Tuple.DstPort && v.Tuple.Src == v.Tuple.Dst {
		return Land
	}
	return None
}

// ICMP types (IANA). Error types of ICMPv6 are those below 128.
const (
	icmp4EchoReply    = 0
	icmp4Unreachable  = 3
	icmp4SourceQuench = 4
	icmp4Redirect     = 5
	icmp4Echo         = 8
	icmp4TimeExceeded = 11
	icmp4Parameter    = 12

	icmp6Unreachable  = 1
	icmp6TooBig       = 2
	icmp6TimeExceeded = 3
	icmp6Parameter    = 4
	icmp6Echo         = 128
	icmp6EchoReply    = 129
	icmp6Redirect     = 137
)

func (v *View) parseICMP() Reason {
	b := v.Frame[v.L4:]
	if len(b) < icmpMin {
		return v.cutTransport()
	}
	v.Payload = v.L4 + icmpMin
	v.ICMPType, v.ICMPCode = b[0], b[1]
	v.sum, v.sumAt = sumPorts, v.L4+icmpChecksum
	if v.Is6 {
		v.sum = sumFull
	}
	v.ports = echoKind(v.Is6, b[0])
	switch v.ports {
	case portsRequest:
		v.Tuple.SrcPort = be.Uint16(b[icmpID:])
	case portsReply:
		v.Tuple.DstPort = be.Uint16(b[icmpID:])
	default:
		if !v.Is6 && b[0] == icmp4SourceQuench {
			return BadICMP // deprecated, to be ignored and dropped by middleboxes (RFC 6633 section 5)
		}
		if isError(v.Is6, b[0]) {
			return v.parseError()
		}
	}
	return None
}

// echoKind says where an ICMP message of this type has its identifier in the Tuple.
func echoKind(is6 bool, typ uint8) portKind {
	request, reply := uint8(icmp4Echo), uint8(icmp4EchoReply)
	if is6 {
		request, reply = icmp6Echo, icmp6EchoReply
	}
	switch typ {
	case request:
		return portsRequest
	case reply:
		return portsReply
	}
	return portsNone
}

// isError tells whether an ICMP message of this type reports an error and quotes a packet. Redirects
// quote too, but are between neighbours and not ours to pass on.
func isError(is6 bool, typ uint8) bool {
	if is6 {
		return typ >= icmp6Unreachable && typ <= icmp6Parameter
	}
	return typ == icmp4Unreachable || typ == icmp4TimeExceeded || typ == icmp4Parameter
}
