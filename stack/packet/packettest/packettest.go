// Package packettest builds frames (virtio_net_hdr | IP packet) for tests and checks frames that come
// out of the code under test. It owns the encoder and the oracle, both on gVisor's header and
// checksum packages, so that tests don't check tunlb's packet code by itself. It must not be imported
// by product code, and it does not parse with packet.View.
//
//	frame := packettest.TCP(t, client, vip, packettest.Flags(packet.TCPSyn), packettest.PartialChecksum())
//	... the code under test ...
//	packettest.Check(t, frame, packettest.SrcDst(client, server), packettest.HasTTL(63), packettest.ValidChecksums())
//
// The address family follows src. Builders fail the test rather than return errors; every call
// returns a fresh slice that the caller owns.
package packettest

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/tunlb/tunlb/stack/packet"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Option changes one thing of the frame that a builder makes. Options that make no sense for the
// builder are ignored.
type Option func(*spec)

type spec struct {
	proto    uint8
	src, dst netip.Addr

	ttl, tos  uint8
	id        uint16
	df        bool
	ipOptions []byte
	ext       []extension
	frag      *fragment
	badHeader bool

	flags      uint8
	seq, ack   uint32
	window     uint16
	tcpOptions []byte
	payload    []byte
	noChecksum bool
	badL4      bool
	quoteLen   int
	nextMTU    uint32

	partial, valid bool
	gso            uint16
	vnet           *packet.Vnet
}

type fragment struct {
	id     uint32
	offset int
	more   bool
}

type extension struct {
	proto uint8
	body  []byte
}

// Flags sets the TCP flags (packet.TCPSyn and so on); the default is ACK.
func Flags(f uint8) Option { return func(s *spec) { s.flags = f } }

// Seq sets the TCP sequence number.
func Seq(n uint32) Option { return func(s *spec) { s.seq = n } }

// Ack sets the TCP acknowledgment number.
func Ack(n uint32) Option { return func(s *spec) { s.ack = n } }

// TCPOptions sets the raw TCP options, padded with zeroes to a multiple of 4.
func TCPOptions(b ...byte) Option {
	return func(s *spec) { s.tcpOptions = pad(b, 4) }
}

// Payload sets the transport payload.
func Payload(b []byte) Option { return func(s *spec) { s.payload = b } }

// PayloadLen sets a patterned payload of n bytes.
func PayloadLen(n int) Option {
	return func(s *spec) {
		s.payload = make([]byte, n)
		for i := range s.payload {
			s.payload[i] = byte(i*7 + i>>8 + 1)
		}
	}
}

// TTL sets the TTL or hop limit; the default is 64. (The checker is HasTTL.)
func TTL(n uint8) Option { return func(s *spec) { s.ttl = n } }

// TOS sets the type of service or traffic class.
func TOS(n uint8) Option { return func(s *spec) { s.tos = n } }

// ID sets the IPv4 identification.
func ID(n uint16) Option { return func(s *spec) { s.id = n } }

// DontFragment sets IPv4's DF.
func DontFragment() Option { return func(s *spec) { s.df = true } }

// IPOptions sets the raw IPv4 options, padded with zeroes to a multiple of 4.
func IPOptions(b ...byte) Option { return func(s *spec) { s.ipOptions = pad(b, 4) } }

// Extension adds an IPv6 extension header of type proto. body is the header without its first two
// bytes (next header and length); it is padded with zeroes to 8n+6 bytes.
func Extension(proto uint8, body ...byte) Option {
	return func(s *spec) { s.ext = append(s.ext, extension{proto, body}) }
}

// Fragment makes the packet a fragment at offset bytes (a multiple of 8). At offset 0 it has the
// transport header, with a checksum over this fragment alone; a later one is the bare payload.
// Fragments (plural) cuts up a whole packet instead.
func Fragment(id uint32, offset int, more bool) Option {
	return func(s *spec) { s.frag = &fragment{id, offset, more} }
}

// NoChecksum leaves UDP's checksum 0, which means none.
func NoChecksum() Option { return func(s *spec) { s.noChecksum = true } }

// BadChecksum corrupts the transport checksum.
func BadChecksum() Option { return func(s *spec) { s.badL4 = true } }

// BadHeaderChecksum corrupts the IPv4 header checksum.
func BadHeaderChecksum() Option { return func(s *spec) { s.badHeader = true } }

// PartialChecksum makes the vnet header say NEEDS_CSUM, and the checksum a bare pseudo-header sum.
func PartialChecksum() Option { return func(s *spec) { s.partial = true } }

// DataValid makes the vnet header say DATA_VALID.
func DataValid() Option { return func(s *spec) { s.valid = true } }

// GSO makes a super-packet with segments of size payload bytes (TSO for TCP, USO for UDP). It implies
// PartialChecksum.
func GSO(size int) Option { return func(s *spec) { s.gso, s.partial = uint16(size), true } }

// Vnet sets the vnet header as it is, right or wrong.
func Vnet(h packet.Vnet) Option { return func(s *spec) { s.vnet = &h } }

