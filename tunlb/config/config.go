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
	Services []policy.Spec // as policy.Normalize gives them; may be empty if there is a gateway
	Gateways []Gateway
	Control  Control
	Metrics  Metrics
	Flows    Flows
	Threads  int // that serve the ports; 0 leaves it to tunlb
	Timeouts Timeouts
	Fastpath bool // for all services that do not say themselves, see policy.Spec; the file's `fastpath: kernel`
}

// Port is one device through which packets enter and leave.
type Port struct {
	Name      string         // the device's name; unique within its network namespace
	Type      string         // TUN, TAP or Packet
	Addresses []netip.Prefix // tun: the kernel's end of the device, an address with the length of its prefix
	Own       []netip.Prefix // tap, packet: tunlb's own addresses on the segment with the length of its prefix; may be empty iff there is a Side, or it is one of the Box
	NetNS     string         // path of the network namespace that has the device; "" is the caller's
	Router    []netip.Addr   // tun: tunlb's own addresses on this link, at least one of each family in Addresses
	Routes    []netip.Prefix // tun: masked; the prefixes behind this port as configured or by default, see Prefixes
	Via       []Route        // tap, packet: what is behind routers of the segment
	MTU       int            // of IP; 0 iff Type is Packet: the interface has its own
	Offload   string         // auto, tcp or off
	Bridge    string         // tap: the bridge that the device joins; "" is none
	Side      string         // tap, packet: Clients or Servers on a port of the switch; "" on all others
	MAC       [6]byte        // tap, packet: tunlb's own on the segment; zero if the file does not say
}

// Types of ports.
const (
	TUN    = "tun"    // packets; a device that is made
	TAP    = "tap"    // Ethernet frames; a device that is made
	Packet = "packet" // Ethernet frames; an interface that exists
)

// Sides of the switch that tunlb is between its ports.
const (
	Clients = "clients"
	Servers = "servers"
)

// Ethernet reports whether the port is one of an Ethernet segment, on which tunlb is a host of its own.
func (p *Port) Ethernet() bool { return (p.Type == TAP || p.Type == Packet) && !p.Box() }

// Box reports whether the port is an interface of the box's own, from which tunlb takes the services' packets: a packet
// port on which it has no address and which is on no side of the switch.
func (p *Port) Box() bool { return p.Type == Packet && len(p.Own) == 0 && p.Side == "" }

// OnBox reports whether some port is an interface of the box's own.
func (c *Config) OnBox() bool {
	return slices.ContainsFunc(c.Ports, func(p Port) bool { return p.Box() })
}

// Route is a network behind a router.
type Route struct {
	Prefix netip.Prefix // masked
	Via    netip.Addr   // the next hop: of the same family, in a prefix of the segment's own addresses
}

// Prefixes lists what tunlb's own routing table has for this port: the prefixes of its addresses, then those of its
// routes, none of them twice.
func (p *Port) Prefixes() []netip.Prefix {
	var all []netip.Prefix
	add := func(prefix netip.Prefix) {
		if !slices.Contains(all, prefix) {
			all = append(all, prefix)
		}
	}
	for _, a := range p.Addresses {
		add(a.Masked())
	}
	for _, a := range p.Own {
		add(a.Masked())
	}
	for _, r := range p.Routes {
		add(r)
	}
	for _, r := range p.Via {
		add(r.Prefix)
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
	// Users and Groups may give commands besides root and the owner: names or numeric IDs. Whether they exist
	// the machine knows.
	Users, Groups []string
}

// Flows bounds the connection table.
type Flows struct {
	Max int // connections at most
}

// Timeouts say how long a connection in each state is remembered without a packet; here all are above zero.
type Timeouts = policy.Timeouts

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

// Default is what a file without anything in it would be, if there could be one: a TUN on the box itself, and
// services to come.
func Default() *Config {
	return &Config{
		Ports:    []Port{defaultPort()},
		Control:  Control{Mode: DefaultControlMode},
		Flows:    Flows{Max: DefaultMaxFlows},
		Timeouts: DefaultTimeouts(),
	}
}

// defaultPort is the port of a file without ports: one TUN on the box itself, reached by routes.
func defaultPort() Port {
	return Port{
		Name:      "tunlb0",
		Type:      TUN,
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
