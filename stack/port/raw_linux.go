package port

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/stack/packet"
)

// rawPort moves whole super-packets with their vnet headers over a descriptor:
// one system call a frame. What TUN, TAP and packet sockets differ in is their
// endpoint.
type rawPort struct {
	endpoint
	in, out int // endpoint's, for poll
	changes int // likewise: readable when something has happened to the device; -1 is none
	wake    int // eventfd that becomes readable for good when the port closes
	room    int // what a buffer has to hold

	calls     gate
	closeOnce sync.Once
	closeErr  error

	emit      func([]byte) error
	segmented atomic.Uint64

	errGone, errDown, errFull error // made once: a device that is down costs no garbage
}

// endpoint is the kernel's side of a rawPort. Its descriptors are non-blocking
// and valid until close.
type endpoint interface {
	Name() string
	MTU() int
	Link() packet.Link
	// receive and send move one frame. Their errors are bare error numbers.
	receive(frame []byte) (int, error)
	send(frame []byte) error
	// vanished says whether the device is gone. Poll has reported an error or a
	// change of it, to the one who reads.
	vanished() bool
	// count puts in what the kernel has counted, as far as is known once the
	// descriptors are closed.
	count(s *Stats, open bool)
	close() error
}

// writePatience bounds, in milliseconds, how long Write waits for room. The
// kernel's tun refuses a write only when somebody gave the device a send
// buffer limit (TUNSETSNDBUF), so this is for other people's devices, and for
// interfaces that send slower than we do.
const writePatience = 10

// newRawPort takes over e, whose descriptors are in, out and changes. On an error they
// are still the caller's.
func newRawPort(e endpoint, in, out, changes int) (*rawPort, error) {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	p := &rawPort{
		endpoint: e,
		in:       in,
		out:      out,
		changes:  changes,
		wake:     wake,
		room:     packet.VnetLen + packet.MaxPacket,
		calls:    newGate(),
		errGone:  fmt.Errorf("%s: %w", e.Name(), ErrGone),
		errDown:  fmt.Errorf("%s: %w: run `ip link set %[1]s up`", e.Name(), ErrDown),
		errFull:  fmt.Errorf("write %s: its queue is full: %w", e.Name(), unix.ENOBUFS),
	}
	if e.Link() == packet.LinkEthernet {
		p.room += packet.EthernetLen
	}
	p.emit = p.writeFrame
	return p, nil
}

// Read tries to receive first and polls only when there is nothing. Under load
// that is one call a frame.
func (p *rawPort) Read(frame []byte) (int, error) {
	if len(frame) < p.room {
		return 0, io.ErrShortBuffer // the kernel would cut the packet and say nothing
	}
	if !p.calls.enter() {
		return 0, os.ErrClosed
	}
	defer p.calls.leave()
	for {
		n, err := p.receive(frame)
		switch err {
		case nil:
			return n, nil
		case unix.EAGAIN:
			if err := p.awaitFrame(-1); err != nil {
				return 0, err
			}
		case unix.EINTR:
		default:
			return 0, p.wrap("read", err)
		}
	}
}

// TryRead implements Pollable.
func (p *rawPort) TryRead(frame []byte) (int, error) {
	if len(frame) < p.room {
		return 0, io.ErrShortBuffer
	}
	if !p.calls.enter() {
		return 0, os.ErrClosed
	}
	defer p.calls.leave()
	switch n, err := p.receive(frame); err {
	case nil:
		return n, nil
	case unix.EAGAIN, unix.EINTR:
		return 0, nil
	default:
		return 0, p.wrap("read", err)
	}
}

// Write hands the frame to the kernel, whose receive path runs inside the
// call. Some kernels refuse super-packets that they have made themselves
// (tailscale/tailscale#13041): those go packet by packet.
func (p *rawPort) Write(frame []byte) error {
	if !p.calls.enter() {
		return os.ErrClosed
	}
	defer p.calls.leave()
	return p.write(frame, 0)
}

// write is called inside the gate. There is one way out, whatever link says.
func (p *rawPort) write(frame []byte, _ int) error {
	err := p.writeFrame(frame)
	if (err == unix.EINVAL || err == unix.EMSGSIZE) && len(frame) >= packet.VnetLen && isGSO(frame) {
		p.segmented.Add(1)
		err = packet.Segment(p.Link(), frame, p.emit)
	}
	if err != nil {
		return p.wrap("write", err)
	}
	return nil
}

