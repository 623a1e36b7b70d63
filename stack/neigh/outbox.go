package neigh

// Scope says where a frame is to go.
type Scope uint8

const (
	Back       Scope = iota // to the port that the message came from
	Unicast                 // to where its destination was last seen
	Everywhere              // out of all ports
	ClientSide              // out of all ports but the servers'
)

// Frame is one to send. The zero value is none. It is a plain value, kept in arrays so that a storm
// allocates nothing.
type Frame struct {
	Scope Scope
	Port  uint8 // valid iff Scope is Back
	n     uint8
	b     [max(ndEnd, mldEnd)]byte
}

// Bytes is vnet header | Ethernet | message, valid as long as f is.
func (f *Frame) Bytes() []byte { return f.b[:f.n] }

// reset returns n zero bytes to write a message into.
func (f *Frame) reset(n int) []byte {
	f.n = uint8(n)
	clear(f.b[:])
	return f.b[:n]
}

const (
	outboxLen = 256
	// reserve is what Tick leaves to answers: what it has no room for, it sends next time.
	reserve = 64
)

// outbox is a ring of frames that wait to be drained.
type outbox struct {
	ring        [outboxLen]Frame
	head, count int
}

// push returns the next free frame, nil if there is none.
func (o *outbox) push(scope Scope, port uint8) *Frame {
	if o.count == outboxLen {
		return nil
	}
	f := &o.ring[(o.head+o.count)%outboxLen]
	o.count++
	f.Scope, f.Port = scope, port
	return f
}

// room says whether Tick may go on.
func (o *outbox) room() bool { return o.count < outboxLen-reserve }

// Pending says whether Drain, Released or Events have something.
func (t *Table) Pending() bool { return t.out.count > 0 || len(t.released) > 0 || len(t.events) > 0 }

// Drain moves waiting frames into the caller's array and says how many; 0 when there are no more. The
// caller sends them when it has given up the lock.
func (t *Table) Drain(into []Frame) int {
	o := &t.out
	n := min(len(into), o.count)
	for i := range n {
		into[i] = o.ring[o.head]
		o.head = (o.head + 1) % outboxLen
	}
	o.count -= n
	return n
}
