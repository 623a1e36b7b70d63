package kernel

import (
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	// tick is how often it is looked who has been used, and asked for those that the kernel is not sure of.
	tick = time.Second
	// askAgain is how many ticks an answer may take: the kernel waits for 5 s before it looks after a neighbour that it has
	// known, and asks thrice at 1 s otherwise.
	askAgain = 6
	// lately is for how many ticks a contact that has been used is not forgotten when the kernel forgets it; the kernel's own
	// time for that is 60 s, too.
	lately = 60
	// maxPending bounds the neighbours that are asked for because somebody wants to send to them, and that have not answered. The
	// kernel itself has room for 1024, and these are a part of them.
	maxPending = 256
	// maxAsked is how many such are asked for in refill.
	maxAsked, refill = 32, 20 * time.Millisecond
	// maxKept bounds the gateways that are found out before somebody needs them.
	maxKept = 1024
)

// survey reads all interfaces and neighbours: at the start, and when messages were lost.
func (n *Neighbours) survey() error {
	links := map[int]link{}
	err := n.k.each(unix.RTM_GETLINK, unix.RTM_NEWLINK, func(m []byte) {
		if index, l, err := decodeLink(m); err == nil {
			links[index] = l
		}
	}, nl.NewIfInfomsg(unix.AF_UNSPEC))
	if err != nil {
		return fmt.Errorf("list with ip link: %w", err)
	}
	entries := map[station]neighbour{}
	err = n.k.each(unix.RTM_GETNEIGH, unix.RTM_NEWNEIGH, func(m []byte) {
		if s, e, err := decodeNeighbour(m); err == nil {
			entries[s] = e
		}
	}, &netlink.Ndmsg{})
	if err != nil {
		return fmt.Errorf("list with ip neigh: %w", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for index := range n.devices {
		if _, there := links[index]; !there {
			n.setLinkLocked(index, link{}, true)
		}
	}
	for index, l := range links {
		n.setLinkLocked(index, l, false)
	}
	n.contacts.each(func(c *contact) {
		if _, there := entries[c.station]; !there && c.state != 0 {
			n.lostLocked(c)
		}
	})
	for s, e := range entries {
		n.noteLocked(s, e)
	}
	pend(n.due)
	pend(n.changes)
	return nil
}

// listen takes in what the kernel tells of interfaces and neighbours until Close.
func (n *Neighbours) listen() {
	defer n.ended.Done()
	for {
		b, err := n.told.next()
		switch {
		case n.isDone():
			return
		case errors.Is(err, unix.ENOBUFS): // messages were lost, perhaps the one that matters
			for n.survey() != nil {
				select {
				case <-time.After(tick):
				case <-n.done:
					return
				}
			}
		case err != nil:
			return
		}
		n.take(b)
	}
}

func (n *Neighbours) take(b []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	changed := false
	for typ, m := range messages(b) {
		switch typ {
		case unix.RTM_NEWNEIGH:
			if s, e, err := decodeNeighbour(m); err == nil {
				changed = n.noteLocked(s, e) || changed
			}
		case unix.RTM_DELNEIGH:
			if s, _, err := decodeNeighbour(m); err == nil {
				raw := s.addr.As16()
				if c := n.contacts.find(s.link, &raw); c != nil {
					changed = n.lostLocked(c) || changed
				}
			}
		case unix.RTM_NEWLINK, unix.RTM_DELLINK:
			if index, l, err := decodeLink(m); err == nil {
				changed = n.setLinkLocked(index, l, typ == unix.RTM_DELLINK) || changed
			}
		}
	}
	if changed {
		pend(n.changes)
	}
	if len(n.hurry) > 0 {
		pend(n.due)
	}
}

// setLinkLocked notes what an interface is like, and says whether that is new.
func (n *Neighbours) setLinkLocked(index int, l link, gone bool) bool {
	d := n.devices[index]
	if d == nil {
		d = &device{index: index}
		d.state.Store(&link{})
		n.devices[index] = d
	}
	if gone {
		l.up = false
		delete(n.devices, index) // routes may lead through it for a moment yet
	}
	old := *d.state.Swap(&l)
	if old.up != l.up {
		n.unsettled.Store(true)
		pend(n.read)
	}
	return old != l
}

// device is the interface that routes lead through.
func (n *Neighbours) device(index int) *device {
	n.mu.Lock()
	d := n.devices[index]
	n.mu.Unlock()
	if d != nil {
		return d
	}
	l, _ := n.k.link(index) // younger than its message; or gone, then so are its routes
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.devices[index] == nil {
		n.setLinkLocked(index, l, false)
	}
	return n.devices[index]
}

// gateway is a station that routes lead to.
func (n *Neighbours) gateway(s station) *contact {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := n.contacts.get(s)
	c.round, c.held = n.round, true
	return c
}

// pinLocked finds out which contacts are to stay and to be kept fresh, and has those asked for that are not.
func (n *Neighbours) pinLocked() {
	gateways := 0
	n.contacts.each(func(c *contact) {
		c.held = c.round >= n.inForce // of the world in force, or of one that is being read
		c.kept = c.held && gateways < maxKept
		if c.held {
			gateways++
		}
	})
	w := n.world.Load()
	for _, a := range n.followed {
		r := w.route(a, &n.none)
		if r.down != Up {
			continue
		}
		for i := range r.hops {
			h := &r.hops[i]
			c := h.gateway
			if c == nil {
				c = n.contacts.get(station{h.device.index, a})
			}
			c.held, c.kept = true, true
		}
	}
	n.contacts.each(func(c *contact) {
		if c.kept && c.doubtful() && c.wait == 0 {
			n.hurry = append(n.hurry, c)
		}
	})
}

// doubtful says that the kernel does not know the MAC, or is not sure of it and does nothing about that.
func (c *contact) doubtful() bool { return c.state&^(unix.NUD_STALE|unix.NUD_FAILED) == 0 }

// noteLocked notes what the kernel tells of a neighbour, and says whether that changes a way.
func (n *Neighbours) noteLocked(s station, e neighbour) bool {
	raw := s.addr.As16()
	c := n.contacts.find(s.link, &raw)
	if c == nil {
		c = n.contacts.get(s)
		c.idle = lately
	}
	changed := c.after(e)
	if c.word.Load()&(known|failed) != 0 {
		n.answeredLocked(c)
	}
	if e.state&(unix.NUD_FAILED|unix.NUD_REACHABLE) != 0 {
		c.wait = 0
	}
	return changed
}

// answeredLocked notes that a contact is not pending any more.
func (n *Neighbours) answeredLocked(c *contact) {
	if c.pending {
		c.pending = false
		n.pending--
	}
}

// lostLocked notes that the kernel has no entry any more, and says whether that changes a way. An entry that is deleted by hand is
// called failed just before: that says nothing about the neighbour.
func (n *Neighbours) lostLocked(c *contact) bool {
	n.answeredLocked(c)
	old := c.word.Load()
	now := old & (known | macMask)
	c.word.Store(now)
	c.state, c.wait = 0, 0
	used := c.used.Load() || c.idle < 2
	switch carries := n.carriesLocked(c.link); {
	case carries && (c.kept || used && now != 0):
		n.hurry = append(n.hurry, c)
	case c.held, carries && now != 0 && c.idle < lately:
	default:
		n.contacts.remove(c)
	}
	return now != old
}

func (n *Neighbours) carriesLocked(index int) bool {
	d := n.devices[index]
	return d != nil && d.carries()
}

// keep has the kernel ask for neighbours until Close: for those that somebody wants, and for those that are to be kept fresh.
func (n *Neighbours) keep() {
	defer n.ended.Done()
	regular := time.NewTicker(tick)
	defer regular.Stop()
	var again <-chan time.Time
	for left := maxAsked; ; {
		wanted := n.wanted
		if left <= 0 { // nobody takes them from the channel, which fills up: Way then passes by
			wanted = nil
			if again == nil {
				again = time.After(refill)
			}
		}
		select {
		case s := <-wanted:
			if n.meet(s) {
				left--
			}
			continue
		case <-n.due:
			n.askDue()
			continue
		case <-regular.C:
			n.review()
			n.askDue()
		case <-again:
			again = nil
		case <-n.done:
			return
		}
		n.mu.Lock()
		left = min(maxAsked, maxPending-n.pending)
		n.mu.Unlock()
	}
}

// meet has the kernel ask for a station, and says whether that was necessary.
func (n *Neighbours) meet(s station) bool {
	n.mu.Lock()
	raw := s.addr.As16()
	c := n.contacts.find(s.link, &raw)
	if c != nil && c.word.Load()&(known|sought) != 0 || !n.carriesLocked(s.link) {
		n.mu.Unlock()
		return false
	}
	c = n.contacts.get(s)
	c.used.Store(true)
	n.pendLocked(c)
	n.mu.Unlock()
	if err := n.ask(c); err != nil { // the kernel has no room, say: whoever wants it asks again
		n.mu.Lock()
		n.answeredLocked(c)
		n.mu.Unlock()
	}
	return true
}

func (n *Neighbours) pendLocked(c *contact) {
	if !c.pending && !c.kept {
		c.pending = true
		n.pending++
	}
}

func (n *Neighbours) askDue() {
	n.mu.Lock()
	list := n.hurry
	n.hurry = nil
	n.mu.Unlock()
	for _, c := range list {
		if n.isDone() {
			return
		}
		_ = n.ask(c) // the next review does better, or nobody can
	}
}

// review sees who has been used, and has those asked for that have been and that the kernel is not sure of.
func (n *Neighbours) review() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.contacts.each(func(c *contact) {
		used := c.used.Load()
		if used {
			c.used.Store(false)
			c.idle = 0
		} else {
			c.idle++
		}
		if c.wait > 0 {
			if c.wait--; c.wait > 0 {
				return
			}
			n.answeredLocked(c)
			c.word.And(^uint64(sought))
		}
		sure := c.word.Load()&known != 0
		switch {
		case c.doubtful() && (c.kept || used && (sure || n.pending < maxPending)) && n.carriesLocked(c.link):
			if !sure {
				n.pendLocked(c)
			}
			n.hurry = append(n.hurry, c)
		case c.state == 0 && !c.held && !used && (!sure || c.idle > lately):
			n.contacts.remove(c)
		}
	})
}

// ask looks at the kernel's entry, and has the kernel ask for the station if it is not sure. One that is being asked for
// is left alone, and so are those that the administrator has set: RTM_NEWNEIGH with NTF_USE takes the
// permanence off an entry (Linux 5.16 and later) and then its MAC.
func (n *Neighbours) ask(c *contact) error {
	n.mu.Lock()
	carries := n.carriesLocked(c.link)
	name := ""
	if carries {
		name = n.devices[c.link].state.Load().name
		c.wait = askAgain
		c.word.Or(sought)
	}
	n.mu.Unlock()
	if !carries {
		return nil
	}
	e, err := n.k.neighbour(c.station)
	if errors.Is(err, unix.ENOENT) {
		err = nil
	}
	if err == nil && e.state&^(unix.NUD_STALE|unix.NUD_FAILED) == 0 {
		err = n.k.use(c.station)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err != nil {
		c.word.And(^uint64(sought))
		return fmt.Errorf("ip neigh get %s dev %s: %w", c.addr, name, err)
	}
	if c.word.Load()&(known|failed) == 0 && c.after(e) { // else a message may have said something newer
		n.answeredLocked(c)
		pend(n.changes)
	}
	return nil
}
