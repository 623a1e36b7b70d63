package watch

import (
	"net/netip"
	"time"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/packet"
)

// Record is what happened to one packet, from the port that it came in by to its end. The Frames' Data is
// borrowed until the record is given back, see Subscription.Next.
type Record struct {
	Seq  uint64        `json:"seq"`   // number of the packet among all that were looked at
	Time time.Time     `json:"time"`  // when it was read
	At   time.Duration `json:"at_ns"` // the same on the engine's clock

	In  *Frame  `json:"in,omitempty"`  // as it came; nil: tunlb's own, such as an answer of its host or ARP
	Out []Frame `json:"out,omitempty"` // as it left: several if it was cut, flooded, or if an ICMP error answers it

	// Exit is where it went: "port", "kernel" (handed back unchanged), "direct" (an interface of the box), "host" (tunlb's own
	// stack), "held" (it waits for its next hop's MAC), "parked" (a fragment that waits for its first), "carried" (by the kernel, which has told of it), "neighbour" (ARP and neighbour
	// discovery, taken in), "switch" (another station's); "" iff it was dropped.
	Exit string `json:"exit,omitempty"`
	// Waited says that this is the second half of a journey: of a packet that was held or parked before. Out is what was sent, and
	// there is no In.
	Waited bool   `json:"waited,omitempty"`
	Drop   string `json:"drop,omitempty"` // packet.Reason's name; "" iff it was not dropped

	Protocol string         `json:"protocol,omitempty"` // tcp, udp, icmp, arp, or another IP protocol's number
	Client   netip.AddrPort `json:"client,omitzero"`    // of a flow: the client's; of any other packet: its source
	VIP      netip.AddrPort `json:"vip,omitzero"`       // of a flow: what the client asks; of any other packet: its destination
	Reply    bool           `json:"reply,omitempty"`    // from the server to the client

	// Valid iff Flow is not 0.
	Flow       uint32         `json:"flow,omitempty"`     // a hash of Protocol, Client and VIP, for short
	Opened     bool           `json:"opened,omitempty"`   // by this packet
	State      string         `json:"state,omitempty"`    // after it
	Fastpath   string         `json:"fastpath,omitempty"` // "carried" by the kernel, which lets only packets such as this one be seen, or "offered" to it
	Mode       string         `json:"mode,omitempty"`
	Source     netip.AddrPort `json:"source,omitzero"` // what the server sees as the client, iff that is translated
	Server     netip.AddrPort `json:"server,omitzero"`
	Service    string         `json:"service,omitempty"`
	ServerName string         `json:"server_name,omitempty"`

	// Why is how the server was picked: nil unless Opened, the subscription asks for it, and fewer than 1000 a second do.
	Why *policy.Explanation `json:"why,omitempty"`

	spare   Frame // In's buffer
	charged int64 // to the memory of the subscription that it waits in
}

// Frame is a frame at a port.
type Frame struct {
	Port     string `json:"port"`               // its name
	Ethernet bool   `json:"ethernet,omitempty"` // Data is vnet header (10) | Ethernet (14) | packet; else vnet header | packet
	Length   int    `json:"length"`             // of the whole frame but for the vnet header
	Data     []byte `json:"data"`               // the vnet header and what the subscription's Snap leaves of the frame
}

// Reset empties the record and keeps its buffers.
func (r *Record) Reset() {
	*r = Record{spare: r.spare, Out: r.Out[:0]}
}

// What a record takes besides its frames' bytes, generously.
const (
	recordSize    = 1 << 10
	frameSize     = 64
	candidateSize = 128
)

// size is how much memory a copy takes that has snap bytes of each frame.
func (r *Record) size(snap int) int64 {
	n := recordSize
	if r.In != nil {
		n += min(len(r.In.Data), packet.VnetLen+snap)
	}
	for i := range r.Out {
		n += frameSize + min(len(r.Out[i].Data), packet.VnetLen+snap)
	}
	if r.Why != nil {
		n += len(r.Why.Servers) * candidateSize
	}
	return int64(n)
}

// kept is how much memory its buffers take while nothing is in them.
func (r *Record) kept() int64 {
	n := recordSize + cap(r.spare.Data)
	for _, f := range r.Out[:cap(r.Out)] {
		n += frameSize + cap(f.Data)
	}
	return int64(n)
}

// SetIn notes the frame as it came. At most snap bytes behind the vnet header are copied.
func (r *Record) SetIn(port string, ethernet bool, frame []byte, snap int) {
	r.In = &r.spare
	r.In.set(port, ethernet, frame, snap)
}

// AddOut notes a frame as it leaves. At most snap bytes behind the vnet header are copied.
func (r *Record) AddOut(port string, ethernet bool, frame []byte, snap int) {
	if n := len(r.Out); n < cap(r.Out) {
		r.Out = r.Out[:n+1] // its buffer is used again
	} else {
		r.Out = append(r.Out, Frame{})
	}
	r.Out[len(r.Out)-1].set(port, ethernet, frame, snap)
}

func (f *Frame) set(port string, ethernet bool, frame []byte, snap int) {
	f.Port, f.Ethernet, f.Length = port, ethernet, len(frame)-packet.VnetLen
	frame = frame[:min(len(frame), packet.VnetLen+snap)]
	if cap(f.Data) < len(frame) {
		f.Data = make([]byte, 0, len(frame)) // append would take more than what is counted
	}
	f.Data = append(f.Data[:0], frame...)
}

// copy makes r a copy of from that shares nothing with it but what never changes.
func (r *Record) copy(from *Record, snap int) {
	spare, out := r.spare, r.Out[:0]
	*r = *from
	r.spare, r.Out, r.In = spare, out, nil
	if from.In != nil {
		r.SetIn(from.In.Port, from.In.Ethernet, from.In.Data, snap)
		r.In.Length = from.In.Length
	}
	for i := range from.Out {
		f := &from.Out[i]
		r.AddOut(f.Port, f.Ethernet, f.Data, snap)
		r.Out[i].Length = f.Length
	}
}
