package capture

import (
	"encoding/binary"
	"fmt"
)

// classic is what the head of a pcap file says.
type classic struct {
	link int
	unit int64 // of the fractions of seconds, in ns
}

// openClassic reads the head of a pcap file: magic (4), version (4), two numbers nobody uses (8), snap length (4),
// link type (4).
func (d *Reader) openClassic(magic []byte) error {
	const micro, nano, modified = 0xa1b2c3d4, 0xa1b23c4d, 0xa1b2cd34
	refuse := func(what, instead string) error { return &Error{File: d.file, What: what, Instead: instead} }
	for _, d.order = range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		switch d.order.Uint32(magic) {
		case micro:
			d.classic.unit = 1000
		case nano:
			d.classic.unit = 1
		case modified:
			return refuse("it is pcap of a kind that nobody writes any more", "turn it with `editcap -F pcapng IN OUT`")
		default:
			continue
		}
		head, err := d.take(24, 0)
		if err != nil {
			return refuse("the file ends in its head", "want pcap or pcapng")
		}
		const checkLength = 1<<28 - 1 // above is the length of Ethernet's checksum
		d.classic.link = int(d.order.Uint32(head[20:]) & checkLength)
		if bsd := d.classic.link; bsd == 12 || bsd == 14 {
			d.classic.link = LinkRaw // what some systems call it
		}
		d.next = d.nextClassic
		return nil
	}
	if magic[0] == 0x1f && magic[1] == 0x8b {
		return refuse("it is compressed", "unpack it with `gunzip`")
	}
	return refuse(fmt.Sprintf("it begins with %x: this is neither pcap nor pcapng", magic), "turn it with `editcap -F pcapng IN OUT`, if Wireshark can read it")
}

// nextClassic reads a record: seconds (4), fraction (4), captured length (4), length on the wire (4), data.
func (d *Reader) nextClassic() error {
	end, err := d.atEnd()
	if end || err != nil {
		return endOr(err)
	}
	at := d.offset
	head, err := d.take(16, at)
	if err != nil {
		return err
	}
	seconds, fraction := int64(d.order.Uint32(head)), int64(d.order.Uint32(head[4:]))*d.classic.unit
	captured, length := d.order.Uint32(head[8:]), d.order.Uint32(head[12:])
	if captured > maxPacket || length > 1<<31 {
		return d.damaged(at, "its length is said to be %d of %d bytes, and no packet is longer than %d", captured, length, maxPacket)
	}
	ns, ok := nanoseconds(seconds, fraction)
	if !ok {
		return d.fault(at, timeless, shiftTime)
	}
	data, err := d.take(int(captured), at)
	if err != nil {
		return err
	}
	d.packet = Packet{Offset: at, Time: ns, Link: d.classic.link, Length: max(int(length), len(data)), Data: data}
	return nil
}
