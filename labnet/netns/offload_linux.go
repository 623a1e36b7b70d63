package netns

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// SetOffload does what `ethtool -K iface tx on|off` does. Off, the kernel computes checksums in
// full and cuts super-packets before they leave, as they would appear on a wire.
func (ns *NS) SetOffload(iface string, on bool) error {
	var value uint32
	if on {
		value = 1
	}
	// One call does it: segmentation offload depends on checksums, and the kernel drops it as well.
	if _, err := ns.ethtool(iface, unix.ETHTOOL_STXCSUM, value); err != nil {
		return fmt.Errorf("%s: transmit offload of %s: %w", ns.name, iface, err)
	}
	return nil
}

// Offload reads back whether transmit checksums and TCP segmentation are offloaded.
func (ns *NS) Offload(iface string) (checksum, segmentation bool, err error) {
	c, err := ns.ethtool(iface, unix.ETHTOOL_GTXCSUM, 0)
	if err == nil {
		var s uint32
		s, err = ns.ethtool(iface, unix.ETHTOOL_GTSO, 0)
		segmentation = s != 0
	}
	if err != nil {
		err = fmt.Errorf("%s: transmit offload of %s: %w", ns.name, iface, err)
	}
	return c != 0, segmentation, err
}

// ethtool does one command with an integer argument (struct ethtool_value).
func (ns *NS) ethtool(iface string, command, value uint32) (uint32, error) {
	arg := [2]uint32{command, value}
	var request struct { // struct ifreq
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	if copy(request.name[:unix.IFNAMSIZ-1], iface) < len(iface) {
		return 0, unix.ENODEV
	}
	request.data = unsafe.Pointer(&arg)
	err := ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
			return errno
		}
		return nil
	})
	return arg[1], err
}
