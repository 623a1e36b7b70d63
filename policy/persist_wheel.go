package policy

import "time"

// tick is a time in units of 10 ms, the kernel's jiffy at HZ=100: 32 bits of it hold the longest persistence
// that ipvsadm takes, 31 days, and go round after 497.
type tick uint32

const tickUnit = 10 * time.Millisecond

func ticks(d time.Duration) tick   { return tick(d / tickUnit) }
func ticksUp(d time.Duration) tick { return ticks(d + tickUnit - 1) }

// sub is how much later t is than u.
func (t tick) sub(u tick) int32 { return int32(t - u) }

// lives says whether the template still sends its client to the server: its time is not over, or is put off.
func (e *template) lives(now tick) bool { return e.deadline.sub(now) > 0 || e.flows > 0 }

// extend puts the deadline off as often as flows have required it up to now.
func (e *template) extend(now tick) {
	if late := now.sub(e.deadline); late >= 0 && e.flows > 0 {
		const step = int32(controlled / tickUnit)
		e.deadline += tick((late/step + 1) * step)
	}
}

// templateWheel is a timer wheel of 1024 slots of 1.28 s, powers of two, so that it goes round evenly in a
// tick that wraps. A template waits in the slot of its deadline, or in the farthest if that is more than a
// round ahead. A new connection only sets the deadline; when the slot comes up, a template whose deadline
// lies ahead by then is moved on.
type templateWheel struct {
	at         tick // the beginning of the slot at hand; all slots before are done
	head, tail [wheelSlots]uint32
}

const (
	wheelSlotBits  = 7
	wheelSlotTicks = 1 << wheelSlotBits
	wheelSlots     = 1 << 10
	wheelFarthest  = wheelSlots - 1
)

// start sets an empty wheel to the time.
func (w *templateWheel) start(now tick) { w.at = now &^ (wheelSlotTicks - 1) }

// bucketFor is where a template with this deadline is to wait.
func (w *templateWheel) bucketFor(deadline tick) uint32 {
	ahead := min(max(deadline.sub(w.at)>>wheelSlotBits, 0), wheelFarthest)
	return w.slot(uint32(ahead))
}

// slot is the one so far ahead of the slot at hand.
func (w *templateWheel) slot(ahead uint32) uint32 {
	return (uint32(w.at)>>wheelSlotBits + ahead) % wheelSlots
}

// link puts a template at the end of a bucket.
func (t *templates) link(e *template, ref, bucket uint32) {
	w := &t.wheel
	e.bucket, e.next, e.prev = bucket, 0, w.tail[bucket]
	w.tail[bucket] = ref
	if e.prev != 0 {
		t.at(e.prev).next = ref
	} else {
		w.head[bucket] = ref
	}
}

// unlink takes a template out of its bucket.
func (t *templates) unlink(e *template) {
	w := &t.wheel
	if e.next != 0 {
		t.at(e.next).prev = e.prev
	} else {
		w.tail[e.bucket] = e.prev
	}
	if e.prev != 0 {
		t.at(e.prev).next = e.next
	} else {
		w.head[e.bucket] = e.next
	}
}

// relink tells the neighbours of a template that it has another ref.
func (t *templates) relink(e *template, ref uint32) {
	w := &t.wheel
	if e.next != 0 {
		t.at(e.next).prev = ref
	} else {
		w.tail[e.bucket] = ref
	}
	if e.prev != 0 {
		t.at(e.prev).next = ref
	} else {
		w.head[e.bucket] = ref
	}
}

// expire ends what is due, and what became invalid, within a budget.
func (t *templates) expire(now tick, budget int) (more bool) {
	if !t.sweep(&budget) {
		return true
	}
	w := &t.wheel
	if t.len == 0 {
		w.start(now)
		return false
	}
	if now.sub(w.at) >= wheelSlots*wheelSlotTicks {
		// More than a round behind: once through all slots will do.
		w.at = now&^(wheelSlotTicks-1) - wheelFarthest*wheelSlotTicks
	}
	for now.sub(w.at) >= wheelSlotTicks {
		bucket := w.slot(0)
		for ref := w.head[bucket]; ref != 0; ref = w.head[bucket] {
			if budget <= 0 {
				return true
			}
			budget--
			t.review(ref, now)
		}
		w.at += wheelSlotTicks
	}
	return false
}

// review removes a template whose time is over and moves another one on.
func (t *templates) review(ref uint32, now tick) (removed bool) {
	e := t.at(ref)
	if !e.lives(now) {
		t.remove(ref)
		return true
	}
	e.extend(now)
	t.unlink(e)
	t.link(e, ref, t.wheel.bucketFor(e.deadline))
	return false
}

// reviews is how many templates evict looks at before it takes one whose deadline lies ahead by now.
const reviews = 8

// evict makes room by the template that ends next, about: deadlines are looked at in the order in which the
// wheel has them.
func (t *templates) evict(now tick) {
	for tries := 0; ; tries++ {
		ref := t.first()
		if tries < reviews && t.at(ref).bucket != t.wheel.bucketFor(t.at(ref).deadline) {
			if t.review(ref, now) {
				return
			}
			continue
		}
		t.remove(ref)
		return
	}
}

// first is the template that the wheel has first; there must be one.
func (t *templates) first() uint32 {
	for ahead := range uint32(wheelSlots) {
		if ref := t.wheel.head[t.wheel.slot(ahead)]; ref != 0 {
			return ref
		}
	}
	return 0
}
