package flow

import (
	"errors"

	"github.com/tunlb/tunlb/stack/packet"
)

// Why a flow is not inserted; the table is as before.
var (
	// ErrCollision: the outer tuple, or that of the answers, belongs to a flow already. The latter
	// comes of one client port that reaches two virtual services sharing a server.
	ErrCollision = errors.New("tuple belongs to another flow")
	// ErrFull: the cap is reached, and every flow is assured; or there is no memory for more.
	ErrFull = errors.New("connection table is full")
	// ErrPorts: no source port is free.
	ErrPorts = errors.New("source ports are exhausted")
)

// Options are fixed for a table's life. The zero value is useful.
type Options struct {
	Cap      int      // of flows; 0 means DefaultCap, and MaxCap is the most
	Timeouts Timeouts // see SetTimeouts
	Seed     uint64   // makes the source ports that are drawn the same in every run; 0 is at random
	// Memory is where records are that are to outlive the process; nil: where the collector has them, in huge pages if
	// there are any.
	Memory Memory
	// Gone is called for every flow that the table forgets (Delete, Expire, eviction), as long as the
	// flow can be read. It must not call the table. May be nil.
	Gone func(*Flow)
}

const (
	DefaultCap = 1 << 20
	MaxCap     = 1 << 26
)

// Table is the connection table. Make it with New; it needs no closing. Not safe for concurrent use.
// It grows with its flows, by 6 MiB at a time at most, and does not shrink.
type Table struct {
	index    index
	slabs    []*slab
	unused   []slab // the rest of the last piece of memory
	wheel    wheel
	timeouts [256]timeoutTable // by class
	free     uint32            // head of the chain of records to use again, 0 if none
	top      uint32            // the highest ref in use so far
	len, cap int
	gone     func(*Flow)
	memory   Memory // nil: the collector's
	seed     uint64
	stats    Stats
}

// slab holds records, 2 MiB of them; the collector does not look into it. A ref is the slab's number and
// the place in it. Ref 0 is no record.
type slab [1 << slabBits]Flow

const (
	slabBits    = 14
	slabsAtOnce = 2
)

// Stats counts since the table was made. It is a plain value.
type Stats struct {
	Inserted, Expired, Evicted, Deleted uint64
	Collisions, Full, PortsExhausted    uint64 // refusals
}

// New makes an empty table.
func New(o Options) *Table {
	t := &Table{
		index: newIndex(),
		cap:   min(o.Cap, MaxCap),
		gone:  o.Gone,
		seed:  o.Seed,

		memory: o.Memory,
	}
	t.SetTimeouts(o.Timeouts)
	if t.cap <= 0 {
		t.cap = DefaultCap
	}
	if t.gone == nil {
		t.gone = func(*Flow) {}
	}
	return t
}

// Len is the number of flows.
func (t *Table) Len() int { return t.len }

// Cap is the number of flows that the table takes.
func (t *Table) Cap() int { return t.cap }

// Stats returns the counters.
func (t *Table) Stats() Stats { return t.stats }

func (t *Table) record(ref uint32) *Flow {
	return &t.slabs[ref>>slabBits][ref&(1<<slabBits-1)]
}

// Find returns the flow whose packets come with this tuple, and their direction; nil if there is none.
func (t *Table) Find(tu *packet.Tuple) (*Flow, Direction) {
	return t.find(tu, t.index.hash(tu))
}

func (t *Table) find(tu *packet.Tuple, hash uint64) (*Flow, Direction) {
	p := t.index.page(hash)
	for i := home(hash); ; i = next(i) {
		e := *p.slot(i)
		if e == 0 {
			return nil, Forward
		}
		if (e^entry(hash))&^whoMask != 0 {
			continue
		}
		f, d := t.record(uint32(e&refMask)), Direction(e>>refBits&1)
		if f.carries(tu, d) {
			return f, d
		}
	}
}

// Insert adds a flow between two tuples of one protocol and family. The packet that opens it is still
// to be tracked. It fails with ErrCollision or ErrFull.
func (t *Table) Insert(outer, inner packet.Tuple, now Tick) (*Flow, error) {
	answer := inner.Reverse()
	outerHash, answerHash := t.index.hash(&outer), t.index.hash(&answer)
	if outer == answer || t.known(&outer, outerHash) || t.known(&answer, answerHash) {
		t.stats.Collisions++
		return nil, ErrCollision
	}
	return t.insert(&outer, &inner, outerHash, answerHash, 0, now)
}

