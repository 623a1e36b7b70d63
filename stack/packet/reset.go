package packet

// AppendReset appends a frame for an IP port to dst: a TCP reset of a connection, as the sender of the tuple
// would send it. seq has to be what the receiver expects next, or it takes no notice (RFC 5961, 3.2).
func AppendReset(dst []byte, tu *Tuple, seq, ack uint32) []byte {
	is6 := !isMapped(&tu.Src)
	l4 := VnetLen + ip4Min
	if is6 {
		l4 = VnetLen + ip6Min
	}
	start := len(dst)
	dst = append(dst, make([]byte, l4+tcpMin)...)
	b := dst[start:]
	tcp := b[l4:]
	be.PutUint16(tcp, tu.SrcPort)
	be.PutUint16(tcp[2:], tu.DstPort)
	be.PutUint32(tcp[tcpSeq:], seq)
	be.PutUint32(tcp[tcpAck:], ack)
	tcp[tcpOffset], tcp[tcpFlags] = tcpMin/4<<4, TCPRst|TCPAck
	if is6 {
		writeIPv6(b[VnetLen:], ProtoTCP, tu.Src, tu.Dst)
	} else {
		writeIPv4(b[VnetLen:], ProtoTCP, tu.Src, tu.Dst)
	}
	writeChecksum(b, VnetLen, l4, l4+tcpChecksum)
	return dst
}
