package kernel

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/gaissmai/bart"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// world is a copy of the kernel's policy rules and routes. It never changes; what it points to, contacts and devices, does.
type world struct {
	v4, v6   []lookup
	unheeded []string  // see Neighbours.Unheeded
	expires  time.Time // of the first route to do so; zero: none does
	routes   int
}

// nowhere is the world of a Neighbours that is closed.
func nowhere() *world {
	l := []lookup{{verdict: &path{down: Unfollowed}}}
	return &world{v4: l, v6: l}
}

// path is where a prefix leads. Equal ones are one in memory: a router has many prefixes and few next hops.
type path struct {
	down     Down // Up: by the hops
	throw    bool // the table has nothing to say
	weak     bool // by interfaces without carrier alone
	balanced bool // flows go by all of the hops; else by the first that is any good
	metric   uint32
	hops     []hop
}

// hop is one of the next hops of a route.
type hop struct {
	device  *device
	gateway *contact // nil: the destination is a neighbour
	mtu     int      // 0 is the interface's
	weight  uint32
	pref    int8 // of IPv6 routers: 1 high, 0, -1 low
	wrapped bool // packets are put into others
}

// route finds the route to an address by the rules, as the kernel does; never nil.
func (w *world) route(a netip.Addr, none *path) *path {
	rules := w.v4
	if a.Is6() {
		rules = w.v6
	}
	for i := 0; i < len(rules); i++ {
		l := &rules[i]
		if l.limited && l.to.Contains(a) == l.except {
			continue
		}
		switch {
		case l.table != nil:
			if r, ok := l.lookup(a); ok {
				return r
			}
		case l.verdict != nil:
			return l.verdict
		default:
			i = l.jump - 1
		}
	}
	return none
}

// lookup looks the address up in the rule's table.
func (l *lookup) lookup(a netip.Addr) (*path, bool) {
	if l.suppress < 0 {
		r, ok := l.table.Lookup(a)
		return r, ok && !r.throw
	}
	p, r, ok := l.table.LookupPrefixLPM(single(a))
	return r, ok && !r.throw && (r.down == NoRoute || p.Bits() > l.suppress) // nobody suppresses a refusal
}

// reader makes a world of what the kernel says.
type reader struct {
	k       *Kernel
	aside   *Kernel // to ask in the midst of a list of k's
	device  func(index int) *device
	contact func(s station) *contact
	now     time.Time

	world   world
	tables  map[uint32]*bart.Table[*path] // those of one family that rules look into
	others  map[uint32]bool               // further tables that have routes
	throws  map[*bart.Table[*path]]bool   // tables with such routes
	seen    map[string]*path              // by the attributes that make them
	joined  map[[2]*path]*path            // of several routes to one prefix
	objects map[uint32]nexthop            // next hops that are objects of their own; read when the first route has one
	key     []byte
	err     error
}

// read reads all of it.
func (r *reader) read() (*world, error) {
	for _, family := range r.k.families() {
		r.tables, r.seen, r.joined = map[uint32]*bart.Table[*path]{}, map[string]*path{}, map[[2]*path]*path{}
		r.others, r.throws = map[uint32]bool{}, map[*bart.Table[*path]]bool{}
		rules, err := r.rules(family)
		if err != nil {
			return nil, err
		}
		err = r.k.each(unix.RTM_GETROUTE, unix.RTM_NEWROUTE, r.add, &nl.RtMsg{RtMsg: unix.RtMsg{Family: family}})
		if err == nil {
			err = r.err
		}
		if err != nil {
			return nil, fmt.Errorf("list with %s route show table all: %w", ip(family), err)
		}
		r.bar(family)
		if family == unix.AF_INET {
			r.world.v4 = r.settle(family, rules)
		} else {
			r.world.v6 = r.settle(family, rules)
		}
	}
	return &r.world, nil
}

// rtaNexthop is RTA_NH_ID, the next hop that is an object of its own, since Linux 5.3.
const rtaNexthop = 30

// raw are the attributes of a route that count.
type raw struct {
	dst, gateway, via, metrics, multipath []byte
	table, oif, metric, object            uint32
	expires                               int32 // hundredths of a second; 0: never
	pref                                  byte
	wrapped                               bool
}

