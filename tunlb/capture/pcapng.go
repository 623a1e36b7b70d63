package capture

import (
	"encoding/binary"
	"io"
	"math/bits"
	"strings"
)

// described is an interface of the section that is read.
type described struct {
	name   string
	link   int
	snap   uint32
	unit   unit
	offset int64 // seconds to add to all times
}

// unit is what the times of an interface count: 10^-exponent or 2^-exponent seconds.
type unit struct {
	binary   bool
	exponent uint8
}

func endOr(err error) error {
	if err == nil {
		return io.EOF
	}
	return err
}

// nextBlock goes through the blocks up to the next packet.
func (d *Reader) nextBlock() error {
	for {
		end, err := d.atEnd()
		if end || err != nil {
			return endOr(err)
		}
		at := d.offset
		kind, body, err := d.block(at)
		if err != nil {
			return err
		}
		switch kind {
		case blockSection:
			err = d.section(body, at)
		case blockInterface:
			err = d.describe(body, at)
		case blockPacket, blockPacketOld, blockSimple:
			return d.packetOf(kind, body, at)
		}
		if err != nil {
			return err
		}
	}
}

// block reads a block. The body of one that nobody wants is passed by.
func (d *Reader) block(at int64) (kind uint32, body []byte, err error) {
	head, err := d.take(8, at)
	if err != nil {
		return 0, nil, err
	}
	var first [8]byte
	copy(first[:], head)
	if le.Uint32(first[:]) == blockSection { // the same either way round
		kind = blockSection
		if err := d.orderOf(at); err != nil {
			return 0, nil, err
		}
	} else if d.order == nil {
		return 0, nil, d.damaged(at, "there is a block before the first section")
	} else {
		kind = d.order.Uint32(first[:])
	}
	length := d.order.Uint32(first[4:])
	if length < blockOverhead || length%4 != 0 {
		return 0, nil, d.damaged(at, "its block is said to be %d bytes long", length)
	}
	switch kind {
	case blockSection, blockInterface, blockPacket, blockPacketOld, blockSimple:
		if length > maxBlock {
			return 0, nil, d.damaged(at, "its block is said to be %d bytes long, more than the %d of any packet", length, maxBlock)
		}
		body, err = d.take(int(length)-8, at)
		if err != nil {
			return 0, nil, err
		}
		body = body[:len(body)-4]
		if again := d.order.Uint32(d.buf[len(body):]); again != length {
			return 0, nil, d.damaged(at, "its block is said to be %d bytes long in front and %d behind", length, again)
		}
	default: // statistics, names, secrets, others' own
		err = d.skip(int64(length)-8, at)
	}
	return kind, body, err
}

// orderOf looks at the byte order of the section that begins.
func (d *Reader) orderOf(at int64) error {
	magic, err := d.r.Peek(4)
	if len(magic) < 4 {
		return d.cut(endOr(err), at)
	}
	switch le.Uint32(magic) {
	case byteOrder:
		d.order = binary.LittleEndian
	case byteOrderTurned:
		d.order = binary.BigEndian
	default:
		return d.damaged(at, "a section has %x where its byte order should be", magic)
	}
	return nil
}

// section begins anew: byte order (4), version (4), length of all (8), options.
func (d *Reader) section(body []byte, at int64) error {
	if len(body) < 16 {
		return d.damaged(at, "a section's head has %d bytes only", len(body))
	}
	if major := d.order.Uint16(body[4:]); major != 1 {
		return d.fault(at, "it is pcapng of a version that tunlb does not know", "turn it with `editcap -F pcapng IN OUT`")
	}
	d.interfaces, d.own = nil, false
	d.options(body[16:], func(code uint16, value []byte) {
		if code == shbUserAppl {
			d.own = strings.HasPrefix(string(value), Application)
		}
	})
	return nil
}

// Application is what the name of every tunlb in a file's head begins with.
const Application = "tunlb "

