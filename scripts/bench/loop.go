//go:build linux

package main

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// loop is one thread around epoll: client and server share the machine with the subject, so they are to
// cost as little as they can, which goroutines over Go's poller don't. Events are level triggered and
// each is answered by one read or write, so that streams take turns.
type loop struct {
	epoll    int
	handlers []handler // by descriptor
	buf      []byte    // for bulk data, of no content
}

// handler is a connection or the like. An event may be stale: a read of a descriptor that has been
// closed and opened again since says EAGAIN.
type handler interface {
	ready(l *loop, fd int, events uint32) error // an error ends the loop
}

const bulkSize = 256 << 10

func newLoop() (*loop, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	return &loop{epoll: epoll, buf: make([]byte, bulkSize)}, err
}

func (l *loop) add(fd int, events uint32, h handler) error {
	for fd >= len(l.handlers) {
		l.handlers = append(l.handlers, nil)
	}
	l.handlers[fd] = h
	return unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Fd: int32(fd), Events: events})
}

func (l *loop) modify(fd int, events uint32) error {
	return unix.EpollCtl(l.epoll, unix.EPOLL_CTL_MOD, fd, &unix.EpollEvent{Fd: int32(fd), Events: events})
}

// drop closes a descriptor; its events end with it.
func (l *loop) drop(fd int) {
	if fd < len(l.handlers) {
		l.handlers[fd] = nil
	}
	unix.Close(fd)
}

func (l *loop) run() error {
	var events [128]unix.EpollEvent
	for {
		n, err := unix.EpollWait(l.epoll, events[:], -1)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		for _, e := range events[:n] {
			h := l.handlers[e.Fd]
			if h == nil {
				continue
			}
			if err := h.ready(l, int(e.Fd), e.Events); err != nil {
				return err
			}
		}
	}
}

func socket() (int, error) {
	return unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
}

func sockaddr(a netip.AddrPort) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
}

// again says that a call has nothing to give yet.
func again(err error) bool { return err == unix.EAGAIN || err == unix.EINTR }
