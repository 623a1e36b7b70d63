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
		return t.trackCarried(f, d, v, eventOf(v.TCPFlags), now)
	}
	old := f.state
	ev := eventOf(v.TCPFlags)
	if ev == eventNone || ev == eventSyn && f.is(doubtful) && old == StateClose { // for the latter see trackCarried
		return Change{Old: old, New: old}
	}
	judged := f.numbered(d)
	fits, heard := f.sequence(d, v, ev)
	switch ends := ev == eventRst || ev == eventFin; {
	case fits:
	case ends:
		// The FIN, too: two forged ones make a TIME_WAIT, which any SYN may then reuse.
		return Change{Old: old, New: old, Blind: true}
	case f.is(assured) && !f.is(oneWay):
		return Change{Old: old, New: old}
	}
	f.state = tcp[f.vantage(d)][ev][old]
	was := f.flags
	switch {
	case f.revives(ev):
		f.state = StateEstablished
	case ev == eventRst && !judged && f.is(learnsAnew):
		f.doubt()
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
// the flow is over. One-way, the client's FIN is all that is seen of an end: if it goes on to acknowledge what the server
// sends, the SYN is not its own. The engine then deletes the flow and opens a new one with the same packet.
func (f *Flow) ReusedBy(d Direction, v *packet.View, now Tick) bool {
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
		return f.is(oneWay) && now.Sub(f.seen) >= halfClosed
	default:
		return false
	}
}

// halfClosed is how long a client that has sent a FIN is silent before another connection may take its flow's place.
const halfClosed = 1000 // ms

// Sequence tracking. For each side the flow knows end, the highest sequence number it has sent, plus
// one, and ack, the highest it has acknowledged. That tells a segment of the connection from one that
// somebody sends who does not see it and has to guess (RFC 5961):
//
//   - A segment fits if it begins within maxWindow of its sender's end, acknowledges what the other side has
//     sent, and that not longer than maxWindow ago, and if both numbers together are near where its sender was
//     last, see near. Only then is it learned from, so that guesses do not move what later guesses are measured by.
//   - A RST fits if it has one of two numbers: where its sender's data end, or what its receiver has asked for
//     next. Between the two lies what is in flight, which in a fast download is easily met by guessing.
//   - A SYN sets its sender's end as long as the other side has not answered. A SYN-ACK says where both begin, and comes from
//     the server alone: until the client has been heard it is believed, whatever an earlier SYN has said.
//   - An error that quotes a segment fits if that may be in flight, see InFlight.
//
// maxWindow is not the negotiated window, which a flow would have to remember the scales for, but the
// largest that hosts use. Of a one-way flow the server's numbers are not seen, but what the client acknowledges.
// A RST that is not believed though it was genuine costs a place in the table until the idle timeout.
const (
	maxWindow = 1 << 24
	// handshakeWindow is the most that either side sends before the other acknowledges the handshake
	// (TCP Fast Open).
	handshakeWindow = 1 << 16
	// By nearby one guess in 2^26 is taken for the connection's, and for its FIN one in 2^30.
	nearby    = 1 << 32
	nearbyFIN = 1 << 28
)

// near says whether a segment is where its sender may have come since its last. A number may jump, after a loss before
// us or as the other side is fast, but hardly both: a sender of much data acknowledges little, and who mostly acknowledges has
// no data to lose. So the one's jump times the other's is bounded, by which a guess has to have one of both almost right.
func (f *Flow) near(d Direction, v *packet.View, ev event) bool {
	end, acked, acks := f.end[d], f.ack[d], f.ackKnown(d)
	if !f.endKnown(d) {
		end = f.ack[d^1] // a server's that is not seen: what the client has asked for
	}
	if !acks {
		acked, acks = f.end[d^1], f.endKnown(d^1)
	}
	gap := int32(v.Seq - end)
	if gap > maxWindow || gap < -maxWindow {
		return false
	}
	if v.TCPFlags&packet.TCPAck == 0 {
		return gap == 0 || ev != eventFin // its receiver won't heed it (RFC 9293, 3.10.7.4)
	}
	if !acks {
		return true
	}
	step := int32(v.Ack - acked)
	if gap > 0 && step < 0 {
		return false // who goes on does not take back what was acknowledged
	}
	limit := int64(nearby)
	if ev == eventFin {
		limit = nearbyFIN
	}
	area := int64(gap) * int64(step)
	return area <= limit && -area <= limit
}

