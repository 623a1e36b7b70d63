package namespaces

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/tunlb/tunlb/labnet"
	"github.com/tunlb/tunlb/labnet/scenario"
)

// link is where a member of a network hangs on its switch.
type link struct {
	member, network string
	inner           string // the member's interface
	outer           string // the switch's
	mtu             int
}

// switchOf is a network's node. Hosts' names have no space in them.
func switchOf(network string) string { return "switch " + network }

// plan is a file as a topology, but for the servers: labnet's answer well and at once, those of a lab file as it says.
func plan(f *scenario.File) (labnet.Topology, []link) {
	p := planner{file: f, members: make(map[string]int)}
	for _, n := range f.Networks {
		p.Nodes = append(p.Nodes, labnet.Node{Name: switchOf(n.Name), Switch: true})
	}
	p.director()
	for _, h := range f.Hosts {
		p.host(h)
	}
	return p.Topology, p.links
}

// planner is a Topology being built.
type planner struct {
	labnet.Topology
	file    *scenario.File
	links   []link
	members map[string]int // of the networks, so far
}

func (p *planner) host(h scenario.Host) {
	n := labnet.Node{Name: h.Name, Loopback: h.Loopback}
	for _, via := range h.Gateways {
		n.Routes = append(n.Routes, labnet.Route{To: everywhere(via), Via: via})
	}
	if len(h.Loopback) > 0 {
		// It has the VIP as well as the director, and is not to answer for it on the segment.
		n.Sysctls = map[string]string{"ipv4/conf/all/arp_ignore": "1", "ipv4/conf/all/arp_announce": "2"}
	}
	p.Nodes = append(p.Nodes, n)
	for i, a := range h.Attachments {
		p.attach(h.Name, fmt.Sprintf("eth%d", i), a, a.Addresses)
	}
}

// director is a box with its interfaces, or one with a bridge for each network, which the daemon's TAP joins.
func (p *planner) director() {
	d := p.file.Director
	n := labnet.Node{Name: d.Name}
	if d.Port != "tap" {
		n.Forward = true
		p.Nodes = append(p.Nodes, n)
		for i, a := range d.Attachments {
			p.attach(d.Name, fmt.Sprintf("eth%d", i), a, a.Addresses)
		}
		return
	}
	for i := range d.Attachments {
		n.Bridges = append(n.Bridges, labnet.Bridge{Name: bridge(i), Interfaces: []string{fmt.Sprintf("eth%d", i)}})
	}
	p.Nodes = append(p.Nodes, n)
	for i, a := range d.Attachments {
		p.attach(d.Name, fmt.Sprintf("eth%d", i), a, nil)
	}
}

func (p *planner) attach(member, inner string, a scenario.Attachment, addresses []netip.Prefix) {
	l := link{member: member, network: a.Network, inner: inner, outer: fmt.Sprintf("port%d", p.members[a.Network]), mtu: p.mtu(a.Network)}
	p.members[a.Network]++
	p.links = append(p.links, l)
	p.Links = append(p.Links, labnet.Link{
		A:   labnet.End{Node: member, Interface: inner, Addresses: addresses},
		B:   labnet.End{Node: switchOf(a.Network), Interface: l.outer},
		MTU: l.mtu,
	})
}

func (p *planner) mtu(network string) int { return mtuOf(p.file, network) }

func mtuOf(f *scenario.File, network string) int {
	i := slices.IndexFunc(f.Networks, func(n scenario.Network) bool { return n.Name == network })
	if i < 0 || f.Networks[i].MTU == 0 {
		return 1500
	}
	return f.Networks[i].MTU
}

// configuration is what the director's tunlb runs with: the file's, with the ports that its networks ask for.
func configuration(f *scenario.File) string {
	if f.Director.Port == "tap" {
		return f.Director.With(taps(f))
	}
	mtu := 1500
	for _, a := range f.Director.Attachments {
		mtu = max(mtu, mtuOf(f, a.Network))
	}
	if mtu == 1500 {
		return f.Director.With("") // tunlb's default is a TUN on the box
	}
	return f.Director.With(fmt.Sprintf(`ports:
  - name: tunlb0
    mtu: %d
    addresses: [10.255.0.1/30, "fd00:7474::1/126"]
    router: [10.255.0.2, "fd00:7474::2"]
`, mtu))
}

// taps are the ports of a director that is a host of its own in each network.
func taps(f *scenario.File) string {
	return f.Director.Ports(func(i int) string {
		return fmt.Sprintf("    bridge: %s\n    mtu: %d\n", bridge(i), mtuOf(f, f.Director.Attachments[i].Network))
	})
}

// bridge is the director's own in its i-th network.
func bridge(i int) string { return fmt.Sprintf("br%d", i) }

// everywhere is the destination of a default route.
func everywhere(via netip.Addr) netip.Prefix {
	if via.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}