// QuoteLen cuts an ICMP error's quote to n bytes.
func QuoteLen(n int) Option { return func(s *spec) { s.quoteLen = n } }

// NextMTU sets the MTU that a fragmentation needed or packet too big reports.
func NextMTU(n uint32) Option { return func(s *spec) { s.nextMTU = n } }

func newSpec(proto uint8, src, dst netip.Addr, opts []Option) *spec {
	s := &spec{proto: proto, src: src.Unmap(), dst: dst.Unmap(), ttl: 64, flags: packet.TCPAck, window: 0xfff0}
	for _, o := range opts {
		o(s)
	}
	return s
}

// TCP builds a TCP packet.
func TCP(t testing.TB, src, dst netip.AddrPort, opts ...Option) []byte {
	t.Helper()
	s := newSpec(packet.ProtoTCP, src.Addr(), dst.Addr(), opts)
	l4 := make([]byte, header.TCPMinimumSize+len(s.tcpOptions)+len(s.payload))
	header.TCP(l4).Encode(&header.TCPFields{
		SrcPort: src.Port(), DstPort: dst.Port(), SeqNum: s.seq, AckNum: s.ack,
		DataOffset: uint8(header.TCPMinimumSize + len(s.tcpOptions)), Flags: header.TCPFlags(s.flags), WindowSize: s.window,
	})
	copy(l4[header.TCPMinimumSize:], s.tcpOptions)
	copy(l4[header.TCPMinimumSize+len(s.tcpOptions):], s.payload)
	return s.frame(t, l4, 16, header.TCPMinimumSize+len(s.tcpOptions))
}

// UDP builds a UDP datagram.
func UDP(t testing.TB, src, dst netip.AddrPort, opts ...Option) []byte {
	t.Helper()
	s := newSpec(packet.ProtoUDP, src.Addr(), dst.Addr(), opts)
	l4 := make([]byte, header.UDPMinimumSize+len(s.payload))
	header.UDP(l4).Encode(&header.UDPFields{SrcPort: src.Port(), DstPort: dst.Port(), Length: uint16(len(l4))})
	copy(l4[header.UDPMinimumSize:], s.payload)
	return s.frame(t, l4, 6, header.UDPMinimumSize)
}

// Echo builds an ICMP or ICMPv6 echo request.
func Echo(t testing.TB, src, dst netip.Addr, id, seq uint16, opts ...Option) []byte {
	t.Helper()
	return echo(t, src, dst, id, seq, 8, 128, opts)
}

// EchoReply builds an ICMP or ICMPv6 echo reply.
func EchoReply(t testing.TB, src, dst netip.Addr, id, seq uint16, opts ...Option) []byte {
	t.Helper()
	return echo(t, src, dst, id, seq, 0, 129, opts)
}

func echo(t testing.TB, src, dst netip.Addr, id, seq uint16, type4, type6 uint8, opts []Option) []byte {
	t.Helper()
	s := newSpec(icmpProto(src), src, dst, opts)
	l4 := make([]byte, 8+len(s.payload))
	l4[0] = type4
	if s.proto == packet.ProtoICMPv6 {
		l4[0] = type6
	}
	binary.BigEndian.PutUint16(l4[4:], id)
	binary.BigEndian.PutUint16(l4[6:], seq)
	copy(l4[8:], s.payload)
	return s.frame(t, l4, 2, 8)
}

// ICMPError builds an ICMP error that quotes the packet of the frame quoted, cut as RFC 1812 (576)
// and RFC 4443 (1280) say unless QuoteLen says otherwise.
func ICMPError(t testing.TB, from, to netip.Addr, typ, code uint8, quoted []byte, opts ...Option) []byte {
	t.Helper()
	s := newSpec(icmpProto(from), from, to, opts)
	room := 576 - 28
	if s.proto == packet.ProtoICMPv6 {
		room = 1280 - 48
	}
	if s.quoteLen > 0 {
		room = s.quoteLen
	}
	quote := quoted[packet.VnetLen:]
	l4 := append(make([]byte, 8), quote[:min(len(quote), room)]...)
	l4[0], l4[1] = typ, code
	binary.BigEndian.PutUint32(l4[4:], s.nextMTU)
	return s.frame(t, l4, 2, 8)
}

// Unreachable builds a port unreachable that quotes the packet of the frame quoted.
func Unreachable(t testing.TB, from, to netip.Addr, quoted []byte, opts ...Option) []byte {
	t.Helper()
	if from.Unmap().Is4() {
		return ICMPError(t, from, to, 3, 3, quoted, opts...)
	}
	return ICMPError(t, from, to, 1, 4, quoted, opts...)
}

// Raw builds a packet of any protocol with Payload as the whole transport; no checksum is filled in.
func Raw(t testing.TB, proto uint8, src, dst netip.Addr, opts ...Option) []byte {
	t.Helper()
	s := newSpec(proto, src, dst, opts)
	return s.frame(t, s.payload, -1, 0)
}

