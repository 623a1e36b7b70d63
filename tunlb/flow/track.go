package flow

import "github.com/tunlb/tunlb/stack/packet"

// Change is what a packet did to its flow's state.
type Change struct {
	Old, New State
	// Blind: the segment's numbers do not fit the connection, and it would have ended it (RST, FIN).
	// It changed nothing; the receiver is the one to judge (RFC 5961).
	Blind bool
}

// Track follows a packet of direction d: time, bytes, state, timers.
func (t *Table) Track(f *Flow, d Direction, v *packet.View, now Tick) Change {
	f.seen = now
	f.addBytes(d, uint64(v.PacketLen()))
	if f.proto == packet.ProtoTCP {
		if v.FragOffset != 0 {
			return Change{Old: f.state, New: f.state} // no TCP header in there
		}
		return t.trackTCP(f, d, v, now)
	}
	switch {
	case d == Reverse:
		f.flags |= answered
	case f.is(answered) && !f.is(assured) && f.proto == packet.ProtoUDP:
		f.flags |= assured
		t.reschedule(f, now)
	}
	return Change{Old: f.state, New: f.state}
}

func (t *Table) trackTCP(f *Flow, d Direction, v *packet.View, now Tick) Change {
	if c := f.Carriage(); c == ByKernel || c == Asked {
		return t.trackCarried(f, d, v, now)
	}
	old := f.state
	ev := eventOf(v.TCPFlags)
	if ev == eventSyn && f.is(doubtful) && old == StateClose {
		return Change{Old: old, New: old} // see trackCarried
	}
	fits, heard := f.sequence(d, v, ev)
	switch {
	case ev == eventNone:
		return Change{Old: old, New: old}
	case !fits && (ev == eventRst || ev == eventFin):
		// The FIN, too: two forged ones make a TIME_WAIT, which any SYN may then reuse.
		return Change{Old: old, New: old, Blind: true}
	}
	f.state = tcp[f.vantage(d)][ev][old]
	was := f.flags
	if f.revives(ev) {
		f.state = StateEstablished
	}
	switch {
	case f.state == StateTimeWait || f.state == StateClose:
		f.flags &^= assured // over: may be evicted
	case f.state == StateEstablished && (heard || f.is(oneWay)):
		f.flags |= assured
	}
	if f.state != old || f.flags != was {
		t.reschedule(f, now)
	}
	return Change{Old: old, New: f.state}
}

// eventOf is what the flags mean to the state machine.
func eventOf(tcpFlags uint8) event {
	switch {
	case tcpFlags&packet.TCPRst != 0:
		return eventRst
	case tcpFlags&packet.TCPSyn != 0:
		return eventSyn
	case tcpFlags&packet.TCPFin != 0:
		return eventFin
	case tcpFlags&packet.TCPAck != 0:
		return eventAck
	}
	return eventNone
}

func (f *Flow) vantage(d Direction) vantage {
	switch {
	case d == Reverse:
		return output
	case f.is(oneWay):
		return inputOnly
	default:
		return input
	}
}

// ReusedBy says that the packet opens a new connection of the same endpoints: a SYN of the client when
// the flow is over. One-way, the client's FIN is all that is seen of an end. The engine then deletes
// the flow and opens a new one with the same packet.
func (f *Flow) ReusedBy(d Direction, v *packet.View) bool {
	if f.proto != packet.ProtoTCP || d != Forward || v.FragOffset != 0 ||
		v.TCPFlags&(packet.TCPSyn|packet.TCPAck|packet.TCPRst|packet.TCPFin) != packet.TCPSyn {
		return false
	}
	switch f.state {
	case StateClose:
		return !f.is(doubtful) // it may be alive: its server is asked first
	case StateTimeWait, StateLastAck:
		return true
	case StateFinWait:
		return f.is(oneWay)
	default:
		return false
	}
}

