package flow

import "github.com/tunlb/tunlb/stack/packet"

// Carriage says who carries a flow's packets. The engine decides; a new flow has ByUs.
type Carriage uint8

const (
	ByUs     Carriage = iota
	Offered           // by us still: the kernel is to be asked
	Asked             // the kernel is being asked: nobody knows
	ByKernel          // what it sees of the connection it carries
	Refused           // by us, and the kernel is not to be asked again
)

// Carriage tells what SetCarriage has set.
func (f *Flow) Carriage() Carriage { return Carriage(f.flags >> carriageShift & carriageMask) }

// SetCarriage notes who carries the flow from now on. Of a connection that the kernel carries only the packets that
// open or end it are seen (SYN, FIN, RST), or told of (Ended), so what is known of its sequence numbers is soon out of date: it is forgotten,
// and learned anew from the first segments that pass when the kernel has given it back.
func (f *Flow) SetCarriage(c Carriage) {
	if c == ByKernel || f.Carriage() == ByKernel {
		f.forget()
	}
	f.flags = f.flags&^(carriageMask<<carriageShift) | flags(c)<<carriageShift
}

func (f *Flow) forget() {
	f.flags &^= endForward | endReverse | ackedForward | ackedReverse
	f.flags |= learnsAnew
}

const (
	carriageShift = 11
	carriageMask  = 7
)

// LearnsAnew says that the flow has been in the kernel's hands.
func (f *Flow) LearnsAnew() bool { return f.is(learnsAnew) }

// Used tells what the kernel has carried of a flow in direction d, and how long ago the last of it was. A flow that is
// ByKernel does not expire in the meantime, see Silent.
func (t *Table) Used(f *Flow, d Direction, bytes uint64, idle Tick, now Tick) {
	f.addBytes(d, bytes)
	if seen := now - idle; seen.Sub(f.seen) > 0 {
		f.seen = seen
	}
}

// Silent says that the flow's time is over, as far as is known. One that is ByKernel is then to be taken back.
func (t *Table) Silent(f *Flow, now Tick) bool { return t.deadline(f).Sub(now) <= 0 }

// Ended follows a segment with FIN or RST that the kernel has carried, and counts itself, some time ago. Nothing comes of it if
// the flow has never been in the kernel's hands: it was of another one, of the same ends.
func (t *Table) Ended(f *Flow, d Direction, tcpFlags uint8, now Tick) Change {
	if c := f.Carriage(); c != ByKernel && c != Asked && !f.LearnsAnew() {
		return Change{Old: f.state, New: f.state}
	}
	f.seen = now
	return t.trackCarried(f, d, nil, eventOf(tcpFlags), now)
}

// carriedReview is when a flow that the kernel carries is looked at again, if by what has been seen here its time
// is over.
const carriedReview = 4 * slotTicks

// trackCarried is trackTCP for what is seen of a connection that the kernel carries, or may do. Its numbers can't be judged.
// A FIN and a RST are believed: the state leads to the timeouts that are right if they are genuine. A FIN that was
// forged costs little, since packets keep coming and with them the idle time begins anew. That of a forged RST
// would be short, and the next SYN might take the flow's place: so it is in doubt. A SYN changes nothing then: it goes to the
// connection's server, whose answer to one that is no SYN of a new connection keeps the old one alive (RFC 5961, 4). Nor
// does it in a connection that is established.
//
// v is nil for what has been seen by the kernel alone.
func (t *Table) trackCarried(f *Flow, d Direction, v *packet.View, ev event, now Tick) Change {
	old := f.state
	if ev == eventNone {
		return Change{Old: old, New: old}
	}
	if ev == eventSyn && old == StateEstablished {
		return Change{Old: old, New: old}
	}
	if v != nil && f.Carriage() == Asked {
		f.sequence(d, v, ev) // what is learned holds good if the kernel refuses
	}
	from := old
	if from == StateSynRecv && ev == eventFin {
		// The acknowledgement in between has gone by the kernel: in IPVS's table this would be the end of both
		// directions, while the server may still have a lot to say.
		from = StateEstablished
	}
	f.state = tcp[f.vantage(d)][ev][from]
	was := f.flags
	if f.state == StateTimeWait || f.state == StateClose {
		f.flags &^= assured
	}
	if ev == eventRst && f.state == StateClose && old != StateSynRecv && old != StateSynSent {
		f.doubt() // a handshake that is refused is not worth it
	}
	if f.state != old || f.flags != was {
		t.reschedule(f, now)
	}
	return Change{Old: old, New: f.state}
}

// doubt notes that the connection was closed by a RST which could not be judged.
func (f *Flow) doubt() {
	f.forget()
	f.flags |= doubtful
}

// revives says that a connection which was closed by a doubtful RST lives: both sides go on to speak. Whoever has sent a
// genuine one says no more but RST, which teaches no numbers.
func (f *Flow) revives(ev event) bool {
	return f.is(doubtful) && f.state == StateClose && ev == eventAck && f.endKnown(Forward) && f.endKnown(Reverse)
}
