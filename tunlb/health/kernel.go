package health

import (
	"context"
	"net"
)

// Kernel dials through the machine's kernel, in the network namespace that the process is in. The zero value is
// ready; all are equal.
type Kernel struct{}

var _ Dialer = Kernel{}

// DialContext is net.Dialer's, without keep-alives: no connection of a probe lives that long.
func (Kernel) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{KeepAlive: -1, Control: hearErrors}
	return d.DialContext(ctx, network, address)
}
