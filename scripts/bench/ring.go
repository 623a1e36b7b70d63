//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/labnet/netns"
	"github.com/tunlb/tunlb/stack/packet"
)

// startBarePacket puts a ring on each of the box's interfaces. The box's kernel sees the same packets; that it does not
// forward, and has the VIP on no interface, makes it drop them without a word.
func startBarePacket(ctx context.Context, s *stand, o options) error {
	args := []string{vip.String(), server.String()}
	for _, side := range [...]struct {
		name string // of the box's interface
		peer *netns.NS
	}{{"outer", s.clientNS}, {"inner", s.serveNS}} {
		box, err := s.lb.MACs()
		if err != nil {
			return err
		}
		peer, err := side.peer.MACs()
		if err != nil {
			return err
		}
		args = append(args, side.name, box[side.name].String(), peer["eth0"].String())
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := s.lb.Sysctl("ipv4/ip_forward", "0"); err != nil {
		return err
	}
	s.process, err = startProcess(s.lb.Command(ctx, self, append([]string{childRing}, args...)...), o.verbose)
	return err
}

// runRingChild runs the bare loop over two interfaces, each told of by its name, its MAC and its peer's.
func runRingChild(args []string) error {
	if len(args) != 8 {
		return fmt.Errorf("%s takes two addresses, and name, MAC and peer's MAC of two interfaces", childRing)
	}
	b, err := parseBare(args[0], args[1])
	if err != nil {
		return err
	}
	outer, err := openRing(args[2:5])
	if err != nil {
		return err
	}
	inner, err := openRing(args[5:8])
	if err != nil {
		return err
	}
	return relayRings(outer, inner, b)
}

const (
	ringFrames = 256   // with 32 or 64 bulk is retransmitted
	ringSlot   = 69632 // a super-packet, and whole pages
	// A slot holds tpacket2_hdr and sockaddr_ll, the vnet header, and then the frame.
	slotLength, slotSnapped, slotMAC = 4, 8, 12 // offsets in tpacket2_hdr, which begins with the status
)

// ring is an interface whose frames the kernel puts into memory that it shares with us (TPACKET_V2).
type ring struct {
	slots     []byte
	next      int
	in, out   int // sockets
	own, peer packet.MAC
}

// openRing takes an interface's name, its MAC and its peer's.
func openRing(args []string) (*ring, error) {
	iface, err := net.InterfaceByName(args[0])
	if err != nil {
		return nil, err
	}
	r := &ring{}
	if r.own, err = packet.ParseMAC(args[1]); err != nil {
		return nil, err
	}
	if r.peer, err = packet.ParseMAC(args[2]); err != nil {
		return nil, err
	}
	for _, fd := range [...]*int{&r.in, &r.out} {
		// Protocol 0: nothing comes before the socket is ready for it.
		if *fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err == nil {
			err = unix.SetsockoptInt(*fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1)
		}
		if err != nil {
			return nil, fmt.Errorf("packet socket: %w", err)
		}
	}
	if err := errors.Join(
		unix.SetsockoptInt(r.in, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(r.in, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V2),
		unix.SetsockoptTpacketReq(r.in, unix.SOL_PACKET, unix.PACKET_RX_RING, &unix.TpacketReq{
			Block_size: ringSlot, Block_nr: ringFrames, Frame_size: ringSlot, Frame_nr: ringFrames,
		}),
		unix.SetsockoptInt(r.out, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1),
	); err != nil {
		return nil, fmt.Errorf("ring on %s: %w", args[0], err)
	}
	if r.slots, err = unix.Mmap(r.in, 0, ringFrames*ringSlot, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("map the ring on %s: %w", args[0], err)
	}
	return r, errors.Join(
		unix.Bind(r.in, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: iface.Index}),
		unix.Bind(r.out, &unix.SockaddrLinklayer{Ifindex: iface.Index}),
	)
}

func htons(v uint16) uint16 { return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v)) }

// relayRings moves frames between two rings' interfaces, for ever, on one thread as tunlb does on a machine of two processors. What is
// in a ring goes by one call.
func relayRings(outer, inner *ring, b *bare) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var out burst
	for {
		if outer.move(inner, b, &out)+inner.move(outer, b, &out) > 0 {
			continue
		}
		if err := wait(outer.in, inner.in); err != nil {
			return err
		}
	}
}

// move sends what is in the ring to the other's interface, and says how many frames these were.
func (r *ring) move(to *ring, b *bare, out *burst) (n int) {
	for ; n < len(out.messages); n++ {
		frame, ok := r.frame((r.next + n) % ringFrames)
		if !ok {
			break
		}
		if frame != nil && b.translate(frame[0], frame[packet.VnetLen+packet.EthernetLen:]) {
			packet.SetMACs(frame, to.peer, to.own)
			out.put(frame)
		}
	}
	if n == 0 {
		return 0
	}
	out.send(to.out)
	// Only now may the kernel write over them.
	for range n {
		r.release(r.next)
		r.next = (r.next + 1) % ringFrames
	}
	return n
}

// frame is the frame in a slot, with its vnet header; nil if it was cut or is shorter than the headers. False is an empty slot.
func (r *ring) frame(slot int) ([]byte, bool) {
	s := r.slots[slot*ringSlot : (slot+1)*ringSlot]
	if atomic.LoadUint32(status(s))&unix.TP_STATUS_USER == 0 {
		return nil, false
	}
	length, snapped := binary.NativeEndian.Uint32(s[slotLength:]), binary.NativeEndian.Uint32(s[slotSnapped:])
	if length != snapped || length < packet.EthernetLen {
		return nil, true
	}
	at := int(binary.NativeEndian.Uint16(s[slotMAC:]))
	return s[at-packet.VnetLen : at+int(length)], true
}

func (r *ring) release(slot int) {
	atomic.StoreUint32(status(r.slots[slot*ringSlot:]), unix.TP_STATUS_KERNEL)
}

// status is the word by which a slot changes hands.
func status(slot []byte) *uint32 { return (*uint32)(unsafe.Pointer(&slot[0])) }

// wait returns when one of two descriptors can be read.
func wait(a, b int) error {
	fds := [...]unix.PollFd{{Fd: int32(a), Events: unix.POLLIN}, {Fd: int32(b), Events: unix.POLLIN}}
	// Raw: the scheduler has nothing else to do on this thread.
	_, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&fds)), uintptr(len(fds)), 0, 0, 0, 0)
	switch {
	case errno != 0 && errno != unix.EINTR:
		return fmt.Errorf("poll: %w", errno)
	case (fds[0].Revents|fds[1].Revents)&(unix.POLLERR|unix.POLLHUP|unix.POLLNVAL) != 0:
		return errors.New("the device is gone")
	}
	return nil
}

// burst is what one sendmmsg takes.
type burst struct {
	messages [64]mmsghdr
	vectors  [64]unix.Iovec
	n        int
}

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	header unix.Msghdr
	length uint32
}

func (b *burst) put(frame []byte) {
	v, m := &b.vectors[b.n], &b.messages[b.n].header
	v.Base = &frame[0]
	v.SetLen(len(frame))
	m.Iov = v
	m.SetIovlen(1)
	b.n++
}

func (b *burst) send(fd int) {
	for first := 0; first < b.n; {
		sent, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.messages[first])), uintptr(b.n-first), 0, 0, 0)
		switch {
		case errno == unix.EINTR:
		case errno != 0:
			first++ // a packet that the kernel refuses is lost, as on any router
		default:
			first += int(sent)
		}
	}
	b.n = 0
}
