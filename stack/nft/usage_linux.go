package nft

import (
	"fmt"
	"iter"
	"math"
	"net/netip"
	"os"
	"time"

	"github.com/tunlb/tunlb/stack/packet"
	"golang.org/x/sys/unix"
)

// inquiry is how many connections are asked for at a time: there is room for the answers.
const inquiry = 32

// Usage visits what has been carried of both directions of each connection, in no order. Of those that are added or
// removed meanwhile some may be missed, or visited twice. Add and Remove do not wait for it; another Usage and Close do.
// visit must call neither.
//
// The kernel is asked for each connection, which takes 4 µs: a dump of all starts anew from the first at every 32 KiB, so
// that 100,000 would take seconds. It counts, and nothing else: an element's expression that knows when it was used last
// makes nft up to 1.0.6 crash.
func (c *Carrier) Usage(visit func(Usage)) error {
	c.reading.Lock()
	defer c.reading.Unlock()
	for at := math.MaxInt; at > 0; {
		if c.reader == nil {
			return fmt.Errorf("read connections: %w", os.ErrClosed)
		}
		c.mu.Lock()
		c.some, at = c.known.before(at, c.some)
		c.mu.Unlock()
		if len(c.some) == 0 {
			break
		}
		counts, err := c.inquire()
		if err != nil {
			return fmt.Errorf("read connections: %w", err)
		}
		c.mu.Lock()
		now := c.now()
		for i := range counts {
			e := &c.some[counts[i].of]
			if known := c.known.find(e.outer, e.inner); known != nil {
				counts[i].usage.Idle = known.seen[counts[i].way()].idle(counts[i].usage.Packets, now)
			}
		}
		c.mu.Unlock()
		for i := range counts {
			visit(counts[i].usage)
		}
	}
	return nil
}

// count is what the kernel says of one direction, of one of the connections that it was asked for.
type count struct {
	usage Usage
	of    int
}

func (c *count) way() int {
	if c.usage.Reverse {
		return 1
	}
	return 0
}

// inquire asks for some connections.
func (c *Carrier) inquire() ([]count, error) {
	b := &c.request
	b.begin(c.table, c.reader.next)
	for i := range c.some {
		b.look(&c.some[i])
	}
	c.counts = c.counts[:0]
	err := c.reader.ask(b, func(m message) {
		of := int(m.seq - b.first)
		for e := range elements(m) {
			if of < len(c.some) {
				c.counts = append(c.counts, count{e.usage(e.from != c.some[of].outer), of})
			}
		}
	})
	return c.counts, err
}

// teller tells of what is gone as the kernel does: by its elements, not in their order.
func (c *Carrier) teller(last func(Usage)) func(message) {
	now := c.now()
	at := make(map[packet.Tuple]*entry, len(c.gone))
	for i := range c.gone {
		at[c.gone[i].outer] = &c.gone[i]
	}
	return func(m message) {
		for e := range elements(m) {
			n := count{usage: e.usage(false)}
			gone := at[e.from]
			if gone == nil || gone.inner != e.to { // so it is an answer
				n.usage = e.usage(true)
				gone = at[n.usage.Outer]
			}
			if gone != nil {
				n.usage.Idle = gone.seen[n.way()].idle(n.usage.Packets, now)
				last(n.usage)
			}
		}
	}
}

// element is one direction of a connection, as the kernel has it.
type element struct {
	from, to       packet.Tuple
	packets, bytes uint64
}

func (e *element) usage(reverse bool) Usage {
	u := Usage{Outer: e.from, Reverse: reverse, Packets: e.packets, Bytes: e.bytes}
	if reverse {
		u.Outer = e.to.Reverse()
	}
	return u
}

// elements reads those of a message.
func elements(m message) iter.Seq[element] {
	return func(yield func(element) bool) {
		for typ, list := range m.attributes() {
			if typ != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
				continue
			}
			for _, b := range attributes(list) {
				if e, ok := elementOf(b); ok && !yield(e) {
					return
				}
			}
		}
	}
}

func elementOf(b []byte) (e element, ok bool) {
	var key, data []byte
	for typ, value := range attributes(b) {
		switch typ {
		case unix.NFTA_SET_ELEM_KEY:
			key = valueOf(value)
		case unix.NFTA_SET_ELEM_DATA:
			data = valueOf(value)
		case unix.NFTA_SET_ELEM_EXPR: // which there is only one of: the counter
			for typ, value := range attributes(value) {
				if typ == unix.NFTA_EXPR_DATA {
					e.bytes, e.packets = number(value, unix.NFTA_COUNTER_BYTES), number(value, unix.NFTA_COUNTER_PACKETS)
				}
			}
		}
	}
	for _, f := range families {
		if len(key) == f.keyLength() && len(data) == f.dataLength() {
			proto := key[len(key)-4]
			e.from, e.to = f.tuple(key, proto), f.tuple(data, proto)
			return e, true
		}
	}
	return e, false
}

// now is the time since the carrier was opened.
func (c *Carrier) now() stamp { return stampOf(time.Since(c.opened)) }

// tuple reads what ends has written.
func (f *family) tuple(b []byte, proto uint8) packet.Tuple {
	n := f.addr.bytes
	src, _ := netip.AddrFromSlice(b[:n])
	dst, _ := netip.AddrFromSlice(b[n : 2*n])
	return packet.Tuple{
		Src: src.As16(), Dst: dst.As16(), Proto: proto,
		SrcPort: be.Uint16(b[2*n:]), DstPort: be.Uint16(b[2*n+2:]),
	}
}

// valueOf is what batch.data writes.
func valueOf(data []byte) []byte {
	for typ, value := range attributes(data) {
		if typ == unix.NFTA_DATA_VALUE {
			return value
		}
	}
	return nil
}

// number is an integer among attributes; 0 if it is not there.
func number(list []byte, typ uint16) (n uint64) {
	for t, value := range attributes(list) {
		if t == typ {
			for _, b := range value {
				n = n<<8 | uint64(b)
			}
		}
	}
	return n
}
