package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// socket is a netlink socket to the packet filter of one network namespace. The kernel answers while a request is
// sent, so nothing here waits for anybody. Not safe for concurrent use; whoever opened it closes it.
type socket struct {
	fd   int
	port uint32 // its address: no other socket of the namespace has it
	next uint32 // number of the next message
	room int    // what a request may be long
	// told gets what the kernel says of messages of a batch that ask for it (NLM_F_ECHO); nil is nobody.
	told func(message)
	buf  []byte
}

// replySize is what the kernel writes at a time at most.
const replySize = 32 << 10

// open opens a socket in the network namespace at path; "" is the caller's.
func open(path string) (*socket, error) {
	s := &socket{fd: -1, next: 1, buf: make([]byte, replySize)}
	if err := inNamespace(path, s.open); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *socket) open() (err error) {
	s.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("%w: netlink socket: %w: this kernel has no nfnetlink: run `modprobe nf_tables`", ErrUnavailable, err)
	}
	if err := unix.Bind(s.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("bind netlink socket: %w", err)
	}
	// Answers without what was asked, and room for many of them. Without either it goes as well: a batch whose
	// answers are lost is halved.
	_ = unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	s.widen(unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, 1<<20)
	return s.identify()
}

// identify asks the kernel what it knows of the socket.
func (s *socket) identify() error {
	at, err := unix.Getsockname(s.fd)
	if err != nil {
		return fmt.Errorf("netlink socket: %w", err)
	}
	s.port = at.(*unix.SockaddrNetlink).Pid
	s.room, err = unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
	return err
}

// widen makes a buffer larger: as the administrator of the machine at will, else within the system's bounds.
func (s *socket) widen(force, plain, size int) {
	if unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, force, size) != nil {
		_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, plain, size)
	}
}

func (s *socket) close() error {
	if s.fd < 0 {
		return nil
	}
	fd := s.fd
	s.fd = -1
	return unix.Close(fd)
}

// start begins a batch.
func (s *socket) start(b *batch, table string) { b.start(table, s.next) }

// failure is what the kernel has against one message.
type failure struct {
	message int // 1 is the first of the batch; 0 is the batch as a whole
	err     error
}

// commit has the kernel carry out a batch, all of it or nothing. Nothing, if there are failures: of each message that
// the kernel would not carry out, in their order. An error says that nobody knows.
func (s *socket) commit(b *batch) ([]failure, error) {
	b.finish()
	s.next = b.first + b.count
	if len(b.buf) > s.room/2 {
		s.widen(unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, 2*len(b.buf))
		s.room, _ = unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
	}
	if err := s.send(b.buf); err != nil {
		return nil, fmt.Errorf("send %d bytes to nf_tables: %w", len(b.buf), err)
	}
	var failures []failure
	answered := false
	for {
		n, err := s.receive(unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("answer of nf_tables: %w", err)
		}
		for m := range messages(s.buf[:n]) {
			switch {
			case m.typ != unix.NLMSG_ERROR: // what an earlier transaction has left behind perhaps
				if s.told != nil {
					s.told(m)
				}
			case m.seq-b.first < b.count && len(m.body) >= 4:
				answered = true
				if errno := m.errno(); errno != 0 {
					failures = append(failures, failure{int(m.seq - b.first), errno})
				}
			}
		}
	}
	if !answered {
		return nil, errors.New("nf_tables has not answered")
	}
	return failures, nil
}

// dump sends a question whose answer is all things of a kind, and visits them.
func (s *socket) dump(b *batch, visit func(message)) error {
	return s.question(b, 0, visit)
}

// ask sends questions about single things and visits the answers. What is not there is no error.
func (s *socket) ask(b *batch, visit func(message)) error {
	return s.question(b, unix.MSG_DONTWAIT, visit)
}

// question reads until the end of a dump, or, if told not to wait, until there is nothing more: single answers are there
// when a question has been sent.
func (s *socket) question(b *batch, flags int, visit func(message)) error {
	b.endMessage()
	s.next = b.first + b.count
	if err := s.send(b.buf); err != nil {
		return fmt.Errorf("ask nf_tables: %w", err)
	}
	for {
		n, err := s.receive(flags)
		if err == unix.EAGAIN {
			return nil
		}
		if err != nil {
			return fmt.Errorf("answer of nf_tables: %w", err)
		}
		for m := range messages(s.buf[:n]) {
			switch {
			case m.seq-b.first >= b.count: // of an earlier question that was given up
			case m.typ == unix.NLMSG_DONE:
				return nil
			case m.typ != unix.NLMSG_ERROR:
				visit(m)
			case len(m.body) >= 4 && m.errno() != 0 && m.errno() != unix.ENOENT:
				return m.errno()
			}
		}
	}
}

func (s *socket) send(buf []byte) error {
	if s.fd < 0 {
		return os.ErrClosed
	}
	for {
		err := unix.Sendto(s.fd, buf, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if err != unix.EINTR {
			return err
		}
	}
}

func (s *socket) receive(flags int) (int, error) {
	for {
		n, _, err := unix.Recvfrom(s.fd, s.buf, flags)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// message is one of the kernel's. Its body is borrowed until the next call of the socket.
type message struct {
	typ, flags uint16
	seq        uint32
	body       []byte
}

func (m message) errno() unix.Errno {
	return unix.Errno(-int32(binary.NativeEndian.Uint32(m.body)))
}

// headerLength is that of struct nfgenmsg.
const headerLength = 4

// attributes are those behind struct nfgenmsg.
func (m message) attributes() func(func(uint16, []byte) bool) {
	return attributes(m.body[min(len(m.body), headerLength):])
}

// messages cuts what was received into messages.
func messages(buf []byte) func(func(message) bool) {
	return func(yield func(message) bool) {
		for len(buf) >= unix.NLMSG_HDRLEN {
			n := int(binary.NativeEndian.Uint32(buf))
			if n < unix.NLMSG_HDRLEN || n > len(buf) {
				return
			}
			m := message{
				typ: binary.NativeEndian.Uint16(buf[4:]), flags: binary.NativeEndian.Uint16(buf[6:]),
				seq: binary.NativeEndian.Uint32(buf[8:]), body: buf[unix.NLMSG_HDRLEN:n],
			}
			if !yield(m) {
				return
			}
			buf = buf[min(len(buf), (n+3)&^3):]
		}
	}
}

// attributes cuts a sequence of attributes.
func attributes(buf []byte) func(func(uint16, []byte) bool) {
	return func(yield func(uint16, []byte) bool) {
		for len(buf) >= 4 {
			n := int(binary.NativeEndian.Uint16(buf))
			if n < 4 || n > len(buf) || !yield(binary.NativeEndian.Uint16(buf[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), buf[4:n]) {
				return
			}
			buf = buf[min(len(buf), (n+3)&^3):]
		}
	}
}

// inNamespace runs f with its thread in the network namespace at path; "" is the caller's.
func inNamespace(path string, f func() error) error {
	if path == "" {
		return f()
	}
	result := make(chan error)
	go visitNamespace(path, f, result) // ends with f
	return <-result
}

// visitNamespace gives its thread back only when that is home again; else the thread ends with the goroutine.
func visitNamespace(path string, f func() error, result chan<- error) {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		result <- err
		return
	}
	defer home.Close()
	there, err := os.Open(path)
	if err == nil {
		defer there.Close()
		if err = unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
			err = fmt.Errorf("enter network namespace %s: %w", path, err)
		} else {
			err = f()
		}
	}
	if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
		runtime.UnlockOSThread()
	}
	result <- err
}
