// Package stack owns Host: a userspace TCP/IP stack (gVisor's netstack) that
// speaks for the load balancer's own addresses. It answers ping, resets
// connections to closed TCP ports, reports unreachable UDP ports, reassembles
// fragments, dials and listens. To the engine it looks like one more port:
// frames go in by Deliver and come out by HostConfig.Output.
//
// Host never forwards and filters nothing: services' packets are edited by the
// engine and never come here. Frames belong to the sub-package packet, devices
// to the sub-package port, and what the kernel must be told to the sub-package
// kernel.
package stack

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"github.com/tunlb/tunlb/stack/packet"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
)

const (
	defaultMTU = 1500
	minMTU     = 576  // RFC 791: what every host must be able to reassemble.
	minMTU6    = 1280 // RFC 8200, section 5.

	queueFrames = 1024
	// queueBytes bounds the same queue by memory: 1024 super-packets would be 64 MiB.
	queueBytes = 4 << 20

	// destroyTimeout bounds how long Close waits: a stack that panicked may hold
	// its own locks for ever, and so may whoever is in Output.
	destroyTimeout = 3 * time.Second
)

// HostConfig describes a Host. Output is required, the rest has defaults.
type HostConfig struct {
	Name      string       // in log lines and errors
	MTU       int          // of the IP packet; 0 means 1500
	Addresses []netip.Addr // see Host.SetAddresses

	// Output sends one frame (virtio_net_hdr, then the IP packet). The frame is
	// borrowed until Output returns. It is called by several goroutines at once,
	// must not wait for the Host and must not call Close. TCP leaves as
	// super-packets of up to 64 KiB with partial checksums.
	Output func(frame []byte) error

	// Clock is the time of TCP's timers; nil is the real one.
	Clock Clock
	// Seed makes what the stack draws, such as IP identifiers, the same in every run; 0 is at random.
	Seed uint64

	Log zerolog.Logger
}

// Clock is what a simulation may put in place of the time: gVisor's.
type Clock = tcpip.Clock

func (c HostConfig) mtu() int {
	if c.MTU == 0 {
		return defaultMTU
	}
	return c.MTU
}

// HostStats counts since NewHost. Every frame that Deliver accepts ends up
// in Delivered, Refused or Panics, or is still queued.
type HostStats struct {
	Delivered  uint64 // frames handed to the stack
	Refused    uint64 // frames that are no unicast IP packet, or that cannot be segmented
	QueueFull  uint64 // frames that Deliver did not take
	Panics     uint64 // panics recovered, each of which cost a stack
	Sent       uint64 // frames that Output took
	SendErrors uint64 // frames that Output refused
}

type hostCounters struct {
	delivered, refused, queueFull, panics, sent, sendErrors atomic.Uint64
}

// Host is a userspace network stack behind a port. The zero value is not
// usable: call NewHost. It is safe for concurrent use. Whoever made it closes it.
type Host struct {
	cfg   HostConfig
	count hostCounters

	queue       chan *buffer.View // frames as delivered
	queuedBytes atomic.Int64
	pending     sync.WaitGroup // frames that Deliver has taken and inject has not

	closing   chan struct{} // closed by Close; ends injectLoop, Dial and Accept
	closeOnce sync.Once
	closeErr  error
	running   sync.WaitGroup // injectLoop

	addressesMu sync.Mutex // serialises SetAddresses; taken before mu

	// mu is never held while calling into a stack that may have panicked, whose
	// locks may be stuck.
	mu        sync.Mutex
	net       *netstack              // replaced after a panic
	addresses []netip.Addr           // as wanted
	listeners map[*listener]struct{} // open ones

	lost sync.WaitGroup // stacks that panicked and are being destroyed
}

