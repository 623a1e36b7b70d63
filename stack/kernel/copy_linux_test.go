package kernel

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// agrees waits until the way to each address is what the kernel says when it is asked for it.
func (f *follower) agrees(box *lab, what string, addrs []netip.Addr) {
	f.t.Helper()
	late := time.After(patience)
	for {
		wrong := ""
		for _, a := range addrs {
			want, err := box.hop(a)
			if err != nil {
				f.t.Fatalf("%s: ip route get %s: %v", what, a, err)
			}
			w := f.Way(a.As16())
			same := w.Down == want.down
			if want.down == Up {
				mtu := box.mtu(want.link)
				if want.mtu > 0 {
					mtu = min(mtu, want.mtu)
				}
				same = w.Link == want.link && w.Next == want.addr && w.MTU == mtu && !slices.Contains([]Down{Unfollowed, Box, NoRoute}, w.Down)
			}
			if !same {
				wrong = fmt.Sprintf("%s: got %+v (%s), the kernel says %+v (%s)", a, w, w.Down, want, want.down)
				break
			}
		}
		if wrong == "" {
			return
		}
		select {
		case <-f.Changes():
		case <-late:
			f.t.Fatalf("%s: %s", what, wrong)
		}
	}
}

func (l *lab) mtu(index int) int {
	l.t.Helper()
	link, err := l.Kernel.link(index)
	l.must(err)
	return link.mtu
}

// tables are those that random routes are put into; rules lead to all but the last.
var testTables = []int{unix.RT_TABLE_MAIN, unix.RT_TABLE_DEFAULT, 100, 101, 102}

// randomRoutes adds routes of all kinds, and says in which prefixes.
func (l *lab) randomRoutes(rnd *rand.Rand, count int) (added []netlink.Route, dsts []netip.Prefix) {
	l.t.Helper()
	inner, outer := l.link("inner").Attrs().Index, l.link("outer").Attrs().Index
	for range count {
		a, gateways, length := netip.AddrFrom4([4]byte{10, byte(rnd.IntN(4)), byte(rnd.IntN(256)), byte(rnd.IntN(256))}), []string{"192.168.0.10", "198.51.100.2", "192.168.0.77"}, 8+rnd.IntN(25)
		if rnd.IntN(2) == 0 {
			a, gateways, length = netip.AddrFrom16([16]byte{0xfd, 0x10, 0, byte(rnd.IntN(4)), byte(rnd.IntN(256)), byte(rnd.IntN(256)), 14: byte(rnd.IntN(256))}), []string{"fd00::10", "2001:db8:1::2", "fd00::77"}, 16+rnd.IntN(113)
		}
		p := netip.PrefixFrom(a, length).Masked()
		r := netlink.Route{Dst: ipNet(p.String()), Table: testTables[rnd.IntN(len(testTables))], Priority: 1 + rnd.IntN(3)}
		switch rnd.IntN(8) {
		case 0:
			r.Type = []int{unix.RTN_UNREACHABLE, unix.RTN_BLACKHOLE, unix.RTN_PROHIBIT}[rnd.IntN(3)]
		case 1:
			if r.Type = unix.RTN_THROW; a.Is6() {
				r.LinkIndex = l.link("lo").Attrs().Index
			}
		case 2, 3:
			if r.LinkIndex = inner; rnd.IntN(2) == 0 {
				r.LinkIndex = outer
			}
			if a.Is4() {
				r.Scope = unix.RT_SCOPE_LINK
			}
		case 4:
			r.Gw, r.MTU = net.ParseIP(gateways[0]), 1300+rnd.IntN(100)
		default:
			r.Gw = net.ParseIP(gateways[rnd.IntN(len(gateways))])
		}
		if err := l.links.RouteAdd(&r); err == nil { // others are there already
			added, dsts = append(added, r), append(dsts, p)
		}
	}
	return added, dsts
}

