package kernel

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Neighbours says where the kernel of one network namespace would send packets, for any address: by its rules and
// routes, to which next hop, at which MAC. It changes nothing but that it has the kernel find its neighbours. Safe for
// concurrent use; whoever opened it closes it.
//
// It keeps a copy of what the kernel knows, so that Way asks nobody. Interfaces and neighbours are in it as soon as the kernel
// tells of them. Rules and routes are read as a whole, at once after a change, and then not again before ten times what
// reading takes: a router's tables change all the time.
//
// Gateways that routes lead to, and the addresses that Follow has been told, are found out beforehand and kept fresh. Of other
// neighbours the kernel is asked when somebody first wants to send to them: that takes a moment, and costs a flood of made-up
// ones its own packets. A MAC holds good until the kernel has another one or has given the neighbour up: an entry that
// merely has to make room for others costs no packet. It takes Linux 5.0. For IPv6 the kernel asks nobody on an interface
// that has no link-local address.
type Neighbours struct {
	k        *Kernel // to ask about neighbours; it applies nothing
	routes   *Kernel // to read routes, which takes long
	told     *feed   // of interfaces and neighbours
	changed  *feed   // of rules and routes
	world    atomic.Pointer[world]
	contacts *contacts
	none     path // where there is no route

	unsettled atomic.Bool // routes are to be read once more

	changes chan struct{} // for the user; one is pending at most
	due     chan struct{} // contacts are to be asked for; likewise
	read    chan struct{} // routes are to be read; likewise
	drained chan struct{} // their feed is empty; likewise
	wanted  chan station  // that somebody wants to send to, and nothing is known of
	done    chan struct{}
	ended   sync.WaitGroup

	mu       sync.Mutex // guards the following and what contacts say; never held while the kernel is asked
	closed   bool
	followed []netip.Addr
	devices  map[int]*device
	hurry    []*contact // to be asked for at once
	pending  int        // contacts that are
	round    uint64     // of reading routes
	inForce  uint64     // the round of the world
}

// OpenNeighbours copies what the kernel of the network namespace at nsPath knows; "" is the caller's.
func OpenNeighbours(nsPath string) (_ *Neighbours, err error) {
	n := &Neighbours{
		contacts: newContacts(), devices: map[int]*device{}, none: path{down: NoRoute},
		changes: make(chan struct{}, 1), due: make(chan struct{}, 1), read: make(chan struct{}, 1), drained: make(chan struct{}, 1),
		wanted: make(chan station, 64), done: make(chan struct{}),
	}
	defer func() {
		if err != nil {
			n.release()
			err = fmt.Errorf("copy the kernel's routes and neighbours: %w", err)
		}
	}()
	if n.k, err = Open(nsPath); err != nil {
		return nil, err
	}
	if n.routes, err = Open(nsPath); err != nil {
		return nil, err
	}
	if n.told, err = n.k.feed(unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH); err != nil {
		return nil, err
	}
	n.changed, err = n.k.feed(unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
		unix.RTNLGRP_NEXTHOP, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
	if err != nil {
		return nil, err
	}
	if err = n.survey(); err != nil {
		return nil, err
	}
	if err = n.copyRoutes(); err != nil {
		return nil, err
	}
	n.ended.Add(4)
	go n.listen()
	go n.hear()
	go n.copy()
	go n.keep()
	return n, nil
}

// Follow replaces the addresses whose next hops are kept fresh besides the gateways. When it returns the kernel has been asked:
// what it knows already is there. An error says whom it could not be asked about; those are followed all the same.
func (n *Neighbours) Follow(addrs []netip.Addr) error {
	var list []netip.Addr
	for _, a := range addrs {
		if a = a.Unmap().WithZone(""); a.IsValid() {
			list = append(list, a)
		}
	}
	slices.SortFunc(list, netip.Addr.Compare)
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return os.ErrClosed
	}
	n.followed = slices.Compact(list)
	n.pinLocked()
	ask := n.hurry
	n.hurry = nil
	n.ended.Add(1)
	defer n.ended.Done()
	n.mu.Unlock()
	var errs []error
	for _, c := range ask {
		errs = append(errs, n.ask(c))
	}
	return errors.Join(errs...)
}

