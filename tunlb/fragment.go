package tunlb

import (
	"container/list"

	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/tunlb/flow"
	"github.com/tunlb/tunlb/tunlb/watch"
)

// Fragments are not reassembled: only the first of a datagram carries ports, so its verdict is kept
// for the others, which need their addresses edited and no more. Those that come before the first
// wait for it (RFC 1858, 3128, 5722, 8200 4.5).
//
// Memory is bounded, and so is what one source has of it: its own oldest datagram gives way. If all of it is in use, it is
// the oldest of those that wait for their first or of those that have seen it, whichever have more: so a flood of one
// kind, from sources made up, leaves half to the others.
const (
	maxParkedBytes   = 4 << 20             // of all datagrams, what is known of them included
	maxSourceBytes   = maxParkedBytes / 16 // of one source; four datagrams of the greatest length
	datagramBytes    = 1 << 10             // what one without parked fragments takes, at most
	maxDatagrams     = maxParkedBytes / datagramBytes
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

// sourceKey is who sends fragments: an IPv4 address, or what one IPv6 host has (its /64).
type sourceKey struct {
	src  [16]byte
	lane uint8
}

func (k *datagramKey) source() sourceKey {
	s := sourceKey{src: k.src, lane: k.lane}
	if !packet.Addr(k.src).Is4() {
		clear(s.src[8:])
	}
	return s
}

// origin is what one source has in flight.
type origin struct {
	held  int       // bytes
	order list.List // of *datagram, the oldest first
}

// datagram is what is known of one fragmented datagram.
type datagram struct {
	key     datagramKey
	verdict verdict
	decided bool // verdict is valid
	bad     bool // overlapping: nothing more of it is let through
	pieces  []piece
	covered int32
	total   int32 // 0 until the last fragment is seen
	parked  [][]byte
	held    int // bytes, of which datagramBytes for itself
	expires flow.Tick
	of      *watch.Record // where the first belongs; nil unless somebody looks on

	source       *origin
	inAll, inOwn *list.Element // where it is in its kind's order and in its source's
}

// fragments are the datagrams in flight. Guarded by the engine's lock.
type fragments struct {
	byKey    map[datagramKey]*datagram
	bySource map[sourceKey]*origin
	kinds    [2]kind                                         // those that wait for their first, and those that have seen it
	parked   int                                             // bytes of fragments that wait
	lost     func(r packet.Reason, lane uint8, frame []byte) // told of every parked fragment that is given up
}

// kind is a list of datagrams, the oldest first, and what they hold.
type kind struct {
	held  int
	order list.List
}

func newFragments(lost func(r packet.Reason, lane uint8, frame []byte)) *fragments {
	return &fragments{byKey: map[datagramKey]*datagram{}, bySource: map[sourceKey]*origin{}, lost: lost}
}

func (fs *fragments) kindOf(d *datagram) *kind {
	if d.decided {
		return &fs.kinds[1]
	}
	return &fs.kinds[0]
}

// admit records a fragment and returns its datagram.
func (fs *fragments) admit(lane uint8, v *packet.View, now flow.Tick) (*datagram, packet.Reason) {
	key := datagramKey{src: v.Tuple.Src, dst: v.Tuple.Dst, id: v.FragID, lane: lane}
	if !v.Is6 {
		key.proto = v.Tuple.Proto
	}
	d := fs.byKey[key]
	if d == nil {
		fs.makeRoom(fs.bySource[key.source()], datagramBytes, nil)
		d = &datagram{key: key, expires: now + datagramLifetime}
		fs.enter(d)
	}
	return d, d.add(v)
}

// enter adds a datagram, for which there is room.
func (fs *fragments) enter(d *datagram) {
	s := fs.bySource[d.key.source()]
	if s == nil {
		s = &origin{}
		fs.bySource[d.key.source()] = s
	}
	k := fs.kindOf(d)
	d.source, d.inAll, d.inOwn = s, k.order.PushBack(d), s.order.PushBack(d)
	fs.byKey[d.key] = d
	fs.charge(d, datagramBytes)
}

func (fs *fragments) charge(d *datagram, n int) {
	d.held += n
	d.source.held += n
	fs.kindOf(d).held += n
}

// makeRoom gives up datagrams until there is room for n bytes more of a source, which is nil if it is new. It is false if
// that would have to be d.
func (fs *fragments) makeRoom(s *origin, n int, d *datagram) bool {
	for {
		var oldest *list.Element
		switch {
		case s != nil && s.held+n > maxSourceBytes:
			oldest = s.order.Front()
		case fs.kinds[0].held+fs.kinds[1].held+n <= maxParkedBytes:
			return true
		case fs.kinds[0].held > fs.kinds[1].held:
			oldest = fs.kinds[0].order.Front()
		default:
			oldest = fs.kinds[1].order.Front()
		}
		give := oldest.Value.(*datagram)
		if give == d {
			return false
		}
		fs.giveUp(give, packet.FragmentLimit)
	}
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
	parked := append([]byte(nil), frame...)
	if !fs.makeRoom(d.source, cap(parked), d) {
		return packet.FragmentLimit
	}
	fs.charge(d, cap(parked))
	fs.parked += len(parked)
	d.parked = append(d.parked, parked)
	return packet.None
}

// decide notes that the first fragment has come, and takes what has waited for it.
func (fs *fragments) decide(d *datagram, out verdict, of *watch.Record) [][]byte {
	parked := fs.take(d)
	k := fs.kindOf(d)
	k.order.Remove(d.inAll)
	k.held -= d.held
	d.verdict, d.decided, d.of = out, true, of
	k = fs.kindOf(d)
	d.inAll = k.order.PushBack(d)
	k.held += d.held
	return parked
}

// forget removes a datagram, which has nothing parked.
func (fs *fragments) forget(d *datagram) {
	fs.charge(d, -d.held)
	fs.kindOf(d).order.Remove(d.inAll)
	d.source.order.Remove(d.inOwn)
	if d.source.order.Len() == 0 {
		delete(fs.bySource, d.key.source())
	}
	delete(fs.byKey, d.key)
}

// take empties a datagram's parked fragments.
func (fs *fragments) take(d *datagram) [][]byte {
	parked := d.parked
	d.parked = nil
	for _, frame := range parked {
		fs.parked -= len(frame)
		fs.charge(d, -cap(frame))
	}
	return parked
}

// giveUp forgets a datagram that is not complete.
func (fs *fragments) giveUp(d *datagram, r packet.Reason) {
	for _, frame := range fs.take(d) {
		fs.lost(r, d.key.lane, frame)
	}
	fs.forget(d)
}

// expire forgets datagrams that were not completed in time.
func (fs *fragments) expire(now flow.Tick) {
	for i := range fs.kinds {
		for {
			oldest := fs.kinds[i].order.Front()
			if oldest == nil || now.Sub(oldest.Value.(*datagram).expires) < 0 {
				break
			}
			fs.giveUp(oldest.Value.(*datagram), packet.FragmentTimeout)
		}
	}
}

// firstFragment keeps the verdict that decide has just made and sends what waited for it.
func (l *lane) firstFragment(v *packet.View, now flow.Tick) packet.Reason {
	fs := l.engine.fragments
	d, r := fs.admit(l.id, v, now)
	if r != packet.None {
		return r
	}
	l.waiting = fs.decide(d, l.out, l.witness.identity())
	if d.complete() {
		fs.forget(d)
	}
	return packet.None
}

// laterFragment gives a fragment the verdict of its first, or has it wait.
func (l *lane) laterFragment(v *packet.View, now flow.Tick) packet.Reason {
	fs := l.engine.fragments
	d, r := fs.admit(l.id, v, now)
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
		fs.forget(d)
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