// TestCopy compares the copy with what the kernel answers, for random rules and routes.
func TestCopy(t *testing.T) {
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	n := newNetwork(t)
	f := follow(t, n.box)
	// A host leaves out what leads to an IPv6 router that does not answer, a router does not. And as long as there never was
	// a further rule, the tables local and main of IPv4 are one.
	n.box.setSysctl("ipv6/conf/all/forwarding", "1")
	further := netlink.NewRule()
	further.Family, further.Priority, further.Mark, further.Table = unix.AF_INET, 32000, 9, 102
	n.box.must(n.box.links.RuleAdd(further))
	own := []string{"10.2.240.0", "fd10:2:f00::", "192.168.0.100", "fd00::100", "192.168.0.255", "127.0.0.1", "::1", "198.51.100.2", "2001:db8:1::2", "8.8.8.8", "2001:4860::8888"}
	for _, r := range []netlink.Route{ // what hides routes of the main table, and what has just the length that is suppressed below
		{Dst: ipNet("10.3.0.0/17"), Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, LinkIndex: n.box.link("lo").Attrs().Index, Scope: unix.RT_SCOPE_HOST},
		{Dst: ipNet("fd10:3::/33"), Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, LinkIndex: n.box.link("lo").Attrs().Index},
		{Dst: ipNet("10.2.240.0/20"), Gw: net.ParseIP("192.168.0.10"), MTU: 1299, Priority: 1},
		{Dst: ipNet("fd10:2:f00::/40"), Gw: net.ParseIP("fd00::10"), MTU: 1299, Priority: 1},
	} {
		n.box.must(n.box.links.RouteAdd(&r))
	}
	added, dsts := n.box.randomRoutes(rnd, 400)
	if len(added) < 300 {
		t.Fatalf("only %d routes", len(added))
	}
	var addrs []netip.Addr
	for _, p := range dsts {
		b := p.Addr().AsSlice()
		for i := (p.Bits() + 7) / 8; i < len(b); i++ {
			b[i] = byte(rnd.IntN(256))
		}
		inside, _ := netip.AddrFromSlice(b)
		addrs = append(addrs, p.Addr(), inside)
	}
	for _, a := range own {
		addrs = append(addrs, netip.MustParseAddr(a))
	}
	addrs = slices.DeleteFunc(addrs, func(a netip.Addr) bool { return a == netip.MustParseAddr("10.0.0.0") })
	f.agrees(n.box, "the usual rules", addrs)

	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		net1, net2, short := ipNet("10.1.0.0/16"), ipNet("10.2.0.0/16"), 20
		if family == unix.AF_INET6 {
			net1, net2, short = ipNet("fd10:1::/32"), ipNet("fd10:2::/32"), 40
		}
		for _, change := range []func(r *netlink.Rule){
			func(r *netlink.Rule) { r.Priority, r.Dst, r.Table = 100, net1, 100 },
			func(r *netlink.Rule) { r.Priority, r.Dst, r.Table, r.Invert = 101, net1, 101, true },
			func(r *netlink.Rule) { r.Priority, r.Table, r.SuppressPrefixlen = 98, unix.RT_TABLE_MAIN, short },
			func(r *netlink.Rule) { r.Priority, r.Dst, r.Goto = 103, net2, 105 },
			func(r *netlink.Rule) { r.Priority, r.Dst, r.Type = 104, net1, unix.RTN_UNREACHABLE },
			func(r *netlink.Rule) { r.Priority, r.Table = 105, 100 },
			func(r *netlink.Rule) { r.Priority, r.Mark, r.Table = 106, 7, 101 },
			func(r *netlink.Rule) { r.Priority, r.Mark, r.Table, r.Invert = 107, 7, 101, true },
			func(r *netlink.Rule) { r.Priority, r.Table, r.OifName = 99, 102, "inner" },
		} {
			r := netlink.NewRule()
			r.Family = family
			change(r)
			n.box.must(n.box.links.RuleAdd(r))
			f.agrees(n.box, fmt.Sprintf("with rule %d of family %d", r.Priority, family), addrs)
		}
	}
	if l := f.Unheeded(); len(l) > 0 {
		t.Errorf("unheeded: %v", l)
	}
	k := open(t, n.box)
	apply(t, k, full())
	f.agrees(n.box, "with rules of our own", addrs)
	must(t, k.Close())

	rnd.Shuffle(len(added), func(i, j int) { added[i], added[j] = added[j], added[i] })
	for i := range added[:len(added)/2] {
		n.box.must(n.box.links.RouteDel(&added[i]))
	}
	f.agrees(n.box, "with half of the routes", addrs)
	for _, family := range []string{"ipv4", "ipv6"} {
		n.box.setSysctl(family+"/conf/outer/ignore_routes_with_linkdown", "1")
	}
	n.client.must(n.client.links.LinkSetDown(n.client.link("eth0")))
	f.agrees(n.box, "without carrier", addrs)
	n.client.up("eth0")
	f.agrees(n.box, "with carrier", addrs)
	n.box.must(n.box.links.LinkSetDown(n.box.link("outer")))
	f.agrees(n.box, "with an interface that is down", addrs)
	n.box.up("outer")
	n.box.must(n.box.links.LinkDel(n.box.link("outer")))
	f.agrees(n.box, "without the interface", addrs)
}

