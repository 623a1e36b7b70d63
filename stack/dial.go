package stack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// listenBacklog is Linux' somaxconn; beyond it the stack goes over to SYN cookies.
const listenBacklog = 4096

// Dial connects to addr; proto is "tcp" or "udp". from is the source: the zero
// AddrPort leaves address and port to the stack, port 0 only the port. The
// caller closes the connection; Close of the host, and a panic in its stack,
// reset it.
func (h *Host) Dial(ctx context.Context, proto string, addr, from netip.AddrPort) (net.Conn, error) {
	conn, err := h.dial(ctx, proto, unmap(addr), unmap(from))
	if err != nil {
		return nil, fmt.Errorf("host %q: dial %s %v: %w", h.cfg.Name, proto, addr, err)
	}
	return conn, nil
}

func (h *Host) dial(ctx context.Context, proto string, addr, from netip.AddrPort) (net.Conn, error) {
	switch {
	case h.isClosed():
		return nil, net.ErrClosed
	case !addr.IsValid():
		return nil, errors.New("no address")
	case from.IsValid() && from.Addr().Is4() != addr.Addr().Is4():
		return nil, fmt.Errorf("source %v is of another family", from)
	}
	n := h.current()
	conn, err := call(n, func() (net.Conn, error) { return n.dial(ctx, proto, addr, from) })
	switch { // rather than that the context was cancelled, which is how dial learns it
	case err != nil && h.isClosed():
		err = net.ErrClosed
	case err != nil && n.ended.Err() != nil:
		err = errLost
	}
	return conn, err
}

func (n *netstack) dial(ctx context.Context, proto string, addr, from netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(n.ended, cancel)() // a stack that ends waits for its endpoints
	remote, local := fullAddress(addr), fullAddress(from)
	switch proto {
	case "tcp":
		return asConn(dialTCP(ctx, n.stack, local, remote, protocolOf(addr.Addr())))
	case "udp":
		return asConn(dialUDP(n.stack, local, remote, protocolOf(addr.Addr())))
	}
	return nil, fmt.Errorf("unknown protocol %q", proto)
}

// ErrPortInUse is wrapped by Dial's error where the source port that was asked for is taken, by a connection to
// anybody.
var ErrPortInUse = errors.New("source port is in use")

// tcpConn is a TCP connection that can be closed as package net's can.
type tcpConn struct {
	*gonet.TCPConn
	ep tcpip.Endpoint
}

// SetLinger is that of net.TCPConn: with 0 Close resets the connection, which leaves nothing of it behind.
func (c *tcpConn) SetLinger(sec int) error {
	c.ep.SocketOptions().SetLinger(tcpip.LingerOption{Enabled: sec >= 0, Timeout: time.Duration(max(sec, 0)) * time.Second})
	return nil
}

// dialTCP is gonet.DialTCPWithBind, which loses an endpoint that cannot be bound, and keeps the others to itself.
func dialTCP(ctx context.Context, s *gstack.Stack, local, remote tcpip.FullAddress, proto tcpip.NetworkProtocolNumber) (*tcpConn, error) {
	wq := new(waiter.Queue)
	ep, terr := s.NewEndpoint(tcp.ProtocolNumber, proto, wq)
	if terr != nil {
		return nil, errors.New(terr.String())
	}
	entry, connected := waiter.NewChannelEntry(waiter.WritableEvents)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	err := ctx.Err()
	if err == nil && local != (tcpip.FullAddress{}) {
		if terr = ep.Bind(local); terr != nil {
			err = errors.New(terr.String())
			if _, taken := terr.(*tcpip.ErrPortInUse); taken {
				err = ErrPortInUse
			}
		}
	}
	if err == nil {
		terr = ep.Connect(remote)
		if _, started := terr.(*tcpip.ErrConnectStarted); started {
			select {
			case <-ctx.Done():
				err = ctx.Err()
			case <-connected:
				terr = ep.LastError()
			}
		}
		if err == nil && terr != nil {
			err = errors.New("connect: " + terr.String())
		}
	}
	if err != nil {
		ep.Close()
		return nil, err
	}
	return &tcpConn{gonet.NewTCPConn(wq, ep), ep}, nil
}

// dialUDP is gonet.DialUDP, but that a port unreachable ends a Read at once:
// gonet waits for data only and would sleep until the deadline.
func dialUDP(s *gstack.Stack, local, remote tcpip.FullAddress, proto tcpip.NetworkProtocolNumber) (*gonet.UDPConn, error) {
	wq := new(waiter.Queue)
	ep, terr := s.NewEndpoint(udp.ProtocolNumber, proto, wq)
	if terr != nil {
		return nil, errors.New(terr.String())
	}
	entry := waiter.NewFunctionEntry(waiter.EventErr, func(waiter.EventMask) {
		go wq.Notify(waiter.ReadableEvents) // this Notify still holds the queue's lock
	})
	wq.EventRegister(&entry)
	if local != (tcpip.FullAddress{}) {
		terr = ep.Bind(local)
	}
	if terr == nil {
		terr = ep.Connect(remote)
	}
	if terr != nil {
		ep.Close()
		if _, taken := terr.(*tcpip.ErrPortInUse); taken {
			return nil, ErrPortInUse
		}
		return nil, errors.New(terr.String())
	}
	return gonet.NewUDPConn(wq, ep), nil
}

