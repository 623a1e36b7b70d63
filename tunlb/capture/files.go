package capture

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"
)

// Files cuts a stream that a Writer has written into files, each a whole pcapng. The zero value but for Create keeps
// all of the stream in one file.
type Files struct {
	// Create makes the nth file, from 0 on. Files closes it.
	Create func(n int) (file io.WriteCloser, name string, err error)
	// Remove, which may be nil, removes the nth file, when there are more than Keep.
	Remove  func(n int) error
	Size    int64  // another file begins before one has more bytes; 0: never. A file has one packet at least
	Keep    int    // so many files, the latest; 0: all. With Keep there has to be Remove
	Packets uint64 // an end after so many packets; 0: none
}

// Summary is what was filed. A plain value.
type Summary struct {
	Packets uint64 `json:"packets"`
	Bytes   int64  `json:"bytes"` // of all files, also of those that were removed
	Lost    uint64 `json:"lost"`  // records that came faster than they were written
	Files   int    `json:"files"`
	Name    string `json:"name"` // of the last file
}

// Copy files the stream until it ends, or there are enough packets. The summary is valid with an error, too. An error
// of reading is returned after what came before it was filed; one of writing names the file and how far it got.
func (f *Files) Copy(stream io.Reader) (Summary, error) {
	c := cutter{Files: f, r: bufio.NewReaderSize(stream, 1<<16)}
	var end error
	for end == nil && (f.Packets == 0 || c.sum.Packets < f.Packets) {
		end = c.block()
	}
	var failed *writeError
	switch {
	case errors.Is(end, io.EOF):
		end = nil
	case errors.As(end, &failed):
		if c.file != nil {
			c.file.Close() // the first error counts
		}
		return c.sum, end
	}
	return c.sum, errors.Join(end, c.finish())
}

// cutter is the work on one stream.
type cutter struct {
	*Files
	r     *bufio.Reader
	buf   []byte
	head  []byte // the section's head and all interfaces until now
	sum   Summary
	stats []byte // the block of statistics in hand; buf has the packet that is next

	file       io.WriteCloser // nil: none is open
	out        *bufio.Writer
	written    int64    // to file, what waits in out included
	before     int64    // bytes of the files before this one
	marks      []mark   // ends of blocks, those since the last flush and the one before them
	counted    []uint64 // packets in file, by interface
	start, end uint64   // times of the first and the last of them
	lost       uint64   // at the file's beginning
}

// mark is a place in a file at which it may end.
type mark struct {
	at      int64
	packets uint64 // of the summary until there
}

// writeError is an error of a file of ours, not of the stream.
type writeError struct{ error }

func (e *writeError) Unwrap() error { return e.error }

