package stack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Ping sends one echo request to addr, from the owned address from or, if that is the zero Addr, the stack's
// choice, and waits for the answer until ctx ends.
func (h *Host) Ping(ctx context.Context, addr, from netip.Addr) error {
	err := h.ping(ctx, addr.Unmap(), from.Unmap())
	if err != nil {
		return fmt.Errorf("host %q: ping %v: %w", h.cfg.Name, addr, err)
	}
	return nil
}

func (h *Host) ping(ctx context.Context, addr, from netip.Addr) error {
	switch {
	case h.isClosed():
		return net.ErrClosed
	case !addr.IsValid():
		return errors.New("no address")
	case from.IsValid() && from.Is4() != addr.Is4():
		return fmt.Errorf("source %v is of another family", from)
	}
	n := h.current()
	_, err := call(n, func() (struct{}, error) { return struct{}{}, n.ping(ctx, addr, from) })
	switch {
	case err != nil && h.isClosed():
		err = net.ErrClosed
	case err != nil && n.ended.Err() != nil:
		err = errLost
	}
	return err
}

// echoPayload is what a request carries; the answer has to bring it back.
var echoPayload = []byte("tunlb health check")

func (n *netstack) ping(ctx context.Context, addr, from netip.Addr) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(n.ended, cancel)() // a stack that ends waits for its endpoints
	transport, network, request := icmp.ProtocolNumber4, ipv4.ProtocolNumber, byte(header.ICMPv4Echo)
	if addr.Is6() {
		transport, network, request = icmp.ProtocolNumber6, ipv6.ProtocolNumber, byte(header.ICMPv6EchoRequest)
	}
	wq := new(waiter.Queue)
	ep, terr := n.stack.NewEndpoint(transport, network, wq)
	if terr != nil {
		return errors.New(terr.String())
	}
	defer ep.Close()
	if from.IsValid() {
		if terr := ep.Bind(fullAddress(netip.AddrPortFrom(from, 0))); terr != nil {
			return errors.New(terr.String())
		}
	}
	if terr := ep.Connect(fullAddress(netip.AddrPortFrom(addr, 0))); terr != nil {
		return errors.New(terr.String())
	}
	entry, readable := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventErr | waiter.EventHUp)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	// The endpoint puts in identifier and checksum.
	if _, terr := ep.Write(bytes.NewReader(append([]byte{request, 0, 0, 0, 0, 0, 0, 1}, echoPayload...)), tcpip.WriteOptions{}); terr != nil {
		return errors.New(terr.String())
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-readable:
		}
		var answer bytes.Buffer
		_, terr := ep.Read(&answer, tcpip.ReadOptions{})
		switch _, none := terr.(*tcpip.ErrWouldBlock); {
		case none:
		case terr != nil:
			return errors.New(terr.String())
		case bytes.HasSuffix(answer.Bytes(), echoPayload):
			return nil
		}
	}
}