// asConn keeps a nil *tcpConn from becoming a net.Conn that is not nil.
func asConn[C net.Conn](conn C, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// ListenTCP listens on addr: an owned address, or 0.0.0.0 for all of IPv4, or
// [::] for all of both families. Port 0 picks one. The listener outlives a
// panic in the stack (its connections do not); the caller closes it, or Close
// of the host does.
func (h *Host) ListenTCP(addr netip.AddrPort) (net.Listener, error) {
	addr = unmap(addr)
	if !addr.IsValid() {
		return nil, fmt.Errorf("host %q: listen: no address", h.cfg.Name)
	}
	for !h.isClosed() {
		n := h.current()
		s, err := call(n, func() (*socket, error) { return openSocket(n, addr) })
		if errors.Is(err, errLost) {
			continue // on the next stack
		}
		if err != nil {
			return nil, fmt.Errorf("host %q: listen %v: %w", h.cfg.Name, addr, err)
		}
		if l := h.addListener(n, s, addr); l != nil {
			return l, nil
		}
	}
	return nil, fmt.Errorf("host %q: listen %v: %w", h.cfg.Name, addr, net.ErrClosed)
}

// addListener makes a listener of s; nil if the host has another stack than n by now.
func (h *Host) addListener(n *netstack, s *socket, addr netip.AddrPort) *listener {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.net != n {
		return nil
	}
	l := &listener{host: h, addr: netip.AddrPortFrom(addr.Addr(), s.port), closed: make(chan struct{}), socket: s}
	h.listeners[l] = struct{}{}
	return l
}

// socket is a listening endpoint of one stack.
type socket struct {
	ep    tcpip.Endpoint
	wq    *waiter.Queue
	port  uint16        // the picked one, if port 0 was asked for
	moved chan struct{} // closed when the listener has another socket
}

func openSocket(n *netstack, addr netip.AddrPort) (*socket, error) {
	s := &socket{wq: new(waiter.Queue), moved: make(chan struct{})}
	ep, terr := n.stack.NewEndpoint(tcp.ProtocolNumber, protocolOf(addr.Addr()), s.wq)
	if terr != nil {
		return nil, errors.New(terr.String())
	}
	// As package net does: connections in TIME-WAIT shall not bar a restart.
	ep.SocketOptions().SetReuseAddress(true)
	if terr = ep.Bind(fullAddress(addr)); terr == nil {
		terr = ep.Listen(listenBacklog)
	}
	if terr != nil {
		ep.Close()
		return nil, errors.New(terr.String())
	}
	local, terr := ep.GetLocalAddress()
	if terr != nil {
		ep.Close()
		return nil, errors.New(terr.String())
	}
	s.ep, s.port = ep, local.Port
	return s, nil
}

// listener is a net.Listener that follows its host from stack to stack.
type listener struct {
	host      *Host
	addr      netip.AddrPort
	closed    chan struct{}
	closeOnce sync.Once

	mu     sync.Mutex
	socket *socket
	err    error // why there is no socket on the current stack
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		s, err := l.current()
		if err != nil {
			return nil, l.opError(err)
		}
		entry, readable := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventHUp | waiter.EventErr)
		s.wq.EventRegister(&entry)
		ep, wq, terr := s.ep.Accept(nil)
		if _, none := terr.(*tcpip.ErrWouldBlock); none {
			select {
			case <-readable:
			case <-s.moved:
			case <-l.closed:
			case <-l.host.closing:
			}
		}
		s.wq.EventUnregister(&entry)
		switch terr.(type) {
		case nil:
			return gonet.NewTCPConn(wq, ep), nil
		case *tcpip.ErrWouldBlock:
			continue
		}
		select {
		case <-s.moved: // the old stack ended under us
		default:
			if _, err := l.current(); err != nil {
				return nil, l.opError(err)
			}
			return nil, l.opError(errors.New(terr.String()))
		}
	}
}

func (l *listener) current() (*socket, error) {
	select {
	case <-l.closed:
		return nil, net.ErrClosed
	case <-l.host.closing:
		return nil, net.ErrClosed
	default:
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.socket, l.err
}

// move opens l on n, in place of the stack that panicked. The old socket ends
// with its stack. Called with the host's lock held.
func (l *listener) move(n *netstack) {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.socket
	l.socket, l.err = openSocket(n, l.addr)
	if old != nil {
		close(old.moved)
	}
}

// Close implements net.Listener. Connections not yet accepted are reset.
func (l *listener) Close() error {
	l.closeOnce.Do(func() {
		close(l.closed)
		l.host.mu.Lock()
		delete(l.host.listeners, l) // no move from here on
		l.host.mu.Unlock()
		if l.socket != nil {
			l.socket.ep.Close()
		}
	})
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.addr) }

func (l *listener) opError(err error) error {
	return &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: err}
}

func unmap(ap netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
