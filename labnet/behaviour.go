package labnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Behaviour is how a server program answers. The zero value answers at once and well.
type Behaviour struct {
	Slow    time.Duration `json:"slow,omitempty"`    // until it answers
	Fail    int           `json:"fail,omitempty"`    // HTTP: the status it answers with; 0 is none
	Silent  bool          `json:"silent,omitempty"`  // accepts and never answers
	Stopped bool          `json:"stopped,omitempty"` // its port refuses
}

// Program is a server program whose behaviour can be changed while it serves. Safe for concurrent use. It is
// nothing that is closed: what Serve and ServePacket return is. Stopped is not for it to do, since a program that has
// stopped has no socket: whoever opened the socket closes it, and serves on another one later.
type Program struct {
	kind  Kind
	name  string
	after func(time.Duration) <-chan time.Time

	behaviour atomic.Pointer[Behaviour]
}

// NewProgram makes a program of a kind for the host of that name, with the zero Behaviour. after is its clock, such as
// time.After, and nil means just that.
func NewProgram(kind Kind, host string, after func(time.Duration) <-chan time.Time) *Program {
	if after == nil {
		after = time.After
	}
	p := &Program{kind: kind, name: host, after: after}
	p.SetBehaviour(Behaviour{})
	return p
}

// SetBehaviour says how all that comes from now on is answered.
func (p *Program) SetBehaviour(b Behaviour) { p.behaviour.Store(&b) }

// Behaviour is the one in force.
func (p *Program) Behaviour() Behaviour { return *p.behaviour.Load() }

// Serve answers what connects to a listener, as ServeHTTP and ServeTCPEcho do, until it is closed, which closes the
// listener and all connections. Its kind is HTTP or TCPEcho.
func (p *Program) Serve(l net.Listener) io.Closer {
	if p.kind == HTTP {
		return serveHTTP(l, p.handler(handler(p.name)))
	}
	return serveTCP(l, p.echo)
}

// ServePacket answers datagrams as ServeUDPEcho does until it is closed, which closes the socket. Its kind is UDPEcho.
func (p *Program) ServePacket(c net.PacketConn) io.Closer {
	s := &udpProgram{program: p, conn: c}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.running.Go(s.serve)
	return s
}

// hold waits as long as the behaviour says, and reports whether there is anything to answer then.
func (p *Program) hold(ctx context.Context, b Behaviour) bool {
	if b.Silent {
		return false
	}
	if b.Slow > 0 {
		select {
		case <-p.after(b.Slow):
		case <-ctx.Done():
			return false
		}
	}
	return ctx.Err() == nil
}

// handler answers by the behaviour, or else well.
func (p *Program) handler(well http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b := p.Behaviour()
		switch {
		case !p.hold(r.Context(), b):
			<-r.Context().Done() // the client has gone, or the server is closed
		case b.Fail != 0:
			w.Header().Set("Server", p.name)
			http.Error(w, fmt.Sprintf("%s fails", p.name), b.Fail)
		default:
			well.ServeHTTP(w, r)
		}
	})
}

// echo sends back what a connection brings, chunk by chunk, until that ends.
func (p *Program) echo(ctx context.Context, c net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := c.Read(buf)
		if n > 0 && p.hold(ctx, p.Behaviour()) {
			if _, err := c.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// udpProgram is a program on a socket of UDP.
type udpProgram struct {
	program *Program
	conn    net.PacketConn
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
}

func (s *udpProgram) serve() { // ends with the socket
	buf := make([]byte, 1<<16)
	head := copy(buf, s.program.name+" ")
	for {
		n, from, err := s.conn.ReadFrom(buf[head:])
		switch {
		case errors.Is(err, net.ErrClosed) || s.ctx.Err() != nil:
			return
		case err == nil:
			s.answer(buf[:head+n], from)
		}
	}
}

// answer borrows the datagram until it returns. That one can't be sent is an ICMP error for an earlier one.
func (s *udpProgram) answer(datagram []byte, to net.Addr) {
	b := s.program.Behaviour()
	if b.Slow == 0 && !b.Silent {
		_, _ = s.conn.WriteTo(datagram, to)
		return
	}
	late := bytes.Clone(datagram)
	s.running.Go(func() { // ends with the time, or the socket
		if s.program.hold(s.ctx, b) {
			_, _ = s.conn.WriteTo(late, to)
		}
	})
}

func (s *udpProgram) Close() error {
	s.cancel()
	err := s.conn.Close()
	s.running.Wait()
	return err
}
