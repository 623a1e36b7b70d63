package config

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	"github.com/tunlb/tunlb/tunlb/config/wording"
)

// Bounds of lists, far above any use: the checks compare every port with every other.
const (
	maxPorts     = 256
	maxAddresses = 16
	maxRoutes    = 4096
	maxItems     = 65536
)

// port is a port with the places of what the checks compare.
type port struct {
	Port
	at, nameAt pos
	addressAt  []pos // parallel to Addresses or Own, whichever the type has
	routerAt   []pos // parallel to Router
	routeAt    []pos // parallel to Routes or Via; empty if these are the default

	bridgeAt, sideAt, macAt pos // valid iff the file has these

	box bool // as Port.Box says once its addresses have been read
}

// Box is that of Port while not all has been read, or could be.
func (p *port) Box() bool { return p.box }

// Ethernet is that of Port, likewise.
func (p *port) Ethernet() bool { return (p.Type == TAP || p.Type == Packet) && !p.box }

// addresses gives those that addressAt belongs to.
func (p *port) addresses() []netip.Prefix {
	if p.Ethernet() {
		return p.Own
	}
	return p.Addresses
}

// routes gives the prefixes that routeAt belongs to.
func (p *port) routes() []netip.Prefix {
	if !p.Ethernet() {
		return p.Routes
	}
	prefixes := make([]netip.Prefix, len(p.Via))
	for i, r := range p.Via {
		prefixes[i] = r.Prefix
	}
	return prefixes
}

func (d *decoder) decodePorts(n *node) {
	before := len(d.errs)
	if n.empty() {
		d.fail(n.at, `"ports" has no items`, "packets enter and leave by a port", "leave the key out to get the default port tunlb0")
	}
	d.items(n, "ports", maxPorts, d.decodePort)
	d.badPorts = len(d.errs) > before || n.broken
	d.namePorts()
}

func (d *decoder) decodePort(n *node) {
	before := len(d.errs)
	p := port{at: n.at, nameAt: n.at, Port: Port{Type: d.portType(n), MTU: DefaultMTU, Offload: "auto"}}
	p.box = p.Type == Packet && n.field("addresses") == nil && n.field("side") == nil
	mostMTU := 65535
	if p.Ethernet() {
		mostMTU -= 14 // the frame's header
	}
	ok := d.decode(n, "a port", []key{
		{name: "name", decode: func(n *node) { p.nameAt = n.at; p.Name = d.deviceName(n, "name") }},
		{name: "type", decode: func(*node) {}}, // before the others, which depend on it
		{name: "addresses", decode: func(n *node) { d.decodeAddresses(n, &p) }},
		{name: "netns", unfit: p.unfit("netns"), decode: func(n *node) { p.NetNS = d.decodeNetNS(n) }},
		{name: "router", unfit: p.unfit("router"), decode: func(n *node) { d.decodeRouter(n, &p) }},
		{name: "routes", unfit: p.unfit("routes"), decode: func(n *node) { d.decodeRoutes(n, &p) }},
		{name: "mtu", unfit: p.unfit("mtu"), decode: func(n *node) { p.MTU, _ = d.number(n, "mtu", 1280, mostMTU) }},
		{name: "offload", unfit: p.unfit("offload"), decode: func(n *node) { p.Offload, _ = d.choice(n, "offload", []string{"auto", "tcp", "off"}, nil) }},
		{name: "bridge", unfit: p.unfit("bridge"), decode: func(n *node) { p.bridgeAt = n.at; p.Bridge = d.deviceName(n, "bridge") }},
		{name: "side", unfit: p.unfit("side"), decode: func(n *node) { p.sideAt = n.at; p.Side, _ = d.choice(n, "side", []string{Clients, Servers}, nil) }},
		{name: "mac", unfit: p.unfit("mac"), decode: func(n *node) { p.macAt = n.at; p.MAC = d.mac(n, "mac") }},
		{name: "queues", later: "a port has one queue"},
	})
	if !ok {
		return
	}
	d.finishPort(n, &p, len(d.errs) > before)
	d.ports = append(d.ports, p)
}

// portType is "" if the file has none that is known.
func (d *decoder) portType(n *node) string {
	f := n.field("type")
	switch {
	case f == nil:
		return TUN
	case f.value == nil || f.value.kind == null: // decodeField has it
		return ""
	}
	s, _ := d.choice(f.value, "type", []string{TUN, TAP, Packet}, nil)
	return s
}

// finishPort finds what is missing and fills in what follows from the rest. With errors some of that is not known.
func (d *decoder) finishPort(n *node, p *port, errs bool) {
	switch {
	case p.Ethernet(), p.Box():
		d.finishEthernet(n, p)
		return
	case n.field("addresses") == nil:
		d.fail(n.at, "port without addresses", "the kernel needs one on its end of the device", "write addresses: [10.255.0.1/30]")
		errs = true
	}
	if p.NetNS == "" && n.field("netns") == nil && n.field("routes") == nil {
		p.Routes = everything()
	}
	if !errs && !n.broken {
		d.finishRouter(p)
	}
}

func (d *decoder) deviceName(n *node, name string) string {
	const longest = 15 // IFNAMSIZ less the final NUL
	s, ok := d.str(n, name)
	switch {
	case !ok:
		return ""
	case len(s) > longest:
		d.fail(n.at, fmt.Sprintf("%s %s is too long", name, wording.Quote(s)), fmt.Sprintf("a device's name has at most %d bytes", longest), "write a shorter one")
		return ""
	case s == "." || s == ".." || strings.ContainsFunc(s, notInDeviceName):
		d.fail(n.at, fmt.Sprintf("%s %s is no device's name", name, wording.Quote(s)), "the kernel allows no space, /, : or %", "write letters, digits and -")
		return ""
	}
	return s
}

