package port

import (
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/tunlb/tunlb/stack/packet"
)

// pipeFrames bounds each direction of a pipe.
const pipeFrames = 256

// Pipe returns the two ends of an in-memory link, name+".a" and name+".b", whose
// packets start as link says, for tests and labs: what is written to one end is read from the other, in
// order and whole. Frames are copied. Write blocks while pipeFrames frames
// wait unread, until either end is closed, so nothing is dropped silently.
// When one end is closed, the other reads what was sent before and then gets
// ErrGone. Each end has to be closed.
func Pipe(name string, link packet.Link, mtu int) (a, b Port) {
	ab, ba := newPipeQueue(), newPipeQueue()
	aClosed, bClosed := make(chan struct{}), make(chan struct{})
	a = &pipeEnd{name: name + ".a", link: link, mtu: mtu, in: ba, out: ab, closed: aClosed, peer: bClosed}
	b = &pipeEnd{name: name + ".b", link: link, mtu: mtu, in: ab, out: ba, closed: bClosed, peer: aClosed}
	return a, b
}

// pipeQueue is one direction. Buffers travel in a circle.
type pipeQueue struct {
	full, free chan []byte
}

func newPipeQueue() pipeQueue {
	return pipeQueue{full: make(chan []byte, pipeFrames), free: make(chan []byte, pipeFrames)}
}

type pipeEnd struct {
	name         string
	link         packet.Link
	mtu          int
	in, out      pipeQueue
	closed, peer chan struct{}
	closeOnce    sync.Once
}

func (p *pipeEnd) Name() string      { return p.name }
func (p *pipeEnd) Link() packet.Link { return p.link }
func (p *pipeEnd) MTU() int          { return p.mtu }

func (p *pipeEnd) Read(frame []byte) (int, error) {
	if isClosed(p.closed) {
		return 0, os.ErrClosed
	}
	select {
	case b := <-p.in.full:
		return p.take(frame, b)
	case <-p.closed:
		return 0, os.ErrClosed
	case <-p.peer:
	}
	select { // what the peer sent before it closed
	case b := <-p.in.full:
		return p.take(frame, b)
	default:
		return 0, p.gone("read")
	}
}

func (p *pipeEnd) take(frame, b []byte) (int, error) {
	n := copy(frame, b)
	short := n < len(b)
	select {
	case p.in.free <- b:
	default:
	}
	if short {
		return 0, io.ErrShortBuffer
	}
	return n, nil
}

func (p *pipeEnd) Write(frame []byte) error {
	switch {
	case isClosed(p.closed):
		return os.ErrClosed
	case isClosed(p.peer):
		return p.gone("write")
	}
	var b []byte
	select {
	case b = <-p.out.free:
	default:
	}
	select {
	case p.out.full <- append(b[:0], frame...):
		return nil
	case <-p.closed:
		return os.ErrClosed
	case <-p.peer:
		return p.gone("write")
	}
}

func (p *pipeEnd) Close() error {
	p.closeOnce.Do(func() { close(p.closed) })
	return nil
}

func (p *pipeEnd) gone(op string) error {
	return fmt.Errorf("%s %s: the other end is closed: %w", op, p.name, ErrGone)
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
