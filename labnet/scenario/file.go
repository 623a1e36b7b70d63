// Package scenario is labs as files: their syntax, what is wrong with one, and the steps that are tried in the lab that a
// driver has made of it.
//
// It owns the file, the contract with the drivers (Driver, Lab), the runner of steps and the scenarios that come with tunlb. It
// does not own how hosts and links are made (labnet/namespaces, labnet/sim) nor how pictures are drawn (labnet).
package scenario

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/tunlb/tunlb/labnet"
)

// File is a lab file: a network with a director in it, and what is to be tried there. A plain value; Parse
// gives valid ones only.
type File struct {
	Name     string
	Networks []Network
	Hosts    []Host
	Director Director
	Steps    []Step
	// Warnings are what is allowed in the file and yet most likely a mistake, in the form of errors.
	Warnings []string
}

// Network is an Ethernet segment: a switch that all its members hang on.
type Network struct {
	Name string
	MTU  int        // 0 means 1500
	Link Impairment // of every member's link, unless that has its own
}

// Attachment is a host's link to a network: its interface there is named eth0, eth1, ... in their order.
type Attachment struct {
	Network   string
	Addresses []netip.Prefix
	Link      Impairment // the network's if the file does not say
	Side      string     // of the director with taps: "clients" or "servers" where it is the switch between networks; else ""
}

// Impairment is what a link does to each packet, in each direction. The zero value does nothing.
type Impairment struct {
	Delay   time.Duration `json:"delay"`
	Loss    float64       `json:"loss"`    // 0 to 1
	Reorder float64       `json:"reorder"` // 0 to 1: the part of packets that overtake, by not being delayed; needs a Delay
}

// Host is a client or a real server.
type Host struct {
	Name        string
	Attachments []Attachment
	Gateways    []netip.Addr   // default routes, at most one a family
	Loopback    []netip.Prefix // addresses on lo: a VIP, in direct routing
	Services    []Service
}

// Service is a server program on a host.
type Service struct {
	labnet.Service
	Behaviour Behaviour
}

// Behaviour is how a server program answers. The zero value answers at once and well.
type Behaviour = labnet.Behaviour

// Director is the host that runs tunlb.
type Director struct {
	Name string
	// Port is "tun": a box with its interfaces (Attachments) whose tunlb gets packets by a TUN, or "tap": tunlb is a host of its own
	// in each network, with the Attachments' addresses.
	Port        string
	Attachments []Attachment
	// Text is tunlb's configuration but for ports and control, as it stands in the file: with its indentation, and as
	// many empty lines in front as there are lines above it, so that errors in it name the lab file's lines.
	Text   string
	Indent int // of Text's top-level keys, for what a driver appends to it
}

// Host gives the host of that name.
func (f *File) Host(name string) (Host, bool) {
	i := slices.IndexFunc(f.Hosts, func(h Host) bool { return h.Name == name })
	if i < 0 {
		return Host{}, false
	}
	return f.Hosts[i], true
}

// Network gives the network of that name.
func (f *File) Network(name string) (Network, bool) {
	i := slices.IndexFunc(f.Networks, func(n Network) bool { return n.Name == name })
	if i < 0 {
		return Network{}, false
	}
	return f.Networks[i], true
}

// owner is the host that has an address on one of its networks; "" if there is none.
func (f *File) owner(a netip.Addr) string {
	for _, h := range f.Hosts {
		for _, at := range h.Attachments {
			if slices.ContainsFunc(at.Addresses, func(p netip.Prefix) bool { return p.Addr() == a }) {
				return h.Name
			}
		}
	}
	return ""
}

// With is tunlb's whole configuration: Text and a section that a driver adds, which begins in its first column.
func (d *Director) With(section string) string {
	var b strings.Builder
	b.WriteString(strings.TrimRight(d.Text, "\n") + "\n")
	for line := range strings.Lines(section) {
		if strings.TrimSpace(line) != "" {
			b.WriteString(strings.Repeat(" ", d.Indent))
		}
		b.WriteString(line)
	}
	return b.String()
}
