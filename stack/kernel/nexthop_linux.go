package kernel

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// nexthop is a next hop as the kernel lists it, within a route or as an object of its own.
type nexthop struct {
	link      int
	gateway   netip.Addr // zero: the destination is a neighbour
	weight    uint32
	flags     byte // RTNH_F_DEAD, RTNH_F_LINKDOWN
	wrapped   bool // packets are put into others
	blackhole bool
	group     []nexthop // with link and weight: ID and weight of other objects
}

// hops are the next hops of a route. One that names an object has the object's next hops with it, unless
// net.ipv4.nexthop_compat_mode is off.
func (r *reader) hops(flags byte, a *raw) []nexthop {
	if a.object != 0 && a.oif == 0 && a.multipath == nil {
		return r.object(a.object)
	}
	if a.multipath == nil {
		return []nexthop{{link: int(a.oif), gateway: gatewayOf(a.gateway, a.via), weight: 1, flags: flags, wrapped: a.wrapped}}
	}
	var list []nexthop
	// struct rtnexthop: length (2), flags (1), weight - 1 (1), interface (4), attributes.
	for b := a.multipath; len(b) >= unix.SizeofRtNexthop; {
		n := int(binary.NativeEndian.Uint16(b))
		if n < unix.SizeofRtNexthop || n > len(b) {
			break
		}
		h := nexthop{link: int(u32(b[4:])), weight: uint32(b[3]) + 1, flags: b[2]}
		var gateway, via []byte
		for t, v := range attributes(b[unix.SizeofRtNexthop:n]) {
			switch t {
			case unix.RTA_GATEWAY:
				gateway = v
			case unix.RTA_VIA:
				via = v
			case unix.RTA_ENCAP_TYPE:
				h.wrapped = true
			}
		}
		h.gateway = gatewayOf(gateway, via)
		list = append(list, h)
		b = b[min((n+3)&^3, len(b)):]
	}
	return list
}

// gatewayOf reads a gateway's address, be it of the other family: via is the family (2) and the address.
func gatewayOf(gateway, via []byte) netip.Addr {
	if len(via) > 2 {
		gateway = via[2:]
	}
	a, _ := netip.AddrFromSlice(gateway)
	return a
}

// object are the next hops of an object.
func (r *reader) object(id uint32) []nexthop {
	if r.objects == nil {
		r.objects = map[uint32]nexthop{}
		// struct nhmsg: family, scope, protocol, reserved (1 each), flags (4).
		header := message(make([]byte, 8))
		if err := r.aside.each(unix.RTM_GETNEXTHOP, unix.RTM_NEWNEXTHOP, r.addObject, &header); err != nil {
			r.err = err
		}
	}
	h, there := r.objects[id]
	switch {
	case !there:
		return nil
	case h.group == nil:
		return []nexthop{h}
	}
	var list []nexthop
	for _, member := range h.group {
		if m, there := r.objects[uint32(member.link)]; there && m.group == nil {
			m.weight = member.weight
			list = append(list, m)
		}
	}
	return list
}

func (r *reader) addObject(m []byte) {
	if len(m) < 8 {
		return
	}
	id, h := uint32(0), nexthop{weight: 1, flags: byte(u32(m[4:]))}
	for t, v := range attributes(m[8:]) {
		switch t {
		case unix.NHA_ID:
			id = number(v)
		case unix.NHA_OIF:
			h.link = int(number(v))
		case unix.NHA_GATEWAY:
			h.gateway = gatewayOf(v, nil)
		case unix.NHA_BLACKHOLE:
			h.blackhole = true
		case unix.NHA_ENCAP_TYPE:
			h.wrapped = true
		case unix.NHA_GROUP: // struct nexthop_grp: ID (4), weight - 1 (1, and 1 more above it), reserved
			for ; len(v) >= unix.SizeofNexthopGrp; v = v[unix.SizeofNexthopGrp:] {
				h.group = append(h.group, nexthop{link: int(u32(v)), weight: uint32(v[4]) + 1})
			}
		}
	}
	r.objects[id] = h
}

// message is a header as it stands.
type message []byte

func (m message) Len() int          { return len(m) }
func (m message) Serialize() []byte { return m }
