package port

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/stack/packet"
)

const (
	// receiveQueue, in bytes, is room for a burst. The kernel doubles it and counts
	// its own buffers: 450 super-packets, or 14000 of 1500 bytes.
	receiveQueue = 16 << 20
	// sendQueue, in bytes, is what may wait in the interface.
	sendQueue = 4 << 20
)

// packetSocket is the endpoint on an existing interface.
//
// It has no ring: recv(2) brings vnet header and frame just as Port has them, and
// send(2) takes them so. The queue discipline is not bypassed (PACKET_QDISC_BYPASS): on
// that way the kernel segments nothing, and refuses super-packets where the interface
// can't do it (ENOBUFS); on a veth it gained nothing.
type packetSocket struct {
	*ethernet // its socket hears of changes
	fd        int

	deleted  bool // the reader's
	overruns atomic.Uint64
	unfit    atomic.Uint64
}

func openPacket(cfg PacketConfig) (p Port, err error) {
	if cfg.Offload != OffloadAuto {
		return nil, fmt.Errorf("offload %s: the interface's settings decide: leave it out, and run `ethtool -K %s gro off lro off`, "+
			"on a veth besides at its other end `ethtool -K ... tx off tso off gso off`", cfg.Offload, cfg.Interface)
	}
	err = inNetNS(cfg.NetNS, func() (err error) {
		p, err = openPacketHere(cfg)
		return err
	})
	return p, err
}

// openPacketHere opens the socket in the calling thread's network namespace. The
// protocol is 0 until all is set: before that no frame comes in.
func openPacketHere(cfg PacketConfig) (Port, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, explainPacket(err)
	}
	ctl, err := newControl(cfg.Interface, unix.RTMGRP_LINK)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("%w: see `ip -br link` for the interfaces of this network namespace", err)
	}
	s := &packetSocket{ethernet: newEthernet(ctl, 0), fd: fd}
	if err = s.prepare(cfg.Station); err == nil {
		var p *rawPort
		if p, err = newRawPort(s, fd, ctl.fd); err == nil {
			return p, nil
		}
	}
	s.close()
	return nil, err
}

func (s *packetSocket) prepare(station packet.MAC) (err error) {
	kind, err := s.get(s.name, unix.SIOCGIFHWADDR)
	if err != nil {
		return err
	}
	if kind := uint16(kind); kind != unix.ARPHRD_ETHER {
		return fmt.Errorf("not an Ethernet interface (its link type is %d): see `ip -br link`, and take a TUN for what is routed", kind)
	}
	if s.last, err = s.mtu(); err != nil {
		return err
	}
	on := func(option int, what string) error {
		if err := unix.SetsockoptInt(s.fd, unix.SOL_PACKET, option, 1); err != nil {
			return fmt.Errorf("%s: %w: this takes Linux 4.20", what, err)
		}
		return nil
	}
	if err := on(unix.PACKET_VNET_HDR, "PACKET_VNET_HDR"); err != nil {
		return err
	}
	if err := on(unix.PACKET_IGNORE_OUTGOING, "PACKET_IGNORE_OUTGOING"); err != nil {
		return err
	}
	if err := s.setQueues(); err != nil {
		return err
	}
	if err := s.filter(station); err != nil {
		return err
	}
	promiscuous := unix.PacketMreq{Ifindex: int32(s.index), Type: unix.PACKET_MR_PROMISC}
	if err := unix.SetsockoptPacketMreq(s.fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &promiscuous); err != nil {
		return fmt.Errorf("hear frames for other stations: %w", err)
	}
	return unix.Bind(s.fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: int(s.index)})
}

func (s *packetSocket) setQueues() error {
	for _, q := range []struct{ force, ask, size int }{
		{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, receiveQueue},
		{unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, sendQueue},
	} {
		if err := setQueue(s.fd, q.force, q.ask, q.size); err != nil {
			return err
		}
	}
	return nil
}

// setQueue takes what is allowed where it may not go beyond.
func setQueue(fd, force, ask, size int) error {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, size) == nil {
		return nil
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, ask, size); err != nil {
		return fmt.Errorf("set queue length: %w", err)
	}
	return nil
}

