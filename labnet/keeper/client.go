package keeper

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"

	"github.com/tunlb/tunlb/labnet/scenario"
)

// Client asks the keeper of a place. Safe for concurrent use; needs no closing.
type Client struct{ place Place }

// Client asks the keeper there. Its methods wrap ErrNoLab if there is none.
func (p Place) Client() *Client { return &Client{p} }

// Info asks what the lab is.
func (c *Client) Info(ctx context.Context) (Info, error) {
	r, err := c.ask(ctx, request{Do: doInfo})
	if err != nil || r.Info == nil {
		return Info{}, err
	}
	return *r.Info, nil
}

// Impair changes what a link does.
func (c *Client) Impair(ctx context.Context, host, network string, i scenario.Impairment) error {
	_, err := c.ask(ctx, request{Do: doImpair, Host: host, Network: network, Impairment: i})
	return err
}

// Down ends the lab. It returns when the keeper has taken all down. warning says what was wrong with the lab before.
func (c *Client) Down(ctx context.Context) (warning string, err error) {
	r, err := c.ask(ctx, request{Do: doDown})
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		return "", nil // gone without a word
	}
	return r.Warning, err
}

// Publish has a port of this machine lead into the lab. p.Listen may have port 0; the result tells the real one.
func (c *Client) Publish(ctx context.Context, p Publication) (Publication, error) {
	req := request{Do: doPublish, Publish: p}
	if listensItself {
		return published(c.ask(ctx, req))
	}
	l, err := net.Listen("tcp", p.Listen)
	if err != nil {
		return p, fmt.Errorf("publish: %w", err)
	}
	defer l.Close() // the keeper has its own by then
	conn, err := c.dial(ctx)
	if err != nil {
		return p, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var b writer
	if err := (&frames{w: &b}).sendJSON(frameRequest, req); err != nil {
		return p, err
	}
	if err := sendFile(conn, b, l.(*net.TCPListener)); err != nil {
		return p, c.wrap(ctx, err)
	}
	return published(c.reply(ctx, conn))
}

func published(r reply, err error) (Publication, error) {
	if err != nil || r.Published == nil {
		return Publication{}, err
	}
	return *r.Published, nil
}

// writer collects.
type writer []byte

func (w *writer) Write(b []byte) (int, error) {
	*w = append(*w, b...)
	return len(b), nil
}

// ErrNotStarted says that a command could not be started.
var ErrNotStarted = errors.New("not started")

// Exec is scenario.Lab's, with one more error: ErrNotStarted. When ctx ends the command is interrupted, and its end
// awaited.
func (c *Client) Exec(ctx context.Context, host string, argv []string, std scenario.Stdio) (code int, err error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	out := &frames{w: conn}
	req := request{Do: doExec, Host: host, Argv: argv, In: std.In != nil, Terminal: std.Terminal, Env: std.Env}
	if err := out.sendJSON(frameRequest, req); err != nil {
		return 0, c.wrap(ctx, err)
	}
	over := make(chan struct{})
	defer close(over)
	defer context.AfterFunc(ctx, func() { _ = out.send(frameInterrupt, nil) })() // else it has ended
	if std.Terminal {
		go sendSizes(out, std.Resize, over) // ends with over
	}
	credit := newBudget(window)
	defer credit.close()
	if std.In != nil {
		go sendInput(out, std.In, credit) // ends with the input, or what it brings after the command's end
	}
	var buf []byte
	for {
		kind, payload, err := receive(conn, &buf)
		if err != nil {
			return 0, fmt.Errorf("lab %s: its keeper has gone: %w", c.place.Name, err)
		}
		switch kind {
		case frameOut:
			err = pass(std.Out, payload)
		case frameErr:
			err = pass(std.Err, payload)
		case frameCredit:
			if len(payload) == 4 {
				credit.add(int(binary.BigEndian.Uint32(payload)))
			}
		case frameReply:
			var r reply
			if err := json.Unmarshal(payload, &r); err != nil {
				return 0, err
			}
			if r.NotUp {
				return 0, fmt.Errorf("%w: %s", ErrNotStarted, r.Err)
			}
			return r.Code, r.err()
		}
		if err != nil {
			return 0, fmt.Errorf("pass the output on: %w", err)
		}
	}
}

func pass(w io.Writer, b []byte) error {
	if w == nil {
		return nil
	}
	_, err := w.Write(b)
	return err
}

// sendSizes sends one at once, in any case, since the command waits for it.
func sendSizes(out *frames, sizes <-chan scenario.Size, over <-chan struct{}) {
	size := scenario.Size{Columns: 80, Rows: 24}
	select {
	case size = <-sizes:
	default:
	}
	for ok := true; ok; {
		b := binary.BigEndian.AppendUint16(nil, size.Columns)
		if out.send(frameSize, binary.BigEndian.AppendUint16(b, size.Rows)) != nil {
			return
		}
		select {
		case size, ok = <-sizes:
		case <-over:
			return
		}
	}
}

func sendInput(out *frames, in io.Reader, credit *budget) {
	buf := make([]byte, 32<<10)
	for {
		n, err := in.Read(buf)
		for b := buf[:n]; len(b) > 0; {
			may := credit.take(len(b))
			if may == 0 || out.send(frameInput, b[:may]) != nil {
				return
			}
			b = b[may:]
		}
		if err != nil {
			_ = out.send(frameInputEnd, nil) // else the command has ended
			return
		}
	}
}

// budget is how much may be sent. Safe for concurrent use.
type budget struct {
	mu      sync.Mutex
	changed *sync.Cond
	left    int
	closed  bool
}

func newBudget(n int) *budget {
	b := &budget{left: n}
	b.changed = sync.NewCond(&b.mu)
	return b
}

// take waits for a part of n at least; 0 after close.
func (b *budget) take(n int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.left == 0 && !b.closed {
		b.changed.Wait()
	}
	if b.closed {
		return 0
	}
	n = min(n, b.left)
	b.left -= n
	return n
}

func (b *budget) add(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left += n
	b.changed.Broadcast()
}

func (b *budget) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.changed.Broadcast()
}

// ask is for requests with one reply.
func (c *Client) ask(ctx context.Context, req request) (reply, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return reply{}, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := (&frames{w: conn}).sendJSON(frameRequest, req); err != nil {
		return reply{}, c.wrap(ctx, err)
	}
	return c.reply(ctx, conn)
}

func (c *Client) reply(ctx context.Context, conn io.Reader) (r reply, err error) {
	var buf []byte
	kind, payload, err := receive(conn, &buf)
	if err != nil {
		return r, c.wrap(ctx, err)
	}
	if kind != frameReply {
		return r, fmt.Errorf("lab %s: its keeper does not speak as this tunlb does", c.place.Name)
	}
	if err := json.Unmarshal(payload, &r); err != nil {
		return r, c.wrap(ctx, err)
	}
	return r, r.err()
}

func (c *Client) dial(ctx context.Context) (*net.UnixConn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.place.Socket())
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("lab %s: %w", c.place.Name, ErrNoLab)
	case err != nil:
		return nil, c.wrap(ctx, err)
	}
	return conn.(*net.UnixConn), nil
}

func (c *Client) wrap(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return fmt.Errorf("ask the keeper of lab %s: %w", c.place.Name, err)
}
