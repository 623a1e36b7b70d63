package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// dial connects; network is "tcp" or "udp".
func (h *host) dial(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	inner, err := h.connect(ctx, network, to)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: net.TCPAddrFromAddrPort(to), Err: err}
	}
	return newConn(inner, h.clock, true), nil
}

func (h *host) connect(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !to.IsValid() {
		return nil, errors.New("no address")
	}
	protocol := map[string]tcpip.TransportProtocolNumber{"tcp": tcp.ProtocolNumber, "udp": udp.ProtocolNumber}[network]
	if protocol == 0 {
		return nil, fmt.Errorf("unknown network %q: want tcp or udp", network)
	}
	wq := new(waiter.Queue)
	ep, terr := h.stack.NewEndpoint(protocol, protocolOf(to.Addr()), wq)
	if terr != nil {
		return nil, failure(terr)
	}
	remote := tcpip.FullAddress{Addr: address(to.Addr()), Port: to.Port()}
	if network == "udp" {
		if terr := ep.Connect(remote); terr != nil {
			ep.Close()
			return nil, failure(terr)
		}
		// gonet waits for data alone: a port unreachable would not end a Read. The queue's lock is held by whoever tells.
		entry := waiter.NewFunctionEntry(waiter.EventErr, func(waiter.EventMask) { go wq.Notify(waiter.ReadableEvents) })
		wq.EventRegister(&entry)
		return gonet.NewUDPConn(wq, ep), nil
	}
	if err := connectTCP(ctx, ep, wq, remote); err != nil {
		ep.Close()
		return nil, err
	}
	return gonet.NewTCPConn(wq, ep), nil
}

func connectTCP(ctx context.Context, ep tcpip.Endpoint, wq *waiter.Queue, remote tcpip.FullAddress) error {
	entry, connected := waiter.NewChannelEntry(waiter.WritableEvents)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	terr := ep.Connect(remote)
	if _, started := terr.(*tcpip.ErrConnectStarted); started {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-connected:
			terr = ep.LastError()
		}
	}
	return failure(terr)
}

// failure is what the stack says as programs know it; nil stays nil.
func failure(err tcpip.Error) error {
	if err == nil {
		return nil
	}
	if e := errno(err.String()); e != nil {
		return e
	}
	return errors.New(err.String())
}

// listen accepts TCP connections to a port of any address.
func (h *host) listen(port uint16) (net.Listener, error) {
	wq := new(waiter.Queue)
	ep, terr := h.stack.NewEndpoint(tcp.ProtocolNumber, ipv6.ProtocolNumber, wq) // of both families
	if terr != nil {
		return nil, failure(terr)
	}
	ep.SocketOptions().SetReuseAddress(true) // connections in TIME-WAIT shall not bar a restart
	const backlog = 4096
	if terr = ep.Bind(tcpip.FullAddress{Port: port}); terr == nil {
		terr = ep.Listen(backlog)
	}
	if terr != nil {
		ep.Close()
		return nil, fmt.Errorf("listen on TCP port %d: %w", port, failure(terr))
	}
	return &listener{TCPListener: gonet.NewTCPListener(h.stack, wq, ep), clock: h.clock}, nil
}

// listener is a net.Listener that can be closed while somebody accepts.
type listener struct {
	*gonet.TCPListener
	clock  *clock
	closed sync.Once
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	c, err := l.TCPListener.Accept()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", net.ErrClosed, err)
	}
	return newConn(c, l.clock, false), nil
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.closed.Do(func() {
		l.TCPListener.Shutdown()
		l.TCPListener.Close()
	})
	return nil
}

// listenPacket receives datagrams to one address, so that answers come from it.
func (h *host) listenPacket(at netip.AddrPort) (net.PacketConn, error) {
	c, err := gonet.DialUDP(h.stack, &tcpip.FullAddress{Addr: address(at.Addr()), Port: at.Port()}, nil, protocolOf(at.Addr()))
	if err != nil {
		return nil, fmt.Errorf("listen on UDP %s: %w", at, err)
	}
	return newPacketConn(c, h.clock), nil
}

// echoPayload is what a request carries; the answer has to bring it back.
const echoPayload = "tunlb lab"

// ping asks for an echo and says how long that took.
func (h *host) ping(ctx context.Context, to netip.Addr) (time.Duration, error) {
	took, err := h.echo(ctx, to.Unmap())
	if err != nil {
		return 0, fmt.Errorf("ping %s: %w", to, err)
	}
	return took, nil
}

func (h *host) echo(ctx context.Context, to netip.Addr) (time.Duration, error) {
	if !to.IsValid() {
		return 0, errors.New("no address")
	}
	if to.Is4() && slices.Contains(h.addresses(), to) {
		to = netip.AddrFrom4([4]byte{127, 0, 0, 1}) // on other interfaces the stack does not answer itself
	}
	transport, request := icmp.ProtocolNumber4, byte(header.ICMPv4Echo)
	if to.Is6() {
		transport, request = icmp.ProtocolNumber6, byte(header.ICMPv6EchoRequest)
	}
	wq := new(waiter.Queue)
	ep, terr := h.stack.NewEndpoint(transport, protocolOf(to), wq)
	if terr != nil {
		return 0, failure(terr)
	}
	defer ep.Close()
	if terr := ep.Connect(tcpip.FullAddress{Addr: address(to)}); terr != nil {
		return 0, failure(terr)
	}
	entry, readable := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventErr | waiter.EventHUp)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	begin := h.clock.now()
	// The endpoint puts in identifier and checksum.
	message := append([]byte{request, 0, 0, 0, 0, 0, 0, 1}, echoPayload...)
	if _, terr := ep.Write(bytes.NewReader(message), tcpip.WriteOptions{}); terr != nil {
		return 0, failure(terr)
	}
	for {
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-readable:
		}
		var answer bytes.Buffer
		_, terr := ep.Read(&answer, tcpip.ReadOptions{})
		switch _, none := terr.(*tcpip.ErrWouldBlock); {
		case none:
		case terr != nil:
			return 0, failure(terr)
		case bytes.HasSuffix(answer.Bytes(), []byte(echoPayload)):
			return h.clock.now() - begin, nil
		}
	}
}
