package config

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/tunlb/tunlb/policy"
)

// unfitMAC says why a server of the service has no static MAC address; nil if it may have one.
func (s *service) unfitMAC() *unfit {
	if s.Mode == policy.DR || s.badMode {
		return nil
	}
	return &unfit{fmt.Sprintf(`"mac" in a service with mode %s`, s.Mode), "static MAC addresses are for mode dr", "remove the key or write mode: dr"}
}

// checkDirect holds a service with mode dr to what direct routing can do: it gives a packet as it is to a neighbour.
func (d *decoder) checkDirect(s *service, segments []Segment, routes routeTable) {
	if len(segments) == 0 {
		d.fail(s.modeAt, `mode "dr" without an Ethernet port`, "it sends frames to the servers' MAC addresses", "write a port with type: tap or packet, or mode: nat")
		return
	}
	var first *serverOn
	for i, server := range s.Servers {
		at := s.serverAt[i]
		if !server.Address.IsValid() || !s.Listen.IsValid() || server.Address.Addr().Is4() != s.Listen.Addr().Is4() {
			continue
		}
		segment, ok := d.segmentOf(server.Address.Addr(), at.address, routes)
		switch {
		case !ok:
			continue
		case first == nil:
			first = &serverOn{server.Address.Addr(), at.address, segment}
		case first.segment != segment:
			d.fail(at.address, fmt.Sprintf("server %s is on another segment than %s in line %d", server.Address.Addr(), first.addr, first.at.line),
				"mode dr stays within one segment", "write servers of one segment, or mode: nat")
		}
		if mac := segments[segment].MAC; server.MAC == mac && mac != ([6]byte{}) {
			d.fail(at.mac, fmt.Sprintf("mac %s is the one of port %q", macText(mac), d.macOwner(&segments[segment]).Name), "that is tunlb itself", "write the server's MAC address")
		}
	}
}

// serverOn is a server with its place in the file and in the network.
type serverOn struct {
	addr    netip.Addr
	at      pos
	segment int
}

// checkServerPort compares the ports of server and service where nobody translates them.
func (d *decoder) checkServerPort(s *service, server netip.AddrPort, at pos) {
	if s.Mode == policy.DR && s.Listen.IsValid() && server.Port() != s.Listen.Port() {
		d.fail(at, fmt.Sprintf("server %s has another port than the service %s", server, s.Listen), "mode dr leaves packets as they are, and so their port",
			fmt.Sprintf("write %s or mode: nat", netip.AddrPortFrom(server.Addr(), s.Listen.Port())))
	}
}

// segmentOf gives the index of the segment on which a is resolved.
func (d *decoder) segmentOf(a netip.Addr, at pos, routes routeTable) (int, bool) {
	const what, instead = "server %s is on no segment of a tap or packet port", "write an address of its network in the addresses of such a port, or mode: nat"
	prefix, segment, ok := routes.lookup(a)
	switch {
	case segment != elsewhere:
		return segment, true
	case ok && prefix.Bits() > 0:
		d.fail(at, fmt.Sprintf(what, a), fmt.Sprintf("mode dr sends frames to its MAC address, and %s is behind a router or a TUN", prefix), instead)
	default:
		d.fail(at, fmt.Sprintf(what, a), "mode dr sends frames to its MAC address", instead)
	}
	return 0, false
}

// macText is a MAC address as in the file.
func macText(mac [6]byte) string { return net.HardwareAddr(mac[:]).String() }
