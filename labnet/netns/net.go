package netns

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
)

// Addresses are literal (203.0.113.22:80) everywhere below: a name would be looked up on another
// thread, outside the namespace.

// Listen listens for TCP connections inside the namespace; the caller closes it.
// An address without a host (":80") means IPv4 and IPv6.
func (ns *NS) Listen(network, address string) (l net.Listener, err error) {
	// Without MPTCP, which Go's listeners prefer: what labs show and measure is TCP.
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	err = ns.Do(func() error {
		l, err = config.Listen(context.Background(), network, address)
		return err
	})
	return l, ns.wrap(err)
}

// ListenPacket opens a UDP socket inside the namespace; the caller closes it.
func (ns *NS) ListenPacket(network, address string) (c net.PacketConn, err error) {
	var config net.ListenConfig
	err = ns.Do(func() error {
		c, err = config.ListenPacket(context.Background(), network, address)
		return err
	})
	return c, ns.wrap(err)
}

// DialContext connects from inside the namespace: tcp or udp, IPv4 or IPv6.
func (ns *NS) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return ns.dial(ctx, network, netip.AddrPort{}, address)
}

// DialFrom is DialContext with a local address. The port may be 0; so may the address
// (netip.IPv4Unspecified, netip.IPv6Unspecified) in order to choose only the port.
func (ns *NS) DialFrom(ctx context.Context, network string, local, remote netip.AddrPort) (net.Conn, error) {
	return ns.dial(ctx, network, local, remote.String())
}

func (ns *NS) dial(ctx context.Context, network string, local netip.AddrPort, address string) (c net.Conn, err error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, ns.wrap(fmt.Errorf("dial %s: not a literal address and port", address))
	}
	var dialer net.Dialer
	switch {
	case !local.IsValid():
	case len(network) >= 3 && network[:3] == "udp":
		dialer.LocalAddr = net.UDPAddrFromAddrPort(local)
	default:
		dialer.LocalAddr = net.TCPAddrFromAddrPort(local)
	}
	err = ns.Do(func() error {
		c, err = dialer.DialContext(ctx, network, address)
		return err
	})
	return c, ns.wrap(err)
}

// HTTPClient makes a client whose connections start inside the namespace. Each call gives one
// with connections of its own; idle ones are closed with the namespace.
func (ns *NS) HTTPClient() *http.Client {
	transport := &http.Transport{DialContext: ns.DialContext, DisableCompression: true}
	ns.own(&idle{transport})
	return &http.Client{Transport: transport}
}

type idle struct{ transport *http.Transport }

var _ io.Closer = (*idle)(nil)

func (i *idle) Close() error {
	i.transport.CloseIdleConnections()
	return nil
}

func (ns *NS) wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("in namespace %s: %w", ns.Name(), err)
}
