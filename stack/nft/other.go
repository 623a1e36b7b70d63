//go:build !linux

package nft

import (
	"fmt"

	"github.com/tunlb/tunlb/stack/packet"
)

var errSystem = fmt.Errorf("%w: only Linux has nf_tables: use a TUN and the user space path", ErrUnavailable)

// Guard exists on Linux only.
type Guard struct{}

// OpenGuard fails.
func OpenGuard(netnsPath string) (*Guard, error) { return nil, errSystem }

// AdoptGuard fails.
func AdoptGuard(fd int) (*Guard, error) { return nil, errSystem }

// Descriptor is none.
func (g *Guard) Descriptor() (fd int, ok bool) { return -1, false }

// Set fails.
func (g *Guard) Set(interfaces []string, claim packet.Claim) error { return errSystem }

// Close does nothing.
func (g *Guard) Close() error { return nil }

// Carrier exists on Linux only.
type Carrier struct{}

// OpenCarrier fails.
func OpenCarrier(netnsPath string, limit int) (*Carrier, error) { return nil, errSystem }

// AdoptCarrier fails.
func AdoptCarrier(fd, limit int) (*Carrier, error) { return nil, errSystem }

// Descriptor is none.
func (c *Carrier) Descriptor() (fd int, ok bool) { return -1, false }

// Renew has nothing to end.
func (c *Carrier) Renew() error { return nil }

// Set fails.
func (c *Carrier) Set(interfaces []string) error { return errSystem }

// Add fails for every connection.
func (c *Carrier) Add(conns []Conn) []error {
	errs := make([]error, len(conns))
	for i := range errs {
		errs[i] = errSystem
	}
	return errs
}

// Remove has nothing to remove.
func (c *Carrier) Remove(conns []Conn) error { return nil }

// Take has nothing to remove.
func (c *Carrier) Take(conns []Conn, last func(Usage)) error { return nil }

// Usage visits nothing.
func (c *Carrier) Usage(visit func(Usage)) error { return nil }

// Ends has none to tell of.
func (c *Carrier) Ends(visit func([]End)) error { return nil }

// Len is 0.
func (c *Carrier) Len() int { return 0 }

// Close does nothing.
func (c *Carrier) Close() error { return nil }
