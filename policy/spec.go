package policy

import (
	"net/netip"
	"time"
)

// Spec is one virtual service as configured: where it listens, a scheduler, real servers. It is a plain
// value: specs that are deeply equal mean equal services. Build fills in defaults.
type Spec struct {
	Name      string   // unique; shown to people, keys nothing
	Listen    []Listen // of one address family; empty iff Mark is set
	Mark      Mark     // instead of Listen: packets that the kernel's firewall has marked (held, not served)
	Mode      Mode     // of those servers that do not say their own; 0 means NAT
	Scheduler string   // a name that Schedulers lists; "" means wlc, the kernel's default
	Flags     Flags    // of schedulers that have some
	// Persistence sends a client's connections to one server for some time; the zero value is none.
	Persistence Persistence
	// OnePacket schedules every datagram by itself; valid for UDP only.
	OnePacket bool
	// Fastpath has the kernel carry established connections, where the director has such a way.
	Fastpath bool
	// Timeouts are the service's own; zero fields have the general ones.
	Timeouts Timeouts
	// Keep lets flows to servers that are deleted go on. Without it their next packet ends them.
	Keep bool
	// Health is how servers are checked; the zero value checks nothing, and all servers are taken as up.
	Health Health
	// SlowStart is how long the weight of a server that has come up takes to rise from almost nothing to
	// what is configured; 0 is at once.
	SlowStart time.Duration
	// Quorum is the least sum of weights of servers that are up; below it Sorry serves alone. 0 means 1.
	Quorum int
	// Sorry is the server of last resort; nil is none. Its weight does not matter.
	Sorry   *ServerSpec
	Servers []ServerSpec
}

// ServerSpec is one real server of a virtual service as configured.
type ServerSpec struct {
	Name string // unique within its service
	// Address is of the same family as the VIP, but in a tunnel. Port 0 is the port that the client asked
	// for. In dr and tunnel it is that or the service's only port.
	Address netip.AddrPort
	Weight  int     // 0 takes no new connections (quiesced); at most MaxWeight
	Mode    Mode    // 0: the service's
	MAC     [6]byte // static link-layer address in dr; zero: resolved by ARP or neighbour discovery
	// Upper is the number of flows from which on the server takes no new ones until they are fewer than
	// Lower, or than 3/4 of Upper if Lower is 0. An Upper of 0 is no bound.
	Upper, Lower int
	Tunnel       Tunnel // valid iff Mode is Tunnelled
	Keep         bool   // as the service's, for this server
}

// MaxWeight is the largest weight that the kernel's IPVS takes.
const MaxWeight = 1<<31 - 1

// Mark is the mark of a service by firewall mark. The zero value is none.
type Mark struct {
	Value uint32
	IPv6  bool
}

// Persistence keeps a client with its server. It is on if Timeout is above zero.
type Persistence struct {
	Timeout time.Duration // since the last new connection
	// HostBits is how many of the low bits of the client's address do not count, so that a network is one
	// client: 8 for the mask 255.255.255.0. 0 takes each address by itself.
	HostBits int
	Engine   string // of persistence, held only: "sip" or ""
}

// Tunnel is how packets are wrapped. The zero value is IP in IP. Held, not served.
type Tunnel struct {
	Type     string // "ipip" ("" means that), "gue" or "gre"
	Port     uint16 // of gue
	Checksum string // "", "nocsum", "csum" or "remcsum"
}

// Timeouts say how long a connection in each state is remembered without a packet, by the kernel's names
// of states. A zero field is not set.
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

// Health is how the servers of a service are checked. The zero value is not at all; otherwise Type is set,
// and all durations are above zero.
type Health struct {
	Type     string        // tcp, http, https, udp, icmp, dns or exec
	Interval time.Duration // between the beginnings of two checks of a server
	Timeout  time.Duration // of one check
	Rise     int           // successes in a row that make a server up; at least 1
	Fall     int           // failures in a row that make it down; at least 1
	Port     uint16        // 0: the server's
	// Remove takes a server that is down out of the service and so resets its connections. Without it its
	// weight becomes 0, and they go on.
	Remove bool
	// Direct checks the way that dr takes: the VIP's address at the server's MAC. Valid where mode is dr.
	Direct bool

	// http and https.
	Path     string        // what is asked for; "" means /
	Host     string        // the Host header, and the name in TLS; "" means the server's address
	Statuses []StatusRange // of answers that are healthy; empty means 200-399
	Body     string        // regular expression (RE2) that the first 64 KiB of the body match; "" matches all
	Insecure bool          // https: any certificate will do

	// tcp and udp: what is sent once connected, and the regular expression (RE2) that the answer matches.
	// tcp without Reply waits for none. udp without Reply takes any answer, and without either, an empty
	// datagram is sent and silence will do as well: then an ICMP error alone is a failure. That a neighbour
	// is off the kernel says after 3 s: such a check should have a Timeout above that.
	Send, Reply string

	// dns, over UDP: any answer without an error will do, one without records as well.
	Query  string // the name that is asked for; "" means "."
	Record string // A, AAAA, ANY, CNAME, DNSKEY, MX, NS, PTR, RRSIG, SOA, SRV or TXT; "" means SOA, which every zone has

	// exec: the program and its arguments. Its exit code decides; it sees TUNLB_SERVICE, TUNLB_SERVER,
	// TUNLB_ADDRESS, TUNLB_PORT, TUNLB_VIP and TUNLB_VPORT in its environment.
	Command []string
}

// Enabled says whether servers are checked at all.
func (h *Health) Enabled() bool { return h.Type != "" }

// StatusRange is a range of HTTP status codes, both included.
type StatusRange struct{ First, Last int }
