package flow

import "math/bits"

// The timer wheel has 1024 slots of 1.024 s: powers of two, so that it goes round evenly in a Tick
// that wraps. A flow waits in the slot of its deadline (at most a round ahead). A packet only bumps
// the flow's seen; when the slot comes up, a flow whose deadline lies ahead by then is moved on. Only
// a change of state to a shorter timeout moves a flow at once. So a flow never ends early, and late
// by a slot at most.
//
// A slot has three lists: of flows that are not assured, of those that may be feigned, and of the others. The first two are looked
// at every 61 s even if their timeout is longer, and then wait behind all others again: their lists, from the slot at hand
// on, are the order in which evict takes them.
type wheel struct {
	at         Tick // the beginning of the slot at hand; all slots before are done
	head, tail [lists * wheelSlots]uint32
	waiting    [firmList][wheelSlots / 64]uint64 // by list: a bit per slot whose list is not empty
}

// A slot's lists.
const (
	unassuredList = iota
	feignedList
	firmList // of which none is evicted

	lists = iota
)

const (
	slotBits   = 10
	slotTicks  = 1 << slotBits
	wheelBits  = 10
	wheelSlots = 1 << wheelBits
	farthest   = wheelSlots - 1
	// review is when a flow that may be evicted is looked at again, at the latest.
	review = 60 * slotTicks
)

// bucketOf numbers the lists of all slots.
func bucketOf(list, slot uint16) uint16 { return list<<wheelBits | slot }

// list is the one of its slot that a bucket is, mark where its bit is.
func list(bucket uint16) uint16 { return bucket >> wheelBits }
func mark(bucket uint16) (word int, bit uint64) {
	slot := bucket % wheelSlots
	return int(slot / 64), 1 << (slot % 64)
}

// start sets an empty wheel to the time.
func (w *wheel) start(now Tick) { w.at = now &^ (slotTicks - 1) }

// bucketFor is where f is to wait.
func (t *Table) bucketFor(f *Flow, now Tick) uint16 {
	wait, list := t.deadline(f).Sub(t.wheel.at), uint16(firmList)
	if f.Carriage() == ByKernel {
		wait = max(wait, (now + carriedReview).Sub(t.wheel.at))
	}
	switch {
	case !f.is(assured):
		list = unassuredList
	case f.feigned():
		list = feignedList
	}
	if list != firmList {
		wait = min(wait, (now + review).Sub(t.wheel.at))
	}
	ahead := min(max(wait>>slotBits, 0), farthest)
	return bucketOf(list, uint16((uint32(t.wheel.at)>>slotBits+uint32(ahead))%wheelSlots))
}

// sooner says whether bucket a comes up before b.
func (w *wheel) sooner(a, b uint16) bool {
	at := uint16(w.at >> slotBits)
	return (a-at)%wheelSlots < (b-at)%wheelSlots
}

// ref finds a flow's own ref: its neighbour knows.
func (t *Table) ref(f *Flow) uint32 {
	if f.prev != 0 {
		return t.record(f.prev).next
	}
	return t.wheel.head[f.bucket]
}

// link puts f at the end of a bucket.
func (t *Table) link(f *Flow, ref uint32, bucket uint16) {
	w := &t.wheel
	f.bucket, f.next, f.prev = bucket, 0, w.tail[bucket]
	w.tail[bucket] = ref
	if f.prev != 0 {
		t.record(f.prev).next = ref
		return
	}
	w.head[bucket] = ref
	if l := list(bucket); l != firmList {
		word, bit := mark(bucket)
		w.waiting[l][word] |= bit
	}
}

// unlink takes f out of its bucket.
func (t *Table) unlink(f *Flow) {
	w := &t.wheel
	if f.next != 0 {
		t.record(f.next).prev = f.prev
	} else {
		w.tail[f.bucket] = f.prev
	}
	if f.prev != 0 {
		t.record(f.prev).next = f.next
	} else {
		w.head[f.bucket] = f.next
	}
	if l := list(f.bucket); l != firmList && w.head[f.bucket] == 0 {
		word, bit := mark(f.bucket)
		w.waiting[l][word] &^= bit
	}
}

// reschedule is to be called when f's state has changed. A flow that may be evicted is moved in any case: in the
// slot of its former, shorter timeout it would be the next.
func (t *Table) reschedule(f *Flow, now Tick) {
	bucket := t.bucketFor(f, now)
	evictable := list(bucket) != firmList || list(f.bucket) != firmList
	if bucket != f.bucket && (evictable || t.wheel.sooner(bucket, f.bucket)) {
		ref := t.ref(f)
		t.unlink(f)
		t.link(f, ref, bucket)
	}
}

// Expire ends the flows whose time is over. It looks at budget flows at most, so that the engine's
// lock is not held for long, and says whether there is more to do at once. To be called every second
// or so; a caller who comes late, even by hours, finds the wheel catching up.
func (t *Table) Expire(now Tick, budget int) (more bool) {
	w := &t.wheel
	if t.len == 0 {
		w.start(now)
		return false
	}
	if now.Sub(w.at) >= wheelSlots*slotTicks {
		// More than a round behind: once through all slots will do.
		w.at = now&^(slotTicks-1) - farthest*slotTicks
	}
	for now.Sub(w.at) >= slotTicks {
		slot := uint16(w.at>>slotBits) % wheelSlots
		for l := range uint16(lists) {
			if !t.drain(bucketOf(l, slot), now, &budget) {
				return true
			}
		}
		w.at += slotTicks
	}
	return false
}

// drain empties a bucket whose time is over. It is false if the budget was spent before.
func (t *Table) drain(bucket uint16, now Tick, budget *int) bool {
	for ref := t.wheel.head[bucket]; ref != 0; ref = t.wheel.head[bucket] {
		if *budget <= 0 {
			return false
		}
		*budget--
		f := t.record(ref)
		if t.Silent(f, now) && f.Carriage() != ByKernel {
			t.stats.Expired++
			t.remove(f, ref)
			continue
		}
		// Never into this same slot: that is a full round ahead, and farthest is one less.
		t.unlink(f)
		t.link(f, ref, t.bucketFor(f, now))
	}
	return true
}

// first is the bucket of a list of flows that may be evicted that comes up next. It is not ok if there is none.
func (w *wheel) first(list uint16) (bucket uint16, ok bool) {
	waiting := &w.waiting[list]
	slot := int(w.at>>slotBits) % wheelSlots
	word := slot / 64
	set := waiting[word] &^ (1<<(slot%64) - 1)
	// The first word is looked at once more at the end, for the bits below slot.
	for range len(waiting) + 1 {
		if set != 0 {
			return bucketOf(list, uint16(word*64+bits.TrailingZeros64(set))), true
		}
		word = (word + 1) % len(waiting)
		set = waiting[word]
	}
	return 0, false
}
