package keeper

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"

	"github.com/tunlb/tunlb/labnet/scenario"
)

// exec runs a command for a connection. It is interrupted when the other side asks for it, or goes.
func (s *Server) exec(conn *net.UnixConn, out *frames, req request) reply {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	in := newInbox(out)
	sizes := make(chan scenario.Size, 1)
	std := scenario.Stdio{Out: stream{out, frameOut}, Err: stream{out, frameErr}, Terminal: req.Terminal, Resize: sizes, Env: req.Env}
	if req.In {
		std.In = in
	}
	// A terminal's size is there before the command looks.
	first := make(chan struct{})
	s.serving.Go(func() { // ends with the connection
		defer cancel()
		defer in.end()
		listen(conn, in, sizes, cancel, first)
	})
	if req.Terminal {
		select {
		case <-first:
		case <-ctx.Done():
		}
	}
	code, err := s.lab.Exec(ctx, req.Host, req.Argv, std)
	in.close()
	if err != nil {
		return reply{Err: err.Error(), NotUp: true}
	}
	return reply{Code: code}
}

// listen hears a command's user out.
func listen(conn io.Reader, in *inbox, sizes chan scenario.Size, interrupt func(), first chan<- struct{}) {
	var buf []byte
	sized := false
	for {
		kind, payload, err := receive(conn, &buf)
		if err != nil {
			return
		}
		switch kind {
		case frameInput:
			if in.put(payload) != nil {
				return
			}
		case frameInputEnd:
			in.end()
		case frameInterrupt:
			interrupt()
		case frameSize:
			if len(payload) != 4 {
				return
			}
			select { // only the latest counts
			case <-sizes:
			default:
			}
			sizes <- scenario.Size{Columns: binary.BigEndian.Uint16(payload), Rows: binary.BigEndian.Uint16(payload[2:])}
			if !sized {
				sized = true
				close(first)
			}
		}
	}
}

// inbox is input that has come and was not read yet, at most a window of it. Safe for concurrent use.
type inbox struct {
	credit *frames

	mu      sync.Mutex
	changed *sync.Cond
	waiting []byte
	ended   bool // nothing more comes
	closed  bool // nobody reads
}

func newInbox(credit *frames) *inbox {
	in := &inbox{credit: credit}
	in.changed = sync.NewCond(&in.mu)
	return in
}

// put never waits.
func (in *inbox) put(b []byte) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.waiting)+len(b) > window {
		return errors.New("more input than was asked for")
	}
	if !in.closed {
		in.waiting = append(in.waiting, b...)
	}
	in.changed.Broadcast()
	return nil
}

func (in *inbox) end() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.ended = true
	in.changed.Broadcast()
}

// close is for the command's end: who reads on gets EOF.
func (in *inbox) close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed, in.waiting = true, nil
	in.changed.Broadcast()
}

func (in *inbox) Read(b []byte) (int, error) {
	in.mu.Lock()
	for len(in.waiting) == 0 && !in.ended && !in.closed {
		in.changed.Wait()
	}
	n := copy(b, in.waiting)
	in.waiting = in.waiting[n:]
	over := in.closed
	in.mu.Unlock()
	if n == 0 {
		return 0, io.EOF
	}
	if !over {
		// Who cannot be told has gone, which listen hears as well.
		_ = in.credit.send(frameCredit, binary.BigEndian.AppendUint32(nil, uint32(n)))
	}
	return n, nil
}
