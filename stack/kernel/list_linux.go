package kernel

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// routeEntry is a route of a list, with what tells whose and of what kind it is.
type routeEntry struct {
	route
	kind     uint8 // unix.RTN_UNICAST, RTN_LOCAL, ...
	protocol uint8
	gateway  bool // has next hops with addresses
}

// routes lists the routes of a family: those of one table (0 = all) made by one protocol (0 = any). The
// kernel does the filtering where it can: a router's tables are long.
func (k *Kernel) routes(family uint8, table uint32, protocol uint8) ([]routeEntry, error) {
	header := []nl.NetlinkRequestData{&nl.RtMsg{RtMsg: unix.RtMsg{Family: family, Protocol: protocol}}}
	if table != 0 {
		header = append(header, attr32(unix.RTA_TABLE, table))
	}
	dump, err := k.dump(unix.RTM_GETROUTE, unix.RTM_NEWROUTE, header...)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil // the table does not exist yet
	}
	if err != nil {
		return nil, fmt.Errorf("list with %s route show table %d: %w", ip(family), table, err)
	}
	names, err := k.deviceNames()
	if err != nil {
		return nil, err
	}
	var list []routeEntry
	for _, m := range dump {
		r, err := decodeRoute(m)
		if err != nil {
			return nil, fmt.Errorf("list with %s route show table %d: %w", ip(family), table, err)
		}
		if (table == 0 || r.table == table) && (protocol == 0 || r.protocol == protocol) {
			r.dev = names[r.index]
			list = append(list, r)
		}
	}
	return list, nil
}

func decodeRoute(m []byte) (routeEntry, error) {
	h := nl.DeserializeRtMsg(m)
	r := routeEntry{kind: h.Type, protocol: h.Protocol}
	r.dst = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if h.Family == unix.AF_INET6 {
		r.dst = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	attrs, err := nl.ParseRouteAttr(m[h.Len():])
	if err != nil {
		return r, err
	}
	for _, a := range attrs {
		switch a.Attr.Type {
		case unix.RTA_DST:
			r.dst = prefix(a.Value, h.Dst_len)
		case unix.RTA_TABLE:
			r.table = u32(a.Value)
		case unix.RTA_OIF:
			r.index = int(u32(a.Value))
		case unix.RTA_GATEWAY, unix.RTA_VIA, unix.RTA_MULTIPATH:
			r.gateway = true
		}
	}
	return r, nil
}

// addressEntry is an address of a list.
type addressEntry struct {
	address
	protocol uint8
}

// addresses lists the addresses of a family, or of both with AF_UNSPEC.
func (k *Kernel) addresses(family uint8) ([]addressEntry, error) {
	dump, err := k.dump(unix.RTM_GETADDR, unix.RTM_NEWADDR, nl.NewIfAddrmsg(int(family)))
	if err != nil {
		return nil, fmt.Errorf("list with ip addr: %w", err)
	}
	names, err := k.deviceNames()
	if err != nil {
		return nil, err
	}
	list := make([]addressEntry, 0, len(dump))
	for _, m := range dump {
		h := nl.DeserializeIfAddrmsg(m)
		attrs, err := nl.ParseRouteAttr(m[h.Len():])
		if err != nil {
			return nil, fmt.Errorf("list with ip addr: %w", err)
		}
		a := addressEntry{address: address{dev: names[int(h.Index)], index: int(h.Index)}}
		for _, attr := range attrs {
			switch {
			case attr.Attr.Type == unix.IFA_LOCAL,
				attr.Attr.Type == unix.IFA_ADDRESS && !a.prefix.IsValid(): // with a peer the local one counts
				a.prefix = prefix(attr.Value, h.Prefixlen)
			case attr.Attr.Type == ifaProto:
				a.protocol = attr.Value[0]
			}
		}
		list = append(list, a)
	}
	return list, nil
}

// proxies lists the proxy neighbours that this package made.
func (k *Kernel) proxies() ([]object, error) {
	dump, err := k.dump(unix.RTM_GETNEIGH, unix.RTM_NEWNEIGH, &netlink.Ndmsg{Family: unix.AF_INET6, Flags: unix.NTF_PROXY})
	if err != nil {
		return nil, fmt.Errorf("list with ip -6 neigh show proxy: %w", err)
	}
	names, err := k.deviceNames()
	if err != nil {
		return nil, err
	}
	var list []object
	for _, m := range dump {
		attrs, err := nl.ParseRouteAttr(m[unix.SizeofNdMsg:])
		if err != nil {
			return nil, fmt.Errorf("list with ip -6 neigh show proxy: %w", err)
		}
		p, ours := proxy{index: int(u32(m[4:]))}, false // ndm_ifindex
		p.dev = names[p.index]
		for _, a := range attrs {
			switch a.Attr.Type {
			case netlink.NDA_DST:
				p.addr = prefix(a.Value, 128).Addr()
			case netlink.NDA_PROTOCOL:
				ours = a.Value[0] == protocol
			}
		}
		if ours {
			list = append(list, p)
		}
	}
	return list, nil
}

// deviceNames maps the indices of the namespace's devices.
func (k *Kernel) deviceNames() (map[int]string, error) {
	links, err := k.links.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list with ip link: %w", err)
	}
	names := make(map[int]string, len(links))
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	return names, nil
}

// families are those that the namespace's kernel speaks.
func (k *Kernel) families() []uint8 {
	if k.ipv6 {
		return []uint8{unix.AF_INET, unix.AF_INET6}
	}
	return []uint8{unix.AF_INET}
}

// ours lists what this package has put into the namespace, in this run or in one that crashed: everything
// but the notes on sysctls.
func (k *Kernel) ours() ([]object, error) {
	var list []object
	addresses, err := k.addresses(unix.AF_UNSPEC)
	if err != nil {
		return nil, err
	}
	for _, a := range addresses {
		if a.protocol == protocol || k.added[a.address] {
			list = append(list, a.address)
		}
	}
	for _, family := range k.families() {
		routes, err := k.routes(family, 0, protocol)
		if err != nil {
			return nil, err
		}
		for _, r := range routes {
			list = append(list, r.route)
		}
	}
	if k.ipv6 {
		proxies, err := k.proxies()
		if err != nil {
			return nil, err
		}
		list = append(list, proxies...)
	}
	for _, family := range k.families() {
		rules, err := k.rules(family)
		if err != nil {
			return nil, err
		}
		// The landing comes first: it is the first to be added and the last to go.
		for _, landing := range []bool{true, false} {
			for _, r := range rules {
				if r.protocol == protocol && !isNote(r) && (r.pref == prefLanding) == landing {
					list = append(list, r)
				}
			}
		}
	}
	return list, nil
}
