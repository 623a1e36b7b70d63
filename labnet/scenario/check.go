package scenario

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/tunlb/tunlb/labnet"
)

// check finds the contradictions between values that are right each by itself.
func (d *decoder) check() {
	before := len(d.errs)
	d.checkNames()
	d.checkDirector()
	d.checkAddresses()
	for i := range d.lab.Hosts {
		if d.lab.Hosts[i].Name == d.lab.Director.Name {
			continue // whose gateway is whose cannot be told
		}
		d.checkGateways(&d.lab.Hosts[i], d.at.hosts[i])
		d.checkServices(&d.lab.Hosts[i], d.at.hosts[i])
	}
	if len(d.errs) > before {
		return // what tunlb would say of its ports is said already
	}
	if d.readConfig(); d.config != nil {
		d.checkServers()
	}
}

func (d *decoder) checkNames() {
	for i, h := range d.lab.Hosts {
		if h.Name == d.lab.Director.Name {
			d.fail(d.at.hosts[i].name, fmt.Sprintf("host %q is the director", h.Name), "names are unique", "write another name")
		}
	}
}

// checkDirector wants sides on all of its networks or on none, and only where it is a host on segments.
func (d *decoder) checkDirector() {
	dir, sides := &d.lab.Director, 0
	for i, a := range dir.Attachments {
		at := d.at.director.links[i]
		if a.Side != "" {
			sides++
		}
		switch {
		case a.Side != "" && dir.Port == "tun":
			d.fail(at.side, `"side" of a director with port: tun`, "its kernel routes between its networks", "remove the key or write port: tap")
		case len(a.Addresses) == 0 && a.Side == "":
			d.fail(at.at, fmt.Sprintf("director without an address in %q", a.Network), "it is a host there", "write addresses: [ADDRESS/LENGTH]")
		}
	}
	if n := len(dir.Attachments); n > 0 && sides > 0 && sides < n {
		d.fail(d.at.director.port, "side in some of the director's networks", "those with a side are the two halves of one segment, between which tunlb is the switch", "write side: clients or side: servers in each")
	}
}

// member is an address on a network.
type member struct {
	prefix netip.Prefix
	who    string
	at     pos
}

// members are all addresses on a network, the director's first. The halves of a segment that the director is the switch
// of count as one.
func (d *decoder) members(network string) (all []member) {
	same := []string{network}
	for _, a := range d.lab.Director.Attachments {
		if a.Side != "" && d.sided(network) && a.Network != network {
			same = append(same, a.Network)
		}
	}
	collect := func(who string, attachments []Attachment, at hostAt) {
		for i, a := range attachments {
			if !slices.Contains(same, a.Network) {
				continue
			}
			for j, p := range a.Addresses {
				if p.IsValid() {
					all = append(all, member{p, who, at.links[i].addresses[j]})
				}
			}
		}
	}
	collect(d.lab.Director.Name, d.lab.Director.Attachments, d.at.director)
	for i, h := range d.lab.Hosts {
		collect(h.Name, h.Attachments, d.at.hosts[i])
	}
	return all
}

func (d *decoder) sided(network string) bool {
	return slices.ContainsFunc(d.lab.Director.Attachments, func(a Attachment) bool { return a.Network == network && a.Side != "" })
}

// checkAddresses wants every address once, and all on one network to agree on its prefixes.
func (d *decoder) checkAddresses() {
	first := make(map[netip.Addr]member)
	for _, n := range d.lab.Networks {
		var here []member
		for _, m := range d.members(n.Name) {
			if f, known := first[m.prefix.Addr()]; known && f.at != m.at {
				d.fail(m.at, fmt.Sprintf("doubled address %s", m.prefix.Addr()), fmt.Sprintf("%s has it in line %d", f.who, f.at.line), "write another one")
			} else {
				first[m.prefix.Addr()] = m
			}
			for _, other := range here {
				if other.prefix.Overlaps(m.prefix) && other.prefix.Masked() != m.prefix.Masked() && !m.prefix.IsSingleIP() && !other.prefix.IsSingleIP() {
					d.fail(m.at, fmt.Sprintf("address %s in network %q", m.prefix, n.Name), fmt.Sprintf("%s says in line %d that its prefix is %s", other.who, other.at.line, other.prefix.Masked()),
						fmt.Sprintf("write %s/%d, or an address outside of it", m.prefix.Addr(), other.prefix.Bits()))
					break
				}
			}
			here = append(here, m)
		}
	}
}

