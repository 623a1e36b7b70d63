package port

import (
	"cmp"
	"fmt"
	"runtime"
)

// TUNConfig describes a TUN device. The zero value is a good device.
type TUNConfig struct {
	Name       string  // "" lets the system number one; on Linux a name may hold one %d
	MTU        int     // 0 is 1500
	NetNS      string  // path of a network namespace, "" is the caller's (Linux)
	Offload    Offload // honoured on Linux; elsewhere there is none
	TxQueueLen int     // frames the kernel queues for us, 0 is 5000 (Linux)
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

func (c TUNConfig) name() string {
	if runtime.GOOS == "darwin" {
		return cmp.Or(c.Name, "utun") // the system takes no other name
	}
	return cmp.Or(c.Name, "tunlb%d")
}

func (c TUNConfig) mtu() int { return cmp.Or(c.MTU, 1500) }