// Way is how packets leave for addr (IPv4 as ::ffff:a.b.c.d), or why they don't. It waits for nobody and allocates nothing.
// To have asked counts as a wish to send: the kernel is made to find the next hop's MAC, and not to forget it.
func (n *Neighbours) Way(addr [16]byte) (w Way) {
	a := netip.AddrFrom16(addr).Unmap()
	r := n.world.Load().route(a, &n.none)
	if r.down != Up {
		return Way{Down: r.down, Local: r.down == Box}
	}
	h := &r.hops[0]
	if len(r.hops) > 1 {
		h = n.choose(r, &addr)
	}
	l := h.device.state.Load()
	w.Link, w.Name, w.MTU, w.Source, w.Next = h.device.index, l.name, l.mtu, l.mac, a
	if h.mtu > 0 {
		w.MTU = min(w.MTU, h.mtu)
	}
	c := h.gateway
	if c != nil {
		w.Next = c.addr
	}
	switch {
	case !l.up:
		w.Down = LinkDown
		return w
	case !l.ethernet || h.wrapped:
		w.Down = NoEthernet
		return w
	case c == nil:
		c = n.contacts.find(w.Link, &addr)
	}
	if c == nil {
		n.want(station{w.Link, a})
		w.Down = Resolving
		return w
	}
	c.touch()
	switch word := c.word.Load(); {
	case word&known != 0:
		w.MAC = unpackMAC(word)
	case word&failed != 0:
		w.Down = Failed
	default:
		if word&sought == 0 {
			n.want(c.station)
		}
		w.Down = Resolving
	}
	return w
}

// want has the kernel asked for a station, unless so many wait already that it can't be soon.
func (n *Neighbours) want(s station) {
	select {
	case n.wanted <- s:
	default:
	}
}

// choose is the next hop of several. A balanced route's depends on the destination alone; where that one is no good
// its flows, and no others, are spread among the rest.
func (n *Neighbours) choose(r *path, addr *[16]byte) *hop {
	if !r.balanced {
		for i := range r.hops {
			if n.good(&r.hops[i], addr) {
				return &r.hops[i]
			}
		}
		return &r.hops[0]
	}
	h := mix(addr, spreadSeed)
	first := weigh(r.hops, h>>32, func(*hop) bool { return true })
	if n.good(first, addr) {
		return first
	}
	if other := weigh(r.hops, h&0xffffffff, func(h *hop) bool { return n.good(h, addr) }); other != nil {
		return other
	}
	return first
}

// spreadSeed is any number, the same at all times: a restart moves no flow.
const spreadSeed = 0x9fb21c651e98df25

// weigh picks one of the hops that may be, by weight; nil if there is none.
func weigh(hops []hop, hash uint64, may func(*hop) bool) *hop {
	total := uint64(0)
	for i := range hops {
		if may(&hops[i]) {
			total += uint64(hops[i].weight)
		}
	}
	at := hash * total >> 32
	for i := range hops {
		if h := &hops[i]; may(h) {
			if at < uint64(h.weight) {
				return h
			}
			at -= uint64(h.weight)
		}
	}
	return nil
}

// good says that nothing is known against a hop.
func (n *Neighbours) good(h *hop, addr *[16]byte) bool {
	c := h.gateway
	if c == nil {
		c = n.contacts.find(h.device.index, addr)
	}
	return h.device.carries() && !h.wrapped && (c == nil || c.word.Load()&failed == 0)
}

// Ways are those of all addresses that are followed, as of now.
func (n *Neighbours) Ways() iter.Seq2[netip.Addr, Way] {
	n.mu.Lock()
	followed := n.followed
	n.mu.Unlock()
	return func(yield func(netip.Addr, Way) bool) {
		for _, a := range followed {
			if !yield(a, n.Way(a.As16())) {
				return
			}
		}
	}
}

