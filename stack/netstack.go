package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

const nicID tcpip.NICID = 1

// abortTimeout bounds how long destroy lets connections say goodbye; an
// endpoint whose lock a panic left behind never does.
const abortTimeout = time.Second

// netstack is one gVisor stack with one interface. A Host has one at a time.
type netstack struct {
	stack     *gstack.Stack
	link      *link
	addresses []netip.Addr // that it has; guarded by Host.addressesMu, or not shared yet

	ended context.Context // done when destroy has begun
	end   context.CancelFunc
}

// errLost says that a stack ended while it was called.
var errLost = errors.New("the network stack ended")

// call runs f, a call into n, in a goroutine that is left behind if n ends
// first: after a panic f may wait for a lock that nobody will unlock.
func call[T any](n *netstack, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := f()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-n.ended.Done():
		var none T
		return none, errLost
	}
}

// newNetstack returns a stack that owns no address yet. A nil clock is the real one, and nil for random the system's.
func newNetstack(mtu int, output func([]byte) error, clock tcpip.Clock, random io.Reader) (*netstack, error) {
	n := &netstack{
		link: newLink(mtu, output),
		stack: gstack.New(gstack.Options{
			// IPv6 as configured by the zero options: no duplicate address detection,
			// no router solicitation, no MLD and no link-local address. A layer-3
			// port has no neighbours to talk to, and an owner of VIPs keeps quiet.
			NetworkProtocols:   []gstack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocolWithOptions(ipv6.Options{})},
			TransportProtocols: []gstack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
			Clock:              clock,
			SecureRNG:          random,
			// Own addresses are the engine's to route, too.
			HandleLocal: false,
		}),
	}
	n.ended, n.end = context.WithCancel(context.Background())
	if err := n.stack.CreateNICWithOptions(nicID, n.link, gstack.NICOptions{Name: "host"}); err != nil {
		n.destroy()
		return nil, fmt.Errorf("create interface: %v", err)
	}
	n.stack.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: nicID},
		{Destination: header.IPv6EmptySubnet, NIC: nicID},
	})
	return n, nil
}

// setAddresses makes the stack own want and nothing else, as far as it can.
func (n *netstack) setAddresses(want []netip.Addr) error {
	var errs []error
	var now []netip.Addr
	for _, a := range n.addresses {
		if slices.Contains(want, a) {
			now = append(now, a)
		} else if err := n.stack.RemoveAddress(nicID, address(a)); err != nil {
			errs = append(errs, fmt.Errorf("remove address %v: %v", a, err))
			now = append(now, a)
		}
	}
	for _, a := range want {
		if slices.Contains(now, a) {
			continue
		}
		// A host prefix: the stack shall see no subnet broadcast addresses.
		pa := tcpip.ProtocolAddress{Protocol: protocolOf(a), AddressWithPrefix: address(a).WithPrefix()}
		if err := n.stack.AddProtocolAddress(nicID, pa, gstack.AddressProperties{}); err != nil {
			errs = append(errs, fmt.Errorf("add address %v: %v", a, err))
			continue
		}
		now = append(now, a)
	}
	n.addresses = now
	return errors.Join(errs...)
}

// destroy resets all connections and ends the stack. It does not return if a
// panic has left one of the stack's locks locked.
func (n *netstack) destroy() {
	n.end()
	// Each endpoint by itself, so that a locked one does not keep the others.
	n.abort(abortTimeout)
	n.link.close()
	n.stack.Close()
	if p := n.stack.TransportProtocolInstance(tcp.ProtocolNumber); p != nil {
		p.Wait()
	}
	// A handshake may have been completed since; Wait would wait for its end.
	for _, ep := range n.stack.RegisteredEndpoints() {
		ep.Abort()
	}
	n.stack.Wait()
}

func (n *netstack) abort(timeout time.Duration) {
	var aborting sync.WaitGroup
	for _, ep := range n.stack.RegisteredEndpoints() {
		aborting.Go(ep.Abort)
	}
	done := make(chan struct{})
	go func() {
		aborting.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(timeout):
	}
}

func address(a netip.Addr) tcpip.Address {
	return tcpip.AddrFromSlice(a.AsSlice())
}

func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return header.IPv4ProtocolNumber
	}
	return header.IPv6ProtocolNumber
}

// fullAddress returns the zero FullAddress for the zero AddrPort and leaves out
// an unspecified address, as gVisor wants it. No interface is named: in IPv4
// gVisor would then not check that the address is owned.
func fullAddress(ap netip.AddrPort) tcpip.FullAddress {
	if !ap.IsValid() {
		return tcpip.FullAddress{}
	}
	full := tcpip.FullAddress{Port: ap.Port()}
	if !ap.Addr().IsUnspecified() {
		full.Addr = address(ap.Addr())
	}
	return full
}
