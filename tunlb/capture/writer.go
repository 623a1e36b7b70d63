package capture

import (
	"fmt"
	"io"
	"time"

	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/tunlb/watch"
)

// MaxSnap keeps every frame whole: an IP packet of 65535 bytes and its Ethernet header.
const MaxSnap = 65535 + 14

// Header is what a file says of itself. The zero value says nothing.
type Header struct {
	Hardware, OS, Application string
}

// Options are fixed for a Writer's life. The zero value writes both sides and says nothing of itself.
type Options struct {
	Header Header
	Side   Side // 0 means Both
	Snap   int  // what files say of how much of a frame is kept; 0 means MaxSnap
}

// Writer writes records as pcapng, an interface for each port, described when its first frame turns up. It writes
// whole blocks and buffers nothing: give it a bufio.Writer. Not safe for concurrent use; needs no closing, but see
// Stats. The first error is that of all further calls.
type Writer struct {
	w    io.Writer
	opts Options
	buf  []byte // of the block in hand
	err  error

	interfaces []iface
	first      uint64 // time of the first record; that of the last
	last       uint64
	packets    uint64
}

// iface is an interface of the file, and how many packets were written for it.
type iface struct {
	port     string
	ethernet bool
	packets  uint64
}

// NewWriter writes the section header.
func NewWriter(w io.Writer, o Options) (*Writer, error) {
	if o.Side == 0 {
		o.Side = Both
	}
	if o.Snap <= 0 {
		o.Snap = MaxSnap
	}
	c := &Writer{w: w, opts: o}
	return c, c.section()
}

// section writes the head of the file. Its length is not known beforehand, which is said by -1.
func (c *Writer) section() error {
	b := openBlock(c.buf[:0], blockSection)
	b = le.AppendUint32(b, byteOrder)
	b = append(b, 1, 0, 0, 0) // version 1.0
	b = le.AppendUint64(b, 1<<64-1)
	for _, o := range []struct {
		code uint16
		text string
	}{{shbHardware, c.opts.Header.Hardware}, {shbOS, c.opts.Header.OS}, {shbUserAppl, c.opts.Header.Application}} {
		if o.text != "" {
			b = appendText(b, o.code, o.text)
		}
	}
	return c.write(closeBlock(endOptions(b), 0))
}

func (c *Writer) write(b []byte) error {
	c.buf = b
	if c.err != nil {
		return c.err
	}
	n, err := c.w.Write(b)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	c.err = err
	return err
}

// Packets counts what was written.
func (c *Writer) Packets() uint64 { return c.packets }

// Write writes the frames of a record, of the sides that are asked for. The record is borrowed.
func (c *Writer) Write(r *watch.Record) error {
	if r.In != nil && c.opts.Side&In != 0 {
		if err := c.frame(r, r.In, In); err != nil {
			return err
		}
	}
	if c.opts.Side&Out == 0 {
		return nil
	}
	for i := range r.Out {
		if err := c.frame(r, &r.Out[i], Out); err != nil {
			return err
		}
	}
	return nil
}

// frame writes one packet: without its vnet header, and with its checksum finished where that was left to a device.
func (c *Writer) frame(r *watch.Record, f *watch.Frame, side Side) error {
	if len(f.Data) < packet.VnetLen {
		return nil // no frame of a port
	}
	id, err := c.interfaceOf(f)
	if err != nil {
		return err
	}
	ns := uint64(r.Time.UnixNano())
	if c.packets == 0 {
		c.first = ns
	}
	c.last = max(c.last, ns)
	data := f.Data[packet.VnetLen:]
	b := openBlock(c.buf[:0], blockPacket)
	for _, n := range [...]uint32{uint32(id), uint32(ns >> 32), uint32(ns), uint32(len(data)), uint32(f.Length)} {
		b = le.AppendUint32(b, n)
	}
	at := len(b)
	b = append(b, data...)
	partial := !finish(b[at:], decodeVnet(f.Data), f.Length)
	b = pad(b, len(data))
	b = appendComment(b, r, f, side, partial)
	b = le.AppendUint32(append(b, epbFlags, 0, 4, 0), side.flags())
	b = appendNumber(b, epbPacketID, r.Seq)
	if err := c.write(closeBlock(endOptions(b), 0)); err != nil {
		return err
	}
	c.packets++
	c.interfaces[id].packets++
	return nil
}

// interfaceOf finds the interface of a frame's port, and describes one that is new.
func (c *Writer) interfaceOf(f *watch.Frame) (id int, err error) {
	for id := range c.interfaces {
		if i := &c.interfaces[id]; i.port == f.Port && i.ethernet == f.Ethernet {
			return id, nil
		}
	}
	link := uint16(LinkRaw)
	if f.Ethernet {
		link = LinkEthernet
	}
	b := openBlock(c.buf[:0], blockInterface)
	b = le.AppendUint16(le.AppendUint16(b, link), 0)
	b = le.AppendUint32(b, uint32(c.opts.Snap))
	b = appendText(b, ifName, f.Port)
	b = appendOption(b, ifTSResol, []byte{9}) // nanoseconds
	if err := c.write(closeBlock(endOptions(b), 0)); err != nil {
		return 0, err
	}
	c.interfaces = append(c.interfaces, iface{port: f.Port, ethernet: f.Ethernet})
	return len(c.interfaces) - 1, nil
}

// Stats writes how many packets there were of each interface until now, and how many records were lost: those of no
// interface in particular are said of the first one. Before the first packet there is nothing to say it of.
func (c *Writer) Stats(now time.Time, lost uint64) error {
	for id := range c.interfaces {
		s := stats{id: uint32(id), at: uint64(now.UnixNano()), start: c.first, end: c.last, packets: c.interfaces[id].packets, first: id == 0, lost: lost}
		if err := c.write(s.append(c.buf[:0])); err != nil {
			return err
		}
	}
	return c.err
}

// stats is an ISB.
type stats struct {
	id             uint32
	at, start, end uint64 // ns
	packets, lost  uint64
	first          bool // the interface that lost is said of
}

func (s *stats) append(b []byte) []byte {
	at := len(b)
	b = openBlock(b, blockStats)
	b = le.AppendUint32(b, s.id)
	b = le.AppendUint32(le.AppendUint32(b, uint32(s.at>>32)), uint32(s.at))
	if s.first && s.lost > 0 {
		b = appendText(b, optComment, fmt.Sprintf("%d records lost, of all ports: they came faster than they were written", s.lost))
	}
	b = appendTime(b, isbStart, s.start)
	b = appendTime(b, isbEnd, s.end)
	lost := uint64(0)
	if s.first {
		lost = s.lost
	}
	b = appendNumber(b, isbIfRecv, s.packets+lost)
	b = appendNumber(b, isbIfDrop, lost)
	b = appendNumber(b, isbDeliver, s.packets)
	return closeBlock(endOptions(b), at)
}
