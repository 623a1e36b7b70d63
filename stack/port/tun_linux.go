package port

import (
	"cmp"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
)

// txQueueLen is ten times the kernel's own default, which drops the bursts
// of a few dozen connections between two runs of the lane.
const txQueueLen = 5000

// tunDevice is the endpoint of a TUN: wireguard's device, which owns the
// descriptor.
type tunDevice struct {
	*device
	tuntap
}

func openTUN(cfg TUNConfig) (p Port, err error) {
	err = inNetNS(cfg.NetNS, func() (err error) {
		p, err = openTUNHere(cfg)
		return err
	})
	return p, err
}

// openTUNHere makes the device in the calling thread's network namespace and has
// wireguard take it over. tun.CreateTUN is not used: it leaks the descriptor
// when the name is refused, and goroutines when the MTU is.
func openTUNHere(cfg TUNConfig) (Port, error) {
	fd, name, adopted, err := attachOr(cfg.Inherited, cfg.name(), unix.IFF_TUN)
	if err != nil {
		return nil, err
	}
	// Wireguard's Read waits in Go's poller, ours polls by itself.
	file, err := fileOf(fd, cfg.Offload == OffloadOff)
	if err != nil {
		return nil, err
	}
	ctl, err := newControl(name, 0)
	if err != nil {
		file.Close()
		return nil, err
	}
	fail := func(err error) (Port, error) {
		file.Close()
		ctl.close()
		return nil, err
	}
	if err := ctl.setQueue(cfg.mtu(), cmp.Or(cfg.TxQueueLen, txQueueLen)); err != nil {
		return fail(err)
	}
	dev, err := tun.CreateTUNFromFile(file, cfg.mtu())
	if err != nil {
		return fail(err)
	}
	d := newDevice(dev, name, cfg.mtu(), ctl.mtu, ctl.close)
	p, err := portOn(d, file, cfg.Offload, adopted)
	if err != nil {
		d.close()
		return nil, err
	}
	return p, nil
}

// fileOf makes a file of a descriptor, which it closes if it fails. The descriptor
// does not block; the file is in Go's poller only if that is asked for.
func fileOf(fd int, polled bool) (*os.File, error) {
	if err := unix.SetNonblock(fd, polled); err != nil { // NewFile goes by this flag
		unix.Close(fd)
		return nil, err
	}
	file := os.NewFile(uintptr(fd), clonePath)
	if err := unix.SetNonblock(fd, true); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// portOn negotiates the offloads and makes the port that goes with them.
// Wireguard has asked for all that the kernel has: CSUM, TSO4, TSO6, and USO
// from Linux 6.2. In the queue of an adopted device super-packets may wait whatever is asked for now.
func portOn(d *device, file *os.File, offload Offload, adopted bool) (Port, error) {
	fd := int(file.Fd())
	switch offload {
	case OffloadAuto:
		return newRawPort(tunDevice{d, tuntap(fd)}, fd, fd, -1)
	case OffloadTCP:
		if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offloadTCP); err != nil {
			return nil, fmt.Errorf("set offload %s: %w", offload, err)
		}
		return newRawPort(tunDevice{d, tuntap(fd)}, fd, fd, -1)
	case OffloadOff:
		batch := 1 // the kernel splits for us
		if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, 0); err != nil || adopted {
			batch = d.dev.BatchSize()
		}
		p := newFallbackPort(d, batch, func() bool { return deleted(file) })
		p.fd = fd
		return p, nil
	}
	return nil, errOffload(offload)
}

// deleted says whether the device has been deleted under its descriptor.
func deleted(file *os.File) bool {
	conn, err := file.SyscallConn()
	if err != nil {
		return false
	}
	var gone bool
	conn.Control(func(fd uintptr) {
		ifr, _ := unix.NewIfreq("")
		gone = unix.IoctlIfreq(int(fd), unix.TUNGETIFF, ifr) == unix.EBADFD
	})
	return gone
}
