package netns

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// MACs are the Ethernet addresses of the namespace's interfaces, by their names. Loopback and
// TUN devices have none.
func (ns *NS) MACs() (map[string]MAC, error) {
	links, err := ns.handle.LinkList()
	if err != nil {
		return nil, fmt.Errorf("%s: list links: %w", ns.name, err)
	}
	macs := make(map[string]MAC)
	for _, l := range links {
		if a := l.Attrs(); a.EncapType == "ether" && len(a.HardwareAddr) == len(MAC{}) {
			macs[a.Name] = MAC(a.HardwareAddr)
		}
	}
	return macs, nil
}

// Neighbour is what the namespace's kernel believes of an address on its links; !ok if it has
// never heard of it.
func (ns *NS) Neighbour(a netip.Addr) (n Neighbour, ok bool, err error) {
	all, err := ns.Neighbours()
	for _, n := range all {
		if n.Address == a.Unmap() {
			return n, true, err
		}
	}
	return Neighbour{}, false, err
}

// Neighbours are all entries of the namespace's neighbour table but those that the kernel
// computes (multicast groups, loopback).
func (ns *NS) Neighbours() ([]Neighbour, error) {
	entries, err := ns.neighbours()
	if err != nil {
		return nil, err
	}
	links, err := ns.handle.LinkList()
	if err != nil {
		return nil, fmt.Errorf("%s: list links: %w", ns.name, err)
	}
	names := make(map[int]string)
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	var all []Neighbour
	for _, e := range entries {
		n := Neighbour{Interface: names[e.LinkIndex], State: neighbourState(e.State)}
		if a, ok := netip.AddrFromSlice(e.IP); ok {
			n.Address = a.Unmap()
		}
		if len(e.HardwareAddr) == len(n.MAC) {
			n.MAC = MAC(e.HardwareAddr)
		}
		all = append(all, n)
	}
	return all, nil
}

// AddNeighbour pins an address to a MAC; what is on the link can't change it.
func (ns *NS) AddNeighbour(iface string, a netip.Addr, m MAC) error {
	link, err := ns.link(iface)
	if err != nil {
		return err
	}
	err = ns.handle.NeighSet(&netlink.Neigh{
		LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: a.Unmap().AsSlice(), HardwareAddr: m[:],
	})
	if err != nil {
		return fmt.Errorf("%s: neighbour %s is at %s on %s: %w", ns.name, a, m, iface, err)
	}
	return nil
}

// FlushNeighbours forgets what was learned; pinned entries stay.
func (ns *NS) FlushNeighbours() error {
	entries, err := ns.neighbours()
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.State&netlink.NUD_PERMANENT != 0 {
			continue
		}
		if err := ns.handle.NeighDel(&e); err != nil && !errors.Is(err, unix.ENOENT) { // gone meanwhile
			return fmt.Errorf("%s: forget neighbour %s: %w", ns.name, e.IP, err)
		}
	}
	return nil
}

func (ns *NS) neighbours() ([]netlink.Neigh, error) {
	var all []netlink.Neigh
	for _, family := range [...]int{unix.AF_INET, unix.AF_INET6} {
		entries, err := ns.handle.NeighList(0, family)
		if err != nil {
			return nil, fmt.Errorf("%s: list neighbours: %w", ns.name, err)
		}
		for _, e := range entries {
			if e.State&netlink.NUD_NOARP == 0 {
				all = append(all, e)
			}
		}
	}
	return all, nil
}

func neighbourState(state int) string {
	for _, s := range [...]struct {
		bit  int
		name string
	}{
		{netlink.NUD_PERMANENT, "permanent"}, {netlink.NUD_REACHABLE, "reachable"}, {netlink.NUD_STALE, "stale"},
		{netlink.NUD_DELAY, "delay"}, {netlink.NUD_PROBE, "probe"}, {netlink.NUD_INCOMPLETE, "incomplete"}, {netlink.NUD_FAILED, "failed"},
	} {
		if state&s.bit != 0 {
			return s.name
		}
	}
	return "none"
}
