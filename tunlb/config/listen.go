package config

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb/config/wording"
)

// maxListens bounds the places of one service.
const maxListens = 1024

// listens says whether it is known where the service listens.
func (s *service) listens() bool { return len(s.Listen) > 0 }

// vip is the first address that the service listens on; the others are of its family.
func (s *service) vip() netip.Addr {
	if !s.listens() {
		return netip.Addr{}
	}
	return s.Listen[0].Addr
}

// port is the only port that the service has; 0 if it has several or is not known.
func (s *service) port() uint16 {
	if !s.listens() {
		return 0
	}
	port := s.Listen[0].First
	for _, l := range s.Listen {
		if l.First != port || l.Last != port {
			return 0
		}
	}
	return port
}

// decodeListen reads one place or a list of them.
func (d *decoder) decodeListen(n *node, s *service) {
	s.listenAt = n.at
	if n.empty() {
		d.fail(n.at, `"listen" has no items`, "the service has no address that clients could connect to", "write listen: VIP:port/proto")
	}
	d.oneOrMore(n, "listen", maxListens, func(n *node) {
		l, ok := d.place(n)
		switch {
		case !ok:
		case s.listens() && l.Addr.Is4() != s.vip().Is4():
			d.fail(n.at, fmt.Sprintf("listen %s of the %s service %s", l, family(s.vip()), s.Listen[0]), "a service and its servers are of one family",
				"write a service of its own for "+family(l.Addr))
		default:
			s.Listen = append(s.Listen, l)
			s.placeAt = append(s.placeAt, n.at)
		}
	})
}

// place reads VIP:port/protocol, VIP:first-last/protocol or, for all ports, VIP:0/protocol.
func (d *decoder) place(n *node) (l policy.Listen, ok bool) {
	text, ok := d.str(n, "listen")
	if !ok {
		return l, false
	}
	address, proto, found := strings.Cut(text, "/")
	if !found {
		proto = "tcp"
	}
	switch proto {
	case "tcp":
		l.Proto = policy.TCP
	case "udp":
		l.Proto = policy.UDP
	default:
		d.fail(n.at, fmt.Sprintf("listen %s has the protocol %s", wording.Quote(text), wording.Quote(proto)), "this version has tcp and udp", wording.Suggest(proto, []string{"tcp", "udp"}))
		ok = false
	}
	i := strings.LastIndex(address, ":") + 1 // 0 is an address, or none, without a port
	first, last, isRange := strings.Cut(address[i:], "-")
	if i == 0 {
		first, isRange = address, false
	}
	at, known := d.addrPort(n.at, "listen", address[:i]+first, "a service has a port, a range of ports or, with 0, all")
	if !ok || !known {
		return l, false
	}
	l.Addr, l.First, l.Last = at.Addr(), at.Port(), at.Port()
	if isRange {
		l.Last, ok = d.lastPort(n.at, text, l.First, last)
	}
	return l, ok
}

// lastPort reads the end of a range.
func (d *decoder) lastPort(at pos, text string, first uint16, s string) (uint16, bool) {
	last, err := strconv.ParseUint(s, 10, 16)
	what, instead := "listen "+wording.Quote(text)+" has ", "write a range like 8000-8100"
	switch {
	case err != nil:
		d.fail(at, what+"no range of ports", "a range is two ports with - between them", instead)
	case first == 0:
		d.fail(at, what+"port 0 in its range", "no connection has it", "write a range from 1 on, or 0 alone for all ports")
	case uint16(last) < first:
		d.fail(at, what+"a range that runs backwards", "the lower port comes first", fmt.Sprintf("write %d-%d", last, first))
	default:
		return uint16(last), true
	}
	return 0, false
}

// placed is a place with where it stands in the file.
type placed struct {
	policy.Listen
	at      pos
	service *service
}

// places are those of all services in the order of the file.
func (d *decoder) places() (all []placed) {
	for i := range d.services {
		s := &d.services[i]
		for j, l := range s.Listen {
			all = append(all, placed{l, s.placeAt[j], s})
		}
	}
	return all
}

// checkListen finds places that two have, and those that are tunlb's own.
func (d *decoder) checkListen(own map[netip.Addr]string) {
	all := d.places()
	for _, p := range all {
		if what := own[p.Addr]; what != "" {
			d.fail(p.at, fmt.Sprintf("VIP %s is %s", p.Addr, what), "tunlb needs that one for itself", "write another VIP")
		}
		if p.All() && p.service.Persistence.Timeout == 0 && !p.service.badPersistence {
			d.fail(p.at, fmt.Sprintf("listen %s is all ports of a service without persistence", p.Listen),
				"connections of one client that belong together would go to different servers (IPVS: zero port specified for non-persistent service)", "write persistence: 5m, or a range like 1-65535")
		}
	}
	type vip struct {
		addr  netip.Addr
		proto uint8
	}
	groups := make(map[vip][]int)
	for i, p := range all {
		key := vip{p.Addr, p.Proto} // all ports, from 0 to 0, are what the others leave over
		groups[key] = append(groups[key], i)
	}
	for _, group := range groups {
		slices.SortStableFunc(group, func(a, b int) int { return cmp.Compare(all[a].First, all[b].First) })
		widest := group[0] // of those so far the one that reaches furthest
		for _, i := range group[1:] {
			if all[i].First <= all[widest].Last {
				d.overlap(all[min(i, widest)], all[max(i, widest)])
			}
			if all[i].Last > all[widest].Last {
				widest = i
			}
		}
	}
}

// overlap reports two places with a port in common; the first one stands above the other.
func (d *decoder) overlap(first, p placed) {
	switch {
	case p.service == first.service && p.Listen == first.Listen:
		d.doubled(p.at, "listen "+p.String(), first.at, "write it once")
	case p.Listen == first.Listen:
		d.doubled(p.at, "service "+p.String(), first.at, "write the servers of both under one")
	default:
		d.fail(p.at, fmt.Sprintf("listen %s overlaps %s in line %d", p.Listen, first.Listen, first.at.line), "a packet is of one service only", "write ports that have none in common")
	}
}

// vips has for each VIP the first place.
func (d *decoder) vips() map[netip.Addr]pos {
	m := make(map[netip.Addr]pos)
	for _, p := range d.places() {
		if _, known := m[p.Addr]; !known {
			m[p.Addr] = p.at
		}
	}
	return m
}
