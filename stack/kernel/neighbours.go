package kernel

import "net/netip"

// Way is how packets leave for an address: what to write into the Ethernet header, and where to send the frame.
type Way struct {
	// Down says why no frame may be sent; Up (0) if one may. The following are valid as far as they are known.
	Down Down
	// Link is the interface's index, Name its name, and MTU the longest packet on this way, the route's if that is less.
	Link int
	Name string
	MTU  int
	// Source is the interface's own MAC, MAC that of the next hop.
	Source, MAC [6]byte
	// Next is the next hop: the address itself, or a gateway.
	Next netip.Addr
	// Local says that the address is the box's own: packets go up, not out. Down is Box then.
	Local bool
}

// Down is why no frame may be sent.
type Down uint8

const (
	Up         Down = iota
	Unfollowed      // the Neighbours is closed
	Box             // the address is the box's own
	NoRoute         // the box has no route, or one that forbids it
	NoEthernet      // the route leads through an interface that has no MAC addresses: a TUN, say
	LinkDown        // the interface is down, or has no carrier
	Resolving       // the next hop has been asked for its MAC, and may yet answer
	Failed          // the next hop has not answered
)

var downs = [...]string{
	Up: "up", Unfollowed: "nobody looks any more", Box: "an address of this box", NoRoute: "no route",
	NoEthernet: "the route leads through no Ethernet interface", LinkDown: "the interface is down",
	Resolving: "asking for its MAC", Failed: "does not answer for its address",
}

func (d Down) String() string {
	if int(d) < len(downs) {
		return downs[d]
	}
	return "unknown"
}
