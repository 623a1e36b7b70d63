package packet

import "net/netip"

// Claim is what tunlb takes from an interface that is the box's own: the packets of services, and nothing of what
// the box itself gets there. A plain value; the zero value takes nothing. NewTaker asks it of packets.
//
// Taken is, of TCP and UDP, what is for one of VIPs, and what is from one of Servers unless it is for one of Own.
//
// Of ICMP echo requests, those for an address that VIPs have with the protocol of its family, 1 or 58. No other message
// is taken by that: neighbour discovery stays with the kernel.
//
// Of ICMP errors about TCP and UDP, those whose quoted packet came from one of VIPs, and those whose quoted packet went to one of Servers
// unless the error is for one of Own.
//
// Later fragments show no port and no type: those for an address that VIPs have with their protocol are taken, and of
// TCP and UDP those from an address that Servers have with it, unless they are for one of Own. (Neighbour discovery is
// never fragmented, RFC 6980.)
type Claim struct {
	VIPs    []Endpoints
	Servers []Endpoints
	// Own are the box's own addresses: answers of the servers to its own connections are for them. A VIP that is
	// the box's own, too, is in both lists.
	Own []netip.Addr
}

// Endpoints are ports of an address, First to Last; both 0 are all ports. Proto is TCP (6) or UDP (17), or for echo
// requests, which have no ports, ICMP (1) with an IPv4 address and ICMPv6 (58) with an IPv6 one. Any other protocol is
// nothing, and so are echo requests among Servers.
type Endpoints struct {
	Addr        netip.Addr
	Proto       uint8
	First, Last uint16
}

// Ports are First and Last, or what they mean if both are 0.
func (e Endpoints) Ports() (first, last uint16) {
	if e.First == 0 && e.Last == 0 {
		return 0, 65535
	}
	return e.First, e.Last
}

// Echo says that they are echo requests to the address.
func (e Endpoints) Echo() bool {
	if e.Addr.Unmap().Is4() {
		return e.Proto == ProtoICMP
	}
	return e.Addr.IsValid() && e.Proto == ProtoICMPv6
}
