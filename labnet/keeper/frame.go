package keeper

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"sync"
)

// A connection is one request and what follows: frames of a kind, a length (4 bytes, big endian) and as many bytes.
const (
	frameRequest   = 'r' // first: a request in JSON
	frameReply     = 'a' // a reply in JSON; last
	frameInput     = 'i' // bytes of standard input
	frameInputEnd  = 'e' // the end of standard input
	frameCredit    = 'k' // input that was taken, in bytes: 4 bytes, big endian
	frameSize      = 'w' // a terminal's size: columns and rows, 2 bytes each
	frameInterrupt = 'c' // the command is to end
	frameOut       = '1' // bytes of standard output
	frameErr       = '2' // bytes of standard error
)

const (
	// maxFrame bounds what one frame makes the other side hold.
	maxFrame = 64 << 10
	// window is how much input may be under way to a command that has not read it: so that what comes behind it, an
	// interrupt, is never held up.
	window = 256 << 10
)

// frames writes frames. Safe for concurrent use.
type frames struct {
	mu sync.Mutex
	w  io.Writer
}

func (f *frames) send(kind byte, payload []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var head [5]byte
	for {
		part := payload[:min(len(payload), maxFrame)]
		payload = payload[len(part):]
		head[0] = kind
		binary.BigEndian.PutUint32(head[1:], uint32(len(part)))
		if _, err := f.w.Write(append(head[:], part...)); err != nil {
			return err
		}
		if len(payload) == 0 {
			return nil
		}
	}
}

// sendJSON sends a value, which has to fit into one frame.
func (f *frames) sendJSON(kind byte, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > maxFrame {
		return fmt.Errorf("a message of %d bytes, and %d is the most", len(b), maxFrame)
	}
	return f.send(kind, b)
}

// stream sends what is written to it as frames of one kind.
type stream struct {
	to   *frames
	kind byte
}

func (s stream) Write(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if err := s.to.send(s.kind, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// receive reads one frame. The payload is borrowed until the next call with the same buffer.
func receive(r io.Reader, buf *[]byte) (kind byte, payload []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	return receiveRest(r, head, buf)
}

func receiveRest(r io.Reader, head [5]byte, buf *[]byte) (kind byte, payload []byte, err error) {
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxFrame {
		return 0, nil, fmt.Errorf("a frame of %d bytes, and %d is the most", n, maxFrame)
	}
	if *buf == nil {
		*buf = make([]byte, maxFrame)
	}
	payload = (*buf)[:n]
	if _, err := io.ReadFull(r, payload); err != nil {
		return 0, nil, fmt.Errorf("cut short: %w", err)
	}
	return head[0], payload, nil
}