func notInDeviceName(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("/:%", r) }

func (d *decoder) decodeAddresses(n *node, p *port) {
	list := &p.Addresses
	why, instead := "the kernel needs one on its end of the device", "write addresses: [10.255.0.1/30]"
	if p.Ethernet() {
		list = &p.Own
		why, instead = needsOwn, writeOwn
	}
	if n.empty() {
		d.fail(n.at, `"addresses" has no items`, why, instead)
	}
	d.items(n, "addresses", maxAddresses, func(n *node) {
		if a, ok := d.hostPrefix(n, "address"); ok {
			*list = append(*list, a)
			p.addressAt = append(p.addressAt, n.at)
		}
	})
}

func (d *decoder) decodeNetNS(n *node) string {
	s, ok := d.str(n, "netns")
	switch {
	case !ok:
	case strings.HasPrefix(s, "/"):
		return path.Clean(s)
	case strings.Contains(s, "/") || s == "." || s == "..":
		d.fail(n.at, fmt.Sprintf("netns %s is a relative path", wording.Quote(s)), "it depends on where tunlb is started", "write an absolute path or a name of ip netns")
	default:
		return "/run/netns/" + s
	}
	return ""
}

func (d *decoder) decodeRouter(n *node, p *port) {
	d.items(n, "router", maxAddresses, func(n *node) {
		if a := d.addr(n, "router"); a.IsValid() {
			p.Router = append(p.Router, a)
			p.routerAt = append(p.routerAt, n.at)
		}
	})
}

func (d *decoder) decodeRoutes(n *node, p *port) {
	d.items(n, "routes", maxRoutes, func(n *node) {
		if p.Ethernet() {
			d.decodeVia(n, p)
		} else if to, _, found := strings.Cut(n.text, " via "); found {
			d.fail(n.at, fmt.Sprintf("route %s has a next hop", wording.Quote(n.text)), "behind a TUN device there is only one, the kernel",
				"write "+strings.Replace(wording.Quote(to), `"default"`, `"0.0.0.0/0" or "::/0"`, 1))
		} else if r, ok := d.prefix(n, "route"); ok {
			p.Routes = append(p.Routes, r)
			p.routeAt = append(p.routeAt, n.at)
		}
	})
}

// finishRouter checks the router addresses and adds those that follow from the addresses.
func (d *decoder) finishRouter(p *port) {
	for i, a := range p.Router {
		d.checkRouter(p, a, p.routerAt[i])
	}
	explicit := p.Router
	for i, a := range p.Addresses {
		if hasFamily(explicit, a.Addr()) {
			continue
		}
		if other, ok := peer(a); ok && !p.owns(other) {
			p.Router = append(p.Router, other)
			p.routerAt = append(p.routerAt, p.addressAt[i])
		}
	}
	for i, a := range p.Addresses {
		if !hasFamily(p.Router, a.Addr()) {
			d.fail(p.addressAt[i], fmt.Sprintf("no router address for %s", a), "tunlb needs an address of its own on the link, to answer and to send ICMP errors from", "write router: "+p.exampleRouter(a))
			return
		}
	}
}

func (d *decoder) checkRouter(p *port, a netip.Addr, at pos) {
	if p.owns(a) {
		d.fail(at, fmt.Sprintf("router %s is an address of the port", a), "that is the kernel's end of the link", "write another address of the same prefix")
		return
	}
	for _, own := range p.Addresses {
		switch {
		case own.Contains(a) && reserved(a, own):
			d.fail(at, fmt.Sprintf("router %s is no host's address", a), "the first and the last address of a network are reserved", "write another address of "+own.Masked().String())
			return
		case own.Contains(a):
			return
		}
	}
	d.fail(at, fmt.Sprintf("router %s is not on the link", a), "no prefix of the port's addresses has it", "write an address of one of them")
}

// owns reports whether a is an address of the kernel's end.
func (p *Port) owns(a netip.Addr) bool {
	return slices.ContainsFunc(p.Addresses, func(own netip.Prefix) bool { return own.Addr() == a })
}

func hasFamily(addrs []netip.Addr, like netip.Addr) bool {
	return slices.ContainsFunc(addrs, func(a netip.Addr) bool { return a.Is4() == like.Is4() })
}

// exampleRouter names the first free host of the link.
func (p *Port) exampleRouter(own netip.Prefix) string {
	for a := own.Masked().Addr(); own.Contains(a); a = a.Next() {
		if !p.owns(a) && !reserved(a, own) {
			return fmt.Sprintf("[%s]", a)
		}
	}
	return "[...] and give the address a shorter prefix, which has room for it"
}

// namePorts gives the devices without names the lowest free ones.
func (d *decoder) namePorts() {
	used := make(map[string]bool)
	for _, p := range d.ports {
		used[p.Name] = true
	}
	next := 0
	for i := range d.ports {
		p := &d.ports[i]
		if p.Name != "" || p.Type == Packet {
			continue
		}
		for used[fmt.Sprintf("tunlb%d", next)] {
			next++
		}
		p.Name = fmt.Sprintf("tunlb%d", next)
		used[p.Name] = true
	}
}
