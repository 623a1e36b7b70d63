package port

import (
	"errors"
	"os"
	"sync/atomic"
	"syscall"

	"golang.zx2c4.com/wireguard/tun"

	"github.com/tunlb/tunlb/stack/packet"
)

// device is what every TUN port has, whatever way its frames move: the
// wireguard device, whose events are drained, for their senders block.
type device struct {
	dev     tun.Device
	name    string
	mtu     atomic.Int64
	drained chan struct{} // closed when dev has closed its events
}

// newDevice takes over dev. readMTU asks for the MTU as it is now; done runs
// after the last event.
func newDevice(dev tun.Device, name string, mtu int, readMTU func() (int, error), done func()) *device {
	d := &device{dev: dev, name: name, drained: make(chan struct{})}
	d.mtu.Store(int64(mtu))
	go d.drain(readMTU, done)
	return d
}

// drain ends when Close of the wireguard device closes its events.
func (d *device) drain(readMTU func() (int, error), done func()) {
	defer close(d.drained)
	defer done()
	for e := range d.dev.Events() {
		if e&tun.EventMTUUpdate == 0 {
			continue
		}
		if mtu, err := readMTU(); err == nil { // an error: renamed, moved or gone; Read tells of the last
			d.mtu.Store(int64(mtu))
		}
	}
}

func (d *device) Name() string      { return d.name }
func (d *device) Link() packet.Link { return packet.LinkIP }
func (d *device) MTU() int          { return int(d.mtu.Load()) }

// close waits for the wireguard device's goroutines: they hold the descriptor, too, and the interface
// lives as long as one holds it.
func (d *device) close() error {
	err := d.dev.Close()
	<-d.drained
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, os.ErrClosed) {
		// Close woke a listener that a netlink message had woken already, and which has taken its end
		// of the pipe away. All is closed as it should be.
		return nil
	}
	return err
}
