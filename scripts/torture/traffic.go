//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tunlb/tunlb/labnet/netns"
)

// Ports of the VIP, and of the servers behind it, as labnet's servers have them; sinkPort is that of the paced flow.
const (
	webPort  = 80
	echoPort = 7
	sinkPort = 9
)

func at(port int) string { return fmt.Sprintf("%s:%d", vip, port) }

// request asks for a path over a connection of its own, which the server closes, so that it has the TIME-WAIT. It says who answered.
func request(ctx context.Context, ns *netns.NS, path string, patience time.Duration) (server string, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := ns.DialContext(ctx, "tcp", at(webPort))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })() // long ago: what waits ends
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: torture\r\nConnection: close\r\n\r\n", path); err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", errors.New(resp.Status)
	}
	return resp.Header.Get("Server"), nil
}

// attempt is one of arrivals' connections.
type attempt struct {
	began, ended time.Time
	server       string // who answered; "" iff err
	err          error
}

// arrivals opens connections at a rate, whether or not the ones before are done, until stopped.
type arrivals struct {
	stop    context.CancelFunc
	running sync.WaitGroup

	mu   sync.Mutex
	done []attempt
}

func arrive(ctx context.Context, ns *netns.NS, perSecond int, patience time.Duration) *arrivals {
	on, stop := context.WithCancel(ctx)
	a := &arrivals{stop: stop}
	a.running.Go(func() { // ends with stop
		began := time.Now()
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for started := 0; ; {
			select {
			case <-on.Done():
				return
			case <-tick.C:
			}
			for due := int(time.Since(began).Seconds() * float64(perSecond)); started < due; started++ {
				a.running.Go(func() { a.try(ctx, ns, patience) }) // ends with its connection
			}
		}
	})
	return a
}

func (a *arrivals) try(ctx context.Context, ns *netns.NS, patience time.Duration) {
	t := attempt{began: time.Now()}
	t.server, t.err = request(ctx, ns, "/", patience)
	t.ended = time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.done = append(a.done, t)
}

// wait starts no further connection and returns all when the last one is done.
func (a *arrivals) wait() []attempt {
	a.stop()
	a.running.Wait()
	return a.done
}

// count is how many are done by now.
func (a *arrivals) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.done)
}

// failures are those that came to nothing, and the error of the first.
func failures(all []attempt) (n int, first error) {
	for _, t := range all {
		if t.err != nil {
			if n++; first == nil {
				first = t.err
			}
		}
	}
	return n, first
}

// sink takes whatever comes to any of the servers and counts it.
type sink struct {
	listeners []net.Listener
	bytes     atomic.Int64
	running   sync.WaitGroup
}

func openSinks(site *site) (*sink, error) {
	s := &sink{}
	for _, node := range serverNodes {
		l, err := site.lab.NS(node).Listen("tcp", fmt.Sprintf(":%d", sinkPort))
		if err != nil {
			return nil, errors.Join(err, s.close())
		}
		s.listeners = append(s.listeners, l)
		s.running.Go(func() { s.accept(l) }) // ends with the listener
	}
	return s, nil
}

func (s *sink) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		s.running.Go(func() { s.take(c) }) // ends with the connection
	}
}

func (s *sink) take(c net.Conn) {
	defer c.Close()
	for b := make([]byte, 256<<10); ; {
		n, err := c.Read(b)
		s.bytes.Add(int64(n))
		if err != nil {
			return
		}
	}
}

// close waits for the connections, which their clients have closed before.
func (s *sink) close() error {
	var errs []error
	for _, l := range s.listeners {
		errs = append(errs, l.Close())
	}
	s.running.Wait()
	return errors.Join(errs...)
}

// paced sends at a rate until it is closed. What could not be sent within backlog is not made up for: what counts
// is what passes while it is wanted.
type paced struct {
	conn net.Conn
	done chan struct{} // closed when err is set
	err  error
}

const backlog = 100 * time.Millisecond

func startPaced(ctx context.Context, ns *netns.NS, to string, bitsPerSecond float64) (*paced, error) {
	conn, err := ns.DialContext(ctx, "tcp", to)
	if err != nil {
		return nil, fmt.Errorf("open the paced flow: %w", err)
	}
	p := &paced{conn: conn, done: make(chan struct{})}
	go p.send(bitsPerSecond / 8) // ends with close
	return p, nil
}

func (p *paced) send(bytesPerSecond float64) {
	defer close(p.done)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	b := make([]byte, 1<<20)
	due, last := 0.0, time.Now()
	for range tick.C {
		now := time.Now()
		due = min(due+now.Sub(last).Seconds()*bytesPerSecond, backlog.Seconds()*bytesPerSecond)
		last = now
		for due >= 1 {
			n, err := p.conn.Write(b[:min(len(b), int(due))])
			due -= float64(n)
			if err != nil {
				p.err = err
				return
			}
		}
	}
}

// alive says whether nobody has broken the flow.
func (p *paced) alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// close ends the flow; an error says that it was broken before. It may be called again.
func (p *paced) close() error {
	select {
	case <-p.done:
	default:
		if err := p.conn.Close(); err != nil {
			return err
		}
		<-p.done
	}
	if errors.Is(p.err, net.ErrClosed) {
		return nil
	}
	return p.err
}

// rate is what the sink takes in a window, in bit/s.
func (s *sink) rate(ctx context.Context, window time.Duration) (float64, error) {
	before, began := s.bytes.Load(), time.Now()
	if err := sleep(ctx, window); err != nil {
		return 0, err
	}
	return float64(s.bytes.Load()-before) * 8 / time.Since(began).Seconds(), nil
}

// sleep is a window's time.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// held are idle connections to the echo service.
type held []net.Conn

// hold opens n of them, and has each echo once.
func hold(ctx context.Context, ns *netns.NS, n int) (h held, err error) {
	for range n {
		c, err := ns.DialContext(ctx, "tcp", at(echoPort))
		if err != nil {
			h.close()
			return nil, fmt.Errorf("hold a connection: %w", err)
		}
		h = append(h, c)
		if err := echo(c, patience); err != nil {
			h.close()
			return nil, fmt.Errorf("hold a connection: %w", err)
		}
	}
	return h, nil
}

// answering is how many of them still echo, and why the first does not.
func (h held) answering(patience time.Duration) (n int, first error) {
	for _, c := range h {
		if err := echo(c, patience); err == nil {
			n++
		} else if first == nil {
			first = err
		}
	}
	return n, first
}

func (h held) close() {
	for _, c := range h {
		c.Close()
	}
}

// echo sends a word and wants it back.
func echo(c net.Conn, patience time.Duration) error {
	const word = "still here?"
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, word); err != nil {
		return err
	}
	b := make([]byte, len(word))
	if _, err := io.ReadFull(c, b); err != nil {
		return err
	}
	if string(b) != word {
		return fmt.Errorf("echoed %q", b)
	}
	return nil
}

// wasReset tells a connection that somebody has reset.
func wasReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// addressOf is an address of a connection as package netip has it.
func addressOf(a net.Addr) netip.AddrPort { return a.(*net.TCPAddr).AddrPort() }
