package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/tunlb/tunlb/stack/kernel"
	"github.com/tunlb/tunlb/stack/nft"
	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/config"
	"github.com/tunlb/tunlb/tunlb/flow"
	"github.com/tunlb/tunlb/tunlb/wiring"
)

// fastpath is the engine's way to have the box's kernel carry connections. Nothing is opened before a service wants it.
type fastpath struct {
	heritage *heritage
	open     atomic.Pointer[kernelPath]
}

// follow opens it if a service of the configuration wants it, and keeps the kernel's knowledge of the way to its servers
// fresh. It fails with nft.ErrUnavailable where the kernel can't carry connections.
func (p *fastpath) follow(cfg *config.Config) error {
	var addrs []netip.Addr
	for i := range cfg.Services {
		if !cfg.Services[i].Fastpath {
			continue
		}
		for _, srv := range wiring.Servers(&cfg.Services[i]) {
			addrs = append(addrs, srv.Address.Addr())
		}
	}
	if p.open.Load() == nil {
		if len(addrs) == 0 {
			return nil
		}
		k, err := openKernelPath(cfg.Flows.Max, p.heritage)
		if err != nil {
			return fmt.Errorf("fastpath: kernel: %w", err)
		}
		p.open.Store(k)
	}
	return p.open.Load().neighbours.Follow(addrs)
}

// takeOver ends what the kernel carries for a predecessor: its packets come to the lanes.
func (p *fastpath) takeOver() error {
	if k := p.open.Load(); k != nil {
		return k.carrier.Renew()
	}
	return nil
}

// close ends what the kernel carries. The engine does not use it any more.
func (p *fastpath) close() error {
	if k := p.open.Swap(nil); k != nil {
		return k.close()
	}
	return nil
}

// Carry implements tunlb.Fastpath.
func (p *fastpath) Carry(conns []tunlb.Carried) []error {
	if k := p.open.Load(); k != nil {
		return k.carry(conns)
	}
	errs := make([]error, len(conns))
	for i := range errs {
		errs[i] = tunlb.RefusedByKernel // a reload has failed between the services and this
	}
	return errs
}

// Release implements tunlb.Fastpath.
func (p *fastpath) Release(conns []tunlb.Carried, last func(tunlb.Usage)) error {
	if k := p.open.Load(); k != nil {
		return k.release(conns, last)
	}
	return nil
}

// Usage implements tunlb.Fastpath.
func (p *fastpath) Usage(visit func(tunlb.Usage)) error {
	if k := p.open.Load(); k != nil {
		return k.usage(visit)
	}
	return nil
}

// Changes implements tunlb.Fastpath.
func (p *fastpath) Changes() <-chan struct{} {
	if k := p.open.Load(); k != nil {
		return k.neighbours.Changes()
	}
	return nil
}

// Ends implements tunlb.Fastpath.
func (p *fastpath) Ends() <-chan []tunlb.End {
	if k := p.open.Load(); k != nil {
		return k.ends
	}
	return nil
}

// kernelPath has package nft carry connections, to next hops by the kernel's routes. But for close its methods are the
// engine's goroutine's.
type kernelPath struct {
	neighbours *kernel.Neighbours
	carrier    *nft.Carrier
	conns      map[packet.Tuple]nft.Conn // what is carried, by Outer
	links      map[int]link              // interfaces that connections come and go by
	ends       chan []tunlb.End
	closed     chan struct{}
}

type link struct {
	name string
	mtu  int
}

// openKernelPath is for so many connections at most.
func openKernelPath(limit int, h *heritage) (*kernelPath, error) {
	c, err := h.carrier(limit)
	if err != nil {
		return nil, err
	}
	n, err := kernel.OpenNeighbours("")
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	p := &kernelPath{
		neighbours: n, carrier: c, conns: map[packet.Tuple]nft.Conn{}, links: map[int]link{},
		ends: make(chan []tunlb.End), closed: make(chan struct{}),
	}
	go p.follow() // until close
	return p, nil
}

func (p *kernelPath) close() error {
	close(p.closed)
	return errors.Join(p.carrier.Close(), p.neighbours.Close())
}

// follow passes on what ends connections.
func (p *kernelPath) follow() {
	_ = p.carrier.Ends(func(ends []nft.End) {
		out := make([]tunlb.End, len(ends))
		for i, e := range ends {
			out[i] = tunlb.End(e)
		}
		select {
		case p.ends <- out:
		case <-p.closed:
		}
	})
}

