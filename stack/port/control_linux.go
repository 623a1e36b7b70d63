package port

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// control sets and reads what belongs to the interface, not to a descriptor of
// it. Its socket stays in the interface's network namespace, and a netlink
// socket answers the ioctls that any socket does.
type control struct {
	fd    int
	name  string
	index uint32
}

func newControl(name string, mtu, txQueueLen int) (_ *control, err error) {
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
	if c.index, err = c.get(unix.SIOCGIFINDEX); err != nil {
		return nil, fmt.Errorf("find its index: %w", err)
	}
	if err := c.set(unix.IFLA_MTU, mtu); err != nil {
		return nil, fmt.Errorf("set MTU %d: %w (68 to 65535 will do)", mtu, err)
	}
	if err := c.set(unix.IFLA_TXQLEN, txQueueLen); err != nil {
		return nil, fmt.Errorf("set tx queue length %d: %w (5000 will do)", txQueueLen, err)
	}
	return c, nil
}

func (c *control) close() { unix.Close(c.fd) }

func (c *control) mtu() (int, error) {
	mtu, err := c.get(unix.SIOCGIFMTU)
	return int(mtu), err
}

func (c *control) get(request uint) (uint32, error) {
	ifr, err := unix.NewIfreq(c.name)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(c.fd, request, ifr); err != nil {
		return 0, err
	}
	return ifr.Uint32(), nil
}

// set changes one number of the link. It goes by netlink since SIOCSIFTXQLEN,
// unlike the same over netlink, is refused in a user namespace.
func (c *control) set(attribute uint16, value int) error {
	if value < 0 {
		return unix.EINVAL
	}
	request := struct {
		header unix.NlMsghdr
		link   unix.IfInfomsg
		attr   unix.RtAttr
		value  uint32
	}{
		header: unix.NlMsghdr{Type: unix.RTM_SETLINK, Flags: unix.NLM_F_REQUEST | unix.NLM_F_ACK},
		link:   unix.IfInfomsg{Index: int32(c.index)},
		attr:   unix.RtAttr{Len: unix.SizeofRtAttr + 4, Type: attribute},
		value:  uint32(value),
	}
	request.header.Len = uint32(unsafe.Sizeof(request))
	message := unsafe.Slice((*byte)(unsafe.Pointer(&request)), unsafe.Sizeof(request))
	if err := unix.Sendto(c.fd, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	return c.ack()
}

// ack reads the kernel's answer: an error message, whose number 0 means done.
func (c *control) ack() error {
	var answer [1024]byte
	n, _, err := unix.Recvfrom(c.fd, answer[:], 0)
	if err != nil {
		return err
	}
	if n < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return errors.New("netlink: an answer that is no acknowledgement")
	}
	if errno := -int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])); errno != 0 {
		return unix.Errno(errno)
	}
	return nil
}
