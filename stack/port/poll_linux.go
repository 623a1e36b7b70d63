package port

import (
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// spell is how long a thread that waits keeps its Go processor: less than the 10 ms after which Go looks what keeps it.
const spell = 5 * time.Millisecond

// NewPoll returns a Poll of these ports, nil if one of them is not waited for by a descriptor. With spare Go has a processor more
// than others need, and the thread that waits keeps it for a moment: it is not missed.
func NewPoll(ports []Port, spare bool) Poll {
	p := &descriptors{spare: spare}
	for _, port := range ports {
		var raw *rawPort
		switch port := port.(type) {
		case *rawPort:
			raw = port
		case *ringPort:
			raw = port.rawPort
		default:
			return nil
		}
		p.ports = append(p.ports, raw)
		fds := raw.waitsFor(raw.in, unix.POLLIN, raw.changes)
		p.fds = append(p.fds, fds[:]...)
	}
	return p
}

// descriptors is a Poll by poll(2).
type descriptors struct {
	ports []*rawPort
	fds   []unix.PollFd // perWait of each port
	spare bool
	left  unix.Timespec // of the spell; the kernel counts it down
}

// Wait implements Poll.
func (p *descriptors) Wait() error {
	for i, port := range p.ports {
		if !port.calls.enter() {
			p.leave(i)
			return os.ErrClosed
		}
	}
	defer p.leave(len(p.ports))
	if err := p.await(); err != nil && err != unix.EINTR {
		return p.ports[0].wrap("wait for", err)
	}
	for i, port := range p.ports {
		if err := port.heard(p.of(i)); err != nil {
			return err
		}
	}
	return nil
}

// await returns when one of the descriptors is ready, EINTR if somebody has sent a signal.
//
// A thread that sleeps in a system call has its Go processor taken away by another thread of the runtime's, which looks after
// it every 20 us for as long as there are such threads, is woken for that by each of them that wakes, and needs the processors that the
// packets need. So who has been busy a moment ago waits behind the runtime's back at first. Should that want its processor
// for the collector, it sends a signal.
func (p *descriptors) await() error {
	if p.spare {
		p.left = unix.NsecToTimespec(int64(spell))
		n, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&p.fds[0])), uintptr(len(p.fds)), uintptr(unsafe.Pointer(&p.left)), 0, 0, 0)
		switch {
		case errno != 0:
			return errno
		case n > 0:
			return nil
		}
	}
	_, err := unix.Poll(p.fds, -1)
	return err
}

// leave leaves the first n gates.
func (p *descriptors) leave(n int) {
	for _, port := range p.ports[:n] {
		port.calls.leave()
	}
}

// Ready implements Poll.
func (p *descriptors) Ready(i int) bool { return p.of(i)[0].Revents != 0 }

func (p *descriptors) of(i int) []unix.PollFd { return p.fds[i*perWait : (i+1)*perWait] }