// NewHost starts a stack that owns cfg.Addresses. It sends nothing by itself.
func NewHost(cfg HostConfig) (*Host, error) {
	if cfg.Output == nil {
		return nil, fmt.Errorf("host %q: no Output", cfg.Name)
	}
	if mtu := cfg.mtu(); mtu < minMTU || mtu > packet.MaxPacket {
		return nil, fmt.Errorf("host %q: MTU %d is not between %d and %d", cfg.Name, mtu, minMTU, packet.MaxPacket)
	}
	h := &Host{
		cfg:       cfg,
		queue:     make(chan *buffer.View, queueFrames),
		closing:   make(chan struct{}),
		listeners: make(map[*listener]struct{}),
	}
	n, err := newNetstack(cfg.mtu(), h.send, cfg.Clock, seeded(cfg.Seed))
	if err != nil {
		return nil, fmt.Errorf("host %q: %w", cfg.Name, err)
	}
	h.net = n
	if err := h.SetAddresses(cfg.Addresses); err != nil {
		n.destroy()
		return nil, err
	}
	h.running.Go(h.injectLoop)
	return h, nil
}

// Stats returns the counters; they are read one by one.
func (h *Host) Stats() HostStats {
	return HostStats{
		Delivered:  h.count.delivered.Load(),
		Refused:    h.count.refused.Load(),
		QueueFull:  h.count.queueFull.Load(),
		Panics:     h.count.panics.Load(),
		Sent:       h.count.sent.Load(),
		SendErrors: h.count.sendErrors.Load(),
	}
}

// Close resets all connections, ends the stack and its goroutines, and returns
// when Output will not be called any more; or with an error if that does not
// come about within seconds. Frames still queued are dropped. Closing again
// returns the same error.
func (h *Host) Close() error {
	h.closeOnce.Do(func() {
		close(h.closing)
		h.current().end() // lets go of pending calls
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			h.running.Wait() // nothing is rebuilt from here on
			h.current().destroy()
			h.lost.Wait()
		}()
		select {
		case <-ended:
		case <-time.After(destroyTimeout):
			h.closeErr = fmt.Errorf("host %q: the network stack did not end within %v", h.cfg.Name, destroyTimeout)
		}
	})
	return h.closeErr
}

func (h *Host) isClosed() bool {
	select {
	case <-h.closing:
		return true
	default:
		return false
	}
}

func (h *Host) current() *netstack {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.net
}

// send is the way out of every stack that h has had.
func (h *Host) send(frame []byte) error {
	if err := h.cfg.Output(frame); err != nil {
		h.count.sendErrors.Add(1)
		return err
	}
	h.count.sent.Add(1)
	return nil
}

// SetAddresses makes addrs the addresses that the host owns. Addresses that
// stay keep their connections; connections on removed ones hear nothing more.
// Where a source address is not given, the stack prefers one owned for longer.
// Unusable addresses are refused before anything is changed.
func (h *Host) SetAddresses(addrs []netip.Addr) error {
	wanted, err := ownable(addrs, h.cfg.mtu())
	if err != nil {
		return fmt.Errorf("host %q: %w", h.cfg.Name, err)
	}
	h.addressesMu.Lock()
	defer h.addressesMu.Unlock()
	if h.isClosed() {
		return fmt.Errorf("host %q: set addresses: %w", h.cfg.Name, net.ErrClosed)
	}
	h.mu.Lock()
	n := h.net
	h.addresses = wanted
	h.mu.Unlock()
	_, err = call(n, func() (struct{}, error) { return struct{}{}, n.setAddresses(wanted) })
	// If the stack was lost meanwhile, then its successor has been given wanted.
	if err != nil && !errors.Is(err, errLost) {
		return fmt.Errorf("host %q: %w", h.cfg.Name, err)
	}
	return nil
}

// ownable checks addrs and returns them unmapped and without duplicates.
func ownable(addrs []netip.Addr, mtu int) ([]netip.Addr, error) {
	var out []netip.Addr
	var errs []error
	seen := make(map[netip.Addr]bool, len(addrs))
	for _, a := range addrs {
		a = a.Unmap()
		switch {
		case !a.IsValid() || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.Zone() != "" || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
			errs = append(errs, fmt.Errorf("%v is no address that a host can own", a))
		case a.Is6() && mtu < minMTU6:
			errs = append(errs, fmt.Errorf("%v: IPv6 needs an MTU of %d or more, not %d", a, minMTU6, mtu))
		case !seen[a]:
			seen[a] = true
			out = append(out, a)
		}
	}
	return out, errors.Join(errs...)
}
