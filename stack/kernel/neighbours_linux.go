package kernel

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Neighbours follows where the kernel of one network namespace would send packets for some addresses: by its routes,
// to which next hop, at which MAC. It changes nothing but that it has the kernel find its neighbours. Safe for
// concurrent use; whoever opened it closes it.
//
// A MAC holds good until the kernel has another one or has given the neighbour up: an entry that merely has to make
// room for others costs no packet. It takes Linux 5.0. For IPv6 the kernel asks nobody on an interface that has no
// link-local address.
type Neighbours struct {
	k      *Kernel // to ask; it applies nothing
	socket *nl.NetlinkSocket
	ways   atomic.Pointer[map[[16]byte]Way] // never changed once it is here

	changes chan struct{} // for the user; one is pending at most
	hurry   chan struct{} // a round is due before its time; likewise
	done    chan struct{}
	ended   sync.WaitGroup

	mu       sync.Mutex // guards the following, held while the kernel is asked
	closed   bool
	followed []netip.Addr
	routes   map[netip.Addr]hop
	stations map[station]resolved
	links    map[int]link
}

const (
	// refresh is how often all is looked at, whether or not the kernel has told of changes, and how often neighbours are
	// asked for again that have failed.
	refresh = 3 * time.Second
	// pause is the least time between rounds, whatever happens: a router's tables change all the time.
	pause = time.Second
)

// hop is what a route says: a station to send to, or why there is none.
type hop struct {
	station
	down Down
	mtu  int // 0 is the interface's
}

// station is a neighbour at an interface.
type station struct {
	link int
	addr netip.Addr
}

// resolved is what is known of a station.
type resolved struct {
	mac    [6]byte
	known  bool
	failed bool
}

type link struct {
	name         string
	mac          [6]byte
	mtu          int
	ethernet, up bool
}

// OpenNeighbours gets ready to follow addresses in the network namespace at nsPath; "" is the caller's.
func OpenNeighbours(nsPath string) (*Neighbours, error) {
	k, err := Open(nsPath)
	if err != nil {
		return nil, err
	}
	n := &Neighbours{k: k, changes: make(chan struct{}, 1), hurry: make(chan struct{}, 1), done: make(chan struct{})}
	n.ways.Store(&map[[16]byte]Way{})
	err = k.inside(func() (err error) {
		n.socket, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH,
			unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE, unix.RTNLGRP_NEXTHOP)
		return err
	})
	if err != nil {
		k.release()
		return nil, fmt.Errorf("follow neighbours: %w", err)
	}
	n.ended.Add(2)
	go n.listen()
	go n.keep()
	return n, nil
}

// Follow replaces the addresses that are followed. When it returns the kernel has been asked: what it knows already
// is there. An error says whom it could not be asked about; those are followed all the same.
func (n *Neighbours) Follow(addrs []netip.Addr) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return os.ErrClosed
	}
	n.followed = nil
	for _, a := range addrs {
		if a = a.Unmap().WithZone(""); a.IsValid() {
			n.followed = append(n.followed, a)
		}
	}
	slices.SortFunc(n.followed, netip.Addr.Compare)
	n.followed = slices.Compact(n.followed)
	return n.roundLocked()
}

// Way is how packets leave for addr (IPv4 as ::ffff:a.b.c.d), or why they don't. It waits for nobody.
func (n *Neighbours) Way(addr [16]byte) Way {
	w, found := (*n.ways.Load())[addr]
	if !found {
		w.Down = Unfollowed
	}
	return w
}

// Ways are those of all addresses that are followed, as of now.
func (n *Neighbours) Ways() iter.Seq2[netip.Addr, Way] {
	ways := *n.ways.Load()
	return func(yield func(netip.Addr, Way) bool) {
		for a, w := range ways {
			if !yield(netip.AddrFrom16(a).Unmap(), w) {
				return
			}
		}
	}
}

// Changes has something to receive when a way has changed since the last time. It is never closed.
func (n *Neighbours) Changes() <-chan struct{} { return n.changes }

// Close ends all following: no way leads anywhere then. A second Close does nothing.
func (n *Neighbours) Close() error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return nil
	}
	n.closed = true
	n.ways.Store(&map[[16]byte]Way{})
	n.mu.Unlock()
	close(n.done)
	n.socket.Close()
	n.ended.Wait()
	n.k.release()
	return nil
}

// keep makes rounds until Close.
func (n *Neighbours) keep() {
	defer n.ended.Done()
	regular := time.NewTicker(refresh)
	defer regular.Stop()
	for {
		select {
		case <-n.hurry:
		case <-regular.C:
		case <-n.done:
			return
		}
		n.mu.Lock()
		if !n.closed {
			_ = n.roundLocked() // the next one does better, or nobody can
		}
		n.mu.Unlock()
		select {
		case <-time.After(pause):
		case <-n.done:
			return
		}
	}
}

