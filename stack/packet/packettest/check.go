package packettest

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"testing"

	"github.com/tunlb/tunlb/stack/packet"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Packet is a frame taken apart with gVisor's header package. The slices alias the frame.
type Packet struct {
	Frame    []byte
	Vnet     packet.Vnet
	IP       []byte // the whole IP packet
	L4       []byte // transport header and payload; of a later fragment its payload
	Payload  []byte // transport payload
	Src, Dst netip.AddrPort
	Proto    uint8
	TTL, TOS uint8
	Fragment bool // first or later
	Offset   int  // fragment offset in bytes
	More     bool
	FragID   uint32
}

// Checker checks one thing and returns "" if it is as it should be, else a message.
type Checker func(p *Packet) string

// Check decodes frame and runs every checker; a failure prints got, want and the packet.
func Check(t testing.TB, frame []byte, checks ...Checker) {
	t.Helper()
	p, err := Decode(frame)
	if err != nil {
		t.Errorf("packettest: %v\n%s", err, hex.Dump(frame))
		return
	}
	for _, c := range checks {
		if msg := c(p); msg != "" {
			t.Errorf("%s\n%s", msg, hex.Dump(frame[:min(len(frame), 256)]))
		}
	}
}

// Decode takes a frame apart.
func Decode(frame []byte) (*Packet, error) {
	if len(frame) < packet.VnetLen {
		return nil, fmt.Errorf("frame of %d bytes has no vnet header", len(frame))
	}
	p := &Packet{Frame: frame, Vnet: packet.DecodeVnet(frame)}
	if err := p.decode(frame[packet.VnetLen:], false); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *Packet) decode(b []byte, quoted bool) error {
	p.IP = b
	var src, dst tcpip.Address
	switch header.IPVersion(b) {
	case 4:
		h := header.IPv4(b)
		if len(b) < header.IPv4MinimumSize || len(b) < int(h.HeaderLength()) {
			return fmt.Errorf("IPv4 packet of %d bytes", len(b))
		}
		if !quoted && int(h.TotalLength()) != len(b) {
			return fmt.Errorf("IPv4 total length %d, packet has %d", h.TotalLength(), len(b))
		}
		src, dst = h.SourceAddress(), h.DestinationAddress()
		p.Proto, p.TTL, p.TOS = h.Protocol(), h.TTL(), b[1]
		p.More, p.Offset, p.FragID = h.More(), int(h.FragmentOffset()), uint32(h.ID())
		p.L4 = b[h.HeaderLength():]
	case 6:
		h := header.IPv6(b)
		if len(b) < header.IPv6MinimumSize {
			return fmt.Errorf("IPv6 packet of %d bytes", len(b))
		}
		if !quoted && int(h.PayloadLength()) != len(b)-header.IPv6MinimumSize {
			return fmt.Errorf("IPv6 payload length %d, packet has %d", h.PayloadLength(), len(b)-header.IPv6MinimumSize)
		}
		src, dst = h.SourceAddress(), h.DestinationAddress()
		p.TTL = h.HopLimit()
		p.TOS, _ = h.TOS()
		if err := p.extensions(h.NextHeader(), b[header.IPv6MinimumSize:]); err != nil {
			return err
		}
	default:
		return fmt.Errorf("IP version %d", header.IPVersion(b))
	}
	p.Fragment = p.More || p.Offset > 0
	sport, dport, err := p.transport()
	p.Src, p.Dst = netip.AddrPortFrom(addr(src), sport), netip.AddrPortFrom(addr(dst), dport)
	if quoted {
		return nil
	}
	return err
}

func (p *Packet) extensions(next uint8, b []byte) error {
	for {
		switch next {
		case 0, 43, 60, 44:
		default:
			p.Proto, p.L4 = next, b
			return nil
		}
		if len(b) < 8 {
			return fmt.Errorf("IPv6 extension header %d cut off", next)
		}
		n := 8
		if next == 44 {
			f := binary.BigEndian.Uint16(b[2:])
			p.Offset, p.More, p.FragID = int(f&^7), f&1 != 0, binary.BigEndian.Uint32(b[4:])
		} else {
			n = 8 * (int(b[1]) + 1)
		}
		if len(b) < n {
			return fmt.Errorf("IPv6 extension header %d cut off", next)
		}
		next, b = b[0], b[n:]
		if p.Offset > 0 {
			p.Proto, p.L4 = next, b
			return nil
		}
	}
}

