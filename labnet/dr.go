package labnet

import (
	"fmt"
	"net/netip"
)

// TunlbAddr and TunlbAddr6 are tunlb's own addresses in the network of DR, where it is a host of
// its own. No kernel has them.
const (
	TunlbAddr  = "203.0.113.2"
	TunlbAddr6 = "2001:db8:113::2"
)

// Shape is how tunlb meets the segment.
type Shape string

// The shapes of DR.
const (
	OneArm Shape = "one-arm" // one port on the segment that clients and servers share
	Inline Shape = "inline"  // between the clients' half of the segment and the servers'
)

// DROptions varies the network of DR. The zero value is one-arm, with the VIPs on the servers' lo
// and nothing that keeps them quiet.
type DROptions struct {
	Shape     Shape     // "" means OneArm
	Packet    bool      // tunlb is to use lb's own interfaces instead of TAP devices in its bridges
	Clients   int       // client, client2, ...; 0 means 1
	Servers   int       // rs1, rs2, ...; 0 means 3
	Remote    bool      // a router on the clients' side, everybody's gateway, and the host remote behind it
	Gateway   bool      // tunlb is the servers' gateway instead; implies Remote
	VIPOn     string    // where the servers have the VIPs: "lo" (also ""), "eth0" or "none"
	Quiet     bool      // arp_ignore 1 and arp_announce 2 on the servers, as LVS wants it
	DAD       bool      // the servers look for duplicates of IPv6 addresses that eth0 gets later
	NoOffload bool      // on all links
	Services  []Service // of each server; nil means DefaultServices
}

// DR is the network of the story's second part: one segment, 203.0.113.0/24 and
// 2001:db8:113::/64, with the clients from .7 on, the servers from .10 on, tunlb's own address
// TunlbAddr, and the VIP, which each server has as well. IPv6 likewise (::7, ::10, ...).
//
//	one-arm          client  rs1  rs2  rs3              all in lb's bridge br0, which tunlb's TAP joins
//	one-arm, Packet  client  rs1  rs2  rs3  lb eth0     all on switch lan
//	inline           client  |  rs1  rs2  rs3           in lb's bridges clients | servers: a TAP in each
//	inline, Packet   client  lb eth0  |  lb eth1  rs1   on switches wan | lan
//
// Inline, nothing joins the halves but tunlb. lb has no address. With Remote, the router has
// 203.0.113.1 on the segment and 198.51.100.1 on the other side, where remote is .7
// (2001:db8:1::1, ::7).
//
// With DAD, duplicate address detection is on for what the servers' eth0 gets once the network is
// open: take VIPOn none, and NS.AddAddress for the VIP tells whether anybody on the link objected.
func DR(o DROptions) Topology {
	d := dr{DROptions: o}
	d.Clients, d.Servers, d.Remote = max(d.Clients, 1), o.Servers, o.Remote || o.Gateway
	if d.Servers == 0 {
		d.Servers = 3
	}
	if d.Services == nil {
		d.Services = DefaultServices()
	}
	d.balancer()
	if d.Remote {
		d.router()
	}
	for i := range d.Clients {
		name := "client"
		if i > 0 {
			name += fmt.Sprint(i + 1)
		}
		d.Nodes = append(d.Nodes, Node{Name: name, Routes: d.gateway()})
		d.attach(d.clientSide, name, segment113(7+i))
	}
	if d.Packet {
		d.plug()
	}
	for i := range d.Servers {
		d.server(i)
	}
	return d.Topology
}

// dr is a Topology being built.
type dr struct {
	DROptions
	Topology
	clientSide, serverSide side
}

// side is where hosts are attached: a switch, or a bridge of lb.
type side struct {
	node   string
	bridge int // of lb; valid iff node is lb
}

