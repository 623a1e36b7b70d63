//go:build !linux

package health

import (
	"errors"
	"net"
	"net/netip"
)

// openDatagramPing is Linux' only; elsewhere there are raw sockets.
func openDatagramPing(netip.Addr) (net.Conn, error) { return nil, errors.ErrUnsupported }
