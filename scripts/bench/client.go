//go:build linux

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// client makes one load at a time.
type client struct {
	loop    *loop
	target  *unix.SockaddrInet4
	kind    string // of the load; empty while there is none
	conns   map[int]*clientConn
	count   counters
	marked  time.Time
	samples []time.Duration // of the load idle, bounded by its pace
}

// The load idle sends a request every idlePace, idleRequests of them at least: enough for a p99.
const (
	idlePace     = time.Millisecond
	idleRequests = 2000
)

func newClient(l *loop, target netip.AddrPort) *client {
	return &client{loop: l, target: sockaddr(target), conns: map[int]*clientConn{}, marked: time.Now()}
}

func (c *client) command(args []string) (counters, error) {
	switch args[0] {
	case cmdStart:
		n, err := strconv.Atoi(args[2])
		if err != nil {
			return counters{}, err
		}
		c.mark()
		c.kind = args[1]
		for range n {
			c.open(&clientConn{client: c})
		}
	case cmdStop:
		c.kind = ""
		for fd := range c.conns {
			c.abort(fd)
		}
	case cmdMark:
		c.mark()
	case cmdReport:
	default:
		return counters{}, errors.ErrUnsupported
	}
	c.count.Elapsed, c.count.Open = time.Since(c.marked), len(c.conns)
	slices.Sort(c.samples)
	c.count.P50, c.count.P99 = quantile(c.samples, 50), quantile(c.samples, 99)
	return c.count, nil
}

func (c *client) mark() { c.count, c.marked, c.samples = counters{}, time.Now(), c.samples[:0] }

// quantile takes sorted durations.
func quantile(sorted []time.Duration, percent int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)*percent/100, len(sorted)-1)]
}

// abort closes by RST, so that what is still queued ends at once.
func (c *client) abort(fd int) {
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	c.drop(fd)
}

func (c *client) drop(fd int) {
	delete(c.conns, fd)
	c.loop.drop(fd)
}

// open starts a connection. It is established, or has failed, when it becomes writable.
func (c *client) open(conn *clientConn) {
	fd, err := socket()
	if err != nil {
		c.fail(-1, err)
		return
	}
	*conn = clientConn{client: c}
	c.conns[fd] = conn
	if err := unix.Connect(fd, c.target); err != nil && err != unix.EINPROGRESS {
		// Nothing is tried again at once: this would go round and round.
		c.fail(fd, fmt.Errorf("connect: %w", err))
		return
	}
	if err := c.loop.add(fd, unix.EPOLLOUT, conn); err != nil {
		c.fail(fd, err)
	}
}

func (c *client) fail(fd int, err error) {
	c.count.Errors++
	c.count.Error = err.Error()
	if fd >= 0 {
		c.drop(fd)
	}
}

// clientConn is a connection of the load.
type clientConn struct {
	client   *client
	stream   bool      // bulk data flows
	answered bool      // the server is going to close it
	sent     time.Time // of the request under way, zero if there is none; only of the load idle
	used     int
	buf      [1024]byte
}

func (k *clientConn) ready(l *loop, fd int, events uint32) error {
	c := k.client
	switch {
	case k.stream && c.kind == kindUp:
		n, err := unix.Write(fd, l.buf)
		if n > 0 {
			c.count.Out += uint64(n)
		} else if !again(err) {
			c.fail(fd, fmt.Errorf("send: %w", err))
		}
	case k.stream:
		n, err := unix.Read(fd, l.buf)
		if n > 0 {
			c.count.In += uint64(n)
		} else if err == nil || !again(err) {
			c.fail(fd, fmt.Errorf("receive: %w", orEOF(err)))
		}
	case events&unix.EPOLLOUT != 0:
		return k.connected(fd)
	default:
		k.receive(fd)
	}
	return nil
}

// connected sends the first request.
func (k *clientConn) connected(fd int) error {
	c := k.client
	request, next := requestKept, uint32(unix.EPOLLIN)
	switch c.kind {
	case kindUp:
		request, next = requestUp, unix.EPOLLOUT
		k.stream = true
	case kindDown:
		request = requestDown
		k.stream = true
	case kindNew:
		request = requestClose
	case kindIdle:
		if err := c.startTimer(k, fd); err != nil {
			return err
		}
	}
	k.send(fd, request)
	if c.conns[fd] != k || next == unix.EPOLLOUT {
		return nil
	}
	return c.loop.modify(fd, next)
}

func (k *clientConn) send(fd int, request string) {
	if k.client.kind == kindIdle {
		k.sent = time.Now()
	}
	if n, err := unix.Write(fd, []byte(request)); n != len(request) {
		k.client.fail(fd, fmt.Errorf("send a request: %w", err))
	}
}

// receive takes the answer and goes on as the load wants it.
func (k *clientConn) receive(fd int) {
	c := k.client
	if k.used == len(k.buf) {
		c.fail(fd, errHead)
		return
	}
	n, err := unix.Read(fd, k.buf[k.used:])
	switch {
	case n > 0 && !k.answered:
	case n == 0 && err == nil && k.answered:
		// The server has closed first, so the TIME-WAIT is its own.
		c.count.Conns++
		c.drop(fd)
		c.open(k)
		return
	case err != nil && again(err):
		return
	default:
		c.fail(fd, fmt.Errorf("receive an answer: %w", orEOF(err)))
		if c.kind == kindNew {
			c.open(k)
		}
		return
	}
	k.used += n
	c.count.In += uint64(n)
	done, err := answered(k.buf[:k.used])
	if err != nil {
		c.fail(fd, err)
	}
	if err != nil || !done {
		return
	}
	k.used = 0
	c.count.Requests++
	switch c.kind {
	case kindNew:
		k.answered = true
		k.receive(fd) // its end is mostly there already
	case kindIdle:
		c.samples = append(c.samples, time.Since(k.sent))
		k.sent = time.Time{} // the next one is the timer's
	default:
		k.send(fd, requestKept)
	}
}

// idleTimer paces the load idle.
type idleTimer struct {
	conn *clientConn
	fd   int // of conn
}

func (c *client) startTimer(k *clientConn, fd int) error {
	timer, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return err
	}
	pace := unix.NsecToTimespec(int64(idlePace))
	if err := unix.TimerfdSettime(timer, 0, &unix.ItimerSpec{Interval: pace, Value: pace}, nil); err != nil {
		return err
	}
	return c.loop.add(timer, unix.EPOLLIN, &idleTimer{k, fd})
}

func (t *idleTimer) ready(l *loop, fd int, _ uint32) error {
	var expirations [8]byte
	_, _ = unix.Read(fd, expirations[:]) // or it would be ready for ever
	switch {
	case t.conn.client.conns[t.fd] != t.conn: // the load has been stopped, or the connection is broken
		l.drop(fd)
	case t.conn.sent.IsZero():
		t.conn.send(t.fd, requestKept)
	}
	return nil
}

func orEOF(err error) error {
	if err != nil {
		return err
	}
	return errors.New("the server has closed the connection")
}
