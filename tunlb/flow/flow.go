package flow

import (
	"net/netip"
	"time"

	"github.com/tunlb/tunlb/stack/packet"
)

// Tick is a time on the caller's monotonic clock: milliseconds modulo 2^32. Two ticks are compared
// by their signed difference, so they must lie less than 24 days apart.
type Tick uint32

// Sub is t-u in milliseconds.
func (t Tick) Sub(u Tick) int32 { return int32(t - u) }

// Direction is a packet's way through its flow. The zero value is Forward.
type Direction uint8

const (
	Forward Direction = iota // client to server
	Reverse                  // server to client
)

func (d Direction) String() string {
	if d == Forward {
		return "forward"
	}
	return "reverse"
}

// Flow is one connection: two cache lines without pointers, so that the collector never scans a slab
// of them. A *Flow is borrowed from its Table until the flow is gone; the record is then used anew.
// Not safe for concurrent use.
type Flow struct {
	// First line, 64 bytes: what Find compares first.
	outerSrc, outerDst [16]byte // client, virtual address
	innerSrc, innerDst [16]byte // client or translated source, server

	// Second line, 64 bytes: the rest of what Find compares, and all that Track writes.
	outerSrcPort, outerDstPort uint16       // 4
	innerSrcPort, innerDstPort uint16       // 4
	proto                      uint8        // 1
	state                      State        // 1
	flags                      flags        // 2
	exits                      [2]uint8     // 2: by Direction; the engine's
	bucket                     uint16       // 2: the wheel's list that it is in
	server                     uint32       // 4: the engine's in the low 24 bits, the class of timeouts above
	seen                       Tick         // 4: time of the last packet
	next, prev                 uint32       // 8: neighbours in its bucket; next alone chains free records
	delta                      packet.Delta // 4: checksum delta, forward
	end, ack                   [2]uint32    // 16: sequence tracking by sender, see track.go
	bytesLow                   [2]uint32    // 8: bytes by Direction, modulo 2^48
	bytesHigh                  [2]uint16    // 4: (256 TiB)
}

// flags are a Flow's properties. 0 is a free record.
type flags uint16

const (
	live         flags = 1 << iota
	assured            // both sides take part, see Flow.Assured
	oneWay             // the answers do not pass here (direct routing, tunnels)
	gateway            // an inside host's own connection, RFC 4787 timeouts
	translated         // the source is translated, too
	endForward         // end[Forward] is known
	endReverse         // end[Reverse] is known
	ackedForward       // ack[Forward] is known
	ackedReverse       // ack[Reverse] is known
	answered           // not TCP: the server has sent something
	answersOnly        // the index has no entry for the client's packets
	_                  // three bits for Flow.Carriage, see carriageShift
	_
	_
	learnsAnew // the kernel has carried it, see SetCarriage
	doubtful   // closed by a RST that could not be judged, see trackCarried
)

func (f *Flow) is(bit flags) bool { return f.flags&bit != 0 }

// Outer is what the client sends.
func (f *Flow) Outer() packet.Tuple {
	return packet.Tuple{Src: f.outerSrc, Dst: f.outerDst, SrcPort: f.outerSrcPort, DstPort: f.outerDstPort, Proto: f.proto}
}

// Inner is what the server gets.
func (f *Flow) Inner() packet.Tuple {
	return packet.Tuple{Src: f.innerSrc, Dst: f.innerDst, SrcPort: f.innerSrcPort, DstPort: f.innerDstPort, Proto: f.proto}
}

// Edit turns a packet of direction d into what its receiver is to get.
func (f *Flow) Edit(d Direction) (e packet.Edit) {
	e.To.Proto = f.proto
	if d == Forward {
		e.To.Src, e.To.SrcPort = f.innerSrc, f.innerSrcPort
		e.To.Dst, e.To.DstPort = f.innerDst, f.innerDstPort
		e.Delta = f.delta
		return e
	}
	e.To.Src, e.To.SrcPort = f.outerDst, f.outerDstPort
	e.To.Dst, e.To.DstPort = f.outerSrc, f.outerSrcPort
	e.Delta = f.delta.Invert()
	return e
}

// carries says whether tu is what packets of direction d come with.
func (f *Flow) carries(tu *packet.Tuple, d Direction) bool {
	if d == Forward {
		return f.outerSrc == tu.Src && f.outerDst == tu.Dst &&
			f.outerSrcPort == tu.SrcPort && f.outerDstPort == tu.DstPort && f.proto == tu.Proto
	}
	return f.innerDst == tu.Src && f.innerSrc == tu.Dst &&
		f.innerDstPort == tu.SrcPort && f.innerSrcPort == tu.DstPort && f.proto == tu.Proto
}

// State is the connection's state; StateUDP or StateICMP where there is none.
func (f *Flow) State() State { return f.state }

