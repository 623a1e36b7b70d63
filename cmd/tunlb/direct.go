package main

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/kernel"
	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/stack/port"
	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/config"
	"github.com/tunlb/tunlb/tunlb/wiring"
)

// direct is the engine's way out of the box's own interfaces: to directly routed servers, and to everybody from ports that
// are such interfaces. Nothing is opened before there is such a server or port.
type direct struct {
	heritage *heritage

	mu         sync.Mutex
	neighbours atomic.Pointer[kernel.Neighbours]
	port       atomic.Pointer[port.Direct]
}

// follow has the kernel know the way to the servers that are on no segment of the configuration's.
func (d *direct) follow(cfg *config.Config) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	addrs := followed(cfg)
	leaves := len(addrs) > 0 || cfg.OnBox()
	if !leaves && !routed(cfg) {
		return nil
	}
	if d.neighbours.Load() == nil {
		n, err := kernel.OpenNeighbours("")
		if err != nil {
			return err
		}
		d.neighbours.Store(n)
	}
	if leaves && d.port.Load() == nil {
		p, err := d.heritage.direct()
		if err != nil {
			return err
		}
		d.port.Store(p)
	}
	return d.neighbours.Load().Follow(addrs)
}

// routed says whether a TUN leads into the box, so that it counts what MTU is behind it.
func routed(cfg *config.Config) bool {
	return slices.ContainsFunc(cfg.Ports, func(p config.Port) bool { return p.Type == config.TUN && p.NetNS == "" })
}

// unheeded are commands that show the box's policy rules by which its kernel routes and tunlb does not.
func (d *direct) unheeded() []string {
	if n := d.neighbours.Load(); n != nil {
		return n.Unheeded()
	}
	return nil
}

// followed are the servers that are reached by the box's interfaces past its kernel, so that somebody else has to keep the
// kernel's knowledge of them fresh: those with mode dr that tunlb is no neighbour of itself, and with ports that
// are such interfaces all of them.
func followed(cfg *config.Config) (addrs []netip.Addr) {
	segments, seen, all := cfg.Segments(), map[netip.Addr]bool{}, cfg.OnBox()
	for i := range cfg.Services {
		for _, srv := range wiring.Servers(&cfg.Services[i]) {
			a := srv.Address.Addr()
			if !all && srv.Mode != policy.DR || seen[a] {
				continue
			}
			seen[a] = true
			near := false
			for j := range segments {
				near = near || segments[j].OnLink(a)
			}
			if !near {
				addrs = append(addrs, a)
			}
		}
	}
	return addrs
}

// Way implements tunlb.Direct.
func (d *direct) Way(server [16]byte) (tunlb.Way, bool) {
	n := d.neighbours.Load()
	if n == nil {
		return tunlb.Way{}, false
	}
	w := n.Way(server)
	return tunlb.Way{
		Link: w.Link, MTU: w.MTU, Source: packet.MAC(w.Source), MAC: packet.MAC(w.MAC),
		Local: w.Local, Down: w.Down > kernel.Box && w.Down != kernel.Resolving,
	}, w.Down == kernel.Up || w.Down == kernel.Box || w.Down > kernel.Box && w.Down != kernel.Resolving
}

// Write implements tunlb.Direct.
func (d *direct) Write(frame []byte, link int) error { return d.port.Load().Write(frame, link) }

// close ends what follow has opened. The engine does not use it any more.
func (d *direct) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	if n := d.neighbours.Load(); n != nil {
		errs = append(errs, n.Close())
	}
	if p := d.port.Load(); p != nil {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}

// NewBurst implements tunlb.Direct.
func (d *direct) NewBurst() port.Burst { return d.port.Load().NewBurst() }