// describe reads an interface: link type (2), nothing (2), snap length (4), options.
func (d *Reader) describe(body []byte, at int64) error {
	const tsOffset = 14
	switch {
	case len(body) < 8:
		return d.damaged(at, "an interface's block has %d bytes only", len(body))
	case len(d.interfaces) == maxInterfaces:
		return d.damaged(at, "there are more than %d interfaces", maxInterfaces)
	}
	i := described{link: int(d.order.Uint16(body)), snap: d.order.Uint32(body[4:]), unit: unit{exponent: 6}}
	d.options(body[8:], func(code uint16, value []byte) {
		switch {
		case code == ifName:
			i.name = string(value)
		case code == ifTSResol && len(value) == 1:
			i.unit = unit{binary: value[0]&0x80 != 0, exponent: value[0] & 0x7f}
		case code == tsOffset && len(value) == 8:
			i.offset = int64(d.order.Uint64(value))
		}
	})
	d.interfaces = append(d.interfaces, i)
	return nil
}

// options visits the options of a block up to their end, or to the first that makes no sense: nothing depends on them.
func (d *Reader) options(b []byte, visit func(code uint16, value []byte)) {
	for len(b) >= 4 {
		code, n := d.order.Uint16(b), int(d.order.Uint16(b[2:]))
		if b = b[4:]; code == optEnd || n > len(b) {
			return
		}
		visit(code, b[:n])
		b = b[min(len(b), n+-n&3):]
	}
}

// packetOf reads one of the three blocks that have a packet.
func (d *Reader) packetOf(kind uint32, body []byte, at int64) error {
	const simple, enhanced = 4, 20 // bytes in front of the data
	head := enhanced
	if kind == blockSimple {
		head = simple
	}
	if len(body) < head {
		return d.damaged(at, "its block has %d bytes only", len(body))
	}
	var id int
	var captured, length uint32
	switch kind {
	case blockSimple:
		length = d.order.Uint32(body)
		captured = min(length, uint32(len(body)-simple))
	case blockPacketOld:
		id = int(d.order.Uint16(body))
	default:
		id = int(d.order.Uint32(body))
	}
	if id >= len(d.interfaces) {
		return d.damaged(at, "it is one of interface %d, which nobody has described", id)
	}
	from := &d.interfaces[id]
	ns := d.time
	if kind == blockSimple {
		if from.snap > 0 {
			captured = min(captured, from.snap)
		}
	} else {
		captured, length = d.order.Uint32(body[12:]), d.order.Uint32(body[16:])
		var ok bool
		if ns, ok = from.time(uint64(d.order.Uint32(body[4:]))<<32 | uint64(d.order.Uint32(body[8:]))); !ok {
			return d.fault(at, timeless, shiftTime)
		}
	}
	if int64(captured) > int64(len(body)-head) || captured > maxPacket || length > 1<<31 {
		return d.damaged(at, "its length is said to be %d of %d bytes, and its block has %d", captured, length, len(body)-head)
	}
	data := body[head : head+int(captured)]
	d.packet = Packet{Offset: at, Time: ns, Link: from.link, Length: max(int(length), len(data)), Data: data, Port: from.name, Own: d.own}
	if kind == blockPacket {
		d.options(body[min(len(body), head+int(captured)+-int(captured)&3):], func(code uint16, value []byte) {
			switch {
			case code == optComment && d.packet.Comment == "":
				d.packet.Comment = string(value)
				if d.own {
					d.packet.Segment = segmentOf(d.packet.Comment)
				}
			case code == epbFlags && len(value) == 4:
				d.packet.Side = sideOf(d.order.Uint32(value))
			}
		})
	}
	return nil
}

// time turns what the interface counts into ns since 1970.
func (i *described) time(count uint64) (ns int64, ok bool) {
	const second = 1_000_000_000
	var seconds, fraction uint64
	switch e := i.unit.exponent; {
	case i.unit.binary && e > 63, !i.unit.binary && e > 19: // of which 2^64 are no second
	case i.unit.binary:
		seconds = count >> e
		high, low := bits.Mul64(count&(1<<e-1), second)
		fraction = low>>e | high<<(64-e) // e is below 64, and a shift by 64 is 0
	default:
		perSecond := uint64(1)
		for range e {
			perSecond *= 10
		}
		seconds = count / perSecond
		high, low := bits.Mul64(count%perSecond, second)
		fraction, _ = bits.Div64(high, low, perSecond)
	}
	if seconds > 1<<40 || i.offset > 1<<40 || i.offset < -1<<40 {
		return 0, false
	}
	return nanoseconds(int64(seconds)+i.offset, int64(fraction))
}
