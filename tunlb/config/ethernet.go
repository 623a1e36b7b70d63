package config

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/tunlb/tunlb/tunlb/config/wording"
)

// On an Ethernet segment tunlb is a host like the others.
const (
	needsOwn = "tunlb is a host on the segment and needs an address of its own"
	writeOwn = "write addresses: [203.0.113.2/24]"
)

// boxPort stands for the type of a port that is an interface of the box's own.
const boxPort = "packet port without addresses"

// unfitKeys are those that not all types of ports have.
var unfitKeys = []struct{ portType, key, why, instead string }{
	{TUN, "bridge", "a TUN device joins no bridge", "remove the key or write type: tap"},
	{TUN, "side", "a TUN device carries both sides", "remove the key or write type: tap"},
	{TUN, "mac", "a TUN device has no MAC address", "remove the key or write type: tap"},
	{TAP, "router", "on a segment tunlb's own addresses stand in addresses", "remove the key; routes: [PREFIX via ADDRESS] name other routers"},
	{Packet, "router", "on a segment tunlb's own addresses stand in addresses", "remove the key; routes: [PREFIX via ADDRESS] name other routers"},
	{Packet, "bridge", "the interface exists, and is in its bridge already", "remove the key or write type: tap"},
	{Packet, "offload", "it is the interface's", "remove the key; ethtool -K NAME gro off changes it"},
	{Packet, "mtu", "it is the one of the interface", "remove the key; ip link set NAME mtu changes it"},
	{boxPort, "netns", "it is an interface of the box that tunlb runs on", "remove the key and run tunlb in that namespace, or write addresses for tunlb to be a host of its own there"},
	{boxPort, "router", "it is an interface of the box's own, whose addresses are tunlb's too", "remove the key"},
	{boxPort, "routes", "it is an interface of the box's own, whose kernel knows the way", "remove the key; ip route add tells the kernel"},
	{boxPort, "bridge", "the interface exists, and is in its bridge already", "remove the key or write type: tap"},
	{boxPort, "offload", "it is the interface's", "remove the key; ethtool -K NAME gro off changes it"},
	{boxPort, "mtu", "it is the one of the interface", "remove the key; ip link set NAME mtu changes it"},
	{boxPort, "mac", "it is an interface of the box's own, which has one", "remove the key, or write addresses for tunlb to be a host of its own there"},
}

// unfit says why a port of the type does not have the key; nil if it does.
func (p *port) unfit(key string) *unfit {
	kind, name := p.Type, p.Type+" port"
	if p.box {
		kind, name = boxPort, boxPort
	}
	for _, u := range unfitKeys {
		if u.key == key && u.portType == kind {
			return &unfit{fmt.Sprintf("%q on a %s", key, name), u.why, u.instead}
		}
	}
	return nil
}

// finishEthernet finds what is missing in a tap or packet port.
func (d *decoder) finishEthernet(n *node, p *port) {
	if p.Type == Packet {
		p.MTU = 0
		if n.field("name") == nil {
			d.fail(n.at, "packet port without a name", "it takes an interface that exists", "write name: INTERFACE, such as eth0")
		}
	}
	if p.Type == TAP && n.field("addresses") == nil && n.field("side") == nil {
		d.fail(n.at, "tap port without addresses", needsOwn, writeOwn)
	}
}

// decodeVia reads "PREFIX via ADDRESS".
func (d *decoder) decodeVia(n *node, p *port) {
	const form = "write it like 192.168.0.0/24 via 203.0.113.1"
	s, ok := d.str(n, "route")
	if !ok {
		return
	}
	words := strings.Fields(s)
	switch {
	case len(words) == 1:
		d.fail(n.at, fmt.Sprintf("route %s has no next hop", wording.Quote(s)), "of the many hosts of a segment one is the router", "write "+wording.Quote(s+" via ADDRESS"))
		return
	case len(words) != 3 || words[1] != "via":
		d.fail(n.at, fmt.Sprintf("route %s is no route", wording.Quote(s)), "a route is a network and the router that leads there", form)
		return
	}
	r := Route{Via: d.nextHop(n.at, words[2])}
	if words[0] != "default" {
		r.Prefix, ok = d.prefixText(n.at, "route", words[0])
	} else if r.Via.Is4() {
		r.Prefix = everything()[0]
	} else {
		r.Prefix = everything()[1]
	}
	if !ok || !r.Via.IsValid() {
		return
	}
	if r.Prefix.Addr().Is4() != r.Via.Is4() {
		d.fail(n.at, fmt.Sprintf("next hop %s of the %s route %s", r.Via, family(r.Prefix.Addr()), r.Prefix),
			"a router is found within one family only", "write an "+family(r.Prefix.Addr())+" address")
		return
	}
	p.Via = append(p.Via, r)
	p.routeAt = append(p.routeAt, n.at)
}

func (d *decoder) nextHop(at pos, s string) netip.Addr {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" && a.Is6() && a.IsLinkLocalUnicast() {
		d.fail(at, fmt.Sprintf("next hop %q is a link-local address", s), "next hops are in the prefixes of the port's own addresses", "write the router's address in one of them")
		return netip.Addr{}
	}
	return d.addrText(at, "next hop", s)
}

// mac reads the MAC address of one station.
func (d *decoder) mac(n *node, name string) (mac [6]byte) {
	const instead = "write it like 02:00:5e:10:00:01"
	if n.kind >= list {
		d.fail(n.at, fmt.Sprintf("%q is %s", name, kindNames[n.kind]), "a MAC address is expected", instead)
		return mac
	}
	hw, err := net.ParseMAC(n.text)
	switch {
	case err != nil || len(hw) != len(mac):
		d.fail(n.at, fmt.Sprintf("%s %s is no MAC address", name, wording.Quote(n.text)), "it is six bytes in hexadecimal", instead)
	case hw[0]&1 != 0:
		d.fail(n.at, fmt.Sprintf("%s %q is a group address", name, hw), "it is not one station's", instead)
	case [6]byte(hw) == mac:
		d.fail(n.at, fmt.Sprintf("%s %q is zero", name, hw), "it is no station's", instead)
	default:
		mac = [6]byte(hw)
	}
	return mac
}
