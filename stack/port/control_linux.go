package port

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

var native = binary.NativeEndian

// control sets and reads what belongs to the interface, not to a descriptor of
// it. Its socket stays in the interface's network namespace, and a netlink
// socket answers the ioctls that any socket does.
type control struct {
	fd    int
	name  string
	index uint32
}

// newControl finds the interface of that name in the calling thread's namespace.
// The socket gets what groups (RTMGRP_LINK, ...) say besides; 0 is nothing.
func newControl(name string, groups uint32) (_ *control, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink socket: %w", err)
	}
	c := &control{fd: fd, name: name}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return nil, fmt.Errorf("netlink socket: %w", err)
	}
	if c.index, err = c.get(name, unix.SIOCGIFINDEX); err != nil {
		return nil, fmt.Errorf("find its index: %w", err)
	}
	return c, nil
}

func (c *control) close() { unix.Close(c.fd) }

func (c *control) mtu() (int, error) {
	mtu, err := c.get(c.name, unix.SIOCGIFMTU)
	return int(mtu), err
}

// setQueue sets how long the device's packets are, and how many wait for us.
func (c *control) setQueue(mtu, length int) error {
	if err := c.setNumber(unix.IFLA_MTU, mtu); err != nil {
		return fmt.Errorf("set MTU %d: %w (68 to 65521 will do)", mtu, err)
	}
	if err := c.setNumber(unix.IFLA_TXQLEN, length); err != nil {
		return fmt.Errorf("set tx queue length %d: %w (5000 will do)", length, err)
	}
	return nil
}

// get asks for one number of an interface.
func (c *control) get(name string, request uint) (uint32, error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(c.fd, request, ifr); err != nil {
		return 0, err
	}
	return ifr.Uint32(), nil
}

func (c *control) setNumber(attribute uint16, value int) error {
	if value < 0 {
		return unix.EINVAL
	}
	return c.set(unix.AF_UNSPEC, attr(attribute, native.AppendUint32(nil, uint32(value))))
}

// set changes one attribute of the link, of a port of a bridge with AF_BRIDGE. It goes by netlink
// since SIOCSIFTXQLEN, unlike the same over netlink, is refused in a user namespace.
func (c *control) set(family uint8, attr []byte) error {
	const headers = unix.SizeofNlMsghdr + unix.SizeofIfInfomsg
	b := native.AppendUint32(nil, uint32(headers+len(attr)))
	b = native.AppendUint16(b, unix.RTM_SETLINK)
	b = native.AppendUint16(b, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	b = append(b, make([]byte, 8)...) // sequence number and port: one request at a time
	b = append(b, family, 0, 0, 0)
	b = native.AppendUint32(b, c.index)
	b = append(b, make([]byte, 8)...) // flags, and which of them change
	if err := unix.Sendto(c.fd, append(b, attr...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	return c.ack()
}

// attr is a netlink attribute.
func attr(kind uint16, value []byte) []byte {
	b := native.AppendUint16(nil, uint16(unix.SizeofRtAttr+len(value)))
	b = append(native.AppendUint16(b, kind), value...)
	return append(b, make([]byte, -len(b)&(unix.RTA_ALIGNTO-1))...)
}

// ack reads the kernel's answer: an error message, whose number 0 means done.
func (c *control) ack() error {
	var answer [1024]byte
	n, _, err := unix.Recvfrom(c.fd, answer[:], 0)
	if err != nil {
		return err
	}
	if n < unix.SizeofNlMsghdr+4 || native.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return errors.New("netlink: an answer that is no acknowledgement")
	}
	if errno := -int32(native.Uint32(answer[unix.SizeofNlMsghdr:])); errno != 0 {
		return unix.Errno(errno)
	}
	return nil
}