// add takes in a route: struct rtmsg is family, length of destination and source, TOS, table, protocol, scope, type (1 each), flags (4).
func (r *reader) add(m []byte) {
	if len(m) < unix.SizeofRtMsg {
		return
	}
	if m[2] != 0 || m[3] != 0 || u32(m[8:])&unix.RTM_F_CLONED != 0 {
		return // for some sources or services only, or a note of the kernel's own
	}
	a := raw{table: uint32(m[4])}
	flags := byte(u32(m[8:]))
	key := append(r.key[:0], m[7], flags)
	for t, v := range attributes(m[unix.SizeofRtMsg:]) {
		switch t {
		case unix.RTA_DST:
			a.dst = v
			continue
		case unix.RTA_TABLE:
			a.table = number(v)
			continue
		case unix.RTA_CACHEINFO:
			if len(v) >= 12 {
				a.expires = int32(u32(v[8:]))
			}
			continue
		case unix.RTA_OIF:
			a.oif = number(v)
		case unix.RTA_GATEWAY:
			a.gateway = v
		case unix.RTA_VIA:
			a.via = v
		case unix.RTA_PRIORITY:
			a.metric = number(v)
		case unix.RTA_METRICS:
			a.metrics = v
		case unix.RTA_MULTIPATH:
			a.multipath = v
		case rtaNexthop:
			a.object = number(v)
		case unix.RTA_PREF:
			a.pref = v[0]
		case unix.RTA_ENCAP_TYPE:
			a.wrapped = true
		default:
			continue
		}
		key = binary.NativeEndian.AppendUint16(append(key, byte(t)), uint16(len(v)))
		key = append(key, v...)
	}
	r.key = key
	into, wanted := r.tables[a.table]
	if !wanted {
		r.others[a.table] = true
	}
	if !wanted || a.expires < 0 {
		return
	}
	if a.expires > 0 {
		if at := r.now.Add(time.Duration(a.expires) * 10 * time.Millisecond); r.world.expires.IsZero() || at.Before(r.world.expires) {
			r.world.expires = at
		}
	}
	made, ok := r.seen[string(key)]
	if !ok {
		made = r.route(m[7], flags, &a)
		r.seen[string(key)] = made
	}
	if made == nil {
		return
	}
	dst := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if m[0] == unix.AF_INET6 {
		dst = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	if a.dst != nil {
		dst = prefix(a.dst, m[1])
	}
	r.world.routes++
	if made.throw {
		r.throws[into] = true
	}
	into.Modify(dst, func(old *path, there bool) (*path, bool) {
		if there {
			return r.better(m[0], old, made), false
		}
		return made, false
	})
}

// route decodes a route; nil if no packet can go by it.
func (r *reader) route(kind, flags byte, a *raw) *path {
	made := &path{metric: a.metric}
	switch kind {
	case unix.RTN_LOCAL:
		made.down = Box
	case unix.RTN_THROW:
		made.throw = true
	case unix.RTN_UNICAST:
		pref := int8(0)
		switch a.pref {
		case 1:
			pref = 1
		case 3:
			pref = -1
		}
		mtu := 0
		for t, v := range attributes(a.metrics) {
			if t == unix.RTAX_MTU {
				mtu = int(number(v))
			}
		}
		hops := r.hops(flags, a)
		made.weak = !slices.ContainsFunc(hops, func(h nexthop) bool { return h.flags&unix.RTNH_F_LINKDOWN == 0 })
		for _, h := range hops {
			if h.blackhole {
				return &path{metric: a.metric, down: NoRoute}
			}
			if h.flags&unix.RTNH_F_DEAD != 0 || h.flags&unix.RTNH_F_LINKDOWN != 0 && !made.weak {
				continue
			}
			to := hop{device: r.device(h.link), mtu: mtu, weight: h.weight, pref: pref, wrapped: h.wrapped}
			if h.gateway.IsValid() {
				to.gateway = r.contact(station{h.link, h.gateway})
			}
			made.hops = append(made.hops, to)
		}
		if len(made.hops) == 0 {
			return nil
		}
		made.balanced = len(made.hops) > 1
	default: // unreachable, prohibit, blackhole; broadcast, multicast, anycast
		made.down = NoRoute
	}
	return made
}

// better is what becomes of two routes to one prefix. The lower metric wins. Of equal ones, IPv4 takes the first, and IPv6 the
// one whose router is preferred; routers of one preference share.
func (r *reader) better(family byte, old, more *path) *path {
	switch {
	case old.weak != more.weak:
		if old.weak {
			return more
		}
		return old
	case more.metric < old.metric:
		return more
	case more.metric > old.metric || family == unix.AF_INET || old.down != Up || more.down != Up || old.throw || more.throw:
		return old
	}
	pair := [2]*path{old, more}
	if j, ok := r.joined[pair]; ok {
		return j
	}
	j := &path{metric: old.metric, weak: old.weak, hops: slices.Concat(old.hops, more.hops)}
	slices.SortStableFunc(j.hops, func(a, b hop) int { return int(b.pref) - int(a.pref) })
	j.balanced = !slices.ContainsFunc(j.hops, func(h hop) bool { return h.gateway == nil || h.pref != j.hops[0].pref })
	r.joined[pair] = j
	return j
}
