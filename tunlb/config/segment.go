package config

import (
	"fmt"
	"net/netip"
	"slices"
)

// Segment is one Ethernet segment, on which tunlb is one host: the values of all of its ports joined.
type Segment struct {
	Ports []int          // indices into Config.Ports, ascending; more than one only if they have sides
	MAC   [6]byte        // tunlb's own; zero if the file does not say
	Own   []netip.Prefix // tunlb's own addresses, each with the length of its prefix; never empty
	Via   []Route        // what is behind routers of the segment
}

// Segments lists the Ethernet segments in the order of their first ports. A tap or packet port without a side is one
// by itself; all ports with a side are one, the switch. No two segments have an address in common.
func (c *Config) Segments() []Segment {
	var segments []Segment
	inline := -1 // the switch
	for i := range c.Ports {
		p := &c.Ports[i]
		if !p.Ethernet() {
			continue
		}
		at := len(segments)
		if p.Side != "" && inline >= 0 {
			at = inline
		} else if p.Side != "" {
			inline = at
		}
		if at == len(segments) {
			segments = append(segments, Segment{})
		}
		segments[at].join(i, p)
	}
	return segments
}

func (s *Segment) join(i int, p *Port) {
	s.Ports = append(s.Ports, i)
	s.Own = append(s.Own, p.Own...)
	s.Via = append(s.Via, p.Via...)
	if s.MAC == [6]byte{} {
		s.MAC = p.MAC
	}
}

// OnLink reports whether a is in a prefix of the segment's own addresses, so that it can be resolved there.
func (s *Segment) OnLink(a netip.Addr) bool {
	return slices.ContainsFunc(s.Own, func(own netip.Prefix) bool { return own.Contains(a) })
}

// checkSegments finds the contradictions within each segment. Its ports must have been read without errors.
func (d *decoder) checkSegments(segments []Segment, routes routeTable, own map[netip.Addr]string, vips map[netip.Addr]pos) {
	for i := range segments {
		s := &segments[i]
		if d.ports[s.Ports[0]].Side != "" {
			d.checkSwitch(s)
		}
		if len(s.Own) == 0 { // checkSwitch has said so; nobody is on such a segment
			continue
		}
		for _, n := range s.Ports {
			p := &d.ports[n]
			for j, r := range p.Via {
				if vip, known := vips[r.Via]; known {
					d.fail(p.routeAt[j], fmt.Sprintf("next hop %s is the VIP in line %d", r.Via, vip.line), "that is tunlb itself", "write the router's address")
				} else if what := own[r.Via]; what != "" {
					d.fail(p.routeAt[j], fmt.Sprintf("next hop %s is %s", r.Via, what), "that is tunlb itself", "write the router's address")
				} else {
					d.checkVia(i, r, p.routeAt[j], routes)
				}
			}
		}
	}
}

// checkSwitch compares the ports with sides.
func (d *decoder) checkSwitch(s *Segment) {
	first := &d.ports[s.Ports[0]]
	sides := make(map[string]bool)
	for n, i := range s.Ports {
		p := &d.ports[i]
		sides[p.Side] = true
		if p.MAC != ([6]byte{}) && p.MAC != s.MAC {
			d.fail(p.macAt, fmt.Sprintf("mac %s is not the %s of port %q", macText(p.MAC), macText(s.MAC), d.macOwner(s).Name), "all ports with a side are one switch, which is one host", "write one of the two")
		}
		for _, j := range s.Ports[:n] {
			if o := &d.ports[j]; p.Bridge != "" && p.Bridge == o.Bridge && p.NetNS == o.NetNS {
				d.fail(p.bridgeAt, fmt.Sprintf("port %q joins bridge %q as port %q does", p.Name, p.Bridge, o.Name), "frames would go round and round", "write another bridge")
				break
			}
		}
	}
	for _, side := range []string{Clients, Servers} {
		if !sides[side] {
			d.fail(first.sideAt, "no port has side: "+side, "a switch is between clients and servers", "write side: "+side+" on a port, or remove side: "+first.Side)
		}
	}
	if len(s.Own) == 0 {
		d.fail(first.at, "no port with a side has addresses", needsOwn, writeOwn+" on one of them")
	}
}

// macOwner is the port that has the segment's MAC.
func (d *decoder) macOwner(s *Segment) *port {
	for _, i := range s.Ports {
		if d.ports[i].MAC == s.MAC {
			return &d.ports[i]
		}
	}
	return &d.ports[s.Ports[0]]
}

// checkVia wants a next hop that can be resolved on the segment, and a prefix that has to be behind it.
func (d *decoder) checkVia(segment int, r Route, at pos, routes routeTable) {
	link, on, _ := routes.lookup(r.Via)
	switch {
	case routes[r.Prefix.Bits()][r.Prefix] != elsewhere:
		d.fail(at, fmt.Sprintf("route %s is the prefix of a segment", r.Prefix), "no router is needed on it", "remove the route")
	case on != segment:
		d.fail(at, fmt.Sprintf("next hop %s is not on the link", r.Via), "no prefix of the port's own addresses has it", "write an address of one of them")
	case reserved(r.Via, link):
		d.fail(at, fmt.Sprintf("next hop %s is no host's address", r.Via), "the first and the last address of a network are reserved", "write another address of "+link.String())
	}
}
