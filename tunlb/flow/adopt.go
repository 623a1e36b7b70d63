package flow

import (
	"fmt"
	"hash/fnv"
	"reflect"
	"unsafe"

	"github.com/tunlb/tunlb/stack/packet"
)

// Memory is where a table's records are, if they are to outlive it: see tunlb/keep. What Slab returns is of SlabSize bytes
// and zero where nobody has written.
type Memory interface {
	Slab(i int) ([]byte, error)
	Slabs() int
}

// SlabSize is how many bytes of records go together.
const SlabSize = int(unsafe.Sizeof(slab{}))

// meaning is to be raised whenever a field of Flow, a flag or a state that keeps its name and place comes to mean something
// else, or what whole relies on is made another way: the layout does not show that.
const meaning = 1

// Format is a number for what records look like and mean: where it is another, they are not to be adopted.
func Format() uint64 {
	h := fnv.New64a()
	fmt.Fprintln(h, meaning)
	of := reflect.TypeFor[Flow]()
	for i := range of.NumField() {
		f := of.Field(i)
		fmt.Fprintln(h, f.Name, f.Type, f.Offset)
	}
	fmt.Fprintln(h, of.Size(), stateCount, slabBits)
	return h.Sum64()
}

// Adoption counts what became of the records that a predecessor has left.
type Adoption struct {
	Adopted int // flows of this table now
	Refused int // by admit: nobody knows their server any more, say
	Damaged int // not whole, as of a process that was killed while it wrote one
	Late    int // their time was over
}

// Adopt makes the records in the table's memory its flows, those of them that admit takes. It is to be called
// before the first Insert, with a clock that has gone on since they were written. admit may change what the engine sets: server, class, exits,
// carriage. The index and all lists are made anew: nothing depends on how far the predecessor came with them.
func (t *Table) Adopt(now Tick, admit func(*Flow) bool) (a Adoption) {
	if t.memory == nil {
		return a
	}
	t.wheel.start(now)
	for i := range t.memory.Slabs() {
		s := t.newSlab()
		if s == nil {
			break
		}
		t.slabs = append(t.slabs, s)
		for j := range s {
			if ref := uint32(i<<slabBits | j); ref != 0 {
				t.adopt(&s[j], ref, now, admit, &a)
			}
		}
	}
	t.chain()
	return a
}

// clocksDiffer is by how much a predecessor's clock may have been ahead: two processes do not read the machine's at the same
// moment, and one may be put to sleep in the middle of it.
const clocksDiffer = 5_000 // ms

func (t *Table) adopt(f *Flow, ref uint32, now Tick, admit func(*Flow) bool, a *Adoption) {
	if f.flags&live == 0 {
		f.flags = 0
		return
	}
	if f.Carriage() == ByKernel { // which has seen its packets
		f.seen = now
	}
	if ahead := f.seen.Sub(now); ahead > 0 && ahead <= clocksDiffer {
		f.seen = now
	}
	outer, answer := f.Outer(), f.Inner().Reverse()
	outerHash, answerHash := t.index.hash(&outer), t.index.hash(&answer)
	switch {
	case !f.whole(now) || t.known(&answer, answerHash) || !f.is(answersOnly) && t.known(&outer, outerHash):
		a.Damaged++
	case t.Silent(f, now):
		a.Late++
	case t.len >= t.cap || !admit(f):
		a.Refused++
	default:
		if !f.is(answersOnly) {
			t.index.add(outerHash, ref, Forward)
		}
		t.index.add(answerHash, ref, Reverse)
		t.len++
		t.top = ref
		t.link(f, ref, t.bucketFor(f, now))
		a.Adopted++
		return
	}
	f.flags = 0
}

// whole says of a record that may have been cut off in the middle whether it can be one of a flow. The checksum delta comes last but for
// counters, and follows from the rest.
func (f *Flow) whole(now Tick) bool {
	outer, inner := f.Outer(), f.Inner()
	states := f.proto == packet.ProtoTCP && int(f.state) < tcpStates || f.proto != packet.ProtoTCP && f.state == initialState(f.proto)
	return states && outer != inner.Reverse() && f.delta == packet.DeltaOf(outer, inner) && f.seen.Sub(now) <= 0
}

// chain makes all records below the highest in use that are free the ones to use next.
func (t *Table) chain() {
	for ref := t.top; ref > 0; ref-- {
		if f := t.record(ref); f.flags == 0 {
			f.next, t.free = t.free, ref
		}
	}
}

// slabOf is a slab in memory that is not the collector's.
func slabOf(b []byte) *slab {
	_ = b[SlabSize-1]
	return (*slab)(unsafe.Pointer(&b[0]))
}

// Reclaim makes the flow ours again, whoever has carried its packets. What is known of its sequence numbers is worth nothing if
// packets may have gone by the kernel.
func (f *Flow) Reclaim() {
	switch f.Carriage() {
	case Asked, ByKernel:
		f.SetCarriage(ByKernel)
	}
	f.SetCarriage(ByUs)
}
