package tunlb

import (
	"time"

	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/tunlb/flow"
)

// Fastpath is the kernel of the box carrying connections that tunlb has opened. What it does not carry comes to
// tunlb as before: packets that open a connection (TCP SYN), fragments, ICMP, all of a connection that has not been handed
// over, and, where the kernel can't tell of them (Ends), those that end one. One goroutine of the engine calls it; it may block. Its owner closes it,
// after the engine, and that ends what it carries.
type Fastpath interface {
	// Carry hands connections over, and says of each in turn why the kernel does not carry it; nil if it does. An
	// error that is no Refusal counts as RefusedByKernel.
	Carry(conns []Carried) []error
	// Release takes connections back. Those that are not carried are no error. last is called with what was counted
	// in the end, before Release returns, as far as the kernel tells.
	Release(conns []Carried, last func(Usage)) error
	// Usage visits what the kernel has counted for each direction of each connection that it carries, from the beginning.
	Usage(visit func(Usage)) error
	// Ends gets segments with FIN or RST that the kernel has carried, within some milliseconds. Some may be lost. What is received is
	// the receiver's. It is nil, or silent, where such segments come to tunlb.
	Ends() <-chan []End
	// Changes gets a value when ways have changed, so that connections may have become stale: see Usage.
	Changes() <-chan struct{}
}

// Carried is a connection as its two ends see it: what the client sends is translated from Outer to Inner, and what
// the server sends from Inner's reverse to Outer's.
type Carried struct{ Outer, Inner packet.Tuple }

// End is a TCP segment with FIN or RST that the kernel has carried, as it came.
type End struct {
	Tuple  packet.Tuple
	Flags  uint8
	Header []byte // of IP and TCP, perhaps without all options: for those who look on
}

// Usage is what the kernel has counted of one direction. Packets are as the kernel sees them: a super-packet is one.
type Usage struct {
	Outer     packet.Tuple // names the connection
	Direction flow.Direction
	Packets   uint64
	Bytes     uint64        // with IP headers
	Idle      time.Duration // since the last packet; since Carry if there was none
	Stale     bool          // it is to be taken back: packets would leave another way now
}

// Refusal is why the kernel does not carry a connection.
type Refusal uint8

const (
	RefusedByKernel  Refusal = iota // it has said so itself
	RefusedLocal                    // client or server is the box
	RefusedNoWay                    // the box has no way to one of both ends that leads out of an Ethernet interface
	RefusedResolving                // a next hop's MAC is being asked for: later may be better
	RefusedMTU                      // a packet might be too big for the way out, and only tunlb would say so to its sender
	RefusedFull                     // the kernel carries as many as it is allowed to
	refusals
)

var refusalNames = [refusals]string{
	RefusedByKernel: "kernel", RefusedLocal: "local", RefusedNoWay: "no-way", RefusedResolving: "resolving",
	RefusedMTU: "mtu", RefusedFull: "full",
}

// Refusals lists all.
func Refusals() (all []Refusal) {
	for r := range refusals {
		all = append(all, r)
	}
	return all
}

func (r Refusal) String() string { return refusalNames[r] }

func (r Refusal) Error() string { return "not carried by the kernel: " + r.String() }

// FastpathStatus is of the connections that the kernel carries.
type FastpathStatus struct {
	Carried    int               `json:"carried"`           // now
	HalfOpen   int               `json:"half_open"`         // of these and of those that wait, handed over with their first packet
	HandedOver uint64            `json:"handed_over"`       // since the start
	TakenBack  uint64            `json:"taken_back"`        // ended, or no longer the kernel's to carry
	Missed     uint64            `json:"missed"`            // hand-overs put off since too many waited
	Refused    map[string]uint64 `json:"refused,omitempty"` // by reason
	Packets    uint64            `json:"packets"`           // carried by the kernel, as it counts: a super-packet is one
	Bytes      uint64            `json:"bytes"`             // likewise, with IP headers
	Errors     uint64            `json:"errors"`            // of the kernel, when it was asked what it carries or told to stop
	Error      string            `json:"error,omitempty"`   // the last of them
}
