package flow

// secondChances is how many flows evict passes over because they were heard of since they began to
// wait. It bounds the cost of an insert.
const secondChances = 4

// evict makes room for one flow: the unassured one that has waited longest without a packet, about.
// It is false if all are assured. A flood of half-open connections so ends its own, oldest first; a
// client has as long to answer as the flood takes to fill the table.
func (t *Table) evict(now Tick) bool {
	for try := 0; ; try++ {
		bucket, ok := t.wheel.firstUnassured()
		if !ok {
			return false
		}
		ref := t.wheel.head[bucket]
		f := t.record(ref)
		if try < secondChances {
			if later := t.bucketFor(f, f.seen); t.wheel.sooner(bucket, later) {
				t.unlink(f)
				t.link(f, ref, later)
				continue
			}
		}
		t.stats.Evicted++
		t.remove(f, ref)
		return true
	}
}