// frame puts checksum, IP header and vnet header to a transport packet whose checksum is at sumAt (-1:
// has none) and whose own header is hdrLen long.
func (s *spec) frame(t testing.TB, l4 []byte, sumAt, hdrLen int) []byte {
	t.Helper()
	if s.src.Is4() != s.dst.Is4() {
		t.Fatalf("packettest: %s and %s are of two families", s.src, s.dst)
	}
	if s.frag != nil && s.frag.offset > 0 {
		l4, sumAt = s.payload, -1
	}
	if sumAt >= 0 && !s.noChecksum {
		s.checksum(l4, sumAt)
	}
	ip := s.ip4
	if s.src.Is6() {
		ip = s.ip6
	}
	hdr := ip(l4)
	frame := make([]byte, packet.VnetLen, packet.VnetLen+len(hdr)+len(l4))
	frame = append(append(frame, hdr...), l4...)
	s.encodeVnet(frame, len(hdr), sumAt, hdrLen)
	return frame
}

func (s *spec) checksum(l4 []byte, at int) {
	var pseudo uint16
	if s.proto != packet.ProtoICMP {
		pseudo = header.PseudoHeaderChecksum(tcpip.TransportProtocolNumber(s.proto), address(s.src), address(s.dst), uint16(len(l4)))
	}
	sum := pseudo
	if !s.partial {
		sum = ^checksum.Checksum(l4, pseudo)
		if sum == 0 && s.proto == packet.ProtoUDP {
			sum = 0xffff
		}
	}
	if s.badL4 {
		sum ^= 0x1234
	}
	checksum.Put(l4[at:], sum)
}

func (s *spec) ip4(l4 []byte) []byte {
	b := make([]byte, header.IPv4MinimumSize+len(s.ipOptions))
	f := header.IPv4Fields{
		TOS: s.tos, TotalLength: uint16(len(b) + len(l4)), ID: s.id, TTL: s.ttl,
		Protocol: s.proto, SrcAddr: address(s.src), DstAddr: address(s.dst),
	}
	if s.df {
		f.Flags |= header.IPv4FlagDontFragment
	}
	if s.frag != nil {
		f.ID, f.FragmentOffset = uint16(s.frag.id), uint16(s.frag.offset)
		if s.frag.more {
			f.Flags |= header.IPv4FlagMoreFragments
		}
	}
	h := header.IPv4(b)
	h.Encode(&f)
	copy(b[header.IPv4MinimumSize:], s.ipOptions)
	h.SetHeaderLength(uint8(len(b)))
	h.SetChecksum(0)
	h.SetChecksum(^h.CalculateChecksum())
	if s.badHeader {
		h.SetChecksum(h.Checksum() ^ 0x1234)
	}
	return b
}

func (s *spec) ip6(l4 []byte) []byte {
	ext := s.ext
	var chain []byte
	next := s.proto
	if s.frag != nil {
		body := make([]byte, 6)
		more := uint16(0)
		if s.frag.more {
			more = 1
		}
		binary.BigEndian.PutUint16(body, uint16(s.frag.offset)|more)
		binary.BigEndian.PutUint32(body[2:], s.frag.id)
		ext = append(ext[:len(ext):len(ext)], extension{44, body})
	}
	for i := len(ext) - 1; i >= 0; i-- {
		body := pad(append([]byte{next, 0}, ext[i].body...), 8)
		if ext[i].proto != 44 {
			body[1] = uint8(len(body)/8 - 1)
		}
		chain, next = append(body, chain...), ext[i].proto
	}
	b := make([]byte, header.IPv6MinimumSize, header.IPv6MinimumSize+len(chain))
	header.IPv6(b).Encode(&header.IPv6Fields{
		TrafficClass: s.tos, PayloadLength: uint16(len(chain) + len(l4)), HopLimit: s.ttl,
		TransportProtocol: tcpip.TransportProtocolNumber(next), SrcAddr: address(s.src), DstAddr: address(s.dst),
	})
	return append(b, chain...)
}

func (s *spec) encodeVnet(frame []byte, ipLen, sumAt, hdrLen int) {
	var h packet.Vnet
	if s.valid {
		h.Flags |= packet.FlagDataValid
	}
	if s.partial && sumAt >= 0 {
		h.Flags |= packet.FlagNeedsCsum
		h.CsumStart, h.CsumOffset = uint16(ipLen), uint16(sumAt)
	}
	if s.gso > 0 {
		h.GSOSize, h.HdrLen = s.gso, uint16(ipLen+hdrLen)
		switch {
		case s.proto == packet.ProtoUDP:
			h.GSOType = packet.GSOUDPL4
		case s.src.Is4():
			h.GSOType = packet.GSOTCPv4
		default:
			h.GSOType = packet.GSOTCPv6
		}
	}
	if s.vnet != nil {
		h = *s.vnet
	}
	h.Encode(frame)
}

func icmpProto(a netip.Addr) uint8 {
	if a.Unmap().Is4() {
		return packet.ProtoICMP
	}
	return packet.ProtoICMPv6
}

func address(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.Unmap().AsSlice()) }

func pad(b []byte, to int) []byte {
	b = append([]byte(nil), b...)
	for len(b)%to != 0 {
		b = append(b, 0)
	}
	return b
}
