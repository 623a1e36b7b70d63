package gate

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sync/atomic"
	"time"
)

// piece is what is given to a connection at a time, and has to be taken within Options.Stall. With a socket's buffer in
// between, a client that reads it all in one go is no better off than one that reads on and on.
const piece = 64 << 10

// Conn is a connection that a gate has let in. Its Close is idempotent.
type Conn struct {
	net.Conn
	gate   *Gate
	caller Caller

	refused bool // it is there to be told so
	why     Why  // valid iff refused

	// Guarded by the gate's lock.
	busy bool   // a request is being answered: it is all there
	idle uint64 // when it became idle, among the others

	waiting atomic.Bool               // between two requests: to say nothing there is no fault
	aborted atomic.Bool               // the server itself has ended the reading
	until   atomic.Pointer[time.Time] // the server's own write deadline; nil: none
	closed  atomic.Bool
}

// Caller is whose it is.
func (c *Conn) Caller() Caller { return c.caller }

// NetConn is what the gate has accepted.
func (c *Conn) NetConn() net.Conn { return c.Conn }

// become follows what the server says of the connection. For the server a request begins with its first byte, for the gate not
// before its last: clients that keep half of theirs to themselves make room for others.
func (c *Conn) become(state http.ConnState) {
	switch state {
	case http.StateActive:
		c.waiting.Store(false)
	case http.StateIdle:
		c.waiting.Store(true)
		c.gate.mu.Lock()
		defer c.gate.mu.Unlock()
		c.busy = false
		c.gate.last++
		c.idle = c.gate.last
	}
}

// work is called when a whole request is there.
func (c *Conn) work() {
	c.gate.mu.Lock()
	defer c.gate.mu.Unlock()
	c.busy = true
}

// body is a request's, after which the request is all there.
type body struct {
	io.ReadCloser
	conn *Conn
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.conn.work()
	}
	return n, err
}

// Read notes why it was too late.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.waiting.Store(false)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) && !c.aborted.Load() && !c.waiting.Load() {
		c.aborted.Store(true) // once
		c.gate.cut[Slow].Add(1)
	}
	return n, err
}

// SetReadDeadline implements net.Conn. One that lies in the past is the server's way to stop a Read of its own.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.aborted.Store(!t.IsZero() && t.Before(time.Now()))
	return c.Conn.SetReadDeadline(t)
}

// SetWriteDeadline implements net.Conn. It holds besides Options.Stall.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	if t.IsZero() {
		c.until.Store(nil)
	} else {
		c.until.Store(&t) // with its monotonic reading: setting the clock moves no deadline
	}
	return c.Conn.SetWriteDeadline(t)
}

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// Write gives a piece at a time to the client, each of which it has to take in time.
func (c *Conn) Write(b []byte) (written int, err error) {
	for len(b) > 0 && err == nil {
		deadline := time.Now().Add(c.gate.opts.Stall)
		if until := c.until.Load(); until != nil && until.Before(deadline) {
			deadline = *until
		}
		if err = c.Conn.SetWriteDeadline(deadline); err != nil {
			break
		}
		var n int
		n, err = c.Conn.Write(b[:min(len(b), piece)])
		written, b = written+n, b[n:]
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.gate.cut[Stalled].Add(1)
		c.Close() // what comes now would be no answer any more
	}
	return written, err
}

// CloseWrite lets the client read what was said last: the server looks for it.
func (c *Conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// Close implements net.Conn.
func (c *Conn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	c.gate.mu.Lock()
	c.gate.removeLocked(c)
	if i := slices.Index(c.gate.refused, c); i >= 0 {
		c.gate.refused = slices.Delete(c.gate.refused, i, i+1)
	}
	c.gate.mu.Unlock()
	return c.Conn.Close()
}
