package port

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// perCall is how many frames one call takes.
const perCall = 64

// NewBurst returns a way to send many frames by one system call. Close of d closes it.
func (d *Direct) NewBurst() Burst { return newBurst(d, &d.calls, d.fd, true) }

// NewBurst implements Ring.
func (p *ringPort) NewBurst() Burst { return newBurst(p, &p.calls, p.out, false) }

// outlet is what a burst goes out by. All but gate is called inside its gate.
type outlet interface {
	// write sends one frame in all ways that there are; wrap makes an error of a number.
	write(frame []byte, link int) error
	wrapTo(link int, err error) error
	awaitRoom() error
}

// burst is a Burst by sendmmsg(2). What the kernel does not take with the others goes by the outlet's way for one.
type burst struct {
	outlet
	calls *gate
	fd    int

	n        int // frames that wait
	messages [perCall]message
	vectors  [perCall]unix.Iovec
	names    [perCall]unix.RawSockaddrLinklayer

	failed int
	err    error
}

// message is struct mmsghdr.
type message struct {
	unix.Msghdr
	sent uint32
}

func newBurst(o outlet, calls *gate, fd int, named bool) *burst {
	b := &burst{outlet: o, calls: calls, fd: fd}
	for i := range b.messages {
		b.messages[i].Iov = &b.vectors[i]
		b.messages[i].SetIovlen(1)
		b.names[i].Family = unix.AF_PACKET
		if named {
			b.messages[i].Name = (*byte)(unsafe.Pointer(&b.names[i]))
			b.messages[i].Namelen = unix.SizeofSockaddrLinklayer
		}
	}
	return b
}

// Put implements Burst.
func (b *burst) Put(frame []byte, link int) {
	if b.n == perCall {
		b.send()
	}
	b.vectors[b.n].Base = unsafe.SliceData(frame)
	b.vectors[b.n].SetLen(len(frame))
	b.names[b.n].Ifindex, b.names[b.n].Protocol = int32(link), protocolOf(frame)
	b.n++
}

// Flush implements Burst.
func (b *burst) Flush() (failed int, err error) {
	b.send()
	failed, err = b.failed, b.err
	b.failed, b.err = 0, nil
	return failed, err
}

func (b *burst) send() {
	n := b.n
	b.n = 0
	if n == 0 {
		return
	}
	if !b.calls.enter() {
		b.fail(n, os.ErrClosed)
		return
	}
	defer b.calls.leave()
	patient := true
	for at := 0; at < n; {
		sent, err := b.sendmmsg(b.messages[at:n])
		at += sent // an error is that of the first
		switch {
		case err == nil, err == unix.EINTR:
		case err == unix.EAGAIN && patient:
			// Once a burst: who does not get room in that time gets none for the frames behind, either.
			if patient = b.awaitRoom() == nil; !patient {
				continue
			}
		case err == unix.EAGAIN:
			b.fail(1, b.wrapTo(int(b.names[at].Ifindex), err))
			at++
		default:
			frame := unsafe.Slice(b.vectors[at].Base, int(b.vectors[at].Len))
			if err := b.write(frame, int(b.names[at].Ifindex)); err != nil {
				b.fail(1, err)
			}
			at++
		}
	}
}

func (b *burst) fail(n int, err error) { b.failed, b.err = b.failed+n, err }

// sendmmsg returns how many of the messages were sent, or why not even the first was. The scheduler is told of a long call
// only, see tuntap.receive: a collection waits for those that it does not know of, and what the frames are
// received by may run inside.
func (b *burst) sendmmsg(messages []message) (sent int, err error) {
	const short = 8
	first, n := unsafe.Pointer(unsafe.SliceData(messages)), uintptr(len(messages))
	if n <= short {
		return transferred(unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(b.fd), uintptr(first), n, 0, 0, 0))
	}
	return transferred(unix.Syscall6(unix.SYS_SENDMMSG, uintptr(b.fd), uintptr(first), n, 0, 0, 0))
}