// carry hands those over that have a way in both directions.
func (p *kernelPath) carry(carried []tunlb.Carried) []error {
	errs := make([]error, len(carried))
	var conns []nft.Conn
	var places []int // of conns among carried
	for i := range carried {
		conn, err := p.route(&carried[i])
		if errs[i] = err; err == nil {
			conns, places = append(conns, conn), append(places, i)
		}
	}
	if len(conns) == 0 {
		return errs
	}
	for i, err := range p.carrier.Add(conns) {
		switch {
		case errors.Is(err, nft.ErrFull):
			err = fmt.Errorf("%w: %w", tunlb.RefusedFull, err)
		case err == nil:
			p.conns[conns[i].Outer] = conns[i]
		}
		errs[places[i]] = err
	}
	return errs
}

// route finds the next hops of both directions.
func (p *kernelPath) route(c *tunlb.Carried) (conn nft.Conn, err error) {
	forward, reverse := p.neighbours.Way(c.Inner.Dst), p.neighbours.Way(c.Outer.Src)
	for _, w := range []kernel.Way{forward, reverse} {
		switch w.Down {
		case kernel.Up:
		case kernel.Box:
			return conn, tunlb.RefusedLocal
		case kernel.Resolving:
			return conn, tunlb.RefusedResolving
		default:
			return conn, fmt.Errorf("%w: %v", tunlb.RefusedNoWay, w.Down)
		}
	}
	in, err := p.link(reverse.Link)
	if err != nil {
		return conn, err
	}
	out, err := p.link(forward.Link)
	if err != nil {
		return conn, err
	}
	// The kernel would drop silently, on this path, what is too long for the interface that it leaves by.
	if forward.MTU < in.mtu || reverse.MTU < out.mtu {
		return conn, tunlb.RefusedMTU
	}
	return nft.Conn{
		Outer: c.Outer, Inner: c.Inner,
		Forward: nft.Hop{Link: forward.Link, Next: forward.Next}, Reverse: nft.Hop{Link: reverse.Link, Next: reverse.Next},
	}, nil
}

// link has the kernel look at what comes by an interface, if it does not yet.
func (p *kernelPath) link(index int) (link, error) {
	if l, ok := p.links[index]; ok {
		return l, nil
	}
	i, err := net.InterfaceByIndex(index)
	if err != nil {
		return link{}, fmt.Errorf("%w: %w", tunlb.RefusedNoWay, err)
	}
	l := link{i.Name, i.MTU}
	if err := p.carrier.Set(append(p.names(), l.name)); err != nil {
		return l, err
	}
	p.links[index] = l
	return l, nil
}

// names are the interfaces' of links.
func (p *kernelPath) names() (names []string) {
	for _, l := range p.links {
		names = append(names, l.name)
	}
	slices.Sort(names)
	return names
}

// refresh notices interfaces that are gone, have another name or another MTU.
func (p *kernelPath) refresh() error {
	before := p.names()
	for index := range p.links {
		i, err := net.InterfaceByIndex(index)
		if err != nil {
			delete(p.links, index)
			continue
		}
		p.links[index] = link{i.Name, i.MTU}
	}
	if after := p.names(); !slices.Equal(before, after) {
		return p.carrier.Set(after)
	}
	return nil
}

// release takes back those that are carried.
func (p *kernelPath) release(carried []tunlb.Carried, last func(tunlb.Usage)) error {
	var conns []nft.Conn
	for _, c := range carried {
		if conn, ok := p.conns[c.Outer]; ok && conn.Inner == c.Inner {
			conns = append(conns, conn)
		}
	}
	if len(conns) == 0 {
		return nil
	}
	if err := p.carrier.Take(conns, func(u nft.Usage) { last(inWords(u)) }); err != nil {
		return err
	}
	for i := range conns {
		delete(p.conns, conns[i].Outer)
	}
	return nil
}

// usage visits all, and says which are stale.
func (p *kernelPath) usage(visit func(tunlb.Usage)) error {
	err := p.refresh()
	return errors.Join(err, p.carrier.Usage(func(u nft.Usage) {
		out := inWords(u)
		if conn, ok := p.conns[u.Outer]; ok && !u.Reverse {
			out.Stale = p.stale(&conn)
		}
		visit(out)
	}))
}

// stale says whether the connection's packets would leave another way now, or can't.
func (p *kernelPath) stale(conn *nft.Conn) bool {
	now, err := p.route(&tunlb.Carried{Outer: conn.Outer, Inner: conn.Inner})
	if errors.Is(err, tunlb.RefusedResolving) {
		return false // the kernel asks for the MAC itself
	}
	return err != nil || now != *conn
}

// inWords is the kernel's usage in the engine's words.
func inWords(u nft.Usage) tunlb.Usage {
	out := tunlb.Usage{Outer: u.Outer, Packets: u.Packets, Bytes: u.Bytes, Idle: u.Idle}
	if u.Reverse {
		out.Direction = flow.Reverse
	}
	return out
}
