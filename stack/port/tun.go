package port

import (
	"cmp"
	"fmt"
	"runtime"

	"github.com/tunlb/tunlb/stack/packet"
)

// TUNConfig describes a TUN device. The zero value is a good device.
type TUNConfig struct {
	Name       string  // "" lets the system number one; on Linux a name may hold one %d
	MTU        int     // 0 is 1500
	NetNS      string  // path of a network namespace, "" is the caller's (Linux)
	Offload    Offload // honoured on Linux; elsewhere there is none
	TxQueueLen int     // frames the kernel queues for us, 0 is 5000 (Linux)
	// Inherited is the descriptor of a device that a predecessor of this process has made (Linux); 0 is none. OpenTUN closes
	// it, or the port does. If it Fits, the port is on that device, which stays up and keeps its addresses and routes; the MTU,
	// the queue's length and the offloads are set again, and frames that wait are read first. Otherwise a device is made as
	// without it.
	Inherited int
}

// OpenTUN makes a TUN device, which is down and has no address, and returns
// the port on it. A persistent device of that name which nobody uses is taken
// over, and outlives the port. The error wraps ErrUnavailable where there is no
// usable /dev/net/tun or no right to it, and says what to do about it. The port
// keeps the network namespace alive until it is closed.
func OpenTUN(cfg TUNConfig) (Port, error) {
	p, err := openTUN(cfg)
	if err != nil {
		return nil, fmt.Errorf("open tun %q: %w", cfg.name(), err)
	}
	return p, nil
}

// Fits is nil if a descriptor is that of a TUN as c wants it: of the name, in the namespace, with the header that ports read.
// OpenTUN asks the same of Inherited.
func (c TUNConfig) Fits(fd int) error { return fits(fd, c.name(), c.NetNS, packet.LinkIP) }

func (c TUNConfig) name() string {
	if runtime.GOOS == "darwin" {
		return cmp.Or(c.Name, "utun") // the system takes no other name
	}
	return cmp.Or(c.Name, "tunlb%d")
}

func (c TUNConfig) mtu() int { return cmp.Or(c.MTU, 1500) }
