package port

import (
	"cmp"
	"fmt"

	"github.com/tunlb/tunlb/stack/packet"
)

// TAPConfig describes a TAP device. The zero value is a good device that is in
// no bridge.
type TAPConfig struct {
	Name       string     // "" lets the kernel number one; a name may hold one %d
	MTU        int        // of IP: frames are longer by packet.EthernetLen. 0 is 1500
	NetNS      string     // path of a network namespace, "" is the caller's
	Offload    Offload    // what the kernel may leave to us; it takes all from us in any case
	TxQueueLen int        // frames the kernel queues for us, 0 is 5000
	MAC        packet.MAC // of the device, which is the kernel's end; zero lets the kernel make one up
	Bridge     string     // a bridge of that namespace to join, "" is none
	// Inherited is as with TUNs. The MAC and the bridge are set again as well; a bridge that is not named is left alone, as
	// somebody may have made the device a port of it by hand.
	Inherited int
}

// OpenTAP makes a TAP device, which is down and has no address, and returns the
// port on it: an Ethernet one. All else is as with OpenTUN. There are TAPs on Linux
// only.
//
// A bridge takes the lowest MAC of its ports for its own, unless it was given one:
// give the device a high one (fe:...), or the bridge's host changes its address
// with us coming and going.
func OpenTAP(cfg TAPConfig) (Port, error) {
	p, err := openTAP(cfg)
	if err != nil {
		return nil, fmt.Errorf("open tap %q: %w", cfg.name(), err)
	}
	return p, nil
}

// Fits is nil if a descriptor is that of a TAP as c wants it, as with TUNs.
func (c TAPConfig) Fits(fd int) error { return fits(fd, c.name(), c.NetNS, packet.LinkEthernet) }

func (c TAPConfig) name() string { return cmp.Or(c.Name, "tunlb%d") }
func (c TAPConfig) mtu() int     { return cmp.Or(c.MTU, 1500) }
