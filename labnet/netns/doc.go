// Package netns makes kernel network namespaces for labs and tests: anonymous ones, held by a
// descriptor and gone with the process, as root or as an ordinary user inside a user namespace.
// It owns the re-execution of the program in fresh namespaces (Enter), what happens inside one
// (sockets, child processes, links, sysctls, capture) and every word with the kernel about them.
// It knows nothing of topologies: that is labnet's. Linux only; elsewhere every entry
// point answers with an *Unsupported error.
package netns

import (
	"fmt"
	"net/netip"
	"time"
)

// ExitUnsupported is the exit code of a program that found that this machine cannot do what was
// asked: the autotools' code for a skipped test.
const ExitUnsupported = 77

// Unsupported says that this machine cannot make labs, and how it could.
// It is a plain value; callers find it with errors.As.
type Unsupported struct {
	What string // what is missing or refused
	How  string // what to do about it; may be empty
	Err  error  // the system's answer, if there was one
}

func (u *Unsupported) Error() string {
	s := u.What
	if u.Err != nil {
		s += ": " + u.Err.Error()
	}
	if u.How != "" {
		s += fmt.Sprintf(" (%s)", u.How)
	}
	return s
}

// Unwrap gives the system's answer.
func (u *Unsupported) Unwrap() error { return u.Err }

// End is one end of a veth pair.
type End struct {
	NS        *NS
	Name      string // of the interface, at most 15 bytes
	MTU       int    // 0 means the kernel's default, 1500
	Addresses []netip.Prefix
	MAC       MAC // zero: one that the kernel makes up
}

// Route is a route of one namespace.
type Route struct {
	To        netip.Prefix // 0.0.0.0/0 or ::/0 for the default route
	Via       netip.Addr   // zero: directly on Interface
	Interface string       // empty: found by Via
	AdvMSS    int          // MSS announced to peers over this route; 0 derives it from the MTU
}

// Neighbour is an entry of a namespace's neighbour table: the ARP cache, and its twin for IPv6.
// It is a plain value.
type Neighbour struct {
	Address   netip.Addr
	Interface string
	MAC       MAC    // zero while it is being asked for, or if nobody answered
	State     string // as iproute2 names it, in small letters: "reachable", "stale", "permanent", "failed", ...
}

// Packet is one packet as a packet socket saw it, ARP included. Data is not shared with anything.
type Packet struct {
	Time      time.Time // of the kernel, for people: not good enough to order packets by
	Interface string
	Out       bool   // the host (or a program through the kernel) was sending; else it arrived
	Device    bool   // of a TUN's or TAP's: what goes out there goes to the program that holds it
	Ethernet  bool   // Data starts with an Ethernet header; otherwise with IP (TUN)
	Partial   bool   // the transport checksum is left to the hardware: the field holds the pseudo-header's sum
	Data      []byte // whole, a super-packet too
}
