package port

import (
	"os"

	"golang.org/x/sys/unix"
)

// NewPoll returns a Poll of these ports, nil if one of them is not waited for by a descriptor.
func NewPoll(ports []Port) Poll {
	p := &descriptors{}
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
	if _, err := unix.Poll(p.fds, -1); err != nil && err != unix.EINTR {
		return p.ports[0].wrap("wait for", err)
	}
	for i, port := range p.ports {
		if err := port.heard(p.of(i)); err != nil {
			return err
		}
	}
	return nil
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
