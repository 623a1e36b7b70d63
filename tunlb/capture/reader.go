package capture

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// Packet is one packet of a file. Data is borrowed until the Reader's next call; all else may be kept.
type Packet struct {
	Number int    // counted from 1
	Offset int64  // of its block or record in the file
	Time   int64  // ns since 1970; that of the packet before where the file has none
	Link   int    // its link type, such as LinkRaw
	Length int    // on the wire; Data is shorter if the packet was cut
	Data   []byte // what the file has of it, link-layer header first

	// Of pcapng.
	Port    string // name of the interface; "" if the file does not say
	Side    Side   // whether it came in or left by that interface; 0 if the file does not say
	Own     bool   // a tunlb has written it: Port and Side are those of a tunlb's port
	Comment string
	Segment int // of a tunlb's super-packet: the length of the segments that it stands for; else 0
}

// Error is what is wrong with a file, where, and what to do about it. A plain value.
type Error struct {
	File    string
	Packet  int   // the one that it was found in or before; 0: at the head of the file
	Offset  int64 // in bytes
	What    string
	Instead string
}

// Error gives "FILE: packet 17 at byte 1234: what, what to do".
func (e *Error) Error() string {
	place := ""
	if e.Packet > 0 {
		place = fmt.Sprintf("packet %d at byte %d: ", e.Packet, e.Offset)
	}
	return fmt.Sprintf("%s: %s%s, %s", e.File, place, e.What, e.Instead)
}

// Bounds of what is believed of a file.
const (
	maxPacket     = 1 << 18 // tcpdump's longest, too
	maxBlock      = maxPacket + 1<<17
	maxInterfaces = 1 << 12
)

// Reader reads pcap and pcapng, of either byte order, one packet at a time. Its memory is bounded whatever the file
// says. Not safe for concurrent use; needs no closing.
type Reader struct {
	file   string
	r      *bufio.Reader
	offset int64 // of what is read next
	order  binary.ByteOrder
	number int
	time   int64
	buf    []byte
	packet Packet
	next   func() error // reads the packet of one format

	classic    classic
	own        bool // tunlb has written the section
	interfaces []described
}

// NewReader reads the head of a file; name stands for the file in errors, which are of type *Error unless reading fails.
func NewReader(r io.Reader, name string) (*Reader, error) {
	d := &Reader{file: name, r: bufio.NewReaderSize(r, 1<<16)}
	magic, err := d.r.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(magic) < 4 {
		return nil, &Error{File: name, What: "too short to be a capture", Instead: "want pcap or pcapng"}
	}
	if le.Uint32(magic) == blockSection {
		d.next = d.nextBlock
		return d, nil
	}
	return d, d.openClassic(magic)
}

// Next reads a packet, which is borrowed until the next call. At the end of the file the error is io.EOF.
func (d *Reader) Next() (*Packet, error) {
	if err := d.next(); err != nil {
		return nil, err
	}
	d.number++
	d.packet.Number = d.number
	d.time = d.packet.Time
	return &d.packet, nil
}

// fault is an error at a place in the file.
func (d *Reader) fault(at int64, what, instead string) error {
	return &Error{File: d.file, Packet: d.number + 1, Offset: at, What: what, Instead: instead}
}

// damaged is fault for what can't be mended.
func (d *Reader) damaged(at int64, format string, args ...any) error {
	instead := "the file is damaged there, and nothing comes before"
	if d.number > 0 {
		instead = fmt.Sprintf("the file is damaged there: keep what comes before with `editcap -r %s OUT 1-%d`", d.file, d.number)
	}
	return d.fault(at, fmt.Sprintf(format, args...), instead)
}

// take reads n bytes, which are borrowed until the next call. at is where what they belong to begins.
func (d *Reader) take(n int, at int64) ([]byte, error) {
	if cap(d.buf) < n {
		d.buf = make([]byte, n)
	}
	b := d.buf[:n]
	got, err := io.ReadFull(d.r, b)
	d.offset += int64(got)
	return b, d.cut(err, at)
}

// skip passes n bytes by without keeping them.
func (d *Reader) skip(n int64, at int64) error {
	got, err := io.CopyN(io.Discard, d.r, n)
	d.offset += got
	return d.cut(err, at)
}

// cut tells the end of the file in the middle of something from an error of reading it.
func (d *Reader) cut(err error, at int64) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return d.damaged(at, "the file ends in the middle of it")
	}
	return fmt.Errorf("%s: read at byte %d: %w", d.file, d.offset, err)
}

// atEnd says whether the file ends here, as it may between two packets.
func (d *Reader) atEnd() (bool, error) {
	_, err := d.r.Peek(1)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, d.cut(err, d.offset)
}

// nanoseconds turns seconds and a fraction in ns into a time; ok is false beyond what a time can be.
func nanoseconds(seconds int64, fraction int64) (ns int64, ok bool) {
	const second = 1_000_000_000
	if seconds < 0 || seconds > (math.MaxInt64-fraction)/second {
		return 0, false
	}
	return seconds*second + fraction, true
}

const timeless = "its time is before 1970 or after 2262"

const shiftTime = "shift it with `editcap -t SECONDS IN OUT`"
