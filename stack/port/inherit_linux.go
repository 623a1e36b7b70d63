package port

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/stack/packet"
)

// tunGetDevNetNS is TUNGETDEVNETNS, _IO('T', 227), of Linux 5.2: a descriptor of the namespace that the device is in.
const tunGetDevNetNS = 0x54e3

// attachOr is attach, unless an inherited descriptor is the device already. One that is not is closed, before a new device is made:
// it may hold the name.
func attachOr(inherited int, name string, kind uint16) (fd int, realName string, adopted bool, err error) {
	if inherited > 0 {
		if realName, err = adopt(inherited, name, kind); err == nil {
			return inherited, realName, true, nil
		}
		unix.Close(inherited)
	}
	fd, realName, err = attach(name, kind)
	return fd, realName, false, err
}

// adopt makes an inherited descriptor like one of attach, and says what device it is of.
func adopt(fd int, name string, kind uint16) (realName string, err error) {
	if realName, err = examine(fd, name, kind); err != nil {
		return "", err
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, packet.VnetLen); err != nil {
		return "", fmt.Errorf("inherited device %s: set the length of the vnet header: %w", realName, err)
	}
	unix.CloseOnExec(fd)
	return realName, nil
}

// examine says what device an inherited descriptor is of, or why it is not the one that is wanted: a device of the calling
// thread's namespace, of the kind and the name, with a header such as we read.
func examine(fd int, name string, kind uint16) (realName string, err error) {
	// IFF_NO_PI is not among them: when asked, the kernel has that bit mean that there is no filter.
	const shape = unix.IFF_TUN | unix.IFF_TAP | unix.IFF_VNET_HDR | unix.IFF_MULTI_QUEUE | unix.IFF_DETACH_QUEUE
	ifr, err := unix.NewIfreq("")
	if err != nil {
		return "", err
	}
	if err := unix.IoctlIfreq(fd, unix.TUNGETIFF, ifr); err != nil {
		return "", fmt.Errorf("inherited descriptor %d is no queue of a device: %w", fd, err)
	}
	if flags := ifr.Uint16() & shape; flags != kind|unix.IFF_VNET_HDR {
		return "", fmt.Errorf("inherited device %s is of another kind: flags %#x", ifr.Name(), flags)
	}
	if !matches(ifr.Name(), name) {
		return "", fmt.Errorf("inherited device is %s", ifr.Name())
	}
	if err := here(fd); err != nil {
		return "", fmt.Errorf("inherited device %s: %w", ifr.Name(), err)
	}
	return ifr.Name(), nil
}

func fits(fd int, name, netns string, link packet.Link) error {
	kind := uint16(unix.IFF_TUN)
	if link == packet.LinkEthernet {
		kind = unix.IFF_TAP
	}
	return inNetNS(netns, func() error {
		_, err := examine(fd, name, kind)
		return err
	})
}

// matches says whether a device may have been made for a name, in which one %d stands for a number.
func matches(device, name string) bool {
	before, after, numbered := strings.Cut(name, "%d")
	if !numbered {
		return device == name
	}
	number, ok := strings.CutPrefix(device, before)
	if ok {
		number, ok = strings.CutSuffix(number, after)
	}
	return ok && number != "" && strings.Trim(number, "0123456789") == ""
}

// here is nil if the descriptor's device is in the calling thread's namespace. A device may have been moved, and each namespace
// has devices of the same name.
func here(fd int) error {
	there, err := unix.IoctlRetInt(fd, tunGetDevNetNS)
	if err == unix.EINVAL || err == unix.ENOTTY { // before Linux 5.2 only its name can be looked for, which others do
		return nil
	}
	if err != nil {
		return fmt.Errorf("find its network namespace: %w", err)
	}
	defer unix.Close(there)
	own, err := openNetNS("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer unix.Close(own)
	var a, b unix.Stat_t
	if err := errors.Join(unix.Fstat(there, &a), unix.Fstat(own, &b)); err != nil {
		return err
	}
	if a.Ino != b.Ino || a.Dev != b.Dev {
		return errors.New("it is in another network namespace")
	}
	return nil
}
