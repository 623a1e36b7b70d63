package nft

import (
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/tunlb/tunlb/stack/packet"
	"golang.org/x/sys/unix"
)

// A note is a direction and a time, in steps of 10 ms since the carrier was opened, which start anew after 248 days.
const (
	reverseNote = 1 << 31
	noteStep    = 10 * time.Millisecond
)

func (c *Carrier) stamp() uint32 { return uint32(time.Since(c.opened)/noteStep) &^ reverseNote }

// Usage visits what has been carried of both directions of each connection, in no order. Connections that are added or
// removed meanwhile may be missed, and with them others, or visited twice: what was not visited is not known to be idle.
// Nothing waits for it but another Usage. visit must not call Usage or Close.
func (c *Carrier) Usage(visit func(Usage)) error {
	c.reading.Lock()
	defer c.reading.Unlock()
	if c.reader == nil {
		return fmt.Errorf("read connections: %w", os.ErrClosed)
	}
	for _, f := range families {
		c.request.ask(c.table, c.reader.next, unix.NFT_MSG_GETSETELEM)
		c.request.text(unix.NFTA_SET_ELEM_LIST_SET, f.chain("connections"))
		now := c.stamp()
		err := c.reader.dump(&c.request, func(m message) {
			for typ, list := range m.attributes() {
				if typ != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
					continue
				}
				for _, element := range attributes(list) {
					if u, ok := f.usage(element, now); ok {
						visit(u)
					}
				}
			}
		})
		if err != nil {
			return fmt.Errorf("read connections: %w", err)
		}
	}
	return nil
}

// usage reads an element.
func (f *family) usage(element []byte, now uint32) (u Usage, ok bool) {
	var key, data []byte
	last := time.Duration(-1)
	for typ, value := range attributes(element) {
		switch typ {
		case unix.NFTA_SET_ELEM_KEY:
			key = valueOf(value)
		case unix.NFTA_SET_ELEM_DATA:
			data = valueOf(value)
		case nftaElemExprs:
			for _, e := range attributes(value) {
				u.count(e, &last)
			}
		}
	}
	if len(key) != f.keyLength() || len(data) != f.dataLength() {
		return u, false
	}
	note := be.Uint32(data[len(data)-4:])
	from := f.tuple(key, key[len(key)-4])
	u.Outer, u.Reverse, u.Idle = from, note&reverseNote != 0, last
	if u.Reverse {
		u.Outer = f.tuple(data, from.Proto).Reverse()
	}
	if last < 0 {
		u.Idle = time.Duration((now-note)&^reverseNote) * noteStep
	}
	return u, true
}

// count reads one of an element's expressions.
func (u *Usage) count(e []byte, last *time.Duration) {
	var name string
	for typ, value := range attributes(e) {
		switch {
		case typ == unix.NFTA_EXPR_NAME:
			name = unix.ByteSliceToString(value)
		case typ != unix.NFTA_EXPR_DATA:
		case name == "counter":
			u.Bytes, u.Packets = number(value, unix.NFTA_COUNTER_BYTES), number(value, unix.NFTA_COUNTER_PACKETS)
		case name == "last" && number(value, nftaLastSet) != 0:
			*last = time.Duration(number(value, nftaLastMsecs)) * time.Millisecond
		}
	}
}

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