// InsertAnswers adds a flow that only its answers find: the client's next packet is to be scheduled anew
// (one-packet scheduling). If there is one for this server already, it is returned as if new. It fails
// with ErrCollision if the answers would find another flow, or with ErrFull.
func (t *Table) InsertAnswers(outer, inner packet.Tuple, now Tick) (f *Flow, added bool, err error) {
	answer := inner.Reverse()
	outerHash, answerHash := t.index.hash(&outer), t.index.hash(&answer)
	if f, _ := t.find(&answer, answerHash); f != nil {
		if f.is(answersOnly) && f.Outer() == outer {
			return f, false, nil
		}
		t.stats.Collisions++
		return nil, false, ErrCollision
	}
	f, err = t.insert(&outer, &inner, outerHash, answerHash, answersOnly, now)
	return f, err == nil, err
}

func (t *Table) known(tu *packet.Tuple, hash uint64) bool {
	f, _ := t.find(tu, hash)
	return f != nil
}

// insert adds a flow whose two tuples are known to be free.
func (t *Table) insert(outer, inner *packet.Tuple, outerHash, answerHash uint64, more flags, now Tick) (*Flow, error) {
	if t.len >= t.cap && !t.evict(now) {
		t.stats.Full++
		return nil, ErrFull
	}
	ref := t.allocate()
	if ref == 0 {
		t.stats.Full++
		return nil, ErrFull
	}
	f := t.record(ref)
	*f = Flow{
		outerSrc: outer.Src, outerDst: outer.Dst, outerSrcPort: outer.SrcPort, outerDstPort: outer.DstPort,
		innerSrc: inner.Src, innerDst: inner.Dst, innerSrcPort: inner.SrcPort, innerDstPort: inner.DstPort,
		proto: outer.Proto, state: initialState(outer.Proto), flags: live | more,
		seen: now, delta: packet.DeltaOf(*outer, *inner),
	}
	if outer.Src != inner.Src || outer.SrcPort != inner.SrcPort {
		f.flags |= translated
	}
	if !f.is(answersOnly) {
		t.index.add(outerHash, ref, Forward)
	}
	t.index.add(answerHash, ref, Reverse)
	if t.len == 0 {
		t.wheel.start(now)
	}
	t.len++
	t.stats.Inserted++
	t.link(f, ref, t.bucketFor(f, now))
	return f, nil
}

func initialState(proto uint8) State {
	switch proto {
	case packet.ProtoTCP:
		return StateNone
	case packet.ProtoICMP, packet.ProtoICMPv6:
		return StateICMP
	default:
		return StateUDP
	}
}

// allocate takes a record from the chain of free ones, else the next that was never used; 0 if there is no memory.
func (t *Table) allocate() uint32 {
	if ref := t.free; ref != 0 {
		t.free = t.record(ref).next
		return ref
	}
	next := t.top + 1
	if int(next>>slabBits) == len(t.slabs) {
		s := t.newSlab()
		if s == nil {
			return 0
		}
		t.slabs = append(t.slabs, s)
	}
	t.top = next
	return next
}

// newSlab returns the next one, nil if there is no memory.
func (t *Table) newSlab() *slab {
	if t.memory != nil {
		b, err := t.memory.Slab(len(t.slabs))
		if err != nil {
			return nil
		}
		return slabOf(b)
	}
	if len(t.unused) == 0 {
		missing := t.cap>>slabBits + 1 - len(t.slabs)
		t.unused = more[slab](len(t.slabs), min(missing, slabsAtOnce))
	}
	s := &t.unused[0]
	t.unused = t.unused[1:]
	return s
}

// Delete forgets a flow, which must be the table's. One that is gone already is left alone, as long as
// its record was not used again.
func (t *Table) Delete(f *Flow) {
	if f.flags == 0 {
		return
	}
	t.stats.Deleted++
	t.remove(f, t.ref(f))
}

// remove forgets a flow and frees its record.
func (t *Table) remove(f *Flow, ref uint32) {
	t.gone(f)
	outer, answer := f.Outer(), f.Inner().Reverse()
	if !f.is(answersOnly) {
		t.index.delete(t.index.hash(&outer), ref, Forward)
	}
	t.index.delete(t.index.hash(&answer), ref, Reverse)
	t.unlink(f)
	f.flags = 0
	f.next, t.free = t.free, ref
	t.len--
}

// Walk visits the flows among the next n records from cursor on, 0 at first, and returns the cursor to
// go on with. It is for listings that must not hold the lock for long: between two calls the table may
// change; what is there all the time is visited exactly once. visit must not change the table.
func (t *Table) Walk(cursor uint32, n int, visit func(*Flow)) (next uint32, more bool) {
	for ref := max(cursor, 1); ref <= t.top; ref++ {
		if n <= 0 {
			return ref, true
		}
		n--
		if f := t.record(ref); f.flags != 0 {
			visit(f)
		}
	}
	return t.top + 1, false
}
