//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.zx2c4.com/wireguard/tun"

	"github.com/tunlb/tunlb/stack/packet"
)

// startWireguard leads the packets to the loop as startBare does; only the loop is another.
func startWireguard(ctx context.Context, s *stand, o options) error {
	return s.runLoop(ctx, o, childWireguard, []string{vip.String(), server.String()}, s.boxDevice())
}

// wireguardRoom is what Device.Write wants in front of a packet, and more: wireguard-go leaves as much.
const wireguardRoom = 16

// runWireguardChild runs the loop on the device inherited in the way that WireGuard's own Device is meant to be used:
// it reads a super-packet as many segments with complete checksums, and puts them together again to write them.
func runWireguardChild(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("%s takes two addresses", childWireguard)
	}
	b, err := parseBare(args[0], args[1])
	if err != nil {
		return err
	}
	device, _, err := tun.CreateUnmonitoredTUNFromFD(firstDevice)
	if err != nil {
		return err
	}
	runtime.UnlockOSThread() // its reads park in Go's poller, as WireGuard's do
	return relay(device, b)
}

func relay(device tun.Device, b *bare) error {
	n := device.BatchSize()
	frames, bufs, sizes := make([][]byte, n), make([][]byte, n), make([]int, n)
	for i := range frames {
		frames[i] = make([]byte, wireguardRoom+packet.MaxPacket) // with room for Write to put 64 KiB together in each
	}
	for {
		n, err := device.Read(frames, sizes, wireguardRoom)
		if err != nil && !errors.Is(err, tun.ErrTooManySegments) { // the rest of that one is lost
			return fmt.Errorf("read: %w", err)
		}
		// Write changes the order of its slices, and their lengths.
		bufs = bufs[:0]
		for i, size := range sizes[:n] {
			frame := frames[i][:wireguardRoom+size]
			b.translate(0, frame[wireguardRoom:])
			bufs = append(bufs, frame)
		}
		// A packet that the kernel refuses is lost, as on any router.
		if _, err := device.Write(bufs, wireguardRoom); errors.Is(err, os.ErrClosed) {
			return err
		}
	}
}
