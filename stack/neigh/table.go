package neigh

import (
	"net/netip"
	"slices"
	"time"

	"github.com/tunlb/tunlb/stack/packet"
)

// Config is what a segment is to be like. The zero value has nothing to answer for.
type Config struct {
	MAC packet.MAC // tunlb's own

	// Inline says that tunlb stands between clients and servers. Otherwise it is one station of a
	// shared segment.
	Inline bool

	Own     []netip.Prefix // tunlb's own addresses, with the length of their network's prefix
	VIPs    []netip.Addr
	Servers []Server

	// Heard says when a frame from the MAC was last seen, if at all, by the clock that now comes from.
	// It is called from Lookup and Tick, so under the caller's lock; nil if nobody knows.
	Heard func(packet.MAC) (time.Duration, bool)

	// Seed makes what is drawn the same in every run; 0 is at random. New takes it, Set does not.
	Seed uint64
}

// Server is a neighbour that is always kept resolved.
type Server struct {
	Name string
	Addr netip.Addr
	MAC  packet.MAC // zero: to be resolved; else pinned, whatever anybody says
}

// Table is what tunlb knows of a segment's stations. Make one with New. It is not safe for concurrent
// use. Its memory is bounded whatever comes in.
type Table struct {
	mac    packet.MAC
	inline bool
	heard  func(packet.MAC) (time.Duration, bool)

	local   map[[16]byte]*local // VIPs and own addresses
	locals  []*local            // the same, to go through
	sources []netip.Prefix      // own addresses that may ask: a VIP may not

	entries  map[[16]byte]*entry
	list     []*entry // the same, to go through
	free     []*entry
	dynamic  int // of them neither server nor static
	stations map[stationKey]*entry
	fresh    bucket // of neighbours asked for by Lookup
	learnt   bucket // of those that asked us

	limit     limiter
	out       outbox
	heldBytes int
	released  []Held

	conflicts  []Conflict
	reports    bucket
	events     []Event
	suppressed [forms]uint64
	counters   Counters
}

// New makes a table. What is to be announced waits for the first Tick.
func New(cfg Config, now time.Duration) *Table {
	t := &Table{
		local:    map[[16]byte]*local{},
		entries:  map[[16]byte]*entry{},
		stations: map[stationKey]*entry{},
		limit:    limiter{seeded: never, fixed: cfg.Seed},
	}
	t.Set(cfg, now)
	return t
}

// Set takes another configuration. New VIPs and own addresses are announced; a server that is gone
// becomes a neighbour like others, and is forgotten when no flow needs it.
func (t *Table) Set(cfg Config, now time.Duration) {
	t.setLocal(cfg, now)
	servers := map[[16]byte]Server{}
	for _, s := range cfg.Servers {
		addr := s.Addr.As16()
		if t.local[addr] != nil || !unicast(addr) {
			continue // we are that server
		}
		// A server of several services is one neighbour: the first name, and the MAC that is pinned.
		if old, ok := servers[addr]; ok {
			if s.Name = old.Name; !old.MAC.IsZero() {
				s.MAC = old.MAC
			}
		}
		servers[addr] = s
	}
	for _, e := range slices.Clone(t.list) {
		_, server := servers[e.addr]
		switch {
		case t.local[e.addr] != nil:
			t.remove(e)
		case !server && e.server:
			t.dismiss(e, now)
		}
	}
	for _, s := range cfg.Servers {
		if want, ok := servers[s.Addr.As16()]; ok {
			t.employ(want, now)
		}
	}
}

// setLocal takes over MAC, VIPs and own addresses.
func (t *Table) setLocal(cfg Config, now time.Duration) {
	again := cfg.MAC != t.mac // everybody has to learn the new one
	t.mac, t.inline, t.heard = cfg.MAC, cfg.Inline, cfg.Heard
	old := t.local
	t.local, t.locals, t.sources = map[[16]byte]*local{}, nil, nil
	add := func(a netip.Addr, vip bool) {
		addr := a.As16()
		l := t.local[addr]
		if l == nil {
			if l = old[addr]; l == nil || again {
				l = &local{addr: addr, announce: announcements, next: now, ask: now + askFirst, asked: never, defended: never}
			}
			l.vip = false
			t.local[addr], t.locals = l, append(t.locals, l)
		}
		l.vip = l.vip || vip
	}
	for _, a := range cfg.VIPs {
		add(a, true)
	}
	for _, p := range cfg.Own {
		add(p.Addr(), false)
		if !t.local[p.Addr().As16()].vip {
			t.sources = append(t.sources, netip.PrefixFrom(p.Addr().Unmap(), p.Bits()))
		}
	}
}

// source is the own address to ask target from, or none: then the question is a probe. It is never a
// VIP, since a server that has the VIP takes that for its own and doesn't answer.
func (t *Table) source(target [16]byte) [16]byte {
	a, found := packet.Addr(target), unspecified(!is4(target))
	for i := len(t.sources) - 1; i >= 0; i-- {
		switch p := t.sources[i]; {
		case p.Contains(a):
			return p.Addr().As16()
		case p.Addr().Is4() == a.Is4():
			found = p.Addr().As16()
		}
	}
	return found
}

