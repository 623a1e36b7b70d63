package sim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tunlb/tunlb/labnet"
	"github.com/tunlb/tunlb/labnet/scenario"
	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/tunlb/control"
)

// Lab implements scenario.Lab.
type Lab struct {
	options Options
	file    *scenario.File
	clock   *clock

	networks    map[string]*network
	impairments map[string]scenario.Impairment // by network
	nodes       int                            // interfaces made so far
	taps        []*tap                         // the director's, in the order of its attachments, with their
	macs        []packet.MAC
	nics        []*nic // all hosts', in their order
	director    *director
	hosts       map[string]*host
	servers     map[endpoint]*server
	links       map[member]*link

	alive   context.Context // done when the lab is taken down
	die     context.CancelFunc
	closing sync.Once
	err     error // of closing
}

// endpoint is where a server program is: TCP and UDP may share a port.
type endpoint struct {
	host string
	port uint16
	kind labnet.Kind
}

// member is a host in a network.
type member struct{ host, network string }

var _ scenario.Lab = (*Lab)(nil)

// errClosed is the end of all waiting in a lab that is taken down.
var errClosed = fmt.Errorf("the lab is down: %w", net.ErrClosed)

// Dial implements scenario.Lab. The connection's deadlines are real time when they are set, and expire by the lab's clock.
func (l *Lab) Dial(ctx context.Context, host, network string, to netip.AddrPort) (net.Conn, error) {
	h, err := l.host(host)
	if err != nil {
		return nil, err
	}
	ctx, done := l.waiting(ctx)
	defer done()
	return h.dial(ctx, network, to)
}

// Ping implements scenario.Lab.
func (l *Lab) Ping(ctx context.Context, host string, to netip.Addr) (time.Duration, error) {
	h, err := l.host(host)
	if err != nil {
		return 0, err
	}
	ctx, done := l.waiting(ctx)
	defer done()
	return h.ping(ctx, to)
}

// waiting lets the lab's time jump until done is called, and ends the context with the lab.
func (l *Lab) waiting(ctx context.Context) (_ context.Context, done func()) {
	ctx, end := context.WithCancelCause(ctx)
	stop := context.AfterFunc(l.alive, func() { end(errClosed) })
	l.clock.hurry()
	return ctx, sync.OnceFunc(func() {
		l.clock.calm()
		stop()
		end(nil)
	})
}

// Behave implements scenario.Lab.
func (l *Lab) Behave(host string, port uint16, b scenario.Behaviour) error {
	if _, err := l.host(host); err != nil {
		return err
	}
	var errs []error
	found := false
	for at, s := range l.servers {
		if at.host == host && at.port == port {
			found = true
			errs = append(errs, s.behave(b))
		}
	}
	if !found {
		return fmt.Errorf("no server program of %s is at port %d", host, port)
	}
	return errors.Join(errs...)
}

// Impair implements scenario.Lab.
func (l *Lab) Impair(host, network string, i scenario.Impairment) error {
	link := l.links[member{host, network}]
	if link == nil {
		return fmt.Errorf("%q is not in network %q", host, network)
	}
	link.impair(i)
	return nil
}

// Control implements scenario.Lab.
func (l *Lab) Control() *control.Client { return l.director.client }

// Ended implements scenario.Lab: the director is in this process.
func (l *Lab) Ended() error { return nil }

// Now implements scenario.Lab.
func (l *Lab) Now() time.Duration { return l.clock.now() }

// After implements scenario.Lab.
func (l *Lab) After(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	waiting, done := l.waiting(ctx)
	limited, cancel := l.clock.WithTimeout(waiting, d, context.DeadlineExceeded)
	context.AfterFunc(limited, done)
	return limited, func() {
		cancel()
		done()
	}
}

// Close implements scenario.Lab.
func (l *Lab) Close() error {
	l.closing.Do(func() {
		l.die()
		var errs []error
		for _, s := range l.servers {
			errs = append(errs, s.close())
		}
		if l.director != nil {
			errs = append(errs, l.director.close())
		}
		var closing sync.WaitGroup
		for _, h := range l.hosts {
			closing.Go(h.close)
		}
		closing.Wait()
		for _, link := range l.links {
			link.close()
		}
		l.clock.close()
		l.err = errors.Join(errs...)
	})
	return l.err
}

func (l *Lab) host(name string) (*host, error) {
	if l.alive.Err() != nil {
		return nil, errClosed
	}
	if h := l.hosts[name]; h != nil {
		return h, nil
	}
	if name == l.file.Director.Name {
		return nil, fmt.Errorf("%s is the director: tunlb is all that runs there", name)
	}
	return nil, fmt.Errorf("there is no host %q, but %s", name, strings.Join(slices.Sorted(maps.Keys(l.hosts)), ", "))
}
