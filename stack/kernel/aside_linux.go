package kernel

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// checkAside says what of s an administrator has to change first. It looks only: an address that is in the way may
// be the one by which he is logged in.
func (k *Kernel) checkAside(s State, link netlink.Link) error {
	errs := []error{k.checkAbsent(s)}
	if s.Foreign && link.Attrs().Flags&net.FlagUp == 0 {
		errs = append(errs, fmt.Errorf("interface %s is down: run `ip link set dev %[1]s up`", s.Device))
	}
	if s.Alone {
		errs = append(errs, k.checkAlone(link))
	}
	return errors.Join(errs...)
}

// checkAbsent wants none of Absent on an interface but lo. Every device counts and not only the one of s: for an IPv4
// address of one device the kernel answers on all, and what it sends to an address of its own never gets
// to tunlb.
func (k *Kernel) checkAbsent(s State) error {
	if len(s.Absent) == 0 {
		return nil
	}
	present, err := k.addresses(unix.AF_UNSPEC)
	if err != nil {
		return err
	}
	var errs []error
	for _, a := range present {
		if addr := a.prefix.Addr(); a.dev != "lo" && slices.Contains(s.Absent, addr) {
			errs = append(errs, fmt.Errorf("address %s is this box's own, on %s, but tunlb is a host of its own with it on the segment of %s: write another address into the file, or run `%s`",
				addr, a.dev, s.Device, a.command("del")))
		}
	}
	return errors.Join(errs...)
}

// checkAlone wants a device that no bridge or bond takes frames from. A VRF takes none: it chooses the routing table.
func (k *Kernel) checkAlone(link netlink.Link) error {
	at := link.Attrs()
	if at.MasterIndex == 0 {
		return nil
	}
	master, err := k.links.LinkByIndex(at.MasterIndex)
	if err != nil {
		return fmt.Errorf("ip link show master of %s: %w", at.Name, err)
	}
	if master.Type() == "vrf" {
		return nil
	}
	return fmt.Errorf("interface %s is a port of %s (%s), which passes frames on without tunlb, but tunlb is to be the switch between its ports: run `ip link set %[1]s nomaster`",
		at.Name, master.Attrs().Name, master.Type())
}
