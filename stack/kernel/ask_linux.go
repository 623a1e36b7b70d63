package kernel

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

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

// decodeNeighbour reads struct ndmsg: family (1), padding (3), interface (4), state (2), flags (1), type (1). What is no
// neighbour that packets go to is an error: a bridge's table, an address that the kernel answers for.
func decodeNeighbour(m []byte) (s station, e neighbour, err error) {
	if len(m) < unix.SizeofNdMsg || m[0] != unix.AF_INET && m[0] != unix.AF_INET6 || m[10]&unix.NTF_PROXY != 0 {
		return s, e, unix.EBADMSG
	}
	s.link, e.state = int(u32(m[4:])), binary.NativeEndian.Uint16(m[8:])
	for t, v := range attributes(m[unix.SizeofNdMsg:]) {
		switch t {
		case netlink.NDA_DST:
			s.addr, _ = netip.AddrFromSlice(v)
		case netlink.NDA_LLADDR:
			if len(v) == len(e.mac) {
				e.mac = [6]byte(v)
			}
		}
	}
	if !s.addr.IsValid() || s.addr.IsMulticast() {
		return s, e, unix.EBADMSG
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