// Unheeded are commands that show the policy rules that may lead packets elsewhere than Way says: those that depend on more than the
// destination, such as the source or the interface that a packet has come by, and have routes of their own.
func (n *Neighbours) Unheeded() []string { return n.world.Load().unheeded }

// Changes has something to receive when any way may have changed since the last time. It is never closed.
func (n *Neighbours) Changes() <-chan struct{} { return n.changes }

// Close ends it: no way leads anywhere then. A second Close does nothing.
func (n *Neighbours) Close() error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return nil
	}
	n.closed, n.followed = true, nil
	n.world.Store(nowhere())
	n.mu.Unlock()
	close(n.done)
	n.told.Close()
	n.changed.Close()
	n.ended.Wait()
	n.release()
	return nil
}

func (n *Neighbours) release() {
	for _, f := range []*feed{n.told, n.changed} {
		if f != nil {
			f.Close()
		}
	}
	for _, k := range []*Kernel{n.k, n.routes} {
		if k != nil {
			k.release()
		}
	}
}

func pend(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // one is pending
	}
}

const (
	// routesPause is the least time between readings of the routes, and routesShare how many times what one takes passes
	// before the next.
	routesPause, routesShare = 20 * time.Millisecond, 10
	// routesSettle is when routes are read once more after an interface has changed: the kernel tells of that before it has
	// taken its routes away, and of these it does not tell.
	routesSettle = 200 * time.Millisecond
	// routesExpired is how long after its time a route is certain to be listed as expired: with no time left it looks like
	// one that never ends.
	routesExpired = 50 * time.Millisecond
	// routesRefresh is when they are read at the latest, in case the kernel has told of no change.
	routesRefresh, routesRefreshShare = time.Minute, 500
)

// hear has the routes read after changes, until Close. Of a storm it takes one message: the rest is thrown away when reading begins.
func (n *Neighbours) hear() {
	defer n.ended.Done()
	for {
		_, err := n.changed.next()
		switch {
		case n.isDone():
			return
		case err != nil && !errors.Is(err, unix.ENOBUFS):
			return // the refresh finds out, later
		}
		pend(n.read)
		select {
		case <-n.drained:
		case <-n.done:
			return
		}
	}
}

func (n *Neighbours) isDone() bool {
	select {
	case <-n.done:
		return true
	default:
		return false
	}
}

// copy reads the routes when it is time to, until Close.
func (n *Neighbours) copy() {
	defer n.ended.Done()
	next := time.NewTimer(routesRefresh)
	defer next.Stop()
	for {
		select {
		case <-n.read:
		case <-next.C:
		case <-n.done:
			return
		}
		n.changed.drain()
		pend(n.drained)
		start := time.Now()
		err := n.copyRoutes()
		took := time.Since(start)
		wait := max(routesRefresh, routesRefreshShare*took)
		if err != nil {
			wait = time.Second
		} else if e := n.world.Load().expires; !e.IsZero() {
			wait = min(wait, time.Until(e)+routesExpired)
		}
		pause := max(routesPause, routesShare*took)
		select {
		case <-time.After(pause):
		case <-n.done:
			return
		}
		if n.unsettled.Swap(false) {
			wait = min(wait, routesSettle)
		}
		next.Reset(max(wait-pause, 0))
	}
}

// copyRoutes reads the kernel's rules and routes, and puts them into force.
func (n *Neighbours) copyRoutes() error {
	n.mu.Lock()
	n.round++
	round := n.round
	n.mu.Unlock()
	r := reader{k: n.routes, aside: n.k, now: time.Now(), device: n.device, contact: n.gateway}
	w, err := r.read()
	if err != nil {
		return err
	}
	n.mu.Lock()
	if !n.closed {
		n.world.Store(w)
		n.inForce = round
		n.pinLocked()
	}
	n.mu.Unlock()
	pend(n.due)
	pend(n.changes)
	return nil
}