// TestUnheeded: rules that no destination decides.
func TestUnheeded(t *testing.T) {
	n := newNetwork(t)
	f := follow(t, n.box)
	n.box.foreignDefault("inner", 100)
	add := func(priority, table int, src string) {
		r := netlink.NewRule()
		r.Family, r.Priority, r.Table, r.Src = unix.AF_INET6, priority, table, ipNet(src)
		n.box.must(n.box.links.RuleAdd(r))
	}
	add(50, unix.RT_TABLE_MAIN, "2001:db8:1::/64") // looks where everybody does
	add(51, 77, "2001:db8:1::/64")                 // an empty table
	add(52, 100, "2001:db8:1::/64")
	late := time.After(patience)
	for want := []string{"ip -6 rule show pref 52"}; !slices.Equal(f.Unheeded(), want); {
		select {
		case <-f.Changes():
		case <-late:
			t.Fatalf("got %q, want %q", f.Unheeded(), want)
		}
	}
	if w := f.way("2001:db8:77::1"); w.Down != NoRoute {
		t.Errorf("a destination of a rule about sources: %+v", w)
	}
}

// spread says how many addresses of a prefix leave by each next hop.
func (f *follower) spread(base string) map[string]int {
	count := map[string]int{}
	a := netip.MustParseAddr(base)
	for range 1000 {
		a = a.Next()
		count[f.Way(a.As16()).Next.String()]++
	}
	return count
}

// TestMultipath: destinations are spread among the next hops by weight, and stay where they are when another one fails.
func TestMultipath(t *testing.T) {
	t.Parallel() // its time is the kernel's before it gives a neighbour up
	n := newNetwork(t)
	n.box.hasty("inner")
	n.server.addr("eth0", "192.168.0.11/24", "fd00::11/64")
	inner := n.box.link("inner").Attrs().Index
	f := follow(t, n.box)
	for i, c := range []struct{ dst, base, one, two, twoNet string }{
		{"10.9.0.0/16", "10.9.0.0", "192.168.0.10", "192.168.0.11", "192.168.0.11/24"},
		{"fd09::/32", "fd09::", "fd00::10", "fd00::11", "fd00::11/64"},
	} {
		n.box.must(n.box.links.RouteAdd(&netlink.Route{Dst: ipNet(c.dst), MultiPath: []*netlink.NexthopInfo{
			{LinkIndex: inner, Gw: net.ParseIP(c.one)}, {LinkIndex: inner, Gw: net.ParseIP(c.two), Hops: 2}, // one is added to it
		}}))
		first := netip.MustParseAddr(c.base).Next().String()
		f.await("a route of two", first, up)
		each := f.spread(c.base)
		if each[c.one]+each[c.two] != 1000 || each[c.one] < 200 || each[c.one] > 300 {
			t.Errorf("by weights 1 and 3: %v", each)
		}
		if again := f.spread(c.base); again[c.one] != each[c.one] {
			t.Errorf("then %v, now %v", each, again)
		}
		n.server.delAddr("eth0", c.twoNet)
		entry := &netlink.Neigh{LinkIndex: inner, IP: net.ParseIP(c.two)}
		n.box.must(n.box.links.NeighDel(entry)) // or the kernel believes in it for a while
		late := time.After(patience)
		for f.spread(c.base)[c.one] != 1000 {
			select {
			case <-f.Changes():
			case <-late:
				t.Fatalf("%d: a gateway that is gone: %v", i, f.spread(c.base))
			}
		}
	}
}

