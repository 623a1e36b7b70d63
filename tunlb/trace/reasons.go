package trace

import "github.com/tunlb/tunlb/stack/packet"

// Reason says what a reason for drops means, and what to do about it, a line each. What it does not know is told so.
func Reason(name string) (meaning, next string) {
	for _, r := range packet.Reasons() {
		if r.String() == name {
			words := reasonWords(r)
			return words[0], words[1]
		}
	}
	return "a reason that this tunlb does not know", "ask with the version that runs: tunlb version"
}

// What to do about packets that are broken before tunlb sees them.
const (
	askSender  = "capture at the sender: such packets are made there or on the way; tunlb only refuses them"
	askOffload = "check the device's offloads: tunlb doctor"
)

// reasonWords are for people who look at one packet and want to go on.
func reasonWords(r packet.Reason) [2]string {
	switch r {
	case packet.Truncated:
		return [2]string{"the frame is shorter than its headers say", askSender}
	case packet.BadVersion:
		return [2]string{"it is neither IPv4 nor IPv6", "nothing, if it is another protocol of the link"}
	case packet.BadLength:
		return [2]string{"its header, total or fragment lengths contradict each other", askSender}
	case packet.BadHeaderChecksum:
		return [2]string{"the checksum of its IPv4 header is wrong", askSender}
	case packet.BadVnet:
		return [2]string{"what the device says of its offloads does not fit the packet", askOffload}
	case packet.Land:
		return [2]string{"it claims to come from the endpoint that it goes to: an attack, or a loop", "look for its real source by its MAC, or filter it before tunlb"}
	case packet.MartianSource:
		return [2]string{"no packet on the wire may have this source", "filter it before tunlb; its source is made up"}
	case packet.MartianDestination:
		return [2]string{"no packet on the wire may have this destination", askSender}
	case packet.LinkLocal:
		return [2]string{"it is from or to an address of the link only, which no router passes on", "nothing: every kernel sends some"}
	case packet.SourceRoute:
		return [2]string{"it wants a say in its path (source routing), which nobody allows any more", "filter it before tunlb"}
	case packet.BadOptions:
		return [2]string{"its IPv4 options are malformed", askSender}
	case packet.TinyFragment:
		return [2]string{"a fragment hides or rewrites a transport header: an attack", "filter it before tunlb"}
	case packet.BadTCPFlags:
		return [2]string{"no TCP sends these flags together: a scan", "nothing, or filter it before tunlb"}
	case packet.BadTransport:
		return [2]string{"its transport header does not fit the packet", askSender}
	case packet.BadExtension:
		return [2]string{"its IPv6 extension headers are malformed, misplaced or too many", askSender}
	case packet.BadICMP:
		return [2]string{"an ICMP error that nobody can use: its checksum is wrong, or its quote too short", "capture at the router that has sent it"}
	case packet.OverlappingFragment:
		return [2]string{"fragments of its datagram overlap: an attack, so the whole datagram is lost", "filter it before tunlb"}
	case packet.DuplicateFragment:
		return [2]string{"the same fragment was here before", "nothing, unless there are many: then look for a loop"}
	case packet.FragmentTimeout:
		return [2]string{"the first fragment of its datagram, which has the ports, did not come in time", "look for loss before tunlb, or lower the sender's datagram size below the path's MTU"}
	case packet.FragmentLimit:
		return [2]string{"too many fragments wait for their first one", "lower the senders' datagram sizes below the path's MTU"}
	case packet.UnknownProtocol:
		return [2]string{"it is not TCP, UDP or ICMP, and has nowhere to go", "add a route for it, or a service for its protocol's port"}
	case packet.NoRoute:
		return [2]string{"no port's subnets or routes lead to its destination", "add the network to a port's `routes`, then: tunlb reload"}
	case packet.NoServer:
		return [2]string{"its service has no server for it: all are down, drained, full or of weight 0", "tunlb explain shows each server's reason, tunlb events since when"}
	case packet.TTLExceeded:
		return [2]string{"its TTL or hop limit ends here", "nothing, if somebody runs traceroute; else look for a routing loop"}
	case packet.TooBig:
		return [2]string{"it is longer than the next link's MTU, and may not be fragmented", "let ICMP back to the sender, or give both links the same MTU"}
	case packet.NoFlow:
		return [2]string{"a TCP segment of no connection that tunlb knows, and no SYN", "nothing after a restart or an idle timeout; else look for asymmetric routing"}
	case packet.TableFull:
		return [2]string{"the connection table is full of established connections", "raise `max_flows`; tunlb status shows the count"}
	case packet.PortsExhausted:
		return [2]string{"no source port is left towards this server", "give the port another own address, or the service another server"}
	case packet.TupleCollision:
		return [2]string{"another connection has the same addresses and ports on the server's side", "give the service fullnat mode, or its servers different ports"}
	case packet.NoSource:
		return [2]string{"the source has to be translated, and the port has no address of this family", "give the port an address of the family in `addresses` or `router`"}
	case packet.SlowPathFull:
		return [2]string{"the queue to tunlb's own stack is full", "look for a flood of pings or of packets to closed ports"}
	case packet.RateLimited:
		return [2]string{"tunlb has sent as many ICMP errors as it does in a second", "look at what causes them: tunlb trace drops"}
	case packet.ICMPUnmatched:
		return [2]string{"an ICMP error about a packet that no connection here has sent", "nothing: it comes late, or is made up"}
	case packet.PortWrite:
		return [2]string{"the device refused the frame", "look at the daemon's log, and whether the device is up: tunlb doctor"}
	case packet.PortDown:
		return [2]string{"the port that it should leave by is gone", "bring the device up again and start tunlb anew; tunlb doctor tells more"}
	case packet.HostPanic:
		return [2]string{"tunlb's own stack failed on it and was rebuilt", "report it, with a capture of this packet"}
	case packet.ServerGone:
		return [2]string{"its connection's server was removed, or is down", "nothing: the client is reset and connects anew"}
	case packet.MappingLimit:
		return [2]string{"one inside host has as many mappings of the gateway as it may", "look at what that host does"}
	case packet.Unhandled:
		return [2]string{"nobody takes it: it is to an address of tunlb's own, and of no kind that its stack answers", "nothing, unless a service should listen there"}
	case packet.BadEthernet:
		return [2]string{"its Ethernet header has a group or nobody for source, or it is longer than the port's frames may be", askOffload}
	case packet.BadARP:
		return [2]string{"malformed ARP", "look for its sender by its MAC"}
	case packet.BadND:
		return [2]string{"malformed neighbour discovery, or hidden behind extension headers: an attack", "look for its sender by its MAC"}
	case packet.Loop:
		return [2]string{"a frame of our own has come back", "look for a second way between the two sides of the switch: tunlb doctor"}
	case packet.OtherHost:
		return [2]string{"it is addressed to another station, and this port switches nothing", "nothing: a promiscuous port sees such frames"}
	case packet.Suppressed:
		return [2]string{"a server claims a VIP: it answers ARP for it", "make the server keep quiet (arp_ignore 1, arp_announce 2); tunlb doctor has the commands"}
	case packet.MartianMAC:
		return [2]string{"a server's MAC or claim came from the clients' side, where no server is", "look for a second way around the switch, or for somebody who pretends"}
	case packet.Unresolved:
		return [2]string{"the next hop does not answer ARP or neighbour discovery", "see whether it is up and on this segment: tunlb status lists neighbours"}
	case packet.HopQueue:
		return [2]string{"as many packets as may wait for the next hop's MAC are waiting", "nothing if it answers soon; else see whether it is up"}
	case packet.BlindICMP:
		return [2]string{"an ICMP error that quotes a segment which its connection can't have in flight: made up by somebody who guesses", "nothing: the connection goes on; filter its sender if there are many"}
	case packet.SmallMTU:
		return [2]string{"an ICMP error that tells of an MTU below 576 (IPv6: 1280), which no path has: an attack on the connection's speed", "nothing; if a link is so narrow in fact, widen it"}
	}
	return [2]string{"", ""}
}
