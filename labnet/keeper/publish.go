package keeper

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// maxForwarded is how many connections a published port has at a time; more wait to be accepted.
	maxForwarded = 256
	// dialTime is how long a connection into the lab may take.
	dialTime = 10 * time.Second
)

// forward accepts until the listener is closed.
func (s *Server) forward(l net.Listener, from string, to netip.AddrPort) {
	slots := make(chan struct{}, maxForwarded)
	for {
		select {
		case slots <- struct{}{}:
		case <-s.ctx.Done():
			return
		}
		conn, err := l.Accept()
		if err != nil {
			return
		}
		if !s.keep(conn) {
			conn.Close()
			return
		}
		s.serving.Go(func() { // ends with both connections, or Close
			defer func() { <-slots }()
			defer s.forget(conn)
			defer conn.Close()
			s.pass(conn, from, to)
		})
	}
}

// pass connects into the lab and copies both ways, each until its sender has sent all.
func (s *Server) pass(outside net.Conn, from string, to netip.AddrPort) {
	ctx, cancel := context.WithTimeout(s.ctx, dialTime)
	inside, err := s.lab.Dial(ctx, from, "tcp", to)
	cancel()
	if err != nil {
		abort(outside) // as refused as it can be by now
		return
	}
	defer inside.Close()
	if !s.keep(inside) {
		return
	}
	defer s.forget(inside)
	var both sync.WaitGroup
	for _, way := range [...]struct{ to, from net.Conn }{{inside, outside}, {outside, inside}} {
		both.Go(func() {
			_, err := io.Copy(way.to, way.from)
			if half, ok := way.to.(interface{ CloseWrite() error }); err == nil && ok {
				_ = half.CloseWrite() // it has gone, if this fails
				return
			}
			abort(way.to)
			abort(way.from)
		})
	}
	both.Wait()
}

// abort closes a connection with a reset where it can.
func abort(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // then it is closed in the ordinary way
	}
	c.Close()
}
