package namespaces

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/tunlb/tunlb/labnet"
	"github.com/tunlb/tunlb/labnet/netns"
	"github.com/tunlb/tunlb/labnet/scenario"
	"github.com/tunlb/tunlb/tunlb/control"
)

// lab is a network that is up. It comes from Driver.Up.
type lab struct {
	file   *scenario.File
	net    *labnet.Lab
	links  []link
	began  time.Time
	daemon *daemon
	warden *warden
	closed func() error // once

	mu       sync.Mutex
	ended    bool
	programs []*program
	relays   map[link]*relay
}

// Up is scenario.Driver's. An error that says that this machine can't is a *netns.Unsupported.
func (d Driver) Up(ctx context.Context, f *scenario.File) (scenario.Lab, error) {
	if err := netns.CheckTUN(); err != nil {
		return nil, err
	}
	l, err := open(f)
	if err != nil {
		return nil, err
	}
	if err := l.startDaemon(ctx, cmp.Or(d.Log, io.Discard), d.Dir); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// open makes all but the director's tunlb.
func open(f *scenario.File) (*lab, error) {
	topology, links := plan(f)
	network, err := labnet.Open(topology)
	if err != nil {
		return nil, err
	}
	l := &lab{file: f, net: network, links: links, began: time.Now(), warden: &warden{}, relays: make(map[link]*relay)}
	l.closed = sync.OnceValue(l.close)
	for _, step := range [...]func() error{l.startPrograms, l.impairLinks} {
		if err := step(); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	return l, nil
}

// Close is scenario.Lab's.
func (l *lab) Close() error { return l.closed() }

func (l *lab) close() error {
	l.mu.Lock()
	l.ended = true
	programs, relays := l.programs, l.relays
	l.programs, l.relays = nil, nil
	l.mu.Unlock()
	errs := []error{l.warden.Close()}
	if l.daemon != nil {
		errs = append(errs, l.daemon.Close())
	}
	for _, p := range programs {
		errs = append(errs, p.stop())
	}
	for _, r := range relays {
		errs = append(errs, r.Close())
	}
	return errors.Join(append(errs, l.net.Close())...)
}

// host is the namespace of a host, or of the director.
func (l *lab) host(name string) (*netns.NS, error) {
	if _, ok := l.file.Host(name); !ok && name != l.file.Director.Name {
		return nil, fmt.Errorf("no host %q in lab %s", name, l.file.Name)
	}
	return l.net.NS(name), nil
}

// Dial is scenario.Lab's.
func (l *lab) Dial(ctx context.Context, host, network string, to netip.AddrPort) (net.Conn, error) {
	ns, err := l.host(host)
	if err != nil {
		return nil, err
	}
	return ns.DialContext(ctx, network, to.String())
}

// Control is scenario.Lab's.
func (l *lab) Control() *control.Client {
	ns := l.net.NS(l.file.Director.Name)
	return control.NewClientVia(socket, func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = ns.Do(func() error {
			conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
			return err
		})
		return conn, err
	})
}

// Ended is scenario.Lab's.
func (l *lab) Ended() error {
	select {
	case <-l.daemon.ended:
		return l.daemon.cause()
	default:
		return nil
	}
}

// Now is scenario.Lab's: the kernels' clock is ours.
func (l *lab) Now() time.Duration { return time.Since(l.began) }

// After is scenario.Lab's.
func (l *lab) After(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, context.DeadlineExceeded)
}
