package config

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/tunlb/tunlb/policy"
)

// unfitMAC says why the server that n is has no static MAC address; nil if it may have one.
func (s *service) unfitMAC(n *node) *unfit {
	mode, known := s.Mode, !s.badMode
	if f := n.field("mode"); f != nil && f.value != nil {
		mode, known = policy.ParseMode(f.value.text)
	}
	if mode == policy.DR || !known {
		return nil
	}
	return &unfit{fmt.Sprintf(`"mac" of a server with mode %s`, mode), "static MAC addresses are for mode dr", "remove the key or write mode: dr"}
}

// checkDirect holds servers with mode dr to what direct routing can do: it gives a packet as it is to a neighbour,
// on a segment of tunlb's own, or by the box's interfaces if its kernel leads the packets to tunlb.
func (d *decoder) checkDirect(s *service, segments []Segment, routes routeTable) {
	routed := d.onBox()
	var first *serverOn
	for _, server := range s.all() {
		a := server.Address.Addr()
		switch {
		case server.mode != policy.DR:
			continue
		case len(segments) == 0 && !routed:
			d.fail(server.at.mode, `mode "dr" without a port for it`, "its packets leave by an Ethernet port, or by the box's own interfaces if a TUN gets them from there",
				"write a port with type: tap or packet, or one of type tun without netns, or mode: nat")
			return
		case !a.IsValid() || !s.listens() || a.Is4() != s.vip().Is4():
			continue
		}
		segment, ok := d.segmentOf(a, server.at.address, routes, routed)
		switch {
		case !ok && routed && server.MAC != [6]byte{}:
			d.fail(server.at.mac, fmt.Sprintf("mac of the server %s, which is on no segment of a tap or packet port", a), "the box's own kernel knows or resolves what its interfaces lead to",
				fmt.Sprintf("remove the key; ip neigh replace %s lladdr %s dev INTERFACE tells the kernel", a, macText(server.MAC)))
			continue
		case !ok:
			continue
		case first == nil:
			first = &serverOn{a, server.at.address, segment}
		case first.segment != segment:
			d.fail(server.at.address, fmt.Sprintf("server %s is on another segment than %s in line %d", a, first.addr, first.at.line),
				"mode dr stays within one segment", "write servers of one segment, or mode: nat")
		}
		if mac := segments[segment].MAC; server.MAC == mac && mac != ([6]byte{}) {
			d.fail(server.at.mac, fmt.Sprintf("mac %s is the one of port %q", macText(mac), d.macOwner(&segments[segment]).Name), "that is tunlb itself", "write the server's MAC address")
		}
	}
}

// onBox says whether the box's own packets come to tunlb, led by its kernel or taken from its interfaces.
func (d *decoder) onBox() bool { return d.boxTUN() || d.boxPort() != nil }

// serverOn is a server with its place in the file and in the network.
type serverOn struct {
	addr    netip.Addr
	at      pos
	segment int
}

// checkServerPort compares the ports of server and service where nobody translates them.
func (d *decoder) checkServerPort(s *service, server serverOf) {
	port := server.Address.Port()
	if server.mode != policy.DR || !s.listens() || port == s.port() {
		return
	}
	const why = "mode dr leaves packets as they are, and so their port"
	if s.port() == 0 {
		d.fail(server.at.address, fmt.Sprintf("server %s has one port, the service several", server.Address), why, fmt.Sprintf("write %s or mode: nat", server.Address.Addr()))
		return
	}
	d.fail(server.at.address, fmt.Sprintf("server %s has another port than the service %s", server.Address, s.Listen[0]), why,
		fmt.Sprintf("write %s or mode: nat", netip.AddrPortFrom(server.Address.Addr(), s.port())))
}

// segmentOf gives the index of the segment on which a is resolved. Those on none are errors, unless packets to them
// are routed by the box.
func (d *decoder) segmentOf(a netip.Addr, at pos, routes routeTable, routed bool) (int, bool) {
	const what, instead = "server %s is on no segment of a tap or packet port", "write an address of its network in the addresses of such a port, or mode: nat"
	prefix, segment, ok := routes.lookup(a)
	switch {
	case segment != elsewhere:
		return segment, true
	case routed:
	case ok && prefix.Bits() > 0:
		d.fail(at, fmt.Sprintf(what, a), fmt.Sprintf("mode dr sends frames to its MAC address, and %s is behind a router or a TUN", prefix), instead)
	default:
		d.fail(at, fmt.Sprintf(what, a), "mode dr sends frames to its MAC address", instead)
	}
	return 0, false
}

// macText is a MAC address as in the file.
func macText(mac [6]byte) string { return net.HardwareAddr(mac[:]).String() }
