// Package config reads tunlb's YAML file into a validated Config and reports everything that is wrong with it at once,
// each error with its line and column.
//
// It owns the syntax, the defaults and the contradictions that the file alone can show. It does not own what only the
// machine knows (whether a namespace exists, whether a device may be opened): that fails where it is used.
package config

import (
	"io/fs"
	"net/netip"
	"slices"
	"time"

	"github.com/tunlb/tunlb/policy"
)

// Config is one validated configuration file, defaults filled in. It is a plain value that nothing changes after Parse,
// so it may be read from many goroutines. The zero value is no valid configuration.
type Config struct {
	Ports    []Port        // never empty
	Services []policy.Spec // may be empty if there is a gateway
	Gateways []Gateway
	Control  Control
	Flows    Flows
	Timeouts Timeouts
}

// Port is one device through which packets enter and leave.
type Port struct {
	Name      string         // the device's name; unique within its network namespace
	Type      string         // "tun"; the other types are of later versions
	Addresses []netip.Prefix // the kernel's end of the device: an address with the length of its prefix
	NetNS     string         // path of the network namespace that gets the device; "" is the caller's
	Router    []netip.Addr   // tunlb's own addresses on this link: at least one of each family in Addresses
	Routes    []netip.Prefix // masked; the prefixes behind this port as configured or by default, see Prefixes
	MTU       int
	Offload   string // auto, tcp or off
}

// Prefixes lists what tunlb's own routing table has for this port: the prefixes of its addresses, then Routes,
// none of them twice.
func (p *Port) Prefixes() []netip.Prefix {
	var all []netip.Prefix
	for _, a := range p.Addresses {
		if m := a.Masked(); !slices.Contains(all, m) {
			all = append(all, m)
		}
	}
	for _, r := range p.Routes {
		if !slices.Contains(all, r) {
			all = append(all, r)
		}
	}
	return all
}

// Gateway masquerades what the servers send out on their own account.
type Gateway struct {
	Inside              netip.Prefix // masked; the sources that are translated
	Masquerade          netip.Addr   // the source that they get; of the same family, outside of Inside
	FirstPort, LastPort uint16       // the ports that they get, both included
}

// Control is the socket on which the daemon takes commands.
type Control struct {
	Socket string      // absolute path; "" is the default of the network namespace
	Mode   fs.FileMode // permission bits of the socket
}

// Flows bounds the connection table.
type Flows struct {
	Max int // connections at most
}

// Timeouts say how long a connection in each state is remembered without a packet. The names are those of the kernel's
// states; all are above zero.
type Timeouts struct {
	None        time.Duration
	Established time.Duration
	SynSent     time.Duration
	SynRecv     time.Duration
	FinWait     time.Duration
	TimeWait    time.Duration
	Close       time.Duration
	CloseWait   time.Duration
	LastAck     time.Duration
	Listen      time.Duration
	SynAck      time.Duration
	UDP         time.Duration
}

// DefaultTimeouts are the kernel's (ip_vs_proto_tcp.c, ip_vs_proto_udp.c).
func DefaultTimeouts() Timeouts {
	return Timeouts{
		None:        2 * time.Second,
		Established: 15 * time.Minute,
		SynSent:     2 * time.Minute,
		SynRecv:     time.Minute,
		FinWait:     2 * time.Minute,
		TimeWait:    2 * time.Minute,
		Close:       10 * time.Second,
		CloseWait:   time.Minute,
		LastAck:     30 * time.Second,
		Listen:      2 * time.Minute,
		SynAck:      2 * time.Minute,
		UDP:         5 * time.Minute,
	}
}

// What a file gets that does not say otherwise.
const (
	DefaultMaxFlows    = 1_000_000
	DefaultMTU         = 1500
	DefaultControlMode = fs.FileMode(0o600)
	DefaultFirstPort   = 61000 // above the kernel's default ip_local_port_range, which ends at 60999
	DefaultLastPort    = 65534 // the kernel's policy rules take no 65535
	DefaultScheduler   = "wlc"
)

// defaultPort is the port of a file without ports: one TUN on the box itself, reached by routes.
func defaultPort() Port {
	return Port{
		Name:      "tunlb0",
		Type:      "tun",
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.255.0.1/30"), netip.MustParsePrefix("fd00:7474::1/126")},
		Router:    []netip.Addr{netip.MustParseAddr("10.255.0.2"), netip.MustParseAddr("fd00:7474::2")},
		Routes:    everything(),
		MTU:       DefaultMTU,
		Offload:   "auto",
	}
}

// everything is what lies behind a port of the box itself: whatever the kernel routes.
func everything() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
}
