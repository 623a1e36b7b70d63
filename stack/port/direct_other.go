//go:build !linux

package port

import "fmt"

// Direct exists on Linux only.
type Direct struct{}

func openDirect(string, int) (*Direct, error) {
	return nil, fmt.Errorf("%w: only Linux has packet sockets: use a TAP or a simulated lab", ErrUnavailable)
}

// Write fails.
func (d *Direct) Write(frame []byte, link int) error { return ErrUnavailable }

// Descriptor is none.
func (d *Direct) Descriptor() (fd int, ok bool) { return -1, false }

// Stats has counted nothing.
func (d *Direct) Stats() Stats { return Stats{} }

// Close does nothing.
func (d *Direct) Close() error { return nil }

// NewBurst returns one that fails.
func (d *Direct) NewBurst() Burst { return Singly(d.Write) }
