package packet

// Delta is what rewriting one tuple into another adds to a checksum, in one's complement: Addr for the
// addresses, Port for the ports (RFC 1624: the sum over all words of ~old + new). They are apart since
// an IPv4 header has no ports, a partial checksum has no ports, and ICMPv4 has no addresses. The zero
// value changes nothing. It is a plain value.
type Delta struct{ Addr, Port uint16 }

// DeltaOf computes the delta from one tuple to another of the same family.
func DeltaOf(from, to Tuple) Delta {
	var addr uint64
	// All sixteen bytes also for IPv4: the mapped prefix adds ~x + x, which is nothing.
	for i := 0; i < 16; i += 2 {
		addr += uint64(^be.Uint16(from.Src[i:])) + uint64(be.Uint16(to.Src[i:]))
		addr += uint64(^be.Uint16(from.Dst[i:])) + uint64(be.Uint16(to.Dst[i:]))
	}
	port := uint64(^from.SrcPort) + uint64(to.SrcPort) + uint64(^from.DstPort) + uint64(to.DstPort)
	return Delta{Addr: fold(addr), Port: fold(port)}
}

// Invert is the delta of the opposite rewrite, which is also that of the reverse direction: sums don't
// care which address is source and which destination.
func (d Delta) Invert() Delta { return Delta{^d.Addr, ^d.Port} }

// Edit rewrites the packets of one direction of one flow. The zero value is not useful. It is a plain
// value without pointers; Apply only reads it.
type Edit struct {
	To    Tuple // what the packet is to carry
	Delta Delta // from what it carries
}

// NewEdit prepares the rewrite of packets that carry from into packets that carry to; both are of one
// family and protocol.
func NewEdit(from, to Tuple) Edit { return Edit{To: to, Delta: DeltaOf(from, to)} }

// Apply rewrites addresses, ports (or the ICMP echo identifier), and brings the checksums along by the
// delta. It never makes a wrong checksum right. A later fragment has only addresses and an IPv4 header
// checksum to rewrite. ICMP errors are TranslateError's. v is a parsed frame that carries the tuple
// the edit was made for.
func (e *Edit) Apply(v *View) {
	b := v.Frame[v.L3:]
	if v.Is6 {
		_ = b[ip6Min-1]
		*(*[16]byte)(b[ip6Src:]) = e.To.Src
		*(*[16]byte)(b[ip6Dst:]) = e.To.Dst
	} else {
		_ = b[ip4Min-1]
		be.PutUint16(b[ip4Checksum:], ^add(^be.Uint16(b[ip4Checksum:]), e.Delta.Addr))
		*(*[4]byte)(b[ip4Src:]) = [4]byte(e.To.Src[12:])
		*(*[4]byte)(b[ip4Dst:]) = [4]byte(e.To.Dst[12:])
	}
	v.Tuple.Src, v.Tuple.Dst = e.To.Src, e.To.Dst
	if v.ports != portsNone {
		e.applyPorts(v.Frame[v.L4:], v.ports)
		v.Tuple.SrcPort, v.Tuple.DstPort = e.To.SrcPort, e.To.DstPort
	}
	if v.sum != sumNone {
		e.Delta.apply(v.Frame[v.sumAt:], v.sum)
	}
}

func (e *Edit) applyPorts(b []byte, kind portKind) {
	switch kind {
	case portsPair:
		be.PutUint32(b, uint32(e.To.SrcPort)<<16|uint32(e.To.DstPort))
	case portsRequest:
		be.PutUint16(b[icmpID:], e.To.SrcPort)
	case portsReply:
		be.PutUint16(b[icmpID:], e.To.DstPort)
	}
}

// apply updates the transport checksum at the start of b. A full checksum is a complement,
// C' = ~(~C + delta); a partial one is the bare sum of the pseudo-header, F' = F + delta, and there are
// no ports in it.
func (d Delta) apply(b []byte, kind sumKind) {
	old := be.Uint16(b)
	var sum uint16
	switch kind {
	case sumFull:
		sum = ^add(add(^old, d.Addr), d.Port)
	case sumUDP:
		if old == 0 {
			return // none (RFC 768); in IPv6 only tunnels may (RFC 6935), and we don't invent one
		}
		if sum = ^add(add(^old, d.Addr), d.Port); sum == 0 {
			sum = 0xffff // 0 would say none
		}
	case sumPorts:
		sum = ^add(^old, d.Port)
	case sumPartial:
		sum = add(old, d.Addr)
	}
	be.PutUint16(b, sum)
}

// add is one's complement addition.
func add(a, b uint16) uint16 {
	s := uint32(a) + uint32(b)
	return uint16(s + s>>16)
}

// DecrementTTL takes 1 from TTL or hop limit; the IPv4 header checksum follows (RFC 1141). The caller
// has seen to it that it is at least 1; at 0 it stays.
func (v *View) DecrementTTL() {
	if v.TTL == 0 {
		return
	}
	v.TTL--
	b := v.Frame[v.L3:]
	if v.Is6 {
		b[ip6Hop] = v.TTL
		return
	}
	b[ip4TTL] = v.TTL
	// ~0x0100 is what the upper byte of a word adds when it shrinks by 1.
	be.PutUint16(b[ip4Checksum:], ^add(^be.Uint16(b[ip4Checksum:]), 0xfeff))
}
