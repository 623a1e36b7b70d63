// Package port is where frames enter and leave the balancer: TUN and TAP
// devices of the kernel, packet sockets on its interfaces, and in-memory pipes; and
// Direct, where they leave only.
//
// It owns the device (making it, its MAC, bridge, queue length and offloads,
// removing it), the system calls that move frames, and the way out when a kernel
// refuses a super-packet. It does not know what is in a frame, but for the socket filter
// that it makes of a claim. It gives the device no address and no route and does not set
// it up (that is stack/kernel's), and runs no lane: a caller reads and writes.
package port

import (
	"errors"
	"fmt"

	"github.com/tunlb/tunlb/stack/packet"
)

// Port moves frames, each `virtio_net_hdr (packet.VnetLen bytes) | packet`.
// One goroutine may read while any number write and any number close.
// Whoever opened a port closes it.
type Port interface {
	// Name is the device's name as the kernel knows it.
	Name() string
	// Link says what the packets start with.
	Link() packet.Link
	// MTU is the device's, the longest IP packet whatever Link is. It follows
	// the device where the system tells of changes.
	MTU() int
	// Read waits for one frame and returns its length. The buffer has to hold
	// packet.VnetLen+packet.MaxPacket bytes, with LinkEthernet packet.EthernetLen
	// more, or the error is io.ErrShortBuffer. After Close the error is os.ErrClosed;
	// once the device has vanished it wraps ErrGone. Both are final.
	Read(frame []byte) (n int, err error)
	// Write sends one frame, which is borrowed until Write returns and left as
	// it is. An error wrapping ErrDown passes when the device is set up.
	Write(frame []byte) error
	// Close unblocks Read and removes the device that the port made, on Linux
	// before it returns, unless somebody holds a duplicate of its Descriptor. A
	// second Close does nothing.
	Close() error
}

var (
	// ErrGone says that the device vanished under the port: somebody deleted
	// it. The port is of no further use but for Close.
	ErrGone = errors.New("the device is gone")
	// ErrDown says that the device is not set up (`ip link set ... up`).
	ErrDown = errors.New("the device is down")
	// ErrUnavailable says that this machine gives us no port of the kind.
	ErrUnavailable = errors.New("unavailable here")
)

// Offload says what the kernel may leave to us: super-packets and unfinished
// checksums. The zero value is OffloadAuto.
type Offload uint8

const (
	OffloadAuto Offload = iota // all that the kernel can do: TCP, and UDP from Linux 6.2
	OffloadTCP                 // TCP only: for kernels that corrupt UDP super-packets
	OffloadOff                 // one packet a frame, checksums complete
)

var offloadNames = [...]string{OffloadAuto: "auto", OffloadTCP: "tcp", OffloadOff: "off"}

// ParseOffload reads auto, tcp or off; nothing at all means auto.
func ParseOffload(s string) (Offload, error) {
	if s == "" {
		return OffloadAuto, nil
	}
	for o, name := range offloadNames {
		if s == name {
			return Offload(o), nil
		}
	}
	return 0, fmt.Errorf("offload %q: want auto, tcp or off", s)
}

func (o Offload) String() string {
	if int(o) < len(offloadNames) {
		return offloadNames[o]
	}
	return fmt.Sprintf("offload(%d)", uint8(o))
}

// Stats counts what a port did beyond moving frames.
type Stats struct {
	// Segmented counts super-packets that were cut into packets in software,
	// because the device takes none or the kernel refused this one.
	Segmented uint64
	// Overruns counts frames that came while the receive queue or ring was full, or that no vnet header
	// describes. Packet sockets count them; on TUN and TAP they are the device's (`ip -s link`, TX
	// dropped).
	Overruns uint64
	// Unfit counts frames that came and had to be dropped, since no buffer holds
	// them (BIG TCP). Packet sockets only.
	Unfit uint64
	// Full counts frames that were not sent because the interface's queue, or the socket's, had no room.
	// Direct only.
	Full uint64
}

// StatsOf returns what p has counted, nothing if p does not count.
func StatsOf(p Port) Stats {
	if c, ok := p.(interface{ stats() Stats }); ok {
		return c.stats()
	}
	return Stats{}
}