// block takes one block of the stream.
func (c *cutter) block() error {
	if c.r.Buffered() == 0 && c.out != nil { // a reader of a pipe sees all that there is
		if err := c.flush(); err != nil {
			return err
		}
	}
	head, err := c.r.Peek(8)
	if err != nil {
		if len(head) > 0 && errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	kind, n := le.Uint32(head), le.Uint32(head[4:])
	if n < blockOverhead || n > maxBlock || n%4 != 0 {
		return fmt.Errorf("the stream has a block of type %#x and %d bytes: this is no capture of a tunlb", kind, n)
	}
	if cap(c.buf) < int(n) {
		c.buf = make([]byte, n)
	}
	b := c.buf[:n]
	if _, err := io.ReadFull(c.r, b); err != nil {
		return err
	}
	switch {
	case kind == blockSection:
		if err := c.finish(); err != nil { // of a section before, which a tunlb does not write
			return err
		}
		c.head, c.counted = append(c.head[:0], b...), c.counted[:0]
		return c.open()
	case c.file == nil:
		return errors.New("the stream does not begin with a section: this is no capture of a tunlb")
	case kind == blockInterface:
		c.head, c.counted = append(c.head, b...), append(c.counted, 0)
		return c.write(b)
	case kind == blockPacket && n > 32:
		return c.packet(b)
	case kind == blockStats && n > 24:
		c.noteLost(b[20:])
	}
	return nil
}

// packet files a packet, in another file if this one is full.
func (c *cutter) packet(b []byte) error {
	id, at := le.Uint32(b[8:]), uint64(le.Uint32(b[12:]))<<32|uint64(le.Uint32(b[16:]))
	if int(id) >= len(c.counted) {
		return fmt.Errorf("the stream has a packet of interface %d, which nobody has described", id)
	}
	if full := c.written + int64(len(b)) + c.tail(); c.Size > 0 && full > c.Size && c.end > 0 {
		if err := c.finish(); err != nil {
			return err
		}
		if err := c.open(); err != nil {
			return err
		}
	}
	if c.end == 0 {
		c.start = at
	}
	c.end = max(c.end, at, 1)
	c.counted[id]++
	c.sum.Packets++
	return c.write(b)
}

// tail is how long the statistics at the end of a file are.
func (c *cutter) tail() int64 {
	const each, comment = 96, 96
	return int64(len(c.counted)*each + comment)
}

// noteLost reads how many records were lost from the options of an ISB.
func (c *cutter) noteLost(options []byte) {
	d := Reader{order: le}
	d.options(options[:len(options)-4], func(code uint16, value []byte) {
		if code == isbIfDrop && len(value) == 8 {
			c.sum.Lost = max(c.sum.Lost, le.Uint64(value)) // those of all but the first interface say 0
		}
	})
}

// open begins a file with the section's head and all interfaces.
func (c *cutter) open() error {
	file, name, err := c.Create(c.sum.Files)
	if err != nil {
		return &writeError{err}
	}
	c.file, c.sum.Name = file, name
	c.sum.Files++
	if c.out == nil {
		c.out = bufio.NewWriterSize(nil, 1<<16)
	}
	c.out.Reset(&counted{file, &c.sum.Bytes})
	c.written, c.start, c.end, c.lost = 0, 0, 0, c.sum.Lost
	c.before, c.marks = c.sum.Bytes, append(c.marks[:0], mark{0, c.sum.Packets})
	clear(c.counted)
	if err := c.write(c.head); err != nil {
		return err
	}
	if old := c.sum.Files - 1 - c.Keep; c.Keep > 0 && old >= 0 {
		if err := c.Remove(old); err != nil && !errors.Is(err, fs.ErrNotExist) { // somebody may have moved or compressed it
			return &writeError{err}
		}
	}
	return nil
}

// finish ends a file with its statistics.
func (c *cutter) finish() error {
	if c.file == nil {
		return nil
	}
	now := uint64(time.Now().UnixNano())
	var err error
	for id, packets := range c.counted {
		s := stats{id: uint32(id), at: now, start: c.start, end: c.end, packets: packets, first: id == 0, lost: c.sum.Lost - c.lost}
		c.stats = s.append(c.stats[:0])
		if err = c.write(c.stats); err != nil {
			break
		}
	}
	if err == nil {
		err = c.flush()
	}
	if closed := c.file.Close(); err == nil && closed != nil {
		err = c.failed(closed)
	}
	c.file = nil
	return err
}

// write takes whole blocks.
func (c *cutter) write(b []byte) error {
	if len(b) > c.out.Available() { // so that no more ends of blocks have to be known than a buffer has
		if err := c.flush(); err != nil {
			return err
		}
	}
	c.written += int64(len(b))
	c.marks = append(c.marks, mark{c.written, c.sum.Packets})
	if _, err := c.out.Write(b); err != nil {
		return c.failed(err)
	}
	return nil
}

func (c *cutter) flush() error {
	if err := c.out.Flush(); err != nil {
		return c.failed(err)
	}
	c.marks = append(c.marks[:0], c.marks[len(c.marks)-1])
	return nil
}

// failed says how far a file has got. Where it can be cut it ends with a whole block then: half a one would have
// readers refuse the file.
func (c *cutter) failed(err error) error {
	last := c.marks[0]
	for _, m := range c.marks {
		if m.at <= c.sum.Bytes-c.before {
			last = m
		}
	}
	c.sum.Packets = last.packets
	if file, ok := c.file.(interface{ Truncate(size int64) error }); ok && file.Truncate(last.at) == nil {
		c.sum.Bytes = c.before + last.at
	}
	return &writeError{fmt.Errorf("write %s: %w after %d bytes", c.sum.Name, err, c.sum.Bytes)}
}

// counted counts what has really been written.
type counted struct {
	io.Writer
	bytes *int64
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.Writer.Write(b)
	*c.bytes += int64(n)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	return n, err
}
