package config

import (
	"fmt"
	"net/netip"

	"github.com/tunlb/tunlb/policy"
)

// checkReach finds servers that no port leads to; for those with mode dr see checkDirect. A port with default routes leads everywhere. VIPs are tunlb's own.
func (d *decoder) checkReach(s *service, routes routeTable) {
	for _, server := range s.all() {
		a := server.Address.Addr()
		if !a.IsValid() || server.mode == policy.DR {
			continue
		}
		if _, _, ok := routes.lookup(a); !ok {
			d.fail(server.at.address, fmt.Sprintf("no route to the server %s", a), "no port has a prefix with it",
				fmt.Sprintf("add %s/%d%s to the routes of the port that leads there", a, a.BitLen(), d.viaSomebody()))
		}
	}
}

// viaSomebody is what routes have besides the prefix if no port is a TUN.
func (d *decoder) viaSomebody() string {
	for _, p := range d.ports {
		if !p.Ethernet() {
			return ""
		}
	}
	return " via ADDRESS"
}

// elsewhere is where prefixes lead that are on no Ethernet segment: to a TUN or behind a router.
const elsewhere = -1

// routeTable has for prefixes by length the segment that each is on, or elsewhere, and so answers in as many look-ups
// as there are lengths.
type routeTable map[int]map[netip.Prefix]int

// routes is the table of all ports.
func (d *decoder) routes(segments []Segment) routeTable {
	t := make(routeTable)
	for i := range segments {
		for _, own := range segments[i].Own {
			t.add(own.Masked(), i)
		}
	}
	for _, p := range d.ports {
		for _, a := range p.Addresses {
			t.add(a.Masked(), elsewhere)
		}
		for _, r := range p.routes() {
			t.add(r, elsewhere)
		}
		if p.Box() { // the box's kernel knows the way
			for _, r := range everything() {
				t.add(r, elsewhere)
			}
		}
	}
	return t
}

// add keeps the first of equal prefixes, a segment's own.
func (t routeTable) add(p netip.Prefix, segment int) {
	if t[p.Bits()] == nil {
		t[p.Bits()] = make(map[netip.Prefix]int)
	}
	if _, known := t[p.Bits()][p]; !known {
		t[p.Bits()][p] = segment
	}
}

// lookup gives the longest prefix with a and where it leads.
func (t routeTable) lookup(a netip.Addr) (longest netip.Prefix, segment int, ok bool) {
	for bits := a.BitLen(); bits >= 0; bits-- {
		if t[bits] == nil {
			continue
		}
		p, _ := a.Prefix(bits)
		if segment, ok := t[bits][p]; ok {
			return p, segment, true
		}
	}
	return netip.Prefix{}, elsewhere, false
}