// filter has the kernel drop the frames of VLANs: it takes the tag out of what we read,
// and they would look like the untagged network's. With VLAN number 0, a mere
// priority, they are (IEEE 802.1Q, 6.9). With a station, frames for others are dropped
// as well.
func (s *packetSocket) filter(station packet.MAC) error {
	const (
		load  = unix.BPF_LD | unix.BPF_ABS
		equal = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		and   = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
		end   = unix.BPF_RET | unix.BPF_K

		ancillary = 1<<32 - 0x1000 // SKF_AD_OFF, and the following behind it (linux/filter.h)
		tag       = ancillary + 44 // SKF_AD_VLAN_TAG
		isTagged  = ancillary + 48 // SKF_AD_VLAN_TAG_PRESENT
		whole     = 1<<32 - 1
	)
	program := []unix.SockFilter{
		{Code: load | unix.BPF_B, K: isTagged},
		{Code: equal, Jt: 4},
		{Code: load | unix.BPF_H, K: tag},
		{Code: and, K: 0xfff}, // the VLAN's number
		{Code: equal, Jt: 1},
		{Code: end, K: 0},
	}
	if !station.IsZero() {
		program = append(program,
			unix.SockFilter{Code: load | unix.BPF_B}, // the destination's first byte has the group bit
			unix.SockFilter{Code: and, K: 1},
			unix.SockFilter{Code: equal, K: 1, Jt: 5},
			unix.SockFilter{Code: load | unix.BPF_W},
			unix.SockFilter{Code: equal, K: binary.BigEndian.Uint32(station[:]), Jf: 2},
			unix.SockFilter{Code: load | unix.BPF_H, K: 4},
			unix.SockFilter{Code: equal, K: uint32(binary.BigEndian.Uint16(station[4:])), Jt: 1},
			unix.SockFilter{Code: end, K: 0},
		)
	}
	program = append(program, unix.SockFilter{Code: end, K: whole})
	attached := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if err := unix.SetsockoptSockFprog(s.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &attached); err != nil {
		return fmt.Errorf("attach the socket filter: %w", err)
	}
	return nil
}

// receive takes the next frame that fits. MSG_TRUNC makes the kernel tell the length of a
// frame that it has cut.
func (s *packetSocket) receive(frame []byte) (int, error) {
	for !s.deleted {
		n, err := transferred(unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(s.fd),
			uintptr(unsafe.Pointer(unsafe.SliceData(frame))), uintptr(len(frame)), unix.MSG_TRUNC, 0, 0))
		switch {
		case err == nil && n <= len(frame):
			return n, nil
		case err == nil, err == unix.EINVAL: // no vnet header has words for it: the frame is gone
			s.unfit.Add(1)
		case err == unix.ENETDOWN: // said once; it may come up again, or be deleted: wait
			return 0, unix.EAGAIN
		default:
			return 0, err
		}
	}
	return 0, unix.ENODEV
}

func (s *packetSocket) send(frame []byte) error {
	_, err := transferred(unix.RawSyscall6(unix.SYS_SENDTO, uintptr(s.fd),
		uintptr(unsafe.Pointer(unsafe.SliceData(frame))), uintptr(len(frame)), 0, 0, 0))
	return err
}

// vanished forgets the messages, which are about all interfaces of the namespace, and
// looks at what the socket is bound to: nothing any more once the interface is gone. The
// socket itself says only that it went down, and nothing if it was down.
func (s *packetSocket) vanished() bool {
	var ignored [1]byte
	for {
		_, _, err := unix.Recvfrom(s.control.fd, ignored[:], unix.MSG_DONTWAIT)
		if err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR) {
			break
		}
	}
	bound, err := unix.Getsockname(s.fd)
	if err != nil {
		return false
	}
	to, ok := bound.(*unix.SockaddrLinklayer)
	s.deleted = ok && to.Ifindex != int(s.index)
	return s.deleted
}

// count: asking the kernel sets its counter back to 0.
func (s *packetSocket) count(st *Stats, open bool) {
	if open {
		if k, err := unix.GetsockoptTpacketStats(s.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			s.overruns.Add(uint64(k.Drops))
		}
	}
	st.Overruns, st.Unfit = s.overruns.Load(), s.unfit.Load()
}

func (s *packetSocket) close() error {
	err := unix.Close(s.fd)
	s.ethernet.close()
	return err
}

func explainPacket(err error) error {
	switch err {
	case unix.EPERM, unix.EACCES:
		return fmt.Errorf("%w: %w: a packet socket takes CAP_NET_RAW in its network namespace: run as root, or under `unshare -Urn`", ErrUnavailable, err)
	case unix.EAFNOSUPPORT:
		return fmt.Errorf("%w: %w: this kernel has no packet sockets: run `modprobe af_packet`", ErrUnavailable, err)
	}
	return err
}

func networkOrder(v uint16) uint16 {
	return native.Uint16(binary.BigEndian.AppendUint16(nil, v))
}
