package kernel

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// answer is what a route says: a station to send to, or why there is none.
type answer struct {
	station
	down Down
	mtu  int // 0 is the interface's
}

// hop asks which way the box itself would send to addr. A question without a protocol is one about UDP, which our own
// rules lead to the device at some addresses of the box: its answer says so by its table.
func (k *Kernel) hop(addr netip.Addr) (answer, error) {
	family := familyOf(addr)
	question := &nl.RtMsg{RtMsg: unix.RtMsg{Family: family, Dst_len: uint8(addr.BitLen())}}
	if family == unix.AF_INET { // IPv6 names the table anyhow, and takes the flag for a mistake
		question.Flags = unix.RTM_F_LOOKUP_TABLE
	}
	reply, err := k.ask(unix.RTM_GETROUTE, unix.RTM_NEWROUTE, question, nl.NewRtAttr(unix.RTA_DST, addr.AsSlice()))
	for _, no := range []error{
		unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES, unix.EINVAL, // none, unreachable, prohibited, blackhole
		unix.EAFNOSUPPORT, unix.EOPNOTSUPP, // the kernel has no such family
	} {
		if errors.Is(err, no) {
			return answer{down: NoRoute}, nil
		}
	}
	if err != nil {
		return answer{}, err
	}
	route, err := decodeRoute(reply)
	if err != nil || route.table != table {
		return decodeHop(reply, addr)
	}
	locals, err := k.routes(family, unix.RT_TABLE_LOCAL, 0)
	if err != nil {
		return answer{}, err
	}
	if slices.ContainsFunc(locals, func(r routeEntry) bool { return r.kind == unix.RTN_LOCAL && r.dst.Contains(addr) }) {
		return answer{down: Box}, nil
	}
	return answer{down: NoRoute}, nil
}

func decodeHop(m []byte, addr netip.Addr) (answer, error) {
	h := answer{station: station{addr: addr}}
	header := nl.DeserializeRtMsg(m)
	switch header.Type {
	case unix.RTN_UNICAST:
	case unix.RTN_LOCAL:
		return answer{down: Box}, nil
	default:
		return answer{down: NoRoute}, nil
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
