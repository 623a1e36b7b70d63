package packet

import "net/netip"

// Claim is what tunlb takes from an interface that is the box's own: the packets of services, and nothing of what
// the box itself gets there. A plain value; the zero value takes nothing.
//
// Taken is, of TCP and UDP, what is for one of VIPs, and what is from one of Servers unless it is for one of Own;
// ICMP errors about such packets; and later fragments (which show no port) of the protocols of VIPs for their addresses, and
// of Servers from theirs.
type Claim struct {
	VIPs    []Endpoints
	Servers []Endpoints
	// Own are the box's own addresses: answers of the servers to its own connections are for them. A VIP that is
	// the box's own, too, is in both lists.
	Own []netip.Addr
}

// Endpoints are ports of an address, First to Last; both 0 are all ports. Proto is TCP (6) or UDP (17).
type Endpoints struct {
	Addr        netip.Addr
	Proto       uint8
	First, Last uint16
}
