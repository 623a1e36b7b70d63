package port

import (
	"cmp"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
)

const clonePath = "/dev/net/tun"

// txQueueLen is ten times the kernel's own default, which drops the bursts
// of a few dozen connections between two runs of the lane.
func (c TUNConfig) txQueueLen() int { return cmp.Or(c.TxQueueLen, 5000) }

func openTUN(cfg TUNConfig) (p Port, err error) {
	err = inNetNS(cfg.NetNS, func() (err error) {
		p, err = openHere(cfg)
		return err
	})
	return p, err
}

// openHere makes the device in the calling thread's network namespace and has
// wireguard take it over. tun.CreateTUN is not used: it leaks the descriptor
// when the name is refused, and goroutines when the MTU is.
func openHere(cfg TUNConfig) (Port, error) {
	file, name, err := attach(cfg.name(), cfg.Offload == OffloadOff)
	if err != nil {
		return nil, err
	}
	ctl, err := newControl(name, cfg.mtu(), cfg.txQueueLen())
	if err != nil {
		file.Close()
		return nil, err
	}
	dev, err := tun.CreateTUNFromFile(file, cfg.mtu())
	if err != nil {
		file.Close()
		ctl.close()
		return nil, err
	}
	d := newDevice(dev, name, cfg.mtu(), ctl.mtu, ctl.close)
	p, err := portOn(d, file, cfg.Offload)
	if err != nil {
		d.close()
		return nil, err
	}
	return p, nil
}

// attach opens a TUN device, making it if it does not exist, and returns its
// name. The descriptor does not block. It is in Go's poller only if that is
// asked for: wireguard's Read waits there, ours polls by itself.
func attach(name string, polled bool) (*os.File, string, error) {
	fd, err := unix.Open(clonePath, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, "", explainOpen(err)
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		unix.Close(fd)
		return nil, "", explainAttach(err, name)
	}
	if err := unix.SetNonblock(fd, polled); err != nil { // NewFile goes by this flag
		unix.Close(fd)
		return nil, "", err
	}
	file := os.NewFile(uintptr(fd), clonePath)
	if err := unix.SetNonblock(fd, true); err != nil {
		file.Close()
		return nil, "", err
	}
	return file, ifr.Name(), nil
}

// portOn negotiates the offloads and makes the port that goes with them.
// Wireguard has asked for all that the kernel has: CSUM, TSO4, TSO6, and USO
// from Linux 6.2.
func portOn(d *device, file *os.File, offload Offload) (Port, error) {
	fd := int(file.Fd())
	switch offload {
	case OffloadAuto:
		return newTUNPort(d, fd)
	case OffloadTCP:
		if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4|unix.TUN_F_TSO6); err != nil {
			return nil, fmt.Errorf("set offload %s: %w", offload, err)
		}
		return newTUNPort(d, fd)
	case OffloadOff:
		batch := 1 // the kernel splits for us
		if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, 0); err != nil {
			batch = d.dev.BatchSize()
		}
		return newFallbackPort(d, batch, func() bool { return vanished(file) }), nil
	}
	return nil, fmt.Errorf("%s: want auto, tcp or off", offload)
}

// close waits for the wireguard device's goroutines: they hold the descriptor,
// too, and the interface lives as long as one holds it.
func (d *device) close() error {
	err := d.dev.Close()
	<-d.drained
	if errors.Is(err, unix.EPIPE) || errors.Is(err, os.ErrClosed) {
		// Close woke a listener that a netlink message had woken already, and
		// which has taken its end of the pipe away. All is closed as it should be.
		return nil
	}
	return err
}

// vanished says whether the device has been deleted under its descriptor.
func vanished(file *os.File) bool {
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

func explainOpen(err error) error {
	switch err {
	case unix.ENOENT:
		return fmt.Errorf("%w: %s: %w: run `modprobe tun`, or `mkdir -p /dev/net && mknod %[2]s c 10 200`", ErrUnavailable, clonePath, err)
	case unix.ENODEV, unix.ENXIO:
		return fmt.Errorf("%w: %s: %w: this kernel has no tun driver: run `modprobe tun`", ErrUnavailable, clonePath, err)
	case unix.EACCES, unix.EPERM:
		return fmt.Errorf("%w: %s: %w: run as root, or `chmod 0666 %[2]s`; in a container pass `--device %[2]s`", ErrUnavailable, clonePath, err)
	}
	return fmt.Errorf("%s: %w", clonePath, err)
}

func explainAttach(err error, name string) error {
	switch err {
	case unix.EPERM:
		return fmt.Errorf("%w: %w: making a device takes CAP_NET_ADMIN in its network namespace: run as root, or under `unshare -Urn`", ErrUnavailable, err)
	case unix.EBUSY:
		return fmt.Errorf("%w: another process holds this device: take another name, or find it by `grep -l 'iff:.*%s' /proc/[0-9]*/fdinfo/*`", err, name)
	case unix.EINVAL:
		return fmt.Errorf("%w: an interface of this name exists and is no plain TUN device, or the name is not a valid one (at most 15 bytes): see `ip link`", err)
	}
	return err
}