// object adds a next hop that is an object of its own, or a group of such.
func (l *lab) object(family uint8, attrs ...nl.NetlinkRequestData) {
	l.t.Helper()
	header := message{family, 0, 0, 0, 0, 0, 0, 0}
	err := l.execute(unix.RTM_NEWNEXTHOP, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, append([]nl.NetlinkRequestData{&header}, attrs...))
	if err == unix.EOPNOTSUPP {
		l.t.Skip("no next hop objects before Linux 5.3")
	}
	l.must(err)
}

// TestNexthopObjects: routes by next hops that are objects, whether or not the kernel lists them with the routes.
func TestNexthopObjects(t *testing.T) {
	n := newNetwork(t)
	index := uint32(n.box.link("inner").Attrs().Index)
	f := follow(t, n.box)
	for i, gateway := range []string{"192.168.0.10", "fd00::10"} {
		a := netip.MustParseAddr(gateway)
		id, dst, far := uint32(10*i+1), "10.6.0.0/16", "10.6.0.1"
		if a.Is6() {
			dst, far = "fd06::/32", "fd06::1"
		}
		hop := func(id uint32, a netip.Addr) {
			n.box.object(familyOf(a), attr32(unix.NHA_ID, id), attr32(unix.NHA_OIF, index), nl.NewRtAttr(unix.NHA_GATEWAY, a.AsSlice()))
		}
		hop(id, a)
		n.box.object(0, attr32(unix.NHA_ID, id+1), nl.NewRtAttr(unix.NHA_GROUP, append(nl.Uint32Attr(id), 0, 0, 0, 0)))
		for _, compatible := range []string{"1", "0"} {
			n.box.setSysctl("ipv4/nexthop_compat_mode", compatible)
			for _, by := range []uint32{id, id + 1} {
				p := netip.MustParsePrefix(dst)
				route := []nl.NetlinkRequestData{
					&nl.RtMsg{RtMsg: unix.RtMsg{Family: familyOf(a), Dst_len: uint8(p.Bits()), Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST, Protocol: unix.RTPROT_STATIC}},
					nl.NewRtAttr(unix.RTA_DST, p.Addr().AsSlice()), attr32(rtaNexthop, by),
				}
				n.box.must(n.box.execute(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, route))
				f.await(fmt.Sprintf("object %d", by), far, func(w Way) bool { return up(w) && w.Next == a })
				hop(id, a.Next())
				f.await("another gateway", far, func(w Way) bool { return w.Next == a.Next() })
				hop(id, a)
				f.await("the first gateway", far, func(w Way) bool { return w.Next == a })
				n.box.must(n.box.execute(unix.RTM_DELROUTE, 0, route))
				f.awaitDown("no route", far, NoRoute)
			}
		}
		n.box.object(familyOf(a), attr32(unix.NHA_ID, id+2), nl.NewRtAttr(unix.NHA_BLACKHOLE, nil))
	}
}

// TestExpires: a route that has a time is none afterwards, also before the kernel has cleared it away.
func TestExpires(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	f := follow(t, n.box)
	n.box.via("fd07::/16", "fd00::10")
	p := netip.MustParsePrefix("fd07:1::/48")
	n.box.must(n.box.execute(unix.RTM_NEWROUTE, unix.NLM_F_CREATE, []nl.NetlinkRequestData{
		&nl.RtMsg{RtMsg: unix.RtMsg{Family: unix.AF_INET6, Dst_len: 48, Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST, Protocol: unix.RTPROT_STATIC}},
		nl.NewRtAttr(unix.RTA_DST, p.Addr().AsSlice()), nl.NewRtAttr(unix.RTA_GATEWAY, netip.MustParseAddr("2001:db8:1::2").AsSlice()), attr32(unix.RTA_EXPIRES, 2),
	}))
	by := func(next string) func(Way) bool {
		return func(w Way) bool { return w.Next == netip.MustParseAddr(next) }
	}
	f.await("the route", "fd07:1::1", by("2001:db8:1::2"))
	start := time.Now()
	f.await("the shorter route", "fd07:1::1", by("fd00::10"))
	if took := time.Since(start); took < time.Second || took > 5*time.Second {
		t.Errorf("after %v, want 2 s", took)
	}
}
