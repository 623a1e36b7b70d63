package kernel

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// station is a neighbour at an interface.
type station struct {
	link int
	addr netip.Addr
}

// device is an interface that routes lead through.
type device struct {
	index int
	state atomic.Pointer[link] // never nil
}

type link struct {
	name         string
	mac          [6]byte
	mtu          int
	ethernet, up bool
}

func (d *device) carries() bool { l := d.state.Load(); return l.up && l.ethernet }

// contact is what is known of a station.
type contact struct {
	// What Way reads is in one cache line.
	raw     [16]byte      // the address
	station               // link is compared, the rest is the writers'
	word    atomic.Uint64 // the MAC in the lower 48 bits, and flags
	used    atomic.Bool   // somebody has asked since the last tick

	// The following are the writers', who hold Neighbours.mu.
	state   uint16 // of the kernel's entry, NUD_...; 0: there is none, or nothing is known of it
	idle    int    // ticks since it has been used
	wait    int    // ticks until it may be asked for again
	pending bool   // asked for and unanswered, within the bound for those that nobody follows
	held    bool   // routes or followed addresses lead here: it stays
	kept    bool   // the kernel shall know its MAC at all times
	round   uint64 // when that was last found
}

// Flags of a contact's word.
const (
	known   = 1 << (48 + iota) // the MAC is valid
	failed                     // it has not answered
	sought                     // the kernel has been told to ask
	macMask = 1<<48 - 1
)

func packMAC(m [6]byte) uint64 {
	return uint64(binary.LittleEndian.Uint32(m[:])) | uint64(binary.LittleEndian.Uint16(m[4:]))<<32
}

func unpackMAC(w uint64) (m [6]byte) {
	binary.LittleEndian.PutUint32(m[:], uint32(w))
	binary.LittleEndian.PutUint16(m[4:], uint16(w>>32))
	return m
}

// touch notes that the contact is in use. The line is written once a tick, for all lanes read it.
func (c *contact) touch() {
	if !c.used.Load() {
		c.used.Store(true)
	}
}

// after takes in the kernel's entry, and says whether that changes a way. An entry that is not there or incomplete says
// nothing: in doubt all stays as it was.
func (c *contact) after(e neighbour) (changed bool) {
	const valid = unix.NUD_PERMANENT | unix.NUD_NOARP | unix.NUD_REACHABLE | unix.NUD_STALE | unix.NUD_DELAY | unix.NUD_PROBE
	c.state = e.state
	old := c.word.Load()
	w := old
	switch {
	case e.state&valid != 0 && e.mac != [6]byte{}:
		w = packMAC(e.mac) | known
	case e.state&unix.NUD_FAILED != 0:
		w = failed
	}
	c.word.Store(w)
	return w != old
}

// contacts finds contacts by station. One goroutine at a time may change it, while others look without waiting: a table with
// open addressing, whose slots are written one at a time.
type contacts struct {
	seed  uint64
	table atomic.Pointer[[]atomic.Pointer[contact]] // a power of two of slots, at least half of them nil
	gone  *contact                                  // in the slots of those that were removed
	taken int                                       // slots that are not nil; the writers'
}

func newContacts() *contacts {
	c := &contacts{seed: rand.Uint64() | 1, gone: &contact{}}
	t := make([]atomic.Pointer[contact], 256)
	c.table.Store(&t)
	return c
}

func (c *contacts) hash(link int, raw *[16]byte) uint64 { return mix(raw, c.seed^uint64(link)<<32) }

// mix turns an address into a number of which each bit depends on all of the address. The seed must not be 0.
func mix(a *[16]byte, seed uint64) uint64 {
	const k0, k1 = 0x9e3779b97f4a7c15, 0xd1b54a32d192ed03
	hi, lo := bits.Mul64(binary.LittleEndian.Uint64(a[:8])^seed, k0^binary.LittleEndian.Uint64(a[8:]))
	hi, lo = bits.Mul64(hi^lo^k1, k0)
	return hi ^ lo
}

// find is the contact; nil if there is none.
func (c *contacts) find(link int, raw *[16]byte) *contact {
	t := *c.table.Load()
	for i := c.hash(link, raw); ; i++ {
		x := t[i&uint64(len(t)-1)].Load()
		if x == nil || x.raw == *raw && x.link == link && x != c.gone {
			return x
		}
	}
}

// get is find for writers; a contact that is not there is made.
func (c *contacts) get(s station) *contact {
	raw := s.addr.As16()
	if found := c.find(s.link, &raw); found != nil {
		return found
	}
	if t := *c.table.Load(); 2*(c.taken+1) > len(t) {
		c.rebuild()
	}
	made := &contact{station: s, raw: raw}
	c.put(*c.table.Load(), made)
	return made
}

func (c *contacts) put(t []atomic.Pointer[contact], x *contact) {
	for i := c.hash(x.link, &x.raw); ; i++ {
		if slot := &t[i&uint64(len(t)-1)]; slot.Load() == nil {
			slot.Store(x)
			c.taken++
			return
		}
	}
}

// rebuild makes a table with room for as many again, and without those that were removed.
func (c *contacts) rebuild() {
	count := 0
	c.each(func(*contact) { count++ })
	t := make([]atomic.Pointer[contact], max(256, 1<<bits.Len(uint(4*count))))
	c.taken = 0
	c.each(func(x *contact) { c.put(t, x) })
	c.table.Store(&t)
}

// remove is for writers.
func (c *contacts) remove(x *contact) {
	t := *c.table.Load()
	for i := c.hash(x.link, &x.raw); ; i++ {
		switch slot := &t[i&uint64(len(t)-1)]; slot.Load() {
		case nil:
			return
		case x:
			slot.Store(c.gone)
			return
		}
	}
}

// each visits all contacts; visit may remove the one that it is at. For writers.
func (c *contacts) each(visit func(*contact)) {
	t := *c.table.Load()
	for i := range t {
		if x := t[i].Load(); x != nil && x != c.gone {
			visit(x)
		}
	}
}
