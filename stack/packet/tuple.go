package packet

import (
	"fmt"
	"net/netip"
	"strconv"
)

// Tuple names a packet's endpoints. It is comparable, has no pointers and no gaps: the flow table
// hashes its 40 bytes as they are. The zero value is no packet's tuple. It is a plain value.
type Tuple struct {
	Src, Dst [16]byte // IPv4 as v4-mapped, as netip.Addr.As16 gives it

	// Host order. An ICMP echo request has SrcPort = identifier, an echo reply DstPort =
	// identifier, so that a reply's tuple is the reverse of its request's. What has no ports has 0.
	SrcPort, DstPort uint16

	Proto uint8
	_     [3]byte
}

// TupleOf builds the tuple of a packet from src to dst. IPv6 zones are ignored.
func TupleOf(proto uint8, src, dst netip.AddrPort) Tuple {
	return Tuple{
		Src: src.Addr().As16(), SrcPort: src.Port(),
		Dst: dst.Addr().As16(), DstPort: dst.Port(),
		Proto: proto,
	}
}

// Reverse is the tuple of the answer.
func (t Tuple) Reverse() Tuple {
	t.Src, t.Dst = t.Dst, t.Src
	t.SrcPort, t.DstPort = t.DstPort, t.SrcPort
	return t
}

// Source is the sending endpoint, IPv4 unmapped.
func (t Tuple) Source() netip.AddrPort { return netip.AddrPortFrom(Addr(t.Src), t.SrcPort) }

// Destination is the receiving endpoint, IPv4 unmapped.
func (t Tuple) Destination() netip.AddrPort { return netip.AddrPortFrom(Addr(t.Dst), t.DstPort) }

// Is6 tells whether the addresses are IPv6.
func (t Tuple) Is6() bool { return !isMapped(&t.Src) }

// String looks like "tcp 198.51.100.7:40000 > 203.0.113.22:80".
func (t Tuple) String() string {
	return fmt.Sprintf("%s %s > %s", protoName(t.Proto), t.Source(), t.Destination())
}

func protoName(p uint8) string {
	switch p {
	case ProtoTCP:
		return "tcp"
	case ProtoUDP:
		return "udp"
	case ProtoICMP:
		return "icmp"
	case ProtoICMPv6:
		return "icmpv6"
	}
	return "proto-" + strconv.Itoa(int(p))
}

// Addr converts a Tuple's address, IPv4 unmapped.
func Addr(a [16]byte) netip.Addr { return netip.AddrFrom16(a).Unmap() }

// isMapped tells whether a stands for an IPv4 address.
func isMapped(a *[16]byte) bool {
	return be.Uint64(a[:8]) == 0 && be.Uint32(a[8:12]) == 0xffff
}
