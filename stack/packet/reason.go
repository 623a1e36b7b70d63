package packet

// Reason says why a packet was dropped. The zero value None means that it was not. Every drop in
// tunlb ends in exactly one Reason, which has one counter: nothing vanishes uncounted.
type Reason uint8

const (
	None Reason = iota

	// Given by Parse.
	Truncated          // the frame is shorter than its headers or its IP total length
	BadVersion         // neither IPv4 nor IPv6
	BadLength          // header, total or fragment lengths contradict each other
	BadHeaderChecksum  // IPv4 header checksum
	BadVnet            // the virtio_net_hdr does not fit the packet
	Land               // TCP or UDP from an endpoint to itself
	MartianSource      // a source no packet on the wire may have
	MartianDestination // likewise a destination
	LinkLocal          // from or to a link-local address, or to a group of the link: no router passes it on
	SourceRoute        // IPv4 LSRR/SSRR, IPv6 routing header that still has a say in the path
	BadOptions         // malformed IPv4 options
	TinyFragment       // the first fragment lacks transport header bytes, or a later one rewrites them
	BadTCPFlags        // SYN+FIN, SYN+RST or no flag
	BadTransport       // transport header lengths
	BadExtension       // malformed, misplaced or too many IPv6 extension headers
	BadICMP            // an ICMP error nobody can use: checksum, quote, source quench

	// Given elsewhere.
	OverlappingFragment
	DuplicateFragment
	FragmentTimeout
	FragmentLimit
	UnknownProtocol // not TCP, UDP or ICMP, and nowhere to go
	NoRoute
	NoServer
	TTLExceeded
	TooBig
	NoFlow // a TCP packet that is no SYN and belongs to no flow
	TableFull
	PortsExhausted
	TupleCollision
	NoSource // a source has to be translated and the port has no address of that family
	SlowPathFull
	RateLimited
	ICMPUnmatched // an ICMP error about an endpoint of a service or gateway that quotes no flow of ours
	PortWrite
	PortDown
	HostPanic
	ServerGone
	MappingLimit
	Unhandled

	// Of Ethernet ports.
	BadEthernet // from a group or from nobody, or longer than the port's frames may be
	BadARP      // malformed ARP
	BadND       // malformed neighbour discovery, or hidden behind extension headers (RFC 6980, 7113)
	Loop        // our own frame has come back
	OtherHost   // addressed to another station, or to all, and this port switches nothing
	Suppressed  // a server's claim to a VIP
	MartianMAC  // a server's MAC or claim from the clients' side, where no server is
	Unresolved  // the next hop does not answer
	HopQueue    // too many packets wait for the next hop's MAC

	// Of ICMP errors, besides BadICMP and ICMPUnmatched.
	BlindICMP // it quotes a segment that its flow can't have in flight (RFC 5927)
	SmallMTU  // it tells of an MTU that no path has: below 576, with IPv6 below 1280

	reasonCount
)

var reasonNames = [reasonCount]string{
	None:                "none",
	Truncated:           "truncated",
	BadVersion:          "bad-version",
	BadLength:           "bad-length",
	BadHeaderChecksum:   "bad-header-checksum",
	BadVnet:             "bad-vnet",
	Land:                "land",
	MartianSource:       "martian-source",
	MartianDestination:  "martian-destination",
	LinkLocal:           "link-local",
	SourceRoute:         "source-route",
	BadOptions:          "bad-options",
	TinyFragment:        "tiny-fragment",
	BadTCPFlags:         "bad-tcp-flags",
	BadTransport:        "bad-transport",
	BadExtension:        "bad-extension",
	BadICMP:             "bad-icmp",
	OverlappingFragment: "overlapping-fragment",
	DuplicateFragment:   "duplicate-fragment",
	FragmentTimeout:     "fragment-timeout",
	FragmentLimit:       "fragment-limit",
	UnknownProtocol:     "unknown-protocol",
	NoRoute:             "no-route",
	NoServer:            "no-server",
	TTLExceeded:         "ttl-exceeded",
	TooBig:              "too-big",
	NoFlow:              "no-flow",
	TableFull:           "table-full",
	PortsExhausted:      "ports-exhausted",
	TupleCollision:      "tuple-collision",
	NoSource:            "no-source",
	SlowPathFull:        "slow-path-full",
	RateLimited:         "rate-limited",
	ICMPUnmatched:       "icmp-unmatched",
	PortWrite:           "port-write",
	PortDown:            "port-down",
	HostPanic:           "host-panic",
	ServerGone:          "server-gone",
	MappingLimit:        "mapping-limit",
	Unhandled:           "unhandled",
	BadEthernet:         "bad-ethernet",
	BadARP:              "bad-arp",
	BadND:               "bad-nd",
	Loop:                "loop",
	OtherHost:           "other-host",
	Suppressed:          "suppressed",
	MartianMAC:          "martian-mac",
	Unresolved:          "unresolved",
	HopQueue:            "hop-queue",
	BlindICMP:           "blind-icmp",
	SmallMTU:            "small-mtu",
}

// String returns the kebab-case name that counters, logs and metrics use.
func (r Reason) String() string {
	if r < reasonCount {
		return reasonNames[r]
	}
	return "unknown"
}

// Reasons lists every reason but None, in numeric order, for counters' tables.
func Reasons() []Reason {
	all := make([]Reason, 0, reasonCount-1)
	for r := None + 1; r < reasonCount; r++ {
		all = append(all, r)
	}
	return all
}