// Sequence tracking. For each side the flow knows end, the highest sequence number it has sent, plus
// one, and ack, the highest it has acknowledged. That tells a segment of the connection from one that
// somebody sends who does not see it and has to guess (RFC 5961):
//
//   - A segment fits if it begins within maxWindow of its sender's end and acknowledges what the
//     other side has sent, and that not longer than maxWindow ago. Only then is it learned from, so
//     that guesses do not move what later guesses are measured by.
//   - A RST fits if it lies between what its receiver has acknowledged and its sender's end, which is
//     where the receiver's next expected byte is.
//   - A SYN sets its sender's end as long as the other side has not answered.
//
// maxWindow is not the negotiated window, which a flow would have to remember the scales for, but the
// largest that hosts use. A wild segment gets by both tests once in 2^15, and the RST that it prepares
// has to be guessed then.
const (
	maxWindow = 1 << 24
	// handshakeWindow is the most that either side sends before the other acknowledges the handshake
	// (TCP Fast Open).
	handshakeWindow = 1 << 16
)

// sequence says whether the segment fits what is known of the connection, and learns from it. heard:
// it is the client's and acknowledges, in this handshake, what only the server could tell it.
func (f *Flow) sequence(d Direction, v *packet.View, ev event) (fits, heard bool) {
	if ev == eventRst {
		return f.resetFits(d, v), false
	}
	other := d ^ 1
	ends, ended := f.endKnown(d), f.endKnown(other)
	acks := v.TCPFlags&packet.TCPAck != 0
	if ends && (ended || ev != eventSyn) && beyond(v.Seq, f.end[d], maxWindow) {
		return false, false
	}
	behind := int32(0) // how far the other side is ahead of what is acknowledged
	if acks && ended {
		if behind = int32(f.end[other] - v.Ack); behind < 0 || behind > maxWindow {
			return false, false
		}
	}
	end := v.Seq + segmentLen(v)
	if !ends || (ev == eventSyn && !ended) || int32(end-f.end[d]) > 0 {
		f.end[d] = end
		f.flags |= endForward << d
	}
	if acks && ended {
		if !f.ackKnown(d) || int32(v.Ack-f.ack[d]) > 0 {
			f.ack[d] = v.Ack
			f.flags |= ackedForward << d
		}
		heard = d == Forward && (behind < handshakeWindow || f.is(learnsAnew))
	}
	return true, heard
}

// resetFits judges a RST, by what is known.
func (f *Flow) resetFits(d Direction, v *packet.View) bool {
	other := d ^ 1
	switch {
	case !f.endKnown(d) && !f.endKnown(other):
		return true // nothing to tell by
	case !f.endKnown(d):
		// The answer to a SYN has no number of its own (RFC 9293, 3.10.7.1): it acknowledges the SYN.
		behind := int32(f.end[other] - v.Ack)
		return v.TCPFlags&packet.TCPAck != 0 && behind >= 0 && behind < handshakeWindow
	case !f.ackKnown(other):
		return v.Seq == f.end[d]
	default:
		return int32(v.Seq-f.ack[other]) >= 0 && int32(f.end[d]-v.Seq) >= 0
	}
}

func (f *Flow) endKnown(d Direction) bool { return f.is(endForward << d) }
func (f *Flow) ackKnown(d Direction) bool { return f.is(ackedForward << d) }

// beyond says whether a and b are farther apart than limit.
func beyond(a, b uint32, limit int32) bool {
	d := int32(a - b)
	return d > limit || d < -limit
}

// segmentLen is how many sequence numbers the segment takes.
func segmentLen(v *packet.View) uint32 {
	n := uint32(len(v.Frame) - v.Payload)
	if v.TCPFlags&packet.TCPSyn != 0 {
		n++
	}
	if v.TCPFlags&packet.TCPFin != 0 {
		n++
	}
	return n
}

// Reset is the reset that would end the connection for the receiver of direction d, as its peer would send it.
// It is not ok for a connection that is not TCP, or of which too little is known: the receiver heeds only
// the number that it expects next (RFC 5961, 3.2).
func (f *Flow) Reset(d Direction) (tu packet.Tuple, seq, ack uint32, ok bool) {
	if f.proto != packet.ProtoTCP || !f.endKnown(d) {
		return tu, 0, 0, false
	}
	if tu = f.Inner(); d == Reverse {
		tu = f.Outer().Reverse()
	}
	return tu, f.end[d], f.end[d^1], true
}
