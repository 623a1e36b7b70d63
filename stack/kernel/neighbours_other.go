//go:build !linux

package kernel

import (
	"iter"
	"net/netip"
)

// Neighbours exists on Linux only.
type Neighbours struct{}

// OpenNeighbours fails: there is no netlink to ask.
func OpenNeighbours(nsPath string) (*Neighbours, error) { return nil, errSystem }

// Follow fails.
func (n *Neighbours) Follow(addrs []netip.Addr) error { return errSystem }

// Way knows none.
func (n *Neighbours) Way(addr [16]byte) Way { return Way{Down: Unfollowed} }

// Ways has none.
func (n *Neighbours) Ways() iter.Seq2[netip.Addr, Way] { return func(func(netip.Addr, Way) bool) {} }

// Unheeded has none.
func (n *Neighbours) Unheeded() []string { return nil }

// Changes never has any.
func (n *Neighbours) Changes() <-chan struct{} { return nil }

// Close does nothing.
func (n *Neighbours) Close() error { return nil }