// checkGateways wants each to be on a link of the host, somebody's there, and the only one of its family.
func (d *decoder) checkGateways(h *Host, at hostAt) {
	families := make(map[bool]pos)
	for i, g := range h.Gateways {
		if !g.IsValid() || slices.ContainsFunc(h.Attachments, incomplete) {
			continue
		}
		if first, known := families[g.Is4()]; known {
			d.fail(at.gateways[i], fmt.Sprintf("second %s gateway of %q", family(g), h.Name), fmt.Sprintf("the first one is in line %d", first.line), "write one for each family")
			continue
		}
		families[g.Is4()] = at.gateways[i]
		var link *Attachment
		for j, a := range h.Attachments {
			if slices.ContainsFunc(a.Addresses, func(p netip.Prefix) bool { return p.IsValid() && p.Contains(g) }) {
				link = &h.Attachments[j]
			}
		}
		if link == nil {
			d.fail(at.gateways[i], fmt.Sprintf("gateway %s is on no link of %q", g, h.Name), "none of its networks' prefixes has it", "write an address of one of them")
			continue
		}
		members := d.members(link.Network)
		k := slices.IndexFunc(members, func(m member) bool { return m.prefix.Addr() == g })
		switch {
		case k < 0:
			d.fail(at.gateways[i], fmt.Sprintf("gateway %s is nobody's", g), fmt.Sprintf("no host in network %q has it", link.Network), d.suggestGateway(link.Network, g))
		case members[k].who == h.Name:
			d.fail(at.gateways[i], fmt.Sprintf("gateway %s is the host itself", g), "packets would go nowhere", d.suggestGateway(link.Network, g))
		}
	}
}

// incomplete tells whether an address could not be read.
func incomplete(a Attachment) bool {
	return slices.ContainsFunc(a.Addresses, func(p netip.Prefix) bool { return !p.IsValid() })
}

func (d *decoder) suggestGateway(network string, like netip.Addr) string {
	for _, a := range d.lab.Director.Attachments {
		for _, p := range a.Addresses {
			if a.Network == network && p.IsValid() && p.Addr().Is4() == like.Is4() {
				return fmt.Sprintf("write %s, which is the director's", p.Addr())
			}
		}
	}
	return "write the address of a host there"
}

func (d *decoder) checkServices(h *Host, at hostAt) {
	type socket struct {
		udp  bool
		port uint16
	}
	first := make(map[socket]pos)
	for i, s := range h.Services {
		k := socket{s.Kind == labnet.UDPEcho, s.Port}
		if known, ok := first[k]; ok && s.Port != 0 {
			d.fail(at.services[i], fmt.Sprintf("doubled port %d of %q", s.Port, h.Name), fmt.Sprintf("the first one is in line %d", known.line), "write another port")
		}
		first[k] = at.services[i]
	}
}

// checkServers compares tunlb's real servers with the hosts.
func (d *decoder) checkServers() {
	for _, s := range d.config.Services {
		for _, l := range s.Listen {
			if who := d.lab.owner(l.Addr); who != "" {
				d.fail(d.at.configAt, fmt.Sprintf("VIP %s of service %q is an address of %q", l.Addr, s.Name, who), "a VIP is the director's", "write another address; for direct routing the servers have it under loopback:")
			}
		}
		for _, server := range s.Servers {
			a := server.Address.Addr()
			h, _ := d.lab.Host(d.lab.owner(a))
			if h.Name == "" {
				d.warn(d.at.configAt, fmt.Sprintf("server %s of service %q is no host's", a, s.Name), "nobody will answer there", "write a host with that address")
				continue
			}
			mode := server.Mode
			if mode == 0 {
				mode = s.Mode
			}
			for _, l := range s.Listen {
				if mode.String() == "dr" && !slices.ContainsFunc(h.Loopback, func(p netip.Prefix) bool { return p.Addr() == l.Addr }) {
					d.warn(d.at.configAt, fmt.Sprintf("host %q does not have the VIP %s", h.Name, l.Addr), "in direct routing it comes to the server as it is", fmt.Sprintf("write loopback: [%q]", l.Addr))
				}
			}
		}
	}
}

// serverNames are those that orders may name: names and addresses.
func (d *decoder) serverNames() (names []string) {
	for _, s := range d.config.Services {
		for _, server := range s.Servers {
			names = append(names, server.Name, server.Address.Addr().String(), server.Address.String())
		}
		if s.Sorry != nil {
			names = append(names, s.Sorry.Name, s.Sorry.Address.Addr().String(), s.Sorry.Address.String())
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// looksNamed leaves addresses out of suggestions.
func looksNamed(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(s string) bool { return strings.ContainsAny(s, ":.") })
}

func family(a netip.Addr) string {
	if a.Is4() {
		return "IPv4"
	}
	return "IPv6"
}
