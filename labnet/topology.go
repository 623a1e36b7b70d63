// Package labnet builds small networks to try tunlb in: topologies as plain values, a driver that
// makes them of kernel network namespaces, the servers that run in them, and pictures of what
// happened there. It owns neither the namespaces' mechanics (labnet/netns) nor anything of the
// load balancer, which labs treat as one more program.
package labnet

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
)

// Topology describes a network. It is a plain value and says nothing of what realises it.
type Topology struct {
	Nodes []Node
	Links []Link
}

// Node is a host, a router or an Ethernet switch.
type Node struct {
	Name     string
	Switch   bool // an Ethernet switch: one bridge br0 of all its interfaces; it has no addresses, routes or services
	Forward  bool // passes packets on between its interfaces
	Bridges  []Bridge
	Loopback []netip.Prefix    // addresses on lo
	Sysctls  map[string]string // below /proc/sys/net: "ipv4/conf/all/arp_ignore": "1"; those of an interface come last
	Routes   []Route
	Services []Service
	Note     []string // further lines for Draw
}

// Bridge is an Ethernet switch inside a host, made of some of its interfaces; more may join later.
type Bridge struct {
	Name       string
	Interfaces []string
}

// Route is a route beyond the node's own networks.
type Route struct {
	To     netip.Prefix
	Via    netip.Addr
	AdvMSS int // MSS announced over it; 0 derives it from the link's MTU
}

// Link joins two nodes.
type Link struct {
	A, B      End
	MTU       int  // 0 means 1500
	NoOffload bool // checksums and segmentation are done before the link, as on a real wire
}

// End is where a link meets a node.
type End struct {
	Node      string
	Interface string
	Addresses []netip.Prefix
}

// Kind is what a service does.
type Kind string

// The kinds of services: see the Serve functions.
const (
	HTTP    Kind = "http"
	TCPEcho Kind = "tcp-echo"
	UDPEcho Kind = "udp-echo"
)

// Service is a server that a node runs.
type Service struct {
	Kind Kind
	Port uint16
}

// bridges are those that a node holds; a switch is nothing else.
func (t Topology) bridges(n Node) []Bridge {
	if !n.Switch {
		return n.Bridges
	}
	b := Bridge{Name: "br0"}
	for _, end := range t.ends(n.Name) {
		b.Interfaces = append(b.Interfaces, end.Interface)
	}
	return []Bridge{b}
}

// addresses are all that a node has.
func (t Topology) addresses(n Node) []netip.Prefix {
	var all []netip.Prefix
	for _, end := range t.ends(n.Name) {
		all = append(all, end.Addresses...)
	}
	return append(all, n.Loopback...)
}

// Address gives the first address of a family on a node's interface; the zero Addr if none.
func (t Topology) Address(node, iface string, is6 bool) netip.Addr {
	for _, end := range t.ends(node) {
		for _, p := range end.Addresses {
			if end.Interface == iface && p.Addr().Is6() == is6 {
				return p.Addr()
			}
		}
	}
	return netip.Addr{}
}

// ends gives the node's ends of links, in the order of the links.
func (t Topology) ends(node string) []End {
	var ends []End
	for _, l := range t.Links {
		for _, end := range [...]End{l.A, l.B} {
			if end.Node == node {
				ends = append(ends, end)
			}
		}
	}
	return ends
}

func (t Topology) node(name string) (Node, bool) {
	i := slices.IndexFunc(t.Nodes, func(n Node) bool { return n.Name == name })
	if i < 0 {
		return Node{}, false
	}
	return t.Nodes[i], true
}

// Validate reports everything that contradicts itself.
func (t Topology) Validate() error {
	var errs []error
	names := make(map[string]bool)
	for _, n := range t.Nodes {
		if n.Name == "" || names[n.Name] {
			errs = append(errs, fmt.Errorf("node %q: names are unique and not empty", n.Name))
		}
		names[n.Name] = true
		if n.Switch && (n.Forward || len(n.Routes)+len(n.Services)+len(n.Loopback)+len(n.Bridges) > 0) {
			errs = append(errs, fmt.Errorf("node %q: a switch neither routes nor serves, and is one bridge", n.Name))
		}
		errs = append(errs, t.validateBridges(n)...)
		for path := range n.Sysctls {
			if !filepath.IsLocal(path) {
				errs = append(errs, fmt.Errorf("node %q: sysctl %q: paths are below /proc/sys/net, like ipv4/ip_forward", n.Name, path))
			}
		}
		for _, s := range n.Services {
			if !slices.Contains([]Kind{HTTP, TCPEcho, UDPEcho}, s.Kind) {
				errs = append(errs, fmt.Errorf("node %q: unknown kind of service %q", n.Name, s.Kind))
			}
		}
	}
	interfaces := make(map[[2]string]bool)
	for _, l := range t.Links {
		for _, end := range [...]End{l.A, l.B} {
			n, known := t.node(end.Node)
			key := [2]string{end.Node, end.Interface}
			switch {
			case !known:
				errs = append(errs, fmt.Errorf("link %s - %s: no node %q", l.A.Node, l.B.Node, end.Node))
			case end.Interface == "" || len(end.Interface) > 15:
				errs = append(errs, fmt.Errorf("node %q: interface %q: names have 1 to 15 bytes", end.Node, end.Interface))
			case interfaces[key]:
				errs = append(errs, fmt.Errorf("node %q: interface %q is used twice", end.Node, end.Interface))
			case n.Switch && len(end.Addresses) > 0:
				errs = append(errs, fmt.Errorf("node %q: a switch has no addresses", end.Node))
			}
			interfaces[key] = true
		}
	}
	return errors.Join(errs...)
}

// validateBridges wants each bridge to have a name of its own, and ports that are the node's,
// no other bridge's and without addresses.
func (t Topology) validateBridges(n Node) (errs []error) {
	taken := map[string]bool{"lo": true}
	free := make(map[string]bool)
	for _, end := range t.ends(n.Name) {
		taken[end.Interface] = true
		free[end.Interface] = len(end.Addresses) == 0
	}
	for _, b := range n.Bridges {
		if b.Name == "" || len(b.Name) > 15 || taken[b.Name] {
			errs = append(errs, fmt.Errorf("node %q: bridge %q: names have 1 to 15 bytes, and no other interface has them", n.Name, b.Name))
		}
		taken[b.Name] = true
		for _, port := range b.Interfaces {
			if !free[port] {
				errs = append(errs, fmt.Errorf("node %q: bridge %q: %q is no interface without addresses that is left to it", n.Name, b.Name, port))
			}
			free[port] = false
		}
	}
	return errs
}
