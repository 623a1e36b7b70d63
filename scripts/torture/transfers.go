//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tunlb/tunlb/labnet"
	"github.com/tunlb/tunlb/labnet/netns"
)

// transfers are downloads of random sizes at the same time, each as slow as it has to be to last as long as it is wanted. What comes
// is held against its SHA-256. Whoever starts them waits for them.
type transfers struct {
	all      []*transfer
	started  atomic.Int64
	ended    atomic.Int64
	running  sync.WaitGroup
	sums     *sums
	lasting  time.Duration // of a whole one at the pace before they are released
	stalled  time.Duration // for how long nothing may come, and the transfer is not broken
	released chan struct{} // closed by release
	release  func()
}

// transfer is one of them. Its results are valid when it has ended, server and conn once it is started.
type transfer struct {
	size    int64
	server  string
	conn    net.Conn
	started chan struct{} // closed when the first bytes are there, or the transfer has failed
	done    chan struct{} // closed when err is set
	err     error         // nil iff all has come, and is what was sent
}

// startTransfers opens n connections, of sizes between least and most. Each goes on slowly, as if it were to last as long as said, and stops
// in its middle until it is released: how long it takes to open all of them, or to do what is done to them, does not matter.
// One to which nothing comes for as long as stalled is broken.
func startTransfers(ctx context.Context, ns *netns.NS, n int, least, most int64, lasting, stalled time.Duration) *transfers {
	t := &transfers{sums: &sums{by: map[int64][]byte{}}, lasting: lasting, stalled: stalled, released: make(chan struct{})}
	t.release = sync.OnceFunc(func() { close(t.released) })
	// A hundred sizes: each of them is hashed once to know what is right.
	var sizes [100]int64
	for i := range sizes {
		sizes[i] = least + rand.Int64N(most-least+1)
	}
	opening := make(chan struct{}, 50) // at a time: a thousand SYNs at once are an attack of its own
	for i := range n {
		one := &transfer{size: sizes[i%len(sizes)], started: make(chan struct{}), done: make(chan struct{})}
		t.all = append(t.all, one)
		t.running.Go(func() { // ends with its connection
			opening <- struct{}{}
			begun := sync.OnceFunc(func() { <-opening; t.started.Add(1); close(one.started) })
			defer begun()
			one.err = one.run(ctx, ns, t, begun)
			close(one.done)
			t.ended.Add(1)
		})
	}
	return t
}

// pieces is in how many steps a transfer is read: as many pauses as that.
const pieces = 60

// stalledAfter is for how long nothing may come: longer than TCP's retransmissions need after the longest gap that any case allows.
const stalledAfter = 30 * time.Second

func (one *transfer) run(ctx context.Context, ns *netns.NS, t *transfers, begun func()) error {
	dialing, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := ns.DialContext(dialing, "tcp", at(webPort))
	if err != nil {
		return err
	}
	defer conn.Close()
	one.conn = conn
	if err := conn.SetDeadline(time.Now().Add(t.stalled)); err != nil {
		return err
	}
	// The kernel is to hold little of it back, or all would be here before the fault comes.
	_ = conn.(*net.TCPConn).SetReadBuffer(16 << 10)
	if _, err := fmt.Fprintf(conn, "GET /bytes/%d HTTP/1.1\r\nHost: torture\r\nConnection: close\r\n\r\n", one.size); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReaderSize(conn, 4<<10), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	one.server = resp.Header.Get("Server")
	begun()
	return one.read(ctx, conn, resp.Body, t)
}

func (one *transfer) read(ctx context.Context, conn net.Conn, body io.Reader, t *transfers) error {
	sum := sha256.New()
	piece := one.size/pieces + 1
	tick := time.NewTicker(t.lasting / pieces)
	defer tick.Stop()
	for left := one.size; left > 0; {
		pace := tick.C
		if left <= one.size/2 {
			pace = nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-pace:
		case <-t.released:
		}
		if err := conn.SetDeadline(time.Now().Add(t.stalled)); err != nil {
			return err
		}
		n, err := io.CopyN(sum, body, min(piece, left))
		left -= n
		if err != nil {
			return fmt.Errorf("after %d of %d bytes: %w", one.size-left, one.size, err)
		}
	}
	if !bytes.Equal(sum.Sum(nil), t.sums.of(one.size)) {
		return fmt.Errorf("%d bytes are not what was sent", one.size)
	}
	return nil
}

// sums are the right ones by size. Safe for concurrent use.
type sums struct {
	mu sync.Mutex
	by map[int64][]byte
}

func (s *sums) of(size int64) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by[size] == nil {
		var h hash.Hash = sha256.New()
		_, _ = io.Copy(h, labnet.Bytes(size)) // neither of them fails
		s.by[size] = h.Sum(nil)
	}
	return s.by[size]
}

// untilRunning waits until every transfer has begun.
func (t *transfers) untilRunning(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	for _, one := range t.all {
		select {
		case <-one.started:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d transfers have begun: %w", t.started.Load(), len(t.all), ctx.Err())
		}
	}
	return nil
}

// underWay is how many have begun and not ended.
func (t *transfers) underWay() int { return int(t.started.Load() - t.ended.Load()) }

// stopped releases all, waits until those of other servers have ended and a moment longer, and counts those of a server that are
// broken or not at their end by then. of is how many it has in all.
func (t *transfers) stopped(ctx context.Context, server string, moment time.Duration) (stopped, of int, err error) {
	t.release()
	for _, one := range t.all {
		if one.server == server {
			continue
		}
		select {
		case <-one.done:
		case <-ctx.Done():
			return 0, 0, ctx.Err()
		}
	}
	if err := sleep(ctx, moment); err != nil {
		return 0, 0, err
	}
	for _, one := range t.all {
		if one.server != server {
			continue
		}
		of++
		select {
		case <-one.done:
			if one.err != nil {
				stopped++
			}
		default:
			stopped++
		}
	}
	return stopped, of, nil
}

// giveUpOn ends those of a server, which may hear of nothing any more.
func (t *transfers) giveUpOn(server string) {
	for _, one := range t.all {
		if one.server == server {
			one.conn.Close()
		}
	}
}

// tally is what became of transfers.
type tally struct {
	right, broken, resets int
	first                 error // of those broken
}

func (y *tally) add(one *transfer) {
	if one.err == nil {
		y.right++
		return
	}
	y.broken++
	if wasReset(one.err) {
		y.resets++
	}
	if y.first == nil {
		y.first = fmt.Errorf("from %s: %w", one.server, one.err)
	}
}

// finished are transfers that have ended.
type finished []*transfer

// wait releases all of them, and waits for them.
func (t *transfers) wait() finished {
	t.release()
	t.running.Wait()
	return t.all
}

// by counts the transfers from some servers, and those of all others.
func (f finished) by(some func(server string) bool) (theirs, others tally) {
	for _, one := range f {
		if some(one.server) {
			theirs.add(one)
		} else {
			others.add(one)
		}
	}
	return theirs, others
}

// tally counts them all.
func (f finished) tally() tally {
	_, all := f.by(func(string) bool { return false })
	return all
}

// err is that of the first that is broken.
func (f finished) err() error {
	if y := f.tally(); y.first != nil {
		return errors.Join(fmt.Errorf("%d transfers are broken", y.broken), y.first)
	}
	return nil
}