// writeFrame is called inside the gate. Its errors are bare error numbers,
// os.ErrClosed or p.errGone.
func (p *rawPort) writeFrame(frame []byte) error {
	for {
		switch err := p.send(frame); err {
		case unix.EAGAIN:
			if err := p.awaitRoom(); err != nil {
				return err
			}
		case unix.EINTR:
		default:
			return err
		}
	}
}

// awaitFrame returns nil when there may be a frame, EAGAIN when time ran out.
func (p *rawPort) awaitFrame(milliseconds int) error {
	return p.wait(p.in, unix.POLLIN, p.changes, milliseconds)
}

// awaitRoom returns nil when there may be room, EAGAIN when time ran out.
// Changes are the reader's to look at.
func (p *rawPort) awaitRoom() error { return p.wait(p.out, unix.POLLOUT, -1, writePatience) }

func (p *rawPort) wait(fd int, events int16, changes, milliseconds int) error {
	fds := p.waitsFor(fd, events, changes)
	if err := poll(fds[:], milliseconds); err != nil || events != unix.POLLIN {
		return err
	}
	return p.heard(fds[:])
}

// perWait is how many descriptors a wait for one port is for: its own, what Close writes to, and what tells of changes.
const perWait = 3

func (p *rawPort) waitsFor(fd int, events int16, changes int) [perWait]unix.PollFd {
	return [...]unix.PollFd{
		{Fd: int32(fd), Events: events},
		{Fd: int32(p.wake), Events: unix.POLLIN},
		{Fd: int32(changes), Events: unix.POLLIN}, // poll leaves negative ones out
	}
}

// heard says what a wait for a frame has found beside frames: the port's end.
func (p *rawPort) heard(fds []unix.PollFd) error {
	const failed = unix.POLLERR | unix.POLLHUP | unix.POLLNVAL
	switch {
	case fds[1].Revents != 0:
		return os.ErrClosed
	case (fds[0].Revents&failed != 0 || fds[2].Revents != 0) && p.vanished():
		return p.errGone
	}
	return nil
}

// poll returns nil when one of fds may be ready, EAGAIN when time ran out, and os.ErrClosed when the second is, which
// Close writes to.
func poll(fds []unix.PollFd, milliseconds int) error {
	n, err := unix.Poll(fds, milliseconds)
	switch {
	case err == unix.EINTR:
		return nil
	case err != nil:
		return err
	case fds[1].Revents != 0:
		return os.ErrClosed
	case n == 0:
		return unix.EAGAIN
	}
	return nil
}

// Close gives the endpoint back when nobody is inside any more.
func (p *rawPort) Close() error {
	p.closeOnce.Do(p.closeIdle)
	return p.closeErr
}

func (p *rawPort) closeIdle() {
	p.calls.shut()
	one := [8]byte{1}
	unix.Write(p.wake, one[:]) // cannot fail: nobody else counts on it
	<-p.calls.idle
	p.closeErr = p.endpoint.close()
	unix.Close(p.wake)
}

func (p *rawPort) descriptor() (int, bool) {
	if d, ok := p.endpoint.(interface{ descriptor() (int, bool) }); ok {
		return d.descriptor()
	}
	return -1, false
}

func (p *rawPort) stats() Stats {
	s := Stats{Segmented: p.segmented.Load()}
	open := p.calls.enter()
	p.count(&s, open)
	if open {
		p.calls.leave()
	}
	return s
}

func (p *rawPort) wrapTo(_ int, err error) error { return p.wrap("write", err) }

func (p *rawPort) wrap(op string, err error) error {
	switch {
	case err == os.ErrClosed, err == p.errGone:
		return err
	case errors.Is(err, unix.EBADFD), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return p.errGone
	case op == "write" && (errors.Is(err, unix.EIO) || errors.Is(err, unix.ENETDOWN)):
		return p.errDown
	case err == unix.ENOBUFS:
		return p.errFull
	}
	return fmt.Errorf("%s %s: %w", op, p.Name(), err)
}
