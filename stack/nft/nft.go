package nft

import (
	"errors"
	"net/netip"
	"time"

	"github.com/tunlb/tunlb/stack/packet"
)

// ErrUnavailable says that this kernel, or the rights of this process, do not suffice. Errors that wrap it say what
// lacks and what to do.
var ErrUnavailable = errors.New("unavailable here")

// ErrFull says that a Carrier carries as many connections as it may.
var ErrFull = errors.New("the kernel carries as many connections as it may")

// ErrCarried says that a connection has a tuple that the kernel carries for another one, or for itself already.
var ErrCarried = errors.New("the kernel carries this tuple already")

// Conn is a connection as its two ends see it: what the client sends (Outer) is translated to Inner and leaves by
// Forward, what the server sends (Inner's reverse) is translated to Outer's reverse and leaves by Reverse. Both tuples
// are of one family and of one protocol, TCP or UDP. A plain value.
type Conn struct {
	Outer, Inner     packet.Tuple
	Forward, Reverse Hop
}

// Hop is where packets leave: to the neighbour Next, of the packets' family, at the Ethernet interface of index Link. The
// kernel finds the neighbour's MAC by itself, and does not look at the interface's MTU. A plain value.
type Hop struct {
	Link int
	Next netip.Addr
}

// Usage is what the kernel has carried of one direction of a connection. A plain value.
type Usage struct {
	Outer   packet.Tuple // names the connection
	Reverse bool         // what the server sends
	Packets uint64       // as the kernel sees them: a super-packet is one
	Bytes   uint64       // with IP headers
	// Idle is since a reading (Usage, Take) found more packets than the one before it, or since Add: too little by up to the
	// time between two readings, and never too much.
	Idle time.Duration
}

// End is a TCP segment with FIN or RST that has been carried, as it came. A plain value.
type End struct {
	Tuple  packet.Tuple
	Flags  uint8
	Header []byte // of IP and TCP, without all of TCP's options
}
