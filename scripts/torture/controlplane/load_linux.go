package controlplane

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/tunlb/tunlb/labnet"
	"github.com/tunlb/tunlb/labnet/netns"
)

// load is connections through the VIP that are never in a hurry, so that what they miss is tunlb's doing and not that of a busy
// machine: some that last, and one after the other.
type load struct {
	ns   *netns.NS
	quit context.CancelFunc
	all  sync.WaitGroup

	mu    sync.Mutex
	since time.Time
	now   tally
}

// tally is what has happened in some time.
type tally struct {
	echoes  int
	conns   int // opened, and answered
	longest time.Duration
	errs    []error
	took    time.Duration
}

func (t tally) rate() float64 { return float64(t.echoes) / t.took.Seconds() }

const (
	echoers    = 4
	echoPause  = 20 * time.Millisecond
	connPause  = 50 * time.Millisecond
	echoLength = 48 << 10
	maxErrors  = 5 // are told of
)

var target = net.JoinHostPort(labnet.VIP, "7")

func startLoad(ctx context.Context, ns *netns.NS) (*load, error) {
	ctx, quit := context.WithCancel(ctx)
	l := &load{ns: ns, quit: quit}
	for range echoers {
		conn, err := ns.DialContext(ctx, "tcp", target)
		if err != nil {
			l.stop()
			return nil, err
		}
		l.all.Go(func() { l.echo(ctx, conn) })
	}
	l.all.Go(func() { l.open(ctx) })
	return l, nil
}

// stop ends it.
func (l *load) stop() {
	l.quit()
	l.all.Wait()
}

// echo goes on until ctx ends, or the connection fails.
func (l *load) echo(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	out, in := make([]byte, echoLength), make([]byte, echoLength)
	every := time.NewTicker(echoPause)
	defer every.Stop()
	for n := byte(0); ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
		out[0] = n
		began := time.Now()
		err := exchange(conn, out, in)
		l.note(began, err, func(t *tally) { t.echoes++ })
		if err != nil {
			return
		}
	}
}

// open opens one connection after the other.
func (l *load) open(ctx context.Context) {
	every := time.NewTicker(connPause)
	defer every.Stop()
	out, in := []byte{1}, []byte{0}
	for {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
		began := time.Now()
		conn, err := l.ns.DialContext(ctx, "tcp", target)
		if err == nil {
			err = exchange(conn, out, in)
			conn.Close()
		}
		if ctx.Err() == nil {
			l.note(began, err, func(t *tally) { t.conns++ })
		}
	}
}

func exchange(conn net.Conn, out, in []byte) error {
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := conn.Write(out); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, in); err != nil {
		return err
	}
	if in[0] != out[0] {
		return errors.New("another echo has come back")
	}
	return nil
}

func (l *load) note(began time.Time, err error, count func(*tally)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		if len(l.now.errs) < maxErrors {
			l.now.errs = append(l.now.errs, err)
		}
		return
	}
	count(&l.now)
	l.now.longest = max(l.now.longest, time.Since(began))
}

func (l *load) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now, l.since = tally{}, time.Now()
}

func (l *load) end() tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now.took = time.Since(l.since)
	return l.now
}

func (l *load) measure(ctx context.Context, d time.Duration) tally {
	l.begin()
	wait(ctx, d)
	return l.end()
}
