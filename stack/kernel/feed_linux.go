package kernel

import (
	"encoding/binary"
	"fmt"
	"iter"
	"os"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// feed is what the kernel tells of its own accord. One goroutine reads; Close, by anybody, ends that.
type feed struct {
	file *os.File
	conn syscall.RawConn
	b    []byte
}

// feed subscribes to groups of messages of the namespace.
func (k *Kernel) feed(groups ...uint) (f *feed, err error) {
	err = k.inside(func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("netlink socket: %w", err)
		}
		f = &feed{file: os.NewFile(uintptr(fd), "netlink"), b: make([]byte, 32<<10)}
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1<<20) // 200 KiB will do where that is not allowed
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})     // this takes groups off
		for i := 0; i < len(groups) && err == nil; i++ {
			err = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, int(groups[i]))
		}
		if err == nil {
			f.conn, err = f.file.SyscallConn()
		}
		if err != nil {
			f.file.Close()
			return fmt.Errorf("subscribe to the kernel's messages: %w", err)
		}
		return nil
	})
	return f, err
}

// next waits for messages, which are borrowed until the next call. ENOBUFS says that some were lost.
func (f *feed) next() ([]byte, error) {
	n, err := 0, error(nil)
	if e := f.conn.Read(func(fd uintptr) bool {
		n, _, err = unix.Recvfrom(int(fd), f.b, 0)
		return err != unix.EAGAIN && err != unix.EINTR
	}); e != nil {
		return nil, e
	}
	if err != nil {
		return nil, err
	}
	return f.b[:n], nil
}

// drain takes away all messages that are there, and looks at none. Somebody else may be waiting for the next, so this is no
// Read, which would wait for him.
func (f *feed) drain() {
	_ = f.conn.Control(func(fd uintptr) {
		var b [64]byte // the rest of a message is cut off
		for {
			if _, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_DONTWAIT); err != nil && err != unix.ENOBUFS && err != unix.EINTR {
				return
			}
		}
	})
}

func (f *feed) Close() { f.file.Close() }

// messages are those of a datagram, each with its type, up to the first that is cut short.
func messages(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofNlMsghdr {
			n := int(u32(b))
			if n < unix.SizeofNlMsghdr || n > len(b) || !yield(binary.NativeEndian.Uint16(b[4:]), b[unix.SizeofNlMsghdr:n]) {
				return
			}
			b = b[min((n+3)&^3, len(b)):]
		}
	}
}

// attributes are those of a message behind its header, without the flags of their types, up to the first that is cut
// short. Unlike nl.ParseRouteAttr it allocates nothing: a router's tables are long.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			n := int(binary.NativeEndian.Uint16(b))
			if n < unix.SizeofRtAttr || n > len(b) || !yield(binary.NativeEndian.Uint16(b[2:])&^uint16(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[unix.SizeofRtAttr:n]) {
				return
			}
			b = b[min((n+3)&^3, len(b)):]
		}
	}
}

// number is an attribute's value of 32 bits; 0 if it has not as many.
func number(v []byte) uint32 {
	if len(v) < 4 {
		return 0
	}
	return u32(v)
}

// each visits all objects that header asks for; what it visits is borrowed. Of a list that changes meanwhile some may be
// missing or twice there: a message will say that it has changed.
func (k *Kernel) each(typ, reply uint16, visit func(m []byte), header ...nl.NetlinkRequestData) error {
	req := k.request(typ, unix.NLM_F_DUMP)
	for _, d := range header {
		req.AddData(d)
	}
	err := req.ExecuteIter(unix.NETLINK_ROUTE, reply, func(m []byte) bool { visit(m); return true })
	if err == nl.ErrDumpInterrupted {
		return nil
	}
	return err
}
