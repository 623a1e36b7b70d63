package tunlb

import (
	"time"

	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/tunlb/flow"
)

// Fastpath is the kernel of the box carrying connections that tunlb has opened. What it does not carry comes to
// tunlb as before: packets that open or end a connection (TCP SYN, FIN, RST), fragments, ICMP, and all of a
// connection that has not been handed over. One goroutine of the engine calls it; it may block.
type Fastpath interface {
	// Carry hands connections over, and says of each in turn why the kernel does not carry it; nil if it does.
	Carry(conns []Carried) []error
	// Release takes connections back. Those that are not carried are no error.
	Release(conns []Carried) error
	// Usage visits what the kernel has counted for each direction of each connection that it carries, from the beginning.
	Usage(visit func(Usage)) error
}

// Carried is a connection as its two ends see it: what the client sends is translated from Outer to Inner, and what
// the server sends from Inner's reverse to Outer's.
type Carried struct{ Outer, Inner packet.Tuple }

// Usage is what the kernel has counted of one direction. Packets are as the kernel sees them: a super-packet is one.
type Usage struct {
	Outer     packet.Tuple // names the connection
	Direction flow.Direction
	Packets   uint64
	Bytes     uint64        // with IP headers
	Idle      time.Duration // since the last packet; since Carry if there was none
}
