package flow

// These are how many flows evict passes over because they were heard of since they began to
// wait. They bound the cost of an insert.
const (
	secondChances        = 4
	secondChancesFeigned = 16 // none of which gives way before it is idle
)

// feignedIdle is how long a flow that may be feigned has been silent before it gives way.
const feignedIdle = 10_000 // ms

// evict makes room for one flow. It is false if none gives way.
//
// First the one that has waited longest, about, of those that are not assured: a flood of half-open connections so ends its
// own, oldest first; a client has as long to answer as the flood takes to fill the table. Then one that may be feigned and is idle, since else
// two forged packets a flow would keep everybody out for as long as established connections are remembered.
func (t *Table) evict(now Tick) bool {
	return t.evictFrom(unassuredList, secondChances, 0, now) || t.evictFrom(feignedList, secondChancesFeigned, feignedIdle, now)
}

// evictFrom ends a flow of the list that has been silent for idle. It is false if it finds none.
func (t *Table) evictFrom(list uint16, chances int, idle int32, now Tick) bool {
	for try := 0; ; try++ {
		bucket, ok := t.wheel.first(list)
		if !ok {
			return false
		}
		ref := t.wheel.head[bucket]
		f := t.record(ref)
		if try < chances {
			if later := t.bucketFor(f, f.seen); t.wheel.sooner(bucket, later) {
				t.unlink(f)
				t.link(f, ref, later)
				continue
			}
		}
		if idle > 0 && (now.Sub(f.seen) < idle || f.Carriage() == ByKernel) {
			return false
		}
		t.stats.Evicted++
		t.remove(f, ref)
		return true
	}
}
