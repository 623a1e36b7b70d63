//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/stack/packet"
)

// bare is the least that a TUN load balancer has to do: read a super-packet, put one address in the
// place of another, write it back. It is what tunlb's own work is measured against, so it believes
// everything: TCP over IPv4 without options, and nothing but the one service's.
type bare struct {
	there, back         packet.Delta
	vip, server         [4]byte
	vipPort, serverPort uint16
}

func newBare(vip, server netip.AddrPort) *bare {
	b := &bare{vip: vip.Addr().As4(), vipPort: vip.Port(), server: server.Addr().As4(), serverPort: server.Port()}
	b.there = packet.DeltaOf(
		packet.Tuple{Dst: vip.Addr().As16(), DstPort: vip.Port()},
		packet.Tuple{Dst: server.Addr().As16(), DstPort: server.Port()})
	b.back = b.there.Invert()
	return b
}

// Offsets in a packet: IPv4 without options, TCP.
const (
	atHeadSum  = 10
	atSource   = 12
	atDest     = 16
	atTCP      = 20
	atDestPort = atTCP + 2
	atSum      = atTCP + 16
)

// frame edits a TUN's frame.
func (b *bare) frame(frame []byte) { b.translate(frame[0], frame[packet.VnetLen:]) }

// translate edits what goes to the VIP or comes from the server; false is something else. Flags are the vnet header's.
func (b *bare) translate(flags uint8, ip []byte) bool {
	var delta packet.Delta
	switch {
	case len(ip) < atSum+2:
		return false // something of the kernel's own: IPv6 router solicitations
	case [4]byte(ip[atDest:]) == b.vip:
		copy(ip[atDest:], b.server[:])
		binary.BigEndian.PutUint16(ip[atDestPort:], b.serverPort)
		delta = b.there
	case [4]byte(ip[atSource:]) == b.server:
		copy(ip[atSource:], b.vip[:])
		binary.BigEndian.PutUint16(ip[atTCP:], b.vipPort)
		delta = b.back
	default:
		return false
	}
	head, sum := ip[atHeadSum:], ip[atSum:]
	binary.BigEndian.PutUint16(head, ^add(^binary.BigEndian.Uint16(head), delta.Addr))
	if c := binary.BigEndian.Uint16(sum); flags&packet.FlagNeedsCsum != 0 {
		binary.BigEndian.PutUint16(sum, add(c, delta.Addr)) // the pseudo-header's bare sum
	} else {
		binary.BigEndian.PutUint16(sum, ^add(add(^c, delta.Addr), delta.Port))
	}
	return true
}

// add is one's complement addition.
func add(a, b uint16) uint16 {
	s := uint32(a) + uint32(b)
	return uint16(s + s>>16)
}

// pump moves frames until a device is gone. The thread is its own and the descriptors block: one call
// to read and one to write a frame.
func pump(from, to int, translate func(frame []byte)) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	frame := make([]byte, packet.VnetLen+packet.EthernetLen+packet.MaxPacket)
	for {
		n, err := unix.Read(from, frame)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		translate(frame[:n])
		// A packet that the kernel refuses is lost, as on any router.
		_, _ = unix.Write(to, frame[:n])
	}
}

const firstDevice, secondDevice = 3, 4 // behind the standard streams

// runBareChild runs the loop on the devices inherited: one for a box, or the clients' and the servers'.
func runBareChild(args []string) error {
	if len(args) != 3 {
		return fmt.Errorf("%s takes two addresses and the number of devices", childBare)
	}
	b, err := parseBare(args[0], args[1])
	if err != nil {
		return err
	}
	if args[2] == "1" {
		return pump(firstDevice, firstDevice, b.frame)
	}
	return route(b.frame)
}

// route is pump between two devices, on one thread as tunlb does it on a machine of two processors.
func route(translate func(frame []byte)) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	devices := [...]int{firstDevice, secondDevice}
	if err := errors.Join(unix.SetNonblock(firstDevice, true), unix.SetNonblock(secondDevice, true)); err != nil {
		return err
	}
	frame := make([]byte, packet.VnetLen+packet.EthernetLen+packet.MaxPacket)
	for {
		if err := wait(firstDevice, secondDevice); err != nil {
			return err
		}
		for i, from := range devices {
			for range inTurn {
				n, err := unix.Read(from, frame)
				if err == unix.EAGAIN || err == unix.EINTR {
					break
				}
				if err != nil {
					return fmt.Errorf("read: %w", err)
				}
				translate(frame[:n])
				_, _ = unix.Write(devices[1-i], frame[:n])
			}
		}
	}
}

// inTurn is how many frames of one device go before those of the other.
const inTurn = 64

func parseBare(vip, server string) (*bare, error) {
	from, err := netip.ParseAddrPort(vip)
	if err != nil {
		return nil, err
	}
	to, err := netip.ParseAddrPort(server)
	if err != nil {
		return nil, err
	}
	return newBare(from, to), nil
}

// runBareDirectChild runs the least of direct routing on the one device inherited: all frames are for
// the service, and only their MACs change.
func runBareDirectChild(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("%s takes the server's MAC and its own", childBareDirect)
	}
	server, err := packet.ParseMAC(args[0])
	if err != nil {
		return err
	}
	own, err := packet.ParseMAC(args[1])
	if err != nil {
		return err
	}
	return pump(firstDevice, firstDevice, func(frame []byte) { packet.SetMACs(frame, server, own) })
}