// Active says which of a server's two counters the flow belongs to. IPVS counts SYN_RECV as active,
// and UDP as inactive.
func (f *Flow) Active() bool { return f.state == StateEstablished || f.state == StateSynRecv }

// Assured says that both sides take part: the client has acknowledged what the server alone could
// tell it, or sent another datagram after an answer (one query and its answer are not worth a place at the
// cap). A TCP connection that is over (TIME_WAIT, CLOSE) no longer is assured. An assured flow is not
// evicted but if it may be feigned and is idle, see evict.
func (f *Flow) Assured() bool { return f.is(assured) }

// Translated says whether the source is translated besides the destination.
func (f *Flow) Translated() bool { return f.is(translated) }

// feigned says that somebody with a forged address can have made the flow assured: the server's numbers, by which
// a TCP client shows that it hears, are not seen, or there are none. What hosts inside open is theirs.
func (f *Flow) feigned() bool {
	return f.is(assured) && (f.is(oneWay) || f.proto != packet.ProtoTCP) && !f.is(gateway)
}

// SetOneWay tells that the answers do not pass here, so that states are guessed from the client's
// half. To be called before the first Track.
func (f *Flow) SetOneWay() { f.flags |= oneWay }

// OneWay tells what SetOneWay has set.
func (f *Flow) OneWay() bool { return f.is(oneWay) }

// SetGateway tells that the flow is an inside host's own (or, by its mapping, to one), which gets the
// timeouts of RFC 5382. To be called before the first Track.
func (f *Flow) SetGateway() {
	f.flags |= gateway
	f.SetClass(classGateway)
}

// Gateway tells what SetGateway has set.
func (f *Flow) Gateway() bool { return f.is(gateway) }

// SetServer stores the server's ID, which is below 2^24; a new flow has 0.
func (f *Flow) SetServer(id uint32) { f.server = f.server&^serverMask | id&serverMask }

// Server tells what SetServer has stored.
func (f *Flow) Server() uint32 { return f.server & serverMask }

const (
	serverBits = 24
	serverMask = 1<<serverBits - 1
)

// SetClass gives the flow the timeouts of a class, see Table.SetClass. To be called before the first Track.
func (f *Flow) SetClass(class uint8) { f.server = f.server&serverMask | uint32(class)<<serverBits }

// Class tells what SetClass has set.
func (f *Flow) Class() uint8 { return uint8(f.server >> serverBits) }

// AnswersOnly says that the client's packets do not find the flow: it is there to translate what comes
// back, see Table.InsertAnswers.
func (f *Flow) AnswersOnly() bool { return f.is(answersOnly) }

// SetExit stores where packets of direction d leave.
func (f *Flow) SetExit(d Direction, exit uint8) { f.exits[d&1] = exit }

// Exit tells what SetExit has stored.
func (f *Flow) Exit(d Direction) uint8 { return f.exits[d&1] }

// Seen is the time of the last packet.
func (f *Flow) Seen() Tick { return f.seen }

// Bytes counts what came in direction d, IP headers included, modulo 2^48.
func (f *Flow) Bytes(d Direction) uint64 {
	return uint64(f.bytesHigh[d&1])<<32 | uint64(f.bytesLow[d&1])
}

func (f *Flow) addBytes(d Direction, n uint64) {
	sum := uint64(f.bytesLow[d&1]) + n
	f.bytesLow[d&1] = uint32(sum)
	f.bytesHigh[d&1] += uint16(sum >> 32)
}

// Snapshot is a flow as it is presented. It is a plain value and holds nothing of the table.
type Snapshot struct {
	Proto           uint8
	State           State
	Client, Virtual netip.AddrPort // as the client sees it
	Source, Server  netip.AddrPort // as the server sees it
	Expires         time.Duration  // if no further packet comes; at least 0
	Bytes           [2]uint64      // by Direction
	ServerID        uint32
	Exits           [2]uint8 // by Direction
	Carriage        Carriage

	Assured, OneWay, Gateway, Translated, AnswersOnly bool
}

// Snapshot copies a flow for presentation.
func (t *Table) Snapshot(f *Flow, now Tick) Snapshot {
	outer, inner := f.Outer(), f.Inner()
	return Snapshot{
		Proto: f.proto, State: f.state,
		Client: outer.Source(), Virtual: outer.Destination(),
		Source: inner.Source(), Server: inner.Destination(),
		Expires:  time.Duration(max(0, t.deadline(f).Sub(now))) * time.Millisecond,
		Bytes:    [2]uint64{f.Bytes(Forward), f.Bytes(Reverse)},
		ServerID: f.Server(),
		Exits:    f.exits,
		Carriage: f.Carriage(),
		Assured:  f.Assured(), OneWay: f.OneWay(), Gateway: f.Gateway(), Translated: f.Translated(), AnswersOnly: f.AnswersOnly(),
	}
}
