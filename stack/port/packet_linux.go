package port

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sendQueue, in bytes, is what may wait in the interface.
const sendQueue = 4 << 20

// packetSocket is the endpoint on an existing interface: frames come by its ring, and leave by send(2), which takes vnet
// header and frame just as Port has them. There is no ring for sending: a veth copied what was in it once
// more. The queue discipline is not bypassed (PACKET_QDISC_BYPASS): on that way the kernel segments nothing, and refuses
// super-packets where the interface can't do it (ENOBUFS); on a veth it gained nothing.
type packetSocket struct {
	*ethernet     // its socket hears of changes
	fd        int // receives, and sends
	ring      *ring
	lending   lending
	claims    bool        // it has a claim for a filter
	shared    atomic.Bool // somebody may have a duplicate of fd

	deleted  bool // the reader's
	overruns atomic.Uint64
	unfit    atomic.Uint64
}

func openPacket(cfg PacketConfig) (p Port, err error) {
	if cfg.Claim != nil && !cfg.Station.IsZero() {
		return nil, errors.New("a claim goes with the interface's own MAC: leave the station out")
	}
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
	if cfg.Inherited > 0 {
		p, err := openPacketOn(cfg, cfg.Inherited)
		if err == nil {
			return p, nil
		}
		cfg.Inherited = 0 // and closed
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, explainPacket(err)
	}
	return openPacketOn(cfg, fd)
}

// openPacketOn makes the port of a socket, which it closes if it fails.
func openPacketOn(cfg PacketConfig, fd int) (Port, error) {
	ctl, err := newControl(cfg.Interface, unix.RTMGRP_LINK)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("%w: see `ip -br link` for the interfaces of this network namespace", err)
	}
	s := &packetSocket{ethernet: newEthernet(ctl, 0), fd: fd, claims: cfg.Claim != nil}
	if err = s.prepare(cfg); err == nil {
		var p *rawPort
		if p, err = newRawPort(s, fd, fd, ctl.fd); err == nil {
			return &ringPort{p, s}, nil
		}
	}
	s.release()
	return nil, err
}

func (s *packetSocket) prepare(cfg PacketConfig) (err error) {
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
	if err := setQueue(s.fd, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, sendQueue); err != nil {
		return err
	}
	if cfg.Inherited > 0 {
		return s.adopt(cfg)
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
	if s.ring, err = openRing(s.fd); err != nil {
		return err
	}
	if err := s.listen(cfg); err != nil {
		return err
	}
	return unix.Bind(s.fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: int(s.index)})
}

// adopt goes on with a socket as its predecessor has left it: with what is to come in, and what has.
func (s *packetSocket) adopt(cfg PacketConfig) (err error) {
	bound, err := unix.Getsockname(s.fd)
	if err != nil {
		return fmt.Errorf("inherited socket: %w", err)
	}
	if to, ok := bound.(*unix.SockaddrLinklayer); !ok || to.Ifindex != int(s.index) {
		return errors.New("inherited socket: it is not on this interface")
	}
	if !sameNetNS(s.fd, s.control.fd) { // each namespace has interfaces of the same number
		return errors.New("inherited socket: it is in another network namespace")
	}
	unix.CloseOnExec(s.fd)
	if s.ring, err = adoptRing(s.fd); err != nil || s.claims {
		return err
	}
	return s.listen(cfg)
}

func (s *packetSocket) descriptor() (int, bool) {
	s.shared.Store(true)
	return s.fd, true
}

// listen says what is to come in.
func (s *packetSocket) listen(cfg PacketConfig) error {
	if s.claims {
		return attachClaim(s.fd, *cfg.Claim)
	}
	if err := attachFilter(s.fd, stationFilter(cfg.Station)); err != nil {
		return err
	}
	if err := s.promiscuous(unix.PACKET_ADD_MEMBERSHIP); err != nil {
		return fmt.Errorf("hear frames for other stations: %w", err)
	}
	return nil
}

func (s *packetSocket) promiscuous(change int) error {
	request := unix.PacketMreq{Ifindex: int32(s.index), Type: unix.PACKET_MR_PROMISC}
	return unix.SetsockoptPacketMreq(s.fd, unix.SOL_PACKET, change, &request)
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

// take gives back what was lent, and lends the next frames that fit.
func (s *packetSocket) take(frames [][]byte) (n int, err error) {
	s.ring.giveBack()
	for n < len(frames) && !s.deleted {
		frame, fit := s.ring.take()
		if frame == nil {
			break
		}
		if !fit {
			s.unfit.Add(1)
			continue
		}
		frames[n] = frame
		n++
	}
	s.lending.set(n > 0)
	switch {
	case n > 0:
		return n, nil
	case s.deleted:
		return 0, unix.ENODEV
	}
	return 0, unix.EAGAIN
}

// receive copies the next frame and lends none.
func (s *packetSocket) receive(frame []byte) (n int, err error) {
	var one [1][]byte
	if _, err := s.take(one[:]); err != nil {
		return 0, err
	}
	n = copy(frame, one[0])
	s.ring.giveBack()
	s.lending.set(false)
	return n, nil
}

// send tries twice where the interface is down. Of an interface that has gone down in the meantime, and may be up again, the socket tells
// whoever calls next: a second socket to send by would cost a pause of 10 ms, for all that goes on in the kernel, whenever it is closed.
// Who waits for frames hears of it by the other socket.
func (s *packetSocket) send(frame []byte) error {
	err := s.sendOnce(frame)
	if err == unix.ENETDOWN {
		err = s.sendOnce(frame)
	}
	return err
}

func (s *packetSocket) sendOnce(frame []byte) error {
	_, err := transferred(unix.RawSyscall6(unix.SYS_SENDTO, uintptr(s.fd),
		uintptr(unsafe.Pointer(unsafe.SliceData(frame))), uintptr(len(frame)), 0, 0, 0))
	return err
}

// vanished forgets the messages, which are about all interfaces of the namespace, and
// looks at what the socket is bound to: nothing any more once the interface is gone. The
// socket itself says only that it went down (once it is asked for the error poll has told of, it waits again: the
// interface may come up), and nothing if it was down.
func (s *packetSocket) vanished() bool {
	unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR)
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

// close leaves what is lent to the reader, and with it a socket that hears nothing.
func (s *packetSocket) close() error {
	var err error
	if s.lending.some() && !s.shared.Load() { // once the end is left to the reader the socket is not ours
		err = s.deafen()
	}
	if s.lending.postpone() {
		return err
	}
	return s.release()
}

func (s *packetSocket) deafen() error {
	if err := attachFilter(s.fd, []unix.SockFilter{{Code: end}}); err != nil || s.claims {
		return err
	}
	return s.promiscuous(unix.PACKET_DROP_MEMBERSHIP)
}

func (s *packetSocket) release() error {
	var err error
	if s.ring != nil {
		s.ring.giveBack() // a successor would take them once more
		err = s.ring.close()
	}
	err = errors.Join(err, unix.Close(s.fd))
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
