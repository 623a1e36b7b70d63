package port

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/stack/packet"
)

// tunPort moves whole super-packets with their vnet headers over the
// descriptor of a TUN device: one system call a frame.
type tunPort struct {
	*device
	fd   int // non-blocking, owned by dev, valid inside calls
	wake int // eventfd that becomes readable for good when the port closes

	calls     gate
	closeOnce sync.Once
	closeErr  error

	emit      func([]byte) error
	segmented atomic.Uint64

	errGone, errDown error // made once: a device that is down costs no garbage
}

// writePatience bounds, in milliseconds, how long Write waits for room. The
// kernel's tun refuses a write only when somebody gave the device a send
// buffer limit (TUNSETSNDBUF), so this is for other people's devices.
const writePatience = 10

// newTUNPort takes over d, whose descriptor is fd.
func newTUNPort(d *device, fd int) (*tunPort, error) {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	p := &tunPort{
		device:  d,
		fd:      fd,
		wake:    wake,
		calls:   newGate(),
		errGone: fmt.Errorf("%s: %w", d.name, ErrGone),
		errDown: fmt.Errorf("%s: %w: run `ip link set %[1]s up`", d.name, ErrDown),
	}
	p.emit = p.writeFrame
	return p, nil
}

// Read tries read(2) first and polls only when there is nothing. Under load
// that is one call a frame.
func (p *tunPort) Read(frame []byte) (int, error) {
	if len(frame) < packet.VnetLen+packet.MaxPacket {
		return 0, io.ErrShortBuffer // the kernel would cut the packet and say nothing
	}
	if !p.calls.enter() {
		return 0, os.ErrClosed
	}
	defer p.calls.leave()
	for {
		n, err := transfer(unix.SYS_READ, p.fd, frame)
		switch err {
		case nil:
			return n, nil
		case unix.EAGAIN:
			if err := p.wait(unix.POLLIN, -1); err != nil {
				return 0, err
			}
		case unix.EINTR:
		default:
			return 0, p.wrap("read", err)
		}
	}
}

// Write hands the frame to the kernel, whose receive path runs inside the
// call. Some kernels refuse super-packets that they have made themselves
// (tailscale/tailscale#13041): those go packet by packet.
func (p *tunPort) Write(frame []byte) error {
	if !p.calls.enter() {
		return os.ErrClosed
	}
	defer p.calls.leave()
	err := p.writeFrame(frame)
	if err == unix.EINVAL && len(frame) >= packet.VnetLen && isGSO(frame) {
		p.segmented.Add(1)
		err = packet.Segment(packet.LinkIP, frame, p.emit)
	}
	if err != nil {
		return p.wrap("write", err)
	}
	return nil
}

// writeFrame is called inside the gate. Its errors are bare error numbers,
// os.ErrClosed or p.errGone.
func (p *tunPort) writeFrame(frame []byte) error {
	for {
		_, err := transfer(unix.SYS_WRITE, p.fd, frame)
		switch err {
		case unix.EAGAIN:
			if err := p.wait(unix.POLLOUT, writePatience); err != nil {
				return err
			}
		case unix.EINTR:
		default:
			return err
		}
	}
}

// transfer is read(2) or write(2) without telling the Go scheduler, which may be left out since the
// descriptor is non-blocking: 5 to 15 % more requests, 5 to 15 % less CPU for each (docs/performance.md).
// A collection may have to wait for the one call. frame is not empty.
func transfer(call uintptr, fd int, frame []byte) (int, error) {
	n, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(frame))), uintptr(len(frame)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// wait returns nil when the descriptor may be ready, EAGAIN when time ran out.
func (p *tunPort) wait(events int16, milliseconds int) error {
	fds := [2]unix.PollFd{{Fd: int32(p.fd), Events: events}, {Fd: int32(p.wake), Events: unix.POLLIN}}
	n, err := unix.Poll(fds[:], milliseconds)
	switch {
	case err == unix.EINTR:
		return nil
	case err != nil:
		return err
	case fds[1].Revents != 0:
		return os.ErrClosed
	case fds[0].Revents&(unix.POLLERR|unix.POLLHUP|unix.POLLNVAL) != 0:
		// tun's poll reports POLLERR for one reason: the device is being
		// unregistered. A read could still say EAGAIN, and we would spin.
		return p.errGone
	case n == 0:
		return unix.EAGAIN
	}
	return nil
}

// Close removes the device: the kernel does so when its last descriptor is
// closed, here before Close returns.
func (p *tunPort) Close() error {
	p.closeOnce.Do(p.close)
	return p.closeErr
}

func (p *tunPort) close() {
	p.calls.shut()
	one := [8]byte{1}
	unix.Write(p.wake, one[:]) // cannot fail: nobody else counts on it
	<-p.calls.idle
	p.closeErr = p.device.close()
	unix.Close(p.wake)
}

func (p *tunPort) stats() Stats { return Stats{Segmented: p.segmented.Load()} }

func (p *tunPort) wrap(op string, err error) error {
	switch {
	case err == os.ErrClosed, err == p.errGone:
		return err
	case errors.Is(err, unix.EBADFD), errors.Is(err, unix.ENODEV):
		return p.errGone
	case op == "write" && err == unix.EIO:
		return p.errDown
	}
	return fmt.Errorf("%s %s: %w", op, p.name, err)
}