// entry is a neighbour.
type entry struct {
	addr  [16]byte
	mac   packet.MAC // zero as long as nobody has said it; when the state is Failed, the last one
	state State
	index int // in Table.list

	server   bool
	name     string // valid iff it is a server
	reported report // what the last event has said of it, valid iff it is a server

	confirmed  time.Duration // when its MAC was last known to be right; never: not yet
	answered   time.Duration // the same, by its own answer
	used       time.Duration // by a packet
	asked      time.Duration // when the last request was sent
	challenged time.Duration // when the last verification began
	pinned     time.Duration // when a foreign claim to a static one was last reported

	next      time.Duration // when step has to do something; valid unless Stale or Static
	tries     uint8         // requests sent in this phase
	broadcast bool          // Probing: the station doesn't answer, all are asked
	verifying bool          // Probing because of a foreign claim

	answers bucket // to its requests
	held    [maxHeld][]byte
	holds   int
}

type report uint8

const (
	unreported report = iota
	reportedUp
	reportedDown
)

// stationKey names an entry by its MAC and family.
type stationKey struct {
	mac packet.MAC
	is6 bool
}

func (e *entry) station() stationKey { return stationKey{e.mac, !is4(e.addr)} }

// employ makes a server's entry, or an entry a server's.
func (t *Table) employ(s Server, now time.Duration) {
	addr := s.Addr.As16()
	e := t.entries[addr]
	switch {
	case e == nil:
		e = t.add(addr, now)
		e.state, e.next = Incomplete, now // Tick asks, as far as the outbox has room
	case !e.server:
		t.dynamic--
		if e.state == Incomplete || e.state == Failed {
			e.tries, e.next = 0, now
		}
	}
	wasServer := e.server
	e.server, e.name = true, s.Name
	switch {
	case !s.MAC.IsZero():
		t.bind(e, s.MAC)
		e.state, e.reported = Static, unreported
		t.release(e, e.mac)
	case e.state == Static || e.state == Stale:
		t.probe(e, false, now)
	case e.state == Reachable && !wasServer:
		e.next = e.confirmed + serverFresh
		t.up(e)
	}
	if !e.mac.IsZero() {
		t.bind(e, e.mac) // a server goes before others that have its MAC
	}
}

// dismiss makes a server's entry that of a neighbour like others: flows that are left may need it.
func (t *Table) dismiss(e *entry, now time.Duration) {
	e.server, e.name, e.reported, e.used = false, "", unreported, now
	if e.state == Static {
		e.state = Stale
	}
	if t.dynamic == maxDynamic && !t.evict(true, now) {
		t.dynamic++
		t.remove(e)
		return
	}
	t.dynamic++
}

// add makes an entry that nobody knows yet. The caller sets its state.
func (t *Table) add(addr [16]byte, now time.Duration) *entry {
	var e *entry
	if n := len(t.free); n > 0 {
		e, t.free = t.free[n-1], t.free[:n-1]
	} else {
		e = new(entry)
	}
	*e = entry{addr: addr, index: len(t.list), used: now,
		confirmed: never, answered: never, asked: never, challenged: never, pinned: never}
	t.list = append(t.list, e)
	t.entries[addr] = e
	return e
}

// addDynamic is add within the bounds; nil if there is no place.
func (t *Table) addDynamic(addr [16]byte, asked bool, now time.Duration) *entry {
	limit := &t.learnt
	if asked {
		limit = &t.fresh
	}
	if !limit.take(now, newInterval, newBurst) || t.dynamic >= maxDynamic && !t.evict(asked, now) {
		return nil
	}
	t.dynamic++
	return t.add(addr, now)
}

// evict makes room for a neighbour: unresolved ones go first, then those that have never confirmed
// what they said, then the one used longest ago. For a neighbour that has merely asked us nobody has
// to go whom we need.
func (t *Table) evict(asked bool, now time.Duration) bool {
	var victim *entry
	worst := 3
	for _, e := range t.list {
		rank := 2
		switch {
		case e.server, !asked && e.state == Incomplete:
			continue
		case e.state == Incomplete || e.state == Failed:
			rank = 0
		case e.answered == never:
			rank = 1
		case !asked:
			continue
		}
		if rank < worst || rank == worst && e.used < victim.used {
			victim, worst = e, rank
		}
	}
	if victim == nil {
		return false
	}
	t.remove(victim)
	return true
}

// remove forgets a neighbour.
func (t *Table) remove(e *entry) {
	t.release(e, packet.MAC{})
	t.unbind(e)
	if !e.server {
		t.dynamic--
	}
	last := len(t.list) - 1
	t.list[e.index] = t.list[last]
	t.list[e.index].index = e.index
	t.list = t.list[:last]
	delete(t.entries, e.addr)
	if len(t.free) < maxDynamic {
		t.free = append(t.free, e)
	}
}

// bind sets an entry's MAC and lets it be found by that.
func (t *Table) bind(e *entry, mac packet.MAC) {
	if e.mac != mac {
		t.unbind(e)
		e.mac = mac
	}
	if other := t.stations[e.station()]; other == nil || !other.server {
		t.stations[e.station()] = e
	}
}

func (t *Table) unbind(e *entry) {
	if t.stations[e.station()] != e {
		return
	}
	delete(t.stations, e.station())
	for _, other := range t.list { // it may have other addresses
		if other != e && other.station() == e.station() {
			t.bind(other, other.mac)
		}
	}
}