// listen takes in what the kernel tells until Close. Should the socket fail, keep's rounds find out the same, later.
func (n *Neighbours) listen() {
	defer n.ended.Done()
	for {
		messages, _, err := n.socket.Receive()
		switch {
		case n.isDone(): // the errors of a closed socket are many
			return
		case errors.Is(err, unix.ENOBUFS): // messages were lost, perhaps the one that matters
			n.wantRound()
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return
		}
		n.take(messages)
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

func (n *Neighbours) wantRound() { pend(n.hurry) }

func pend(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // one is pending
	}
}

// take notes what concerns us at once, and has the rest looked at in a round.
func (n *Neighbours) take(messages []syscall.NetlinkMessage) {
	n.mu.Lock()
	defer n.mu.Unlock()
	changed := false
	for _, m := range messages {
		switch m.Header.Type {
		case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
			s, e, err := decodeNeighbour(m.Data)
			if _, ours := n.stations[s]; !ours || err != nil {
				continue
			}
			n.noteLocked(s, e, m.Header.Type == unix.RTM_DELNEIGH)
			changed = true
		case unix.RTM_NEWLINK, unix.RTM_DELLINK:
			index, l, err := decodeLink(m.Data)
			if _, ours := n.links[index]; !ours || err != nil {
				continue
			}
			l.up = l.up && m.Header.Type == unix.RTM_NEWLINK
			n.links[index] = l
			changed = true
			n.wantRound()
		default: // routes and rules
			n.wantRound()
		}
	}
	if changed {
		n.publishLocked()
	}
}

// noteLocked notes what the kernel tells of a neighbour. An entry that is deleted by hand is called failed just before:
// that says nothing about the neighbour, so the kernel is to ask it.
func (n *Neighbours) noteLocked(s station, e neighbour, deleted bool) {
	r := n.stations[s].after(e)
	if deleted {
		if r.failed = false; n.links[s.link].up {
			_ = n.k.use(s)
		}
	}
	n.stations[s] = r
}

// roundLocked asks the kernel for everything, and has it ask for the neighbours that it is not sure of.
func (n *Neighbours) roundLocked() error {
	var errs []error
	routes, links, stations := map[netip.Addr]hop{}, map[int]link{}, map[station]resolved{}
	for _, addr := range n.followed {
		h, err := n.k.hop(addr)
		if err != nil { // no answer at all, rather than a bad one
			errs = append(errs, fmt.Errorf("%s route get %s: %w", ip(familyOf(addr)), addr, err))
			if h = n.routes[addr]; h == (hop{}) {
				h.down = NoRoute
			}
		}
		routes[addr] = h
		if h.down != Up {
			continue
		}
		if _, asked := links[h.link]; !asked {
			if l, err := n.k.link(h.link); err == nil {
				links[h.link] = l
			}
		}
		if _, asked := stations[h.station]; !asked && links[h.link].up && links[h.link].ethernet {
			r, err := n.lookLocked(h.station, links[h.link].name)
			stations[h.station], errs = r, append(errs, err)
		}
	}
	n.routes, n.links, n.stations = routes, links, stations
	n.publishLocked()
	return errors.Join(errs...)
}

// lookLocked looks at one neighbour, and has the kernel ask for it if it is not sure. One that is being asked for
// is left alone, and so are those that the administrator has set: RTM_NEWNEIGH with NTF_USE takes the
// permanence off an entry (Linux 5.16 and later) and then its MAC.
func (n *Neighbours) lookLocked(s station, device string) (resolved, error) {
	e, err := n.k.neighbour(s)
	if errors.Is(err, unix.ENOENT) {
		err = nil
	}
	if err == nil && e.state&^(unix.NUD_STALE|unix.NUD_FAILED) == 0 {
		err = n.k.use(s)
	}
	if err != nil {
		err = fmt.Errorf("ip neigh get %s dev %s: %w", s.addr, device, err)
	}
	return n.stations[s].after(e), err
}

// after is what is known after the kernel's entry.
func (r resolved) after(e neighbour) resolved {
	const valid = unix.NUD_PERMANENT | unix.NUD_NOARP | unix.NUD_REACHABLE | unix.NUD_STALE | unix.NUD_DELAY | unix.NUD_PROBE
	switch {
	case e.state&valid != 0 && e.mac != [6]byte{}:
		return resolved{mac: e.mac, known: true}
	case e.state&unix.NUD_FAILED != 0:
		return resolved{failed: true}
	}
	return r // not there, or incomplete: in doubt as before
}

// publishLocked makes the ways known.
func (n *Neighbours) publishLocked() {
	if n.closed {
		return
	}
	ways := make(map[[16]byte]Way, len(n.routes))
	for addr, h := range n.routes {
		ways[addr.As16()] = n.wayLocked(h)
	}
	if !maps.Equal(ways, *n.ways.Load()) {
		n.ways.Store(&ways)
		pend(n.changes)
	}
}

func (n *Neighbours) wayLocked(h hop) Way {
	if h.down != Up {
		return Way{Down: h.down, Local: h.down == Box}
	}
	l := n.links[h.link]
	w := Way{Link: h.link, Name: l.name, MTU: l.mtu, Source: l.mac, Next: h.addr}
	if h.mtu > 0 {
		w.MTU = min(w.MTU, h.mtu)
	}
	switch r := n.stations[h.station]; {
	case !l.up:
		w.Down = LinkDown
	case !l.ethernet:
		w.Down = NoEthernet
	case r.known:
		w.MAC = r.mac
	case r.failed:
		w.Down = Failed
	default:
		w.Down = Resolving
	}
	return w
}
