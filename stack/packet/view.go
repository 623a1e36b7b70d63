package packet

// View is one parsed frame. The zero value is ready for Parse; a lane reuses one View for every
// frame. It borrows the frame until the next Parse. Not safe for concurrent use.
//
// After a Parse that returned a Reason, nothing but Tuple is meaningful, and that only as far as
// parsing got (for counters and traces).
type View struct {
	Frame []byte // vnet | packet, trimmed to the IP total length

	L3, L4, Payload int // offsets in Frame: IP header, transport header, transport payload

	// Tuple has ports iff TCP, UDP or ICMP echo and not a later fragment.
	Tuple Tuple

	Is6 bool
	TTL uint8 // IPv6: hop limit
	TOS uint8 // IPv6: traffic class

	Fragment     bool // any fragment, first or later; false for IPv6 atomic fragments (RFC 6946)
	FragMore     bool
	DontFragment bool   // IPv4 DF; true for IPv6
	FragID       uint32 // valid iff Fragment
	FragOffset   int    // in bytes; 0 unless a later fragment
	FragLen      int    // bytes of the datagram that this fragment has; valid iff Fragment

	TCPFlags uint8  // valid iff TCP and not a later fragment
	Seq, Ack uint32 // likewise

	ICMPType, ICMPCode uint8 // valid iff ICMP and not a later fragment

	// ICMPError: destination unreachable, packet too big, time exceeded, parameter problem. Its
	// checksum has been verified, since TranslateError writes a new one and must not repair it.
	ICMPError        bool
	Quote            Tuple // valid iff ICMPError: the quoted packet's tuple, as it was sent
	QuoteL3, QuoteL4 int   // valid iff ICMPError: offsets in Frame

	// Vnet is the frame's header, checked against the packet; GSOType without the ECN bit.
	Vnet Vnet

	// What Edit has to touch, found out once by Parse.
	ports portKind
	sum   sumKind
	sumAt int // offset in Frame of the transport checksum; valid iff sum != sumNone
}

// portKind says where the transport header keeps what the Tuple calls ports.
type portKind uint8

const (
	portsNone    portKind = iota
	portsPair             // TCP, UDP: both at L4
	portsRequest          // echo request: SrcPort is the identifier
	portsReply            // echo reply: DstPort is the identifier
)

// sumKind says which deltas the transport checksum takes (see Edit.Apply).
type sumKind uint8

const (
	sumNone    sumKind = iota
	sumFull            // addresses and ports: TCP, ICMPv6
	sumUDP             // likewise, but 0 means none
	sumPorts           // no pseudo-header: ICMPv4
	sumPartial         // NEEDS_CSUM: the field is the bare pseudo-header sum
)

// laterFragment tells whether v starts in the middle of a transport payload.
func (v *View) laterFragment() bool { return v.FragOffset != 0 }

// PacketLen is the IP total length, that of the super-packet for GSO.
func (v *View) PacketLen() int { return len(v.Frame) - v.L3 }

// Segments is how many packets the frame is on the wire: more than 1 only with GSO.
func (v *View) Segments() int {
	if v.Vnet.GSOType == GSONone {
		return 1
	}
	size := int(v.Vnet.GSOSize)
	return max(1, (len(v.Frame)-v.Payload+size-1)/size)
}

// SegmentLen is the IP length of the largest packet on the wire: what the MTU check needs.
func (v *View) SegmentLen() int {
	if v.Vnet.GSOType == GSONone {
		return v.PacketLen()
	}
	return min(v.PacketLen(), v.Payload-v.L3+int(v.Vnet.GSOSize))
}
