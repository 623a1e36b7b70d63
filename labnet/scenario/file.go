// Package scenario is labs as files.
package scenario

import (
	"net/netip"
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
type Behaviour struct {
	Slow    time.Duration `json:"slow,omitempty"`    // until it answers
	Fail    int           `json:"fail,omitempty"`    // HTTP: the status it answers with; 0 is none
	Silent  bool          `json:"silent,omitempty"`  // accepts and never answers
	Stopped bool          `json:"stopped,omitempty"` // its port refuses
}

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

// Step is one thing done and what is to come of it.
type Step struct {
	Line int // in the file
	Name string
	// Within is how long the expectation may take to come true; 0: it holds at once.
	Within time.Duration
}
