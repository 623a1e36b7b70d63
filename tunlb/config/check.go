package config

import (
	"fmt"
	"net/netip"
	"slices"
)

// check finds the contradictions between values that are right each by itself. What could not be read is zero and skipped.
func (d *decoder) check() {
	d.checkPortNames()
	d.checkOneTUN()
	d.checkBoxPorts()
	d.checkPortAddresses()
	d.checkPortRoutes()
	d.checkServiceNames()
	own, vips := d.ownAddresses(), d.vips()
	d.checkListen(own)
	for i := range d.services {
		s := &d.services[i]
		d.checkScheduling(s)
		d.checkServers(s, own, vips)
		d.checkHealth(s)
	}
	d.checkGateways()
	d.checkMetrics()
	d.checkFastpath()
	if d.badPorts {
		return
	}
	segments := d.config().Segments()
	routes := d.routes(segments)
	d.checkSegments(segments, routes, own, vips)
	if slices.ContainsFunc(segments, func(s Segment) bool { return len(s.Own) == 0 }) {
		return // whose servers are reached is not known
	}
	for i := range d.services {
		s := &d.services[i]
		d.checkReach(s, routes)
		d.checkDirect(s, segments, routes)
		d.finishHealth(s, routes)
	}
}

func (d *decoder) checkPortNames() {
	type device struct{ netns, name string }
	first := make(map[device]pos)
	for _, p := range d.ports {
		at, known := first[device{p.NetNS, p.Name}]
		if !known || p.Name == "" { // a packet port's, and missing
			first[device{p.NetNS, p.Name}] = p.nameAt
			continue
		}
		d.doubled(p.nameAt, fmt.Sprintf("port name %q", p.Name), at, "write another name")
	}
}

// checkOneTUN allows one TUN on the box itself: its kernel leads all services to one device. What is on an Ethernet
// segment needs no kernel.
func (d *decoder) checkOneTUN() {
	var first *port
	for i, p := range d.ports {
		switch {
		case p.Type != TUN || p.NetNS != "":
		case first == nil:
			first = &d.ports[i]
		default:
			d.fail(p.at, fmt.Sprintf("port %q is the second one without netns", p.Name),
				fmt.Sprintf("the box's kernel leads all packets to the one in line %d", first.at.line), "write netns: NAMESPACE, or remove this port")
		}
	}
}

// checkPortAddresses compares every port with those before it.
func (d *decoder) checkPortAddresses() {
	for i := range d.ports {
		p := &d.ports[i]
		for j := range p.addresses() {
			d.checkDoubled(p, j, p, j)
			for k := range d.ports[:i] {
				if other := &d.ports[k]; p.Side != "" && other.Side != "" { // one segment
					d.checkDoubled(p, j, other, len(other.addresses()))
				} else {
					d.checkOverlap(p, j, other)
				}
			}
		}
	}
}

// checkDoubled compares the port's address j with the first n of other.
func (d *decoder) checkDoubled(p *port, j int, other *port, n int) {
	a := p.addresses()[j]
	for k, b := range other.addresses()[:n] {
		if a.Addr() == b.Addr() {
			d.doubled(p.addressAt[j], fmt.Sprintf("address %s", a), other.addressAt[k], "write it once")
		}
	}
}

// checkOverlap compares the port's address j with all of other.
func (d *decoder) checkOverlap(p *port, j int, other *port) {
	a := p.addresses()[j]
	for k, b := range other.addresses() {
		if a.Overlaps(b) {
			d.fail(p.addressAt[j], fmt.Sprintf("address %s overlaps %s of port %q in line %d", a, b, other.Name, other.addressAt[k].line),
				"tunlb could not tell which link a host is on", "write prefixes that have no address in common")
			return
		}
	}
}