func (d *dr) balancer() {
	lb := Node{Name: "lb"}
	switch {
	case d.Packet && d.Shape == Inline:
		d.clientSide, d.serverSide = side{node: "wan"}, side{node: "lan"}
		lb.Note = []string{"tunlb on eth0 and eth1, between them"}
	case d.Packet:
		d.clientSide, d.serverSide = side{node: "lan"}, side{node: "lan"}
		lb.Note = []string{"tunlb on eth0"}
	case d.Shape == Inline:
		d.clientSide, d.serverSide = side{"lb", 0}, side{"lb", 1}
		lb.Bridges = []Bridge{{Name: "clients"}, {Name: "servers"}}
		lb.Note = []string{"tunlb between the bridges, a TAP in each"}
	default:
		d.clientSide, d.serverSide = side{"lb", 0}, side{"lb", 0}
		lb.Bridges = []Bridge{{Name: "br0"}}
		lb.Note = []string{"tunlb on a TAP in br0"}
	}
	lb.Note = append(lb.Note, "own  "+TunlbAddr, "     "+TunlbAddr6, "VIP  "+VIP, "     "+VIP6)
	d.Nodes = append(d.Nodes, lb)
	if !d.Packet {
		return
	}
	d.Nodes = append(d.Nodes, Node{Name: d.clientSide.node, Switch: true})
	if d.Shape == Inline {
		d.Nodes = append(d.Nodes, Node{Name: d.serverSide.node, Switch: true})
	}
}

// plug joins lb's own interfaces to the switches.
func (d *dr) plug() {
	d.attach(d.clientSide, "lb", nil)
	if d.Shape == Inline {
		d.link(End{"lb", "eth1", nil}, End{d.serverSide.node, "lb", nil})
	}
}

func (d *dr) router() {
	d.Nodes = append(d.Nodes,
		Node{Name: "remote", Routes: defaultRoutes("198.51.100.1", "2001:db8:1::1", 0)},
		Node{Name: "router", Forward: true})
	d.link(
		End{"remote", "eth0", []netip.Prefix{prefix("198.51.100.7/24"), prefix("2001:db8:1::7/64")}},
		End{"router", "eth1", []netip.Prefix{prefix("198.51.100.1/24"), prefix("2001:db8:1::1/64")}})
	d.attach(d.clientSide, "router", segment113(1))
}

func (d *dr) server(i int) {
	n := Node{Name: fmt.Sprintf("rs%d", i+1), Services: d.Services, Sysctls: make(map[string]string), Routes: d.gateway()}
	if d.Gateway {
		n.Routes = defaultRoutes(TunlbAddr, TunlbAddr6, 0)
	}
	addresses := segment113(10 + i)
	vips := []netip.Prefix{prefix(VIP + "/32"), prefix(VIP6 + "/128")}
	switch d.VIPOn {
	case "", "lo":
		n.Loopback = vips
	case "eth0":
		addresses = append(addresses, vips...)
	}
	if d.Quiet {
		n.Sysctls["ipv4/conf/all/arp_ignore"], n.Sysctls["ipv4/conf/all/arp_announce"] = "1", "2"
		n.Note = []string{"arp_ignore=1", "arp_announce=2"}
	}
	if d.DAD {
		// Without the delay, a random one, it takes the second that the kernel waits for objections.
		n.Sysctls["ipv6/conf/eth0/accept_dad"] = "1"
		n.Sysctls["ipv6/conf/eth0/router_solicitation_delay"] = "0"
	}
	d.Nodes = append(d.Nodes, n)
	d.attach(d.serverSide, n.Name, addresses)
}

// attach joins a node's eth0 to a side.
func (d *dr) attach(to side, name string, addresses []netip.Prefix) {
	if to.node == "lb" {
		b := &d.Nodes[0].Bridges[to.bridge]
		b.Interfaces = append(b.Interfaces, name)
	}
	d.link(End{name, "eth0", addresses}, End{to.node, name, nil})
}

func (d *dr) link(a, b End) {
	d.Links = append(d.Links, Link{A: a, B: b, NoOffload: d.NoOffload})
}

// gateway is the router, if there is one.
func (d *dr) gateway() []Route {
	if !d.Remote {
		return nil
	}
	return defaultRoutes("203.0.113.1", "2001:db8:113::1", 0)
}

func segment113(host int) []netip.Prefix {
	return []netip.Prefix{prefix(fmt.Sprintf("203.0.113.%d/24", host)), prefix(fmt.Sprintf("2001:db8:113::%d/64", host))}
}
