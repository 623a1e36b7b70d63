//go:build linux

package main

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/tunlb/tunlb/labnet/netns"
)

// prober sends a datagram a millisecond to the echo service, over one flow, and notes when answers come. Datagrams are not sent
// again, so a gap in their answers is the gap that there was, not what TCP's timers make of it.
type prober struct {
	conn    net.Conn
	stop    context.CancelFunc
	running sync.WaitGroup
	calm    time.Duration // the longest gap before anything was done; whoever uses the prober keeps it here

	mu       sync.Mutex
	last     time.Time
	gap      time.Duration
	answered int
	refusals int
}

func startProber(ctx context.Context, ns *netns.NS) (*prober, error) {
	conn, err := ns.DialContext(ctx, "udp", at(echoPort))
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	p := &prober{conn: conn, stop: stop, last: time.Now()}
	p.running.Go(func() { p.send(ctx) }) // both end with close
	p.running.Go(p.receive)
	return p, nil
}

func (p *prober) send(ctx context.Context) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			p.conn.Close()
			return
		case <-tick.C:
		}
		_, err := p.conn.Write([]byte("probe"))
		p.heed(err)
	}
}

// heed counts what the network says in place of an answer.
func (p *prober) heed(err error) {
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH) {
		p.mu.Lock()
		p.refusals++
		p.mu.Unlock()
	}
}

func (p *prober) receive() {
	for b := make([]byte, 100); ; {
		_, err := p.conn.Read(b)
		switch {
		case errors.Is(err, net.ErrClosed), errors.Is(err, os.ErrDeadlineExceeded):
			return
		case err != nil:
			p.heed(err)
			continue
		}
		p.mu.Lock()
		now := time.Now()
		p.gap, p.last = max(p.gap, now.Sub(p.last)), now
		p.answered++
		p.mu.Unlock()
	}
}

// longest is the longest time without an answer, the present one included.
func (p *prober) longest() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(p.gap, time.Since(p.last))
}

// forget begins anew.
func (p *prober) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gap = 0
}

func (p *prober) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.answered
}

func (p *prober) refused() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refusals
}

func (p *prober) close() error {
	p.stop()
	p.running.Wait()
	return nil
}
