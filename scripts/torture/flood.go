//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/labnet/netns"
)

// flood sends SYNs from random sources, at a rate, on a thread of its own, until it is closed. Sources are of 11.0.0.0 to
// 99.255.255.255: no machine's of the lab, and none that a kernel refuses.
type flood struct {
	sent atomic.Int64
	stop context.CancelFunc
	done chan struct{} // closed when err is set
	err  error
}

// The SYN's place in its frame, which is Ethernet, IPv4 and TCP without options.
const (
	synIP, synTCP, synLen = 14, 34, 54
	floodBurst            = 64
)

// startFlood sends out of a node's eth0 to the station that is its gateway.
func startFlood(ctx context.Context, from *netns.NS, gateway netns.MAC, to netip.AddrPort, perSecond int) (*flood, error) {
	macs, err := from.MACs()
	if err != nil {
		return nil, err
	}
	fd := -1
	err = from.Do(func() error {
		iface, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return fmt.Errorf("packet socket: %w", err)
		}
		_ = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1) // cheaper, where there is such a thing
		return unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: iface.Index})
	})
	if err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return nil, fmt.Errorf("flood: %w", err)
	}
	ctx, stop := context.WithCancel(ctx)
	f := &flood{stop: stop, done: make(chan struct{})}
	frame := make([]byte, synLen)
	mac := macs["eth0"]
	copy(frame[copy(frame, gateway[:]):], mac[:])
	binary.BigEndian.PutUint16(frame[12:], unix.ETH_P_IP)
	ip, tcp := frame[synIP:synTCP], frame[synTCP:]
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_TCP
	binary.BigEndian.PutUint16(ip[2:], synLen-synIP)
	dst := to.Addr().As4()
	copy(ip[16:], dst[:])
	binary.BigEndian.PutUint16(tcp[2:], to.Port())
	tcp[12], tcp[13] = 5<<4, 0x02 // 20 bytes, SYN
	binary.BigEndian.PutUint16(tcp[14:], 65535)
	go f.run(ctx, fd, frame, perSecond) // ends with close
	return f, nil
}

// mmsghdr is struct mmsghdr of sendmmsg(2).
type mmsghdr struct {
	header unix.Msghdr
	_      uint32 // what was sent of it
}

func (f *flood) run(ctx context.Context, fd int, frame []byte, perSecond int) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(f.done)
	defer unix.Close(fd)
	var (
		frames   [floodBurst][synLen]byte
		vectors  [floodBurst]unix.Iovec
		messages [floodBurst]mmsghdr
	)
	for i := range frames {
		copy(frames[i][:], frame)
		vectors[i].Base = &frames[i][0]
		vectors[i].SetLen(synLen)
		messages[i].header.Iov = &vectors[i]
		messages[i].header.SetIovlen(1)
	}
	began, tried := time.Now(), 0
	for ctx.Err() == nil {
		n := min(floodBurst, int(time.Since(began).Seconds()*float64(perSecond))-tried)
		if n < floodBurst/4 {
			pause := unix.NsecToTimespec(200_000)
			_ = unix.Nanosleep(&pause, nil)
			continue
		}
		for i := range n {
			syn(frames[i][:])
		}
		sent, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&messages)), uintptr(n), 0, 0, 0)
		switch errno {
		case 0:
			f.sent.Add(int64(sent))
			tried += n
		case unix.EINTR, unix.ENOBUFS:
			tried += n // lost, as on any wire that is full; sent says how much was not
		default:
			f.err = fmt.Errorf("flood: send: %w", errno)
			return
		}
	}
}

// syn gives a frame another source, port and sequence number.
func syn(frame []byte) {
	ip, tcp := frame[synIP:synTCP], frame[synTCP:]
	r := rand.Uint64()
	binary.BigEndian.PutUint32(ip[12:], uint32(r))
	ip[12] = 11 + byte(r>>32)%89
	binary.BigEndian.PutUint16(tcp, 1024+uint16(r>>40)%64000)
	binary.BigEndian.PutUint32(tcp[4:], rand.Uint32())
	clear(ip[10:12])
	clear(tcp[16:18])
	binary.BigEndian.PutUint16(ip[10:], ^fold(sum(ip)))
	binary.BigEndian.PutUint16(tcp[16:], ^fold(sum(ip[12:20])+sum(tcp)+unix.IPPROTO_TCP+uint32(len(tcp))))
}

// sum and fold are RFC 1071's.
func sum(b []byte) (s uint32) {
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	return s
}

func fold(s uint32) uint16 {
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

// close ends the flood; an error says that it ended before.
func (f *flood) close() error {
	f.stop()
	<-f.done
	return f.err
}
