//go:build linux

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// loadServer is the server of all loads, on one port as the VIP has one.
type loadServer struct {
	loop   *loop
	count  counters
	open   int
	marked time.Time
}

func newServer(l *loop, addr netip.AddrPort) (*loadServer, error) {
	s := &loadServer{loop: l, marked: time.Now()}
	fd, err := socket()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		// On all addresses: the one asked for may come with a device that is still being made.
		unix.Bind(fd, &unix.SockaddrInet4{Port: int(addr.Port())}),
		unix.Listen(fd, 4096),
	); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	return s, l.add(fd, unix.EPOLLIN, s)
}

func (s *loadServer) command(args []string) (counters, error) {
	switch args[0] {
	case cmdMark:
		s.count, s.marked = counters{}, time.Now()
	case cmdReport:
	default:
		return counters{}, errors.ErrUnsupported
	}
	s.count.Elapsed, s.count.Open = time.Since(s.marked), s.open
	return s.count, nil
}

// ready accepts all that have come.
func (s *loadServer) ready(l *loop, fd int, _ uint32) error {
	for {
		// Not unix.Accept4, which makes an address of the peer's each time.
		c, _, errno := unix.Syscall6(unix.SYS_ACCEPT4, uintptr(fd), 0, 0, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
		switch errno {
		case 0:
		case unix.EAGAIN:
			return nil
		case unix.EINTR, unix.ECONNABORTED:
			continue
		default:
			return fmt.Errorf("accept: %w", errno)
		}
		s.count.Conns++
		s.open++
		if err := l.add(int(c), unix.EPOLLIN, &serverConn{server: s}); err != nil {
			return err
		}
	}
}

// serverConn is a connection, which begins with a request and may turn into a stream.
type serverConn struct {
	server *loadServer
	mode   string // pathUp or pathDown once it is a stream
	used   int
	buf    [1024]byte
}

func (c *serverConn) ready(l *loop, fd int, _ uint32) error {
	var err error
	var n int
	switch c.mode {
	case pathUp:
		if n, err = unix.Read(fd, l.buf); n > 0 {
			c.server.count.In += uint64(n)
			return nil
		}
	case pathDown:
		if n, err = unix.Write(fd, l.buf); n > 0 {
			c.server.count.Out += uint64(n)
			return nil
		}
	default:
		if n, err = unix.Read(fd, c.buf[c.used:]); n > 0 {
			c.used += n
			return c.answer(l, fd)
		}
	}
	if err != nil && again(err) {
		return nil
	}
	c.end(l, fd) // the client has closed or reset it
	return nil
}

func (c *serverConn) end(l *loop, fd int) {
	c.server.open--
	l.drop(fd)
}

// answer answers the request that is in the buffer, if all of it is.
func (c *serverConn) answer(l *loop, fd int) error {
	h, err := parseHead(c.buf[:c.used])
	if err != nil || h.size == 0 && c.used == len(c.buf) {
		c.fail(l, fd, errHead)
		return nil
	}
	if h.size == 0 {
		return nil
	}
	text := responseSmall
	switch path := string(h.first[1]); path {
	case pathSmall:
	case pathDown:
		c.mode, text = pathDown, responseDown
	case pathUp:
		c.mode = pathUp
		c.server.count.In += uint64(c.used - h.size)
		return nil
	default:
		c.fail(l, fd, fmt.Errorf("no path %q", path))
		return nil
	}
	// A short write would need a socket buffer smaller than this answer.
	if n, err := unix.Write(fd, []byte(text)); n != len(text) {
		c.fail(l, fd, fmt.Errorf("answer: %d bytes written: %w", n, err))
		return nil
	}
	c.server.count.Requests++
	switch {
	case c.mode == pathDown:
		return l.modify(fd, unix.EPOLLOUT)
	case h.close:
		c.end(l, fd)
		return nil
	}
	c.used = copy(c.buf[:], c.buf[h.size:c.used])
	return nil
}

func (c *serverConn) fail(l *loop, fd int, err error) {
	c.server.count.Errors++
	c.server.count.Error = err.Error()
	c.end(l, fd)
}