// sequence says whether the segment fits what is known of the connection, and learns from it. heard:
// it is the client's and acknowledges, in this handshake, what only the server could tell it.
func (f *Flow) sequence(d Direction, v *packet.View, ev event) (fits, heard bool) {
	if ev == eventRst {
		return f.resetFits(d, v), false
	}
	if f.begins(d, v, ev) {
		return true, false
	}
	other := d ^ 1
	ends, ended := f.endKnown(d), f.endKnown(other)
	opening := ev == eventSyn && !ended && !f.ackKnown(d)
	switch {
	case ends && v.Seq == f.end[d] && ev != eventSyn, opening, !f.numbered(d): // the next byte, most of the time
	case ev == eventSyn || !f.near(d, v, ev):
		return false, false
	}
	acks, behind := v.TCPFlags&packet.TCPAck != 0, int32(0) // how far the other side is ahead of what is acknowledged
	if acks && ended {
		behind = int32(f.end[other] - v.Ack)
		if behind < 0 && behind > -maxWindow && ev == eventAck && ends && v.Seq == f.end[d] && f.ackKnown(d) {
			// Its receiver has got more than has fitted here: from now on that is known again.
			f.end[other], behind = v.Ack, 0
		}
		if (behind < 0 || behind > maxWindow) && !f.is(oneWay) { // of whose answers some may pass
			return false, false
		}
	}
	end := v.Seq + segmentLen(v)
	if !ends || opening || int32(end-f.end[d]) > 0 {
		f.end[d] = end
		f.flags |= endForward << d
	}
	if acks && (ended || f.is(oneWay)) {
		f.learnAck(d, v.Ack)
	}
	if acks && ended {
		heard = d == Forward && (behind < handshakeWindow || f.is(learnsAnew))
	}
	return true, heard
}

// begins says whether the segment is the SYN-ACK of a connection whose client has not been heard, and takes both sides' numbers from it.
func (f *Flow) begins(d Direction, v *packet.View, ev event) bool {
	if d != Reverse || ev != eventSyn || v.TCPFlags&packet.TCPAck == 0 || f.is(assured) {
		return false
	}
	f.flags = f.flags&^ackedForward | endForward | endReverse | ackedReverse
	f.end = [2]uint32{Forward: v.Ack, Reverse: v.Seq + segmentLen(v)}
	f.ack[Reverse] = v.Ack
	return true
}

// learnAck notes what a segment that fits acknowledges. What lies far back was no acknowledgement, but a guess before
// the first one that was.
func (f *Flow) learnAck(d Direction, ack uint32) {
	if step := int32(ack - f.ack[d]); !f.ackKnown(d) || step > 0 || step < -maxWindow {
		f.ack[d] = ack
		f.flags |= ackedForward << d
	}
}

// resetFits judges a RST, by what is known.
func (f *Flow) resetFits(d Direction, v *packet.View) bool {
	other := d ^ 1
	switch {
	case f.numbered(d):
		return f.endKnown(d) && v.Seq == f.end[d] || f.ackKnown(other) && v.Seq == f.ack[other]
	case !f.endKnown(other):
		return true // nothing to tell by
	default:
		// The answer to a SYN has no number of its own (RFC 9293, 3.10.7.1): it acknowledges the SYN.
		behind := int32(f.end[other] - v.Ack)
		return v.TCPFlags&packet.TCPAck != 0 && behind >= 0 && behind < handshakeWindow
	}
}

// numbered says whether it is known where the data of direction d are.
func (f *Flow) numbered(d Direction) bool { return f.endKnown(d) || f.ackKnown(d^1) }

// InFlight says whether a segment of direction d with this number may be on its way, as far as is known: from there an
// error comes that quotes it (RFC 5927, 4.1).
func (f *Flow) InFlight(d Direction, seq uint32) bool {
	from, to := f.ack[d^1], f.end[d]
	switch {
	case f.proto != packet.ProtoTCP || !f.numbered(d):
		return true
	case !f.endKnown(d):
		to = from + maxWindow
	case !f.ackKnown(d ^ 1):
		from = to - maxWindow
	}
	return int32(seq-from) >= 0 && int32(to-seq) >= 0
}

func (f *Flow) endKnown(d Direction) bool { return f.is(endForward << d) }
func (f *Flow) ackKnown(d Direction) bool { return f.is(ackedForward << d) }

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
