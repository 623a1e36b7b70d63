package nft

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// AdoptGuard goes on with the guard of a predecessor, whose Descriptor this is: what that kept from the kernel is kept without
// a gap, until Set replaces it. The descriptor is the guard's from now on, and closed on an error: it may be of another kind, or
// of another network namespace than the caller's.
func AdoptGuard(fd int) (*Guard, error) {
	s, err := adopt(fd)
	if err != nil {
		return nil, fmt.Errorf("adopt guard: %w", err)
	}
	g, err := newGuard(s)
	if err != nil {
		s.close()
		return nil, fmt.Errorf("adopt guard: %w", err)
	}
	return g, nil
}

// Descriptor is the socket that the guard's table belongs to. It is borrowed until Close; while a duplicate of it is open, the
// table stays.
func (g *Guard) Descriptor() (fd int, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.socket.descriptor()
}

// AdoptCarrier goes on with the carrier of a predecessor, whose Descriptor this is. The kernel goes on carrying what
// it carries, of which this carrier knows nothing, until Renew, Set or Add is called. The descriptor is as with
// AdoptGuard. It carries nothing of its own until Set and Add.
func AdoptCarrier(fd, limit int) (*Carrier, error) {
	s, err := adopt(fd)
	if err != nil {
		return nil, fmt.Errorf("adopt carrier: %w", err)
	}
	c, err := newCarrier(limit)
	if err == nil {
		c.reader, err = open("")
	}
	if err != nil {
		s.close()
		return nil, fmt.Errorf("adopt carrier: %w", err)
	}
	c.own(s)
	c.foreign = true
	c.listen("")
	return c, nil
}

// Renew ends what the kernel carries for a predecessor: the packets of those connections come to user space from now on, where
// somebody should be there to take them. A carrier that was not adopted has nothing of the kind.
func (c *Carrier) Renew() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.renewLocked(); err != nil {
		return fmt.Errorf("end what the kernel carries for a predecessor: %w", err)
	}
	return nil
}

// renewLocked puts an empty table in place of the predecessor's, at once: it had room for another number of connections
// perhaps, and elements that are not in the ledger can't be taken back one by one.
func (c *Carrier) renewLocked() error {
	switch {
	case c.socket == nil:
		return os.ErrClosed
	case !c.foreign:
		return nil
	}
	err := c.make(true)
	c.foreign = err != nil
	return err
}

// Descriptor is the socket that the carrier's table belongs to. It is borrowed until Close; while a duplicate of it is open,
// the kernel goes on carrying.
func (c *Carrier) Descriptor() (fd int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.socket.descriptor()
}

func (s *socket) descriptor() (fd int, ok bool) {
	if s == nil {
		return -1, false
	}
	return s.fd, true
}

// adopt makes a socket of one that a predecessor has opened. Its address, by which the kernel knows whose a table is, stays.
func adopt(fd int) (*socket, error) {
	s := &socket{fd: fd, next: 1, buf: make([]byte, replySize)}
	if err := s.adopt(); err != nil {
		s.close()
		return nil, fmt.Errorf("inherited descriptor %d: %w", fd, err)
	}
	return s, nil
}

func (s *socket) adopt() error {
	for _, option := range []struct {
		name, want int
	}{{unix.SO_DOMAIN, unix.AF_NETLINK}, {unix.SO_PROTOCOL, unix.NETLINK_NETFILTER}} {
		switch v, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, option.name); {
		case err != nil:
			return err
		case v != option.want:
			return errors.New("it is another kind of socket")
		}
	}
	if err := s.here(); err != nil {
		return err
	}
	if err := s.identify(); err != nil {
		return err
	}
	unix.CloseOnExec(s.fd)
	return s.drain()
}

// here is nil if the socket is in the caller's network namespace.
func (s *socket) here() error {
	there, err := unix.IoctlRetInt(s.fd, unix.SIOCGSKNS)
	if err != nil {
		return fmt.Errorf("find its network namespace: %w", err)
	}
	defer unix.Close(there)
	var a, b unix.Stat_t
	if err := errors.Join(unix.Fstat(there, &a), unix.Stat("/proc/thread-self/ns/net", &b)); err != nil {
		return err
	}
	if a.Ino != b.Ino || a.Dev != b.Dev {
		return errors.New("it is of another network namespace")
	}
	return nil
}

// drain takes away answers that the predecessor has not read. A listing that it has not read to its end would make the kernel
// refuse the next one.
func (s *socket) drain() error {
	for until := time.Now().Add(time.Second); time.Now().Before(until); {
		switch _, err := s.receive(unix.MSG_DONTWAIT); {
		case err == unix.EAGAIN:
			return nil
		case err != nil && err != unix.ENOBUFS: // some were lost, of those that nobody wants
			return err
		}
	}
	return errors.New("there is no end of old answers: another process uses it")
}
