package kernel

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// hop asks which way the box itself would send to addr. A question without a protocol is one about UDP, which our own
// rules lead to the device at some addresses of the box: its answer says so by its table.
func (k *Kernel) hop(addr netip.Addr) (hop, error) {
	family := familyOf(addr)
	question := &nl.RtMsg{RtMsg: unix.RtMsg{Family: family, Dst_len: uint8(addr.BitLen())}}
	if family == unix.AF_INET { // IPv6 names the table anyhow, and takes the flag for a mistake
		question.Flags = unix.RTM_F_LOOKUP_TABLE
	}
	answer, err := k.ask(unix.RTM_GETROUTE, unix.RTM_NEWROUTE, question, nl.NewRtAttr(unix.RTA_DST, addr.AsSlice()))
	for _, no := range []error{
		unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES, unix.EINVAL, // none, unreachable, prohibited, blackhole
		unix.EAFNOSUPPORT, unix.EOPNOTSUPP, // the kernel has no such family
	} {
		if errors.Is(err, no) {
			return hop{down: NoRoute}, nil
		}
	}
	if err != nil {
		return hop{}, err
	}
	route, err := decodeRoute(answer)
	if err != nil || route.table != table {
		return decodeHop(answer, addr)
	}
	locals, err := k.routes(family, unix.RT_TABLE_LOCAL, 0)
	if err != nil {
		return hop{}, err
	}
	if slices.ContainsFunc(locals, func(r routeEntry) bool { return r.kind == unix.RTN_LOCAL && r.dst.Contains(addr) }) {
		return hop{down: Box}, nil
	}
	return hop{down: NoRoute}, nil
}

func decodeHop(m []byte, addr netip.Addr) (hop, error) {
	h := hop{station: station{addr: addr}}
	header := nl.DeserializeRtMsg(m)
	switch header.Type {
	case unix.RTN_UNICAST:
	case unix.RTN_LOCAL:
		return hop{down: Box}, nil
	default:
		return hop{down: NoRoute}, nil
	}
	attrs, err := nl.ParseRouteAttr(m[header.Len():])
	if err != nil {
		return h, err
	}
	for _, a := range attrs {
		switch a.Attr.Type {
		case unix.RTA_OIF:
			h.link = int(u32(a.Value))
		case unix.RTA_GATEWAY:
			h.addr, _ = netip.AddrFromSlice(a.Value)
		case unix.RTA_VIA: // an IPv6 gateway of IPv4: the family, and the address
			h.addr, _ = netip.AddrFromSlice(a.Value[2:])
		case unix.RTA_METRICS:
			metrics, err := nl.ParseRouteAttr(a.Value)
			if err != nil {
				return h, err
			}
			for _, m := range metrics {
				if m.Attr.Type == unix.RTAX_MTU {
					h.mtu = int(u32(m.Value))
				}
			}
		}
	}
	return h, nil
}

// neighbour is the kernel's entry for a station; its zero value is none.
type neighbour struct {
	state uint16
	mac   [6]byte
}

// neighbour looks the entry up. The error is ENOENT if there is none.
func (k *Kernel) neighbour(s station) (neighbour, error) {
	m, err := k.ask(unix.RTM_GETNEIGH, unix.RTM_NEWNEIGH, &netlink.Ndmsg{Family: familyOf(s.addr), Index: uint32(s.link)},
		nl.NewRtAttr(netlink.NDA_DST, s.addr.AsSlice()))
	if err != nil {
		return neighbour{}, err
	}
	_, e, err := decodeNeighbour(m)
	return e, err
}

// use is what the kernel does when it has a packet for the station: it asks for the MAC unless it is sure.
func (k *Kernel) use(s station) error {
	return k.execute(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE, []nl.NetlinkRequestData{
		&netlink.Ndmsg{Family: familyOf(s.addr), Index: uint32(s.link), Flags: netlink.NTF_USE},
		nl.NewRtAttr(netlink.NDA_DST, s.addr.AsSlice()),
	})
}

// decodeNeighbour reads struct ndmsg: family (1), padding (3), interface (4), state (2), flags (1), type (1).
func decodeNeighbour(m []byte) (s station, e neighbour, err error) {
	if len(m) < unix.SizeofNdMsg {
		return s, e, unix.EBADMSG
	}
	s.link, e.state = int(u32(m[4:])), binary.NativeEndian.Uint16(m[8:])
	attrs, err := nl.ParseRouteAttr(m[unix.SizeofNdMsg:])
	if err != nil {
		return s, e, err
	}
	for _, a := range attrs {
		switch a.Attr.Type {
		case netlink.NDA_DST:
			s.addr, _ = netip.AddrFromSlice(a.Value)
		case netlink.NDA_LLADDR:
			if len(a.Value) == len(e.mac) {
				e.mac = [6]byte(a.Value)
			}
		}
	}
	return s, e, nil
}

// link asks for an interface.
func (k *Kernel) link(index int) (link, error) {
	header := nl.NewIfInfomsg(unix.AF_UNSPEC)
	header.Index = int32(index)
	m, err := k.ask(unix.RTM_GETLINK, unix.RTM_NEWLINK, header)
	if err != nil {
		return link{}, err
	}
	_, l, err := decodeLink(m)
	return l, err
}

// decodeLink reads an interface's message. Those of a bridge about its ports leave half of it out: they are errors.
func decodeLink(m []byte) (index int, l link, err error) {
	if len(m) < unix.SizeofIfInfomsg || m[0] != unix.AF_UNSPEC {
		return 0, l, unix.EBADMSG
	}
	h := nl.DeserializeIfInfomsg(m)
	const running = unix.IFF_UP | unix.IFF_LOWER_UP // the latter is carrier
	l.up, l.ethernet = h.Flags&running == running, h.Type == unix.ARPHRD_ETHER
	attrs, err := nl.ParseRouteAttr(m[unix.SizeofIfInfomsg:])
	if err != nil {
		return 0, l, err
	}
	for _, a := range attrs {
		switch a.Attr.Type {
		case unix.IFLA_IFNAME:
			l.name = nl.BytesToString(a.Value)
		case unix.IFLA_MTU:
			l.mtu = int(u32(a.Value))
		case unix.IFLA_ADDRESS:
			if mac := net.HardwareAddr(a.Value); len(mac) == len(l.mac) {
				l.mac = [6]byte(mac)
			}
		}
	}
	return int(h.Index), l, nil
}

// ask asks for one thing.
func (k *Kernel) ask(typ, reply uint16, data ...nl.NetlinkRequestData) ([]byte, error) {
	req := k.request(typ, 0)
	for _, d := range data {
		req.AddData(d)
	}
	list, err := req.Execute(unix.NETLINK_ROUTE, reply)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, unix.ENODATA
	}
	return list[0], nil
}