// checkPortRoutes finds prefixes that would lead to two ports.
func (d *decoder) checkPortRoutes() {
	type owner struct {
		port int
		at   pos
	}
	first := make(map[netip.Prefix]owner)
	for i, p := range d.ports {
		for j, r := range p.routes() {
			at, implied := p.at, len(p.routeAt) == 0
			if !implied {
				at = p.routeAt[j]
			}
			o, known := first[r]
			switch {
			case !known:
				first[r] = owner{i, at}
				continue
			case implied:
				d.fail(at, fmt.Sprintf("port %q has no routes", p.Name),
					fmt.Sprintf("the default %s is the one of port %q in line %d already", r, d.ports[o.port].Name, o.at.line), "write routes: [...] with what is behind this port")
			default:
				d.doubled(at, fmt.Sprintf("route %s", r), o.at, "write it once")
			}
			if implied {
				break // one error is enough for both families
			}
		}
	}
}

// ownAddresses says of each of tunlb's own what it is.
func (d *decoder) ownAddresses() map[netip.Addr]string {
	m := make(map[netip.Addr]string)
	for _, p := range d.ports {
		for _, a := range p.Router {
			m[a] = fmt.Sprintf("a router address of port %q", p.Name)
		}
		for _, a := range p.Own {
			m[a.Addr()] = fmt.Sprintf("an address of port %q", p.Name)
		}
	}
	return m
}

func (d *decoder) checkGateways() {
	vips := make(map[netip.Addr][]placed)
	for _, p := range d.places() {
		vips[p.Addr] = append(vips[p.Addr], p)
	}
	inside := make(map[netip.Prefix]pos)
	for i, g := range d.gateways {
		d.checkShared(g, d.gateways[:i])
		if at, known := inside[g.Inside]; known && g.Inside.IsValid() {
			d.doubled(g.insideAt, fmt.Sprintf("inside network %s", g.Inside), at, "write it once")
		} else {
			inside[g.Inside] = g.insideAt
		}
		if g.Inside.IsValid() && g.Masquerade.IsValid() {
			d.checkMasquerade(g)
		}
		for _, p := range vips[g.Masquerade] {
			if first := max(p.First, g.FirstPort); p.Has(first) && first <= g.LastPort {
				d.fail(g.masqueradeAt, fmt.Sprintf("masquerade %s is the VIP of %s in line %d", g.Masquerade, p.Listen, p.at.line),
					fmt.Sprintf("port %d is one of the gateway's ports %d-%d", first, g.FirstPort, g.LastPort), "write ports: that have no service")
				break
			}
		}
	}
}

// checkShared wants gateways with one address to have the same ports, or quite different ones: a port
// has to tell whose mapping it is.
func (d *decoder) checkShared(g gateway, earlier []gateway) {
	for _, e := range earlier {
		same := g.FirstPort == e.FirstPort && g.LastPort == e.LastPort
		if g.Masquerade.IsValid() && g.Masquerade == e.Masquerade && !same && g.FirstPort <= e.LastPort && e.FirstPort <= g.LastPort {
			d.fail(g.masqueradeAt, fmt.Sprintf("ports %d-%d of %s overlap %d-%d in line %d", g.FirstPort, g.LastPort, g.Masquerade, e.FirstPort, e.LastPort, e.at.line),
				"a port could be given twice", fmt.Sprintf("write ports: %d-%d here, too, or a range apart from it", e.FirstPort, e.LastPort))
			return
		}
	}
}

func (d *decoder) checkMasquerade(g gateway) {
	switch in := g.Inside.Addr(); {
	case in.Is4() != g.Masquerade.Is4():
		d.fail(g.masqueradeAt, fmt.Sprintf("masquerade %s for the %s network %s", g.Masquerade, family(in), g.Inside),
			"addresses are translated within one family only", "write an "+family(in)+" address")
	case g.Inside.Contains(g.Masquerade):
		d.fail(g.masqueradeAt, fmt.Sprintf("masquerade %s is in the inside network %s", g.Masquerade, g.Inside),
			"answers to it would not leave the inside", "write an address of tunlb that is outside")
	}
}