func (p *Packet) transport() (sport, dport uint16, err error) {
	p.Payload = p.L4
	if p.Offset > 0 {
		return 0, 0, nil
	}
	need, _ := p.layout()
	if len(p.L4) >= min(need, 4) && (p.Proto == packet.ProtoTCP || p.Proto == packet.ProtoUDP) {
		sport, dport = binary.BigEndian.Uint16(p.L4), binary.BigEndian.Uint16(p.L4[2:])
	}
	if len(p.L4) < need {
		return sport, dport, fmt.Errorf("protocol %d header cut off: %d bytes", p.Proto, len(p.L4))
	}
	if p.Proto == packet.ProtoTCP {
		need = int(header.TCP(p.L4).DataOffset())
	}
	if need == 8 && p.Proto != packet.ProtoUDP {
		request, reply := byte(8), byte(0)
		if p.Proto == packet.ProtoICMPv6 {
			request, reply = 128, 129
		}
		switch id := binary.BigEndian.Uint16(p.L4[4:]); p.L4[0] {
		case request:
			sport = id
		case reply:
			dport = id
		}
	}
	p.Payload = p.L4[min(need, len(p.L4)):]
	return sport, dport, nil
}

// layout is the length of the transport's fixed header and where in it the checksum is; 0, 0 for
// protocols we don't know, among them ICMP in the wrong family.
func (p *Packet) layout() (size, sumAt int) {
	is4 := header.IPVersion(p.IP) == 4
	switch {
	case p.Proto == packet.ProtoTCP:
		return header.TCPMinimumSize, 16
	case p.Proto == packet.ProtoUDP:
		return header.UDPMinimumSize, 6
	case p.Proto == packet.ProtoICMP && is4, p.Proto == packet.ProtoICMPv6 && !is4:
		return 8, 2
	}
	return 0, 0
}

// ValidChecksums checks the IPv4 header checksum and the transport checksum: full, or with NEEDS_CSUM
// the pseudo-header sum and the vnet offsets. An absent UDP checksum passes (NoUDPChecksum asks for
// it); the transport checksum of a fragment cannot be checked, so it passes. The IPv4 header
// checksum of an ICMP error's quote is checked too.
func ValidChecksums() Checker {
	return func(p *Packet) string {
		if header.IPVersion(p.IP) == 4 && !header.IPv4(p.IP).IsChecksumValid() {
			return "IPv4 header checksum is wrong"
		}
		_, at := p.layout()
		if p.Fragment || at == 0 {
			return ""
		}
		if msg := p.checkTransportSum(at); msg != "" {
			return msg
		}
		if q := p.quote(); q != nil && header.IPVersion(q.IP) == 4 {
			if !header.IPv4(q.IP).IsChecksumValid() {
				return "quoted IPv4 header checksum is wrong"
			}
		}
		return ""
	}
}

func (p *Packet) checkTransportSum(at int) string {
	var pseudo uint16
	if p.Proto != packet.ProtoICMP {
		pseudo = header.PseudoHeaderChecksum(tcpip.TransportProtocolNumber(p.Proto), address(p.Src.Addr()), address(p.Dst.Addr()), uint16(len(p.L4)))
	}
	field := binary.BigEndian.Uint16(p.L4[at:])
	if p.Vnet.Flags&packet.FlagNeedsCsum != 0 {
		start := len(p.IP) - len(p.L4)
		switch {
		case int(p.Vnet.CsumStart) != start || int(p.Vnet.CsumOffset) != at:
			return fmt.Sprintf("NEEDS_CSUM at %d+%d, want %d+%d", p.Vnet.CsumStart, p.Vnet.CsumOffset, start, at)
		case field%0xffff != pseudo%0xffff:
			return fmt.Sprintf("partial checksum %#04x, want %#04x", field, pseudo)
		}
		return ""
	}
	if p.Proto == packet.ProtoUDP && field == 0 {
		return ""
	}
	if sum := checksum.Checksum(p.L4, pseudo); sum != 0xffff {
		return fmt.Sprintf("protocol %d checksum %#04x is wrong: everything sums to %#04x", p.Proto, field, sum)
	}
	return ""
}

// quote decodes what an ICMP error quotes; nil if p is none.
func (p *Packet) quote() *Packet {
	if size, _ := p.layout(); p.Fragment || size == 0 || len(p.L4) < size {
		return nil
	}
	switch {
	case p.Proto == packet.ProtoICMP && (p.L4[0] == 3 || p.L4[0] == 11 || p.L4[0] == 12):
	case p.Proto == packet.ProtoICMPv6 && p.L4[0] >= 1 && p.L4[0] <= 4:
	default:
		return nil
	}
	q := new(Packet)
	if q.decode(p.L4[8:], true) != nil {
		return nil
	}
	return q
}

