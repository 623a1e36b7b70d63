package netns

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Connect joins two namespaces by a veth pair, addressed and up. It can be used after Settle in
// both namespaces.
func Connect(a, b End) error {
	veth := netlink.NewVeth(netlink.LinkAttrs{Name: a.Name, MTU: a.MTU, TxQLen: -1})
	veth.PeerName, veth.PeerMTU = b.Name, uint32(b.MTU)
	veth.PeerNamespace = netlink.NsFd(b.NS.file.Fd())
	if a.MAC != (MAC{}) {
		veth.HardwareAddr = a.MAC[:]
	}
	if b.MAC != (MAC{}) {
		veth.PeerHardwareAddr = b.MAC[:]
	}
	if err := a.NS.handle.LinkAdd(veth); err != nil {
		return fmt.Errorf("connect %s:%s to %s:%s: %w", a.NS.name, a.Name, b.NS.name, b.Name, err)
	}
	for _, end := range [...]End{a, b} {
		if err := end.NS.Up(end.Name); err != nil {
			return err
		}
	}
	for _, end := range [...]End{a, b} {
		for _, p := range end.Addresses {
			if err := end.NS.addAddress(end.Name, p); err != nil {
				return err
			}
		}
	}
	return nil
}

// Bridge makes an Ethernet switch of the namespace's interfaces. It passes frames on from the
// start: without the spanning tree protocol, which the kernel leaves off, no port waits for the
// forward delay.
func (ns *NS) Bridge(name string, ports ...string) error {
	// Snooping would hold back neighbour solicitations to groups that it hasn't learned yet.
	snooping := false
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	if err := ns.handle.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); err != nil {
		return fmt.Errorf("%s: make bridge %s: %w", ns.name, name, err)
	}
	bridge, err := ns.link(name)
	if err != nil {
		return err
	}
	for _, port := range ports {
		link, err := ns.link(port)
		if err != nil {
			return err
		}
		if err := ns.handle.LinkSetMaster(link, bridge); err != nil {
			return fmt.Errorf("%s: put %s into bridge %s: %w", ns.name, port, name, err)
		}
	}
	return ns.Up(name)
}

// Up brings an interface up.
func (ns *NS) Up(iface string) error {
	link, err := ns.link(iface)
	if err != nil {
		return err
	}
	if err := ns.handle.LinkSetUp(link); err != nil {
		return fmt.Errorf("%s: bring %s up: %w", ns.name, iface, err)
	}
	return nil
}

// Settle waits until the kernel has put all interfaces that were brought up into operation, and
// all IPv6 addresses. It does that on its own time, a moment later, and loses packets until then,
// which costs whoever sent them a second: a bridge's ports don't forward yet, and neighbour
// solicitations for an address aren't heard yet.
func (ns *NS) Settle() error {
	var socket *nl.NetlinkSocket
	err := ns.Do(func() (err error) {
		socket, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV6_IFADDR)
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: watch links: %w", ns.name, err)
	}
	defer socket.Close()
	if err := socket.SetReceiveTimeout(&unix.Timeval{Sec: 5}); err != nil {
		return fmt.Errorf("%s: watch links: %w", ns.name, err)
	}
	for { // Subscribed first and looked then, so that no change is missed.
		pending, err := ns.pending()
		if err != nil || pending == "" {
			return err
		}
		if _, _, err := socket.Receive(); err != nil {
			return fmt.Errorf("%s: wait for %s to come up: %w", ns.name, pending, err)
		}
	}
}

// pending names an interface or an address that isn't in operation yet.
func (ns *NS) pending() (string, error) {
	links, err := ns.handle.LinkList()
	if err != nil {
		return "", fmt.Errorf("%s: list links: %w", ns.name, err)
	}
	for _, l := range links {
		// A bridge's own state follows its ports' up to a second later, and they don't need it.
		state := l.Attrs().OperState
		if l.Type() != "bridge" && l.Attrs().Flags&net.FlagUp != 0 && state != netlink.OperUp && state != netlink.OperUnknown {
			return l.Attrs().Name, nil
		}
	}
	addrs, err := ns.handle.AddrList(nil, netlink.FAMILY_V6)
	if err != nil {
		return "", fmt.Errorf("%s: list addresses: %w", ns.name, err)
	}
	for _, a := range addrs {
		switch {
		case a.Flags&unix.IFA_F_DADFAILED != 0:
			return "", fmt.Errorf("%s: %s: duplicate address detection found another owner on the link (take it away there, or turn accept_dad off)", ns.name, a.IPNet)
		case a.Flags&unix.IFA_F_TENTATIVE != 0:
			return a.IPNet.String(), nil
		}
	}
	return "", nil
}

// AddAddress adds an address to an interface. It can be used at once. Where duplicate address
// detection is on (New turns it off), a duplicate is an error.
func (ns *NS) AddAddress(iface string, p netip.Prefix) error {
	if err := ns.addAddress(iface, p); err != nil || p.Addr().Is4() {
		return err
	}
	return ns.Settle()
}

// addAddress leaves it to Settle to wait for the address. It isn't added with the flag NODAD,
// although New turns duplicate address detection off: nothing would tell then when the
// kernel has joined the address's group for solicitations.
func (ns *NS) addAddress(iface string, p netip.Prefix) error {
	link, err := ns.link(iface)
	if err != nil {
		return err
	}
	addr := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() && p.IsSingleIP() {
		// Of no network, so that what the host begins should not come from it, as it would: it is
		// closer than all others to any other address of its own network (RFC 6724, rule 8).
		// With IPv4 the route decides, and it says otherwise already.
		addr.ValidLft, addr.PreferedLft = math.MaxUint32, 0
	}
	if err := ns.handle.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("%s: add %s to %s: %w", ns.name, p, iface, err)
	}
	return nil
}

// AddRoute adds a route.
func (ns *NS) AddRoute(r Route) error {
	route := &netlink.Route{Dst: ipNet(r.To.Masked()), AdvMSS: r.AdvMSS}
	if r.Via.IsValid() {
		route.Gw = r.Via.AsSlice()
	}
	if r.Interface != "" {
		link, err := ns.link(r.Interface)
		if err != nil {
			return err
		}
		route.LinkIndex = link.Attrs().Index
	}
	if err := ns.handle.RouteAdd(route); err != nil {
		return fmt.Errorf("%s: add route %s via %s: %w", ns.name, r.To, strings.TrimSpace(r.Via.String()+" "+r.Interface), err)
	}
	return nil
}

func (ns *NS) link(iface string) (netlink.Link, error) {
	link, err := ns.handle.LinkByName(iface)
	if err != nil {
		return nil, fmt.Errorf("%s: interface %s: %w", ns.name, iface, err)
	}
	return link, nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
