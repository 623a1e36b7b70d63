package sim

import (
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// conn is a connection of a host's stack whose deadlines are of the lab's time. They are given in ours, by programs that
// know no other, and last as long from the moment that they are set. Safe for concurrent use.
type conn struct {
	net.Conn
	clock *clock
	// hasty is for connections of people and tests: lab time need not pass for them at our pace while they wait.
	hasty       bool
	read, write deadline
}

func newConn(inner net.Conn, c *clock, hasty bool) *conn {
	return &conn{Conn: inner, clock: c, hasty: hasty,
		read: deadline{clock: c, set: inner.SetReadDeadline}, write: deadline{clock: c, set: inner.SetWriteDeadline}}
}

// Read implements net.Conn.
func (c *conn) Read(b []byte) (int, error) {
	if c.hasty {
		c.clock.hurry()
		defer c.clock.calm()
	}
	n, err := c.Conn.Read(b)
	c.clock.rest.disturb()
	return n, known(err)
}

// Write implements net.Conn.
func (c *conn) Write(b []byte) (int, error) {
	if c.hasty {
		c.clock.hurry()
		defer c.clock.calm()
	}
	n, err := c.Conn.Write(b)
	c.clock.rest.disturb()
	return n, known(err)
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.read.stop()
	c.write.stop()
	return c.Conn.Close()
}

// CloseWrite is that of net.TCPConn.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error { return c.read.put(t) }

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error { return c.write.put(t) }

// packetConn is conn without a peer.
type packetConn struct {
	net.PacketConn
	clock       *clock
	read, write deadline
}

func newPacketConn(inner net.PacketConn, c *clock) *packetConn {
	return &packetConn{inner, c, deadline{clock: c, set: inner.SetReadDeadline}, deadline{clock: c, set: inner.SetWriteDeadline}}
}

// ReadFrom implements net.PacketConn.
func (c *packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.PacketConn.ReadFrom(b)
	c.clock.rest.disturb()
	return n, from, known(err)
}

// Close implements net.PacketConn.
func (c *packetConn) Close() error {
	c.read.stop()
	c.write.stop()
	return c.PacketConn.Close()
}

// SetDeadline implements net.PacketConn.
func (c *packetConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.PacketConn.
func (c *packetConn) SetReadDeadline(t time.Time) error { return c.read.put(t) }

// SetWriteDeadline implements net.PacketConn.
func (c *packetConn) SetWriteDeadline(t time.Time) error { return c.write.put(t) }

// deadline expires by the lab's time.
type deadline struct {
	clock *clock
	set   func(time.Time) error // of the connection below, whose deadlines are of our time

	mu    sync.Mutex
	timer tcpip.Timer // nil: none
	turn  int         // of timers: one that fires late must not end what another has begun
}

// put makes t the deadline: zero is none, one in the past has expired.
func (d *deadline) put(t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopLocked()
	if t.IsZero() || !t.After(time.Now()) {
		return d.set(t)
	}
	if err := d.set(time.Time{}); err != nil {
		return err
	}
	turn := d.turn
	d.timer = d.clock.AfterFunc(time.Until(t), func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.turn == turn {
			_ = d.set(time.Unix(1, 0)) // fails if the connection is closed
		}
	})
	return nil
}

func (d *deadline) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopLocked()
}

func (d *deadline) stopLocked() {
	d.turn++
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

// known makes of the stack's errors those that programs of a real host see and look for.
func known(err error) error {
	var op *net.OpError
	if !errors.As(err, &op) {
		return err
	}
	if e := errno(op.Err.Error()); e != nil {
		return &net.OpError{Op: op.Op, Net: op.Net, Source: op.Source, Addr: op.Addr, Err: e}
	}
	return err
}

// errno is the system's error for what the stack says; nil if there is none.
func errno(text string) error {
	for _, e := range [...]struct {
		stack tcpip.Error
		errno error
	}{
		{&tcpip.ErrConnectionRefused{}, syscall.ECONNREFUSED},
		{&tcpip.ErrConnectionReset{}, syscall.ECONNRESET},
		{&tcpip.ErrConnectionAborted{}, syscall.ECONNABORTED},
		{&tcpip.ErrTimeout{}, syscall.ETIMEDOUT},
		{&tcpip.ErrHostUnreachable{}, syscall.EHOSTUNREACH},
		{&tcpip.ErrNetworkUnreachable{}, syscall.ENETUNREACH},
		{&tcpip.ErrHostDown{}, syscall.EHOSTUNREACH},
		{&tcpip.ErrClosedForSend{}, syscall.EPIPE},
		{&tcpip.ErrAborted{}, os.ErrClosed},
	} {
		if text == e.stack.String() {
			return e.errno
		}
	}
	return nil
}
