package port

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

const clonePath = "/dev/net/tun"

// tuntap is the descriptor of a TUN or TAP device.
type tuntap int

// attach opens a device, making it if it does not exist, and returns its name.
// kind is IFF_TUN or IFF_TAP.
func attach(name string, kind uint16) (fd int, realName string, err error) {
	fd, err = unix.Open(clonePath, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, "", explainOpen(err)
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		ifr.SetUint16(kind | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		unix.Close(fd)
		return -1, "", explainAttach(err, name, kind)
	}
	return fd, ifr.Name(), nil
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

func explainAttach(err error, name string, kind uint16) error {
	plain := "TUN"
	if kind == unix.IFF_TAP {
		plain = "TAP"
	}
	switch err {
	case unix.EPERM:
		return fmt.Errorf("%w: %w: making a device takes CAP_NET_ADMIN in its network namespace: run as root, or under `unshare -Urn`", ErrUnavailable, err)
	case unix.EBUSY:
		return fmt.Errorf("%w: another process holds this device: take another name, or find it by `grep -l 'iff:.*%s' /proc/[0-9]*/fdinfo/*`", err, name)
	case unix.EINVAL:
		return fmt.Errorf("%w: an interface of this name exists and is no plain %s device, or the name is not a valid one (at most 15 bytes): see `ip link`", err, plain)
	}
	return err
}

const offloadTCP = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6

// setOffload says what the kernel may leave to us.
func (fd tuntap) setOffload(o Offload) (err error) {
	switch o {
	case OffloadAuto:
		err = unix.IoctlSetInt(int(fd), unix.TUNSETOFFLOAD, offloadTCP|unix.TUN_F_USO4|unix.TUN_F_USO6)
		if err == unix.EINVAL { // before Linux 6.2
			err = unix.IoctlSetInt(int(fd), unix.TUNSETOFFLOAD, offloadTCP)
		}
	case OffloadTCP:
		err = unix.IoctlSetInt(int(fd), unix.TUNSETOFFLOAD, offloadTCP)
	case OffloadOff:
		err = unix.IoctlSetInt(int(fd), unix.TUNSETOFFLOAD, 0)
	default:
		return errOffload(o)
	}
	if err != nil {
		return fmt.Errorf("set offload %s: %w", o, err)
	}
	return nil
}

func errOffload(o Offload) error { return fmt.Errorf("%s: want auto, tcp or off", o) }

// receive and send are read(2) and write(2) without telling the Go scheduler, which may be left out since the
// descriptor is non-blocking: 5 to 15 % more requests, 5 to 15 % less CPU for each (docs/performance.md).
// A collection may have to wait for the one call.
func (fd tuntap) receive(frame []byte) (int, error) {
	return transferred(unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(frame))), uintptr(len(frame))))
}

func (fd tuntap) send(frame []byte) error {
	_, err := transferred(unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(frame))), uintptr(len(frame))))
	return err
}

func transferred(n, _ uintptr, errno unix.Errno) (int, error) {
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// vanished: tun's poll reports POLLERR for one reason: the device is being
// unregistered. A read could still say EAGAIN, and we would spin.
func (fd tuntap) vanished() bool { return true }

func (fd tuntap) count(*Stats, bool) {}

func (fd tuntap) descriptor() (int, bool) { return int(fd), true }
