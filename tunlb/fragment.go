package tunlb

import (
	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/tunlb/flow"
	"github.com/tunlb/tunlb/tunlb/watch"
)

// Fragments are not reassembled: only the first of a datagram carries ports, so its verdict is kept
// for the others, which need their addresses edited and no more. Those that come before the first
// wait for it. Memory is bounded, the oldest datagram gives way (RFC 1858, 3128, 5722, 8200 4.5).
const (
	maxDatagrams     = 4096
	maxParkedBytes   = 4 << 20
	maxPieces        = 64                // a 65535-byte datagram over a 1280-byte link has 53
	datagramLifetime = flow.Tick(30_000) // ms, as Linux's ipfrag_time
)

// datagramKey names a datagram on the lane that it came in by (RFC 791). IPv6 leaves the protocol out
// (RFC 8200, 4.5): the fragments of one datagram may differ in it.
type datagramKey struct {
	src, dst [16]byte
	id       uint32
	proto    uint8
	lane     uint8
}

// piece is one fragment's payload, [from, to) in bytes.
type piece struct{ from, to int32 }

// datagram is what is known of one fragmented datagram.
type datagram struct {
	verdict verdict
	decided bool // verdict is valid
	bad     bool // overlapping: nothing more of it is let through
	pieces  []piece
	covered int32
	total   int32 // 0 until the last fragment is seen
	parked  [][]byte
	expires flow.Tick
	of      *watch.Record // where the first belongs; nil unless somebody looks on
}

// fragments are the datagrams in flight. Guarded by the engine's lock.
type fragments struct {
	byKey  map[datagramKey]*datagram
	queue  []queued                                        // in order of arrival, hence of expiry; may name datagrams that are complete
	parked int                                             // bytes
	lost   func(r packet.Reason, lane uint8, frame []byte) // told of every parked fragment that is given up
}

// queued names a datagram in the queue; the pointer tells it from a later one with the same key.
type queued struct {
	key      datagramKey
	datagram *datagram
}

func newFragments(lost func(r packet.Reason, lane uint8, frame []byte)) *fragments {
	return &fragments{byKey: map[datagramKey]*datagram{}, lost: lost}
}

// admit records a fragment and returns its datagram.
func (fs *fragments) admit(lane uint8, v *packet.View, now flow.Tick) (datagramKey, *datagram, packet.Reason) {
	key := datagramKey{src: v.Tuple.Src, dst: v.Tuple.Dst, id: v.FragID, lane: lane}
	if !v.Is6 {
		key.proto = v.Tuple.Proto
	}
	d := fs.byKey[key]
	if d == nil {
		for len(fs.queue) >= maxDatagrams {
			fs.giveUpOldest(packet.FragmentLimit)
		}
		d = &datagram{expires: now + datagramLifetime}
		fs.byKey[key] = d
		fs.queue = append(fs.queue, queued{key, d})
	}
	return key, d, d.add(v)
}

// add checks the fragment against those seen. After an overlap the rest of the datagram is refused.
func (d *datagram) add(v *packet.View) packet.Reason {
	from := int32(v.FragOffset)
	p := piece{from: from, to: from + int32(v.FragLen)}
	if d.bad {
		return packet.OverlappingFragment
	}
	for _, q := range d.pieces {
		if p == q {
			return packet.DuplicateFragment
		}
		if p.from < q.to && q.from < p.to {
			d.bad = true
			return packet.OverlappingFragment
		}
	}
	if len(d.pieces) == maxPieces || d.total != 0 && p.to > d.total {
		d.bad = true
		return packet.FragmentLimit
	}
	if !v.FragMore {
		d.total = p.to
	}
	d.pieces = append(d.pieces, p)
	d.covered += p.to - p.from
	return packet.None
}

func (d *datagram) complete() bool { return d.total != 0 && d.covered == d.total }

// park keeps a copy of a fragment that came before its first.
func (fs *fragments) park(d *datagram, frame []byte) packet.Reason {
	for fs.parked+len(frame) > maxParkedBytes {
		if fs.queue[0].datagram == d {
			return packet.FragmentLimit
		}
		fs.giveUpOldest(packet.FragmentLimit)
	}
	fs.parked += len(frame)
	d.parked = append(d.parked, append([]byte(nil), frame...))
	return packet.None
}

// forget removes a datagram that is complete.
func (fs *fragments) forget(key datagramKey) { delete(fs.byKey, key) }

// take empties a datagram's parked fragments.
func (fs *fragments) take(d *datagram) [][]byte {
	parked := d.parked
	d.parked = nil
	for _, frame := range parked {
		fs.parked -= len(frame)
	}
	return parked
}

// giveUpOldest forgets the datagram that has been in the queue the longest.
func (fs *fragments) giveUpOldest(r packet.Reason) {
	oldest := fs.queue[0]
	fs.queue = fs.queue[1:]
	for _, frame := range fs.take(oldest.datagram) {
		fs.lost(r, oldest.key.lane, frame)
	}
	if fs.byKey[oldest.key] == oldest.datagram {
		fs.forget(oldest.key)
	}
}

// expire forgets datagrams that were not completed in time.
func (fs *fragments) expire(now flow.Tick) {
	for len(fs.queue) > 0 && int32(now-fs.queue[0].datagram.expires) >= 0 {
		fs.giveUpOldest(packet.FragmentTimeout)
	}
}

// firstFragment keeps the verdict that decide has just made and sends what waited for it.
func (l *lane) firstFragment(v *packet.View, now flow.Tick) packet.Reason {
	fs := l.engine.fragments
	key, d, r := fs.admit(l.id, v, now)
	if r != packet.None {
		return r
	}
	d.verdict, d.decided, d.of = l.out, true, l.witness.identity()
	l.waiting = fs.take(d)
	if d.complete() {
		fs.forget(key)
	}
	return packet.None
}

// laterFragment gives a fragment the verdict of its first, or has it wait.
func (l *lane) laterFragment(v *packet.View, now flow.Tick) packet.Reason {
	fs := l.engine.fragments
	key, d, r := fs.admit(l.id, v, now)
	switch {
	case r != packet.None:
		return r
	case !d.decided:
		l.out = verdict{exit: exitHeld}
		return fs.park(d, v.Frame)
	}
	l.out = d.verdict
	l.witness.like(d.of)
	if d.complete() {
		fs.forget(key)
	}
	return packet.None
}

// sendWaiting sends the fragments that had waited for the packet just handled.
func (l *lane) sendWaiting() {
	waiting, first := l.waiting, l.witness
	l.waiting = nil
	for _, frame := range waiting {
		l.witness = l.engine.ownWitness("port", l.link, frame)
		l.witness.sentOn(first)
		r := l.view.ParseOn(l.link, frame)
		if r == packet.None {
			l.engine.mu.Lock()
			if r = l.resolveLocked(&l.view); r == packet.None {
				l.count(&l.view)
			}
			l.engine.mu.Unlock()
			l.flush(l.engine)
		}
		if r == packet.None {
			r = l.send(&l.view)
		}
		if r != packet.None {
			l.engine.drop(r)
			l.witness.dropped(r)
		}
		l.witness.end()
	}
	l.witness = first
}
