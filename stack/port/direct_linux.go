package port

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/stack/packet"
)

// Direct sends frames out of whichever interface the caller says. Safe for concurrent use; whoever opened it
// closes it.
//
// The queue discipline is not bypassed, as with packetSocket. It segments what the interface can't,
// and what the administrator has put there (shaping, fair queueing) goes for our frames as well.
type Direct struct {
	fd   int
	wake int // eventfd that becomes readable for good on Close

	calls     gate
	closeOnce sync.Once
	closeErr  error

	segmented, full atomic.Uint64

	errGone, errDown, errFull error // made once: an interface that is down costs no garbage
}

func openDirect(netns string, inherited int) (d *Direct, err error) {
	err = inNetNS(netns, func() (err error) {
		d, err = openDirectHere(inherited)
		return err
	})
	return d, err
}

// openDirectHere opens the socket in the calling thread's namespace.
func openDirectHere(inherited int) (_ *Direct, err error) {
	fd, err := senderOr(inherited)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	return &Direct{
		fd: fd, wake: wake, calls: newGate(),
		errGone: fmt.Errorf("send directly: %w", ErrGone),
		errDown: fmt.Errorf("send directly: %w", ErrDown),
		errFull: fmt.Errorf("send directly: the interface's queue is full: %w", unix.ENOBUFS),
	}, nil
}

// senderOr is openSender, unless an inherited descriptor is such a socket already.
func senderOr(inherited int) (fd int, err error) {
	if inherited > 0 {
		if isSender(inherited) {
			unix.CloseOnExec(inherited)
			return inherited, nil
		}
		unix.Close(inherited)
	}
	return openSender()
}

// isSender says whether a descriptor is what openSender makes in the calling thread's namespace.
func isSender(fd int) bool {
	at, err := unix.Getsockname(fd)
	bound, ok := at.(*unix.SockaddrLinklayer)
	if err != nil || !ok || bound.Protocol != 0 || bound.Ifindex != 0 {
		return false
	}
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	vnet, otherwise := unix.GetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR)
	if errors.Join(err, otherwise) != nil || kind != unix.SOCK_RAW || vnet != 1 {
		return false
	}
	here, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return false
	}
	defer unix.Close(here)
	return sameNetNS(fd, here)
}

// openSender opens a socket that takes frames with vnet headers. Its protocol stays 0: none comes in.
func openSender() (fd int, err error) {
	fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, explainPacket(err)
	}
	if err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		err = fmt.Errorf("PACKET_VNET_HDR: %w", err)
	} else {
		err = setQueue(fd, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, sendQueue)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// Write sends one frame, `virtio_net_hdr | Ethernet header | packet` as on an Ethernet Port and super-packets whole, out of the
// interface with index link. The frame is borrowed until Write returns and left as it is. An
// error wrapping ErrDown passes when the interface is set up, one wrapping ErrGone says that there is no such
// interface. Where the queue of this socket is full it waits for some milliseconds; a
// frame that the interface's queue has no room for is an error (unix.ENOBUFS), as a wait would hold up the
// frames for all other interfaces.
func (d *Direct) Write(frame []byte, link int) error {
	if !d.calls.enter() {
		return os.ErrClosed
	}
	defer d.calls.leave()
	return d.write(frame, link)
}

// write is called inside the gate.
func (d *Direct) write(frame []byte, link int) error {
	err := d.send(frame, link)
	if (err == unix.EINVAL || err == unix.EMSGSIZE) && len(frame) >= packet.VnetLen && isGSO(frame) {
		d.segmented.Add(1)
		err = packet.Segment(packet.LinkEthernet, frame, func(segment []byte) error { return d.send(segment, link) })
	}
	if err != nil {
		return d.wrapTo(link, err)
	}
	return nil
}

// send is called inside the gate. Its errors are bare error numbers or os.ErrClosed.
func (d *Direct) send(frame []byte, link int) error {
	if len(frame) < packet.VnetLen+packet.EthernetLen {
		return unix.EINVAL
	}
	to := unix.RawSockaddrLinklayer{Family: unix.AF_PACKET, Ifindex: int32(link), Protocol: protocolOf(frame)}
	for {
		_, err := transferred(unix.RawSyscall6(unix.SYS_SENDTO, uintptr(d.fd),
			uintptr(unsafe.Pointer(unsafe.SliceData(frame))), uintptr(len(frame)), 0,
			uintptr(unsafe.Pointer(&to)), unix.SizeofSockaddrLinklayer))
		switch err {
		case unix.EAGAIN:
			if err := d.awaitRoom(); err != nil {
				return err
			}
		case unix.EINTR:
		default:
			return err
		}
	}
}

// protocolOf is said for what the queue discipline classifies by: kernels before 5.1 do not take it from the frame.
func protocolOf(frame []byte) uint16 {
	if len(frame) < packet.VnetLen+packet.EthernetLen {
		return 0
	}
	return native.Uint16(frame[packet.VnetLen+12:])
}

// awaitRoom returns nil when there may be room in the socket's queue, EAGAIN when time ran out.
func (d *Direct) awaitRoom() error {
	fds := [2]unix.PollFd{{Fd: int32(d.fd), Events: unix.POLLOUT}, {Fd: int32(d.wake), Events: unix.POLLIN}}
	return poll(fds[:], writePatience)
}

func (d *Direct) wrapTo(link int, err error) error {
	switch {
	case err == os.ErrClosed:
		return err
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return d.errGone
	case errors.Is(err, unix.ENETDOWN):
		return d.errDown
	case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.EAGAIN):
		d.full.Add(1)
		return d.errFull
	}
	return fmt.Errorf("send directly by interface %d: %w", link, err)
}

// Descriptor is the socket: what OpenDirect takes as inherited. It is borrowed until Close.
func (d *Direct) Descriptor() (fd int, ok bool) { return d.fd, true }

// Stats is what has been counted beyond frames sent: Segmented and Full.
func (d *Direct) Stats() Stats { return Stats{Segmented: d.segmented.Load(), Full: d.full.Load()} }

// Close lets the calls that are inside finish. A second Close does nothing.
func (d *Direct) Close() error {
	d.closeOnce.Do(d.closeIdle)
	return d.closeErr
}

func (d *Direct) closeIdle() {
	d.calls.shut()
	one := [8]byte{1}
	unix.Write(d.wake, one[:]) // cannot fail: nobody else counts on it
	<-d.calls.idle
	d.closeErr = unix.Close(d.fd)
	unix.Close(d.wake)
}
