package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// packetSocket is an AF_PACKET socket bound to one interface.
type packetSocket struct {
	iface    string
	ethernet bool
	device   bool
	file     *os.File
	raw      syscall.RawConn
	closing  atomic.Bool
	buf, oob []byte // used by one reader at a time: first next's, then drain's
}

func (ns *NS) openCapture(iface string) (capture, error) {
	link, err := ns.link(iface)
	if err != nil {
		return nil, err
	}
	s := &packetSocket{
		iface: iface,
		// A TUN has no link header (ARPHRD_NONE); loopback has an Ethernet one.
		ethernet: link.Attrs().EncapType == "ether" || link.Attrs().EncapType == "loopback",
		device:   link.Type() == (&netlink.Tuntap{}).Type(),
		buf:      make([]byte, 1<<17),
		oob:      make([]byte, 256),
	}
	err = ns.Do(func() error { return s.open(link.Attrs().Index) })
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (s *packetSocket) open(index int) error {
	// Protocol 0: it hears nothing until it is bound, so nothing of other interfaces either.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	// Best effort: the kernel caps it, and allows more to real root.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 16<<20)
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: index}),
	)
	if err != nil {
		unix.Close(fd)
		return err
	}
	s.file = os.NewFile(uintptr(fd), "packet socket")
	if s.raw, err = s.file.SyscallConn(); err != nil {
		s.file.Close()
	}
	return err
}

func (s *packetSocket) next() (p Packet, err error) {
	waited := s.raw.Read(func(fd uintptr) bool {
		p, err = s.receive(int(fd))
		return err != unix.EAGAIN
	})
	return p, errors.Join(waited, err)
}

func (s *packetSocket) interrupt() error {
	if s.closing.Swap(true) {
		return net.ErrClosed
	}
	return s.file.SetReadDeadline(time.Unix(0, 1))
}

func (s *packetSocket) drain(add func(Packet)) error {
	defer s.file.Close()
	var lost uint32
	err := s.raw.Control(func(fd uintptr) {
		for {
			p, err := s.receive(int(fd))
			if err != nil {
				break // EAGAIN, or the interface is gone
			}
			add(p)
		}
		if stats, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			lost = stats.Drops
		}
	})
	if err == nil && lost > 0 {
		err = fmt.Errorf("sniff %s: %d packets were lost", s.iface, lost)
	}
	return err
}

func (s *packetSocket) receive(fd int) (Packet, error) {
	n, oobn, _, from, err := unix.Recvmsg(fd, s.buf, s.oob, 0)
	for err == unix.EINTR {
		n, oobn, _, from, err = unix.Recvmsg(fd, s.buf, s.oob, 0)
	}
	if err != nil {
		return Packet{}, err
	}
	p := Packet{Interface: s.iface, Ethernet: s.ethernet, Device: s.device, Data: append([]byte(nil), s.buf[:n]...)}
	if ll, ok := from.(*unix.SockaddrLinklayer); ok {
		p.Out = ll.Pkttype == unix.PACKET_OUTGOING
	}
	messages, err := unix.ParseSocketControlMessage(s.oob[:oobn])
	if err != nil {
		return Packet{}, err
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS:
			t := (*unix.Timespec)(unsafe.Pointer(&m.Data[0]))
			p.Time = time.Unix(t.Unix())
		case m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA:
			aux := (*unix.TpacketAuxdata)(unsafe.Pointer(&m.Data[0]))
			p.Partial = aux.Status&unix.TP_STATUS_CSUMNOTREADY != 0
		}
	}
	return p, nil
}

func networkOrder(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}