// Quoted runs checks on the packet that an ICMP error quotes, as on a frame without vnet header.
// ValidChecksums in there works if the quote is complete.
func Quoted(checks ...Checker) Checker {
	return func(p *Packet) string {
		q := p.quote()
		if q == nil {
			return "the packet quotes nothing"
		}
		for _, c := range checks {
			if msg := c(q); msg != "" {
				return "quote: " + msg
			}
		}
		return ""
	}
}

// field is want for something in the first size bytes of the transport header.
func field[T comparable](what string, size int, get func(l4 []byte) T, value T) Checker {
	check := want(what, func(p *Packet) T { return get(p.L4) }, value)
	return func(p *Packet) string {
		if len(p.L4) < size || p.Offset > 0 {
			return fmt.Sprintf("%s: not in a packet of protocol %d with %d bytes at offset %d", what, p.Proto, len(p.L4), p.Offset)
		}
		return check(p)
	}
}

func want[T comparable](what string, get func(*Packet) T, want T) Checker {
	return func(p *Packet) string {
		if got := get(p); got != want {
			return fmt.Sprintf("%s: got %v, want %v", what, got, want)
		}
		return ""
	}
}

// SrcDst checks the endpoints. For ICMP echo the identifier is the request's source port and the
// reply's destination port, as in packet.Tuple; what has no ports has 0.
func SrcDst(src, dst netip.AddrPort) Checker {
	return want("endpoints", func(p *Packet) [2]netip.AddrPort { return [2]netip.AddrPort{p.Src, p.Dst} }, [2]netip.AddrPort{src, dst})
}

// HasTTL checks TTL or hop limit.
func HasTTL(n uint8) Checker { return want("TTL", func(p *Packet) uint8 { return p.TTL }, n) }

// HasTOS checks type of service or traffic class.
func HasTOS(n uint8) Checker { return want("TOS", func(p *Packet) uint8 { return p.TOS }, n) }

// HasProto checks the transport protocol.
func HasProto(n uint8) Checker { return want("protocol", func(p *Packet) uint8 { return p.Proto }, n) }

// HasFlags checks the TCP flags.
func HasFlags(f uint8) Checker {
	return field("TCP flags", 20, func(l4 []byte) uint8 { return l4[13] }, f)
}

// HasSeq checks the TCP sequence number.
func HasSeq(n uint32) Checker {
	return field("sequence number", 20, func(l4 []byte) uint32 { return binary.BigEndian.Uint32(l4[4:]) }, n)
}

// HasAck checks the TCP acknowledgment number.
func HasAck(n uint32) Checker {
	return field("acknowledgment number", 20, func(l4 []byte) uint32 { return binary.BigEndian.Uint32(l4[8:]) }, n)
}

// HasID checks IPv4's identification or an IPv6 fragment's.
func HasID(n uint32) Checker {
	return want("identification", func(p *Packet) uint32 { return p.FragID }, n)
}

// HasVnet checks the whole vnet header.
func HasVnet(h packet.Vnet) Checker {
	return want("vnet header", func(p *Packet) packet.Vnet { return p.Vnet }, h)
}

// HasICMP checks ICMP type and code.
func HasICMP(typ, code uint8) Checker {
	return field("ICMP type and code", 8, func(l4 []byte) [2]uint8 { return [2]uint8(l4) }, [2]uint8{typ, code})
}

// HasMTU checks the next-hop MTU of a fragmentation needed or packet too big.
func HasMTU(n uint32) Checker {
	return field("next-hop MTU", 8, func(l4 []byte) uint32 { return binary.BigEndian.Uint32(l4[4:]) }, n)
}

// IsFragment checks fragment offset (in bytes) and MF.
func IsFragment(offset int, more bool) Checker {
	return want("fragment", func(p *Packet) string { return fmt.Sprint(p.Offset, p.More) }, fmt.Sprint(offset, more))
}

// HasPayload checks the transport payload.
func HasPayload(b []byte) Checker {
	return func(p *Packet) string {
		if !bytes.Equal(p.Payload, b) {
			return fmt.Sprintf("payload: got %d bytes, want %d: %s", len(p.Payload), len(b), firstDifference(p.Payload, b))
		}
		return ""
	}
}

// NoUDPChecksum checks that the datagram has none.
func NoUDPChecksum() Checker {
	return field("UDP checksum", 8, func(l4 []byte) uint16 { return binary.BigEndian.Uint16(l4[6:]) }, 0)
}

func firstDifference(a, b []byte) string {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("byte %d is %#02x, want %#02x", i, a[i], b[i])
		}
	}
	return "one is the other's beginning"
}

func addr(a tcpip.Address) netip.Addr {
	ip, _ := netip.AddrFromSlice(a.AsSlice())
	return ip
}
