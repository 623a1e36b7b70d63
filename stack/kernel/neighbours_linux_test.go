package kernel

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// follower is a Neighbours of a box, with addresses that the test follows.
type follower struct {
	*Neighbours
	t *testing.T
}

func follow(t *testing.T, box *lab, addrs ...string) *follower {
	t.Helper()
	n, err := OpenNeighbours(box.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	f := &follower{n, t}
	must(t, f.follow(addrs...))
	return f
}

func (f *follower) follow(addrs ...string) error {
	var list []netip.Addr
	for _, a := range addrs {
		list = append(list, netip.MustParseAddr(a))
	}
	return f.Follow(list)
}

func (f *follower) way(addr string) Way { return f.Way(netip.MustParseAddr(addr).As16()) }

// await returns when the way to addr is as wanted.
func (f *follower) await(what, addr string, ok func(w Way) bool) Way {
	f.t.Helper()
	late := time.After(patience)
	for {
		w := f.way(addr)
		if w.Local != (w.Down == Box) {
			f.t.Fatalf("%s: %+v", what, w)
		}
		if ok(w) {
			return w
		}
		select {
		case <-f.Changes():
		case <-late:
			f.t.Fatalf("%s: the way to %s is still %+v (%s)", what, addr, w, w.Down)
		}
	}
}

func (f *follower) awaitDown(what, addr string, want ...Down) {
	f.t.Helper()
	f.await(what, addr, func(w Way) bool { return slices.Contains(want, w.Down) })
}

func up(w Way) bool { return w.Down == Up }

// mac is a device's own.
func (l *lab) mac(dev string) [6]byte { l.t.Helper(); return [6]byte(l.link(dev).Attrs().HardwareAddr) }

// hasty makes the kernel doubt its neighbours after moments.
func (l *lab) hasty(dev string) {
	l.t.Helper()
	for _, f := range []string{"ipv4", "ipv6"} {
		l.setSysctl(f+"/neigh/"+dev+"/base_reachable_time_ms", "300")
		l.setSysctl(f+"/neigh/"+dev+"/delay_first_probe_time", "0")
		l.setSysctl(f+"/neigh/"+dev+"/retrans_time_ms", "50")
	}
}

// both families' real server, and the device's address of the box's that is nearest.
var realServers = []string{"192.168.0.10", "fd00::10"}

// TestWay: the way to a server on the box's inner network, with all of our rules in force, is found and complete, whichever
// subnet clients are in.
func TestWay(t *testing.T) {
	own := []string{"198.51.100.1", "2001:db8:1::1", "203.0.113.22", "2001:db8:22::22"} // the gateways', and the VIPs
	for _, routed := range []bool{false, true} {
		n := newNetwork(t)
		n.box.addr("lo", "203.0.113.22/32", "2001:db8:22::22/128")
		n.box.hasty("inner")
		if routed {
			apply(t, open(t, n.box), full())
		}
		f := follow(t, n.box, append([]string{"::ffff:192.168.0.10"}, slices.Concat(realServers, own)...)...)
		inner := n.box.link("inner").Attrs()
		for _, server := range realServers {
			want := Way{Link: inner.Index, Name: "inner", MTU: 1500, Source: n.box.mac("inner"), MAC: n.server.mac("eth0"), Next: netip.MustParseAddr(server)}
			if w := f.await("the server's MAC", server, up); w != want {
				t.Errorf("%s: got %+v, want %+v", server, w, want)
			}
		}
		for _, addr := range own {
			if w := f.way(addr); w != (Way{Down: Box, Local: true}) {
				t.Errorf("%s, the box's own (rules: %v): %+v", addr, routed, w)
			}
		}
		f.awaitDown("a neighbour that is not there", "192.168.0.11", Failed)
		count := 0
		for a, w := range f.Ways() {
			if got := f.Way(a.As16()); got != w {
				t.Errorf("%s: Ways has %+v, Way %+v", a, w, got)
			}
			count++
		}
		if count != 6 {
			t.Errorf("%d ways, want 6", count)
		}
		if n := testing.AllocsPerRun(100, func() { f.Way(netip.MustParseAddr("fd00::10").As16()) }); n > 0 {
			t.Errorf("Way allocates %v times", n)
		}
		must(t, f.follow("fd00::10"))
		if w := f.way("192.168.0.10"); !up(w) {
			t.Errorf("followed no more, and used a moment ago: %+v", w)
		}
		if w := f.way("fd00::10"); !up(w) {
			t.Errorf("followed on: %+v", w)
		}
		must(t, f.Close())
		must(t, f.Close())
		if w := f.way("fd00::10"); w.Down != Unfollowed {
			t.Errorf("after Close: %+v", w)
		}
		if err := f.follow("fd00::10"); err != os.ErrClosed {
			t.Errorf("Follow after Close: %v", err)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestWayByGateway: the next hop is a router's, also one of the other family, and follows the routes.
func TestWayByGateway(t *testing.T) {
	t.Parallel() // its time is the pauses between rounds
	n := newNetwork(t)
	n.box.addr("inner", "10.0.9.100/24", "fd09::100/64")
	n.server.addr("eth0", "10.0.9.10/24", "fd09::10/64") // another router, with the same MAC
	far := []string{"10.77.0.1", "fd77::1"}
	f := follow(t, n.box, far...)
	for i, server := range far {
		f.awaitDown("no route", server, NoRoute)
		p := netip.PrefixFrom(netip.MustParseAddr(server), 24).Masked().String()
		n.box.via(p, realServers[i])
		w := f.await("the gateway's MAC", server, up)
		if w.Next.String() != realServers[i] || w.MAC != n.server.mac("eth0") {
			t.Errorf("%s: %+v", server, w)
		}
		other := []string{"10.0.9.10", "fd09::10"}[i]
		dst := netlink.Route{Dst: ipNet(p), Gw: net.ParseIP(other), MTU: 1400}
		n.box.must(n.box.links.RouteReplace(&dst))
		f.await("another gateway", server, func(w Way) bool { return up(w) && w.Next.String() == other && w.MTU == 1400 })
		n.box.must(n.box.links.RouteDel(&dst))
		f.awaitDown("no route again", server, NoRoute)
	}
	n.box.must(n.box.links.RouteAdd(&netlink.Route{
		Dst: ipNet("10.77.0.0/24"), LinkIndex: n.box.link("inner").Attrs().Index, Via: &netlink.Via{AddrFamily: unix.AF_INET6, Addr: net.ParseIP("fd00::10")},
	}))
	f.await("a gateway of IPv6", "10.77.0.1", func(w Way) bool { return up(w) && w.Next == netip.MustParseAddr("fd00::10") })
}

func ipNet(prefix string) *net.IPNet {
	_, n, err := net.ParseCIDR(prefix)
	if err != nil {
		panic(err)
	}
	return n
}

// TestNoWay: routes that lead to no station.
func TestNoWay(t *testing.T) {
	n := newNetwork(t)
	n.box.up("tunlb0")
	for _, r := range []netlink.Route{
		{Dst: ipNet("10.1.0.0/24"), Type: unix.RTN_UNREACHABLE}, {Dst: ipNet("fd10:1::/64"), Type: unix.RTN_UNREACHABLE},
		{Dst: ipNet("10.2.0.0/24"), Type: unix.RTN_BLACKHOLE}, {Dst: ipNet("fd10:2::/64"), Type: unix.RTN_BLACKHOLE},
		{Dst: ipNet("10.3.0.0/24"), Type: unix.RTN_PROHIBIT}, {Dst: ipNet("fd10:3::/64"), Type: unix.RTN_PROHIBIT},
		{Dst: ipNet("10.4.0.0/24"), LinkIndex: n.box.link("tunlb0").Attrs().Index}, {Dst: ipNet("fd10:4::/64"), LinkIndex: n.box.link("tunlb0").Attrs().Index},
	} {
		n.box.must(n.box.links.RouteAdd(&r))
	}
	f := follow(t, n.box, "10.1.0.1", "fd10:1::1", "10.2.0.1", "fd10:2::1", "10.3.0.1", "fd10:3::1", "10.4.0.1", "fd10:4::1", "127.0.0.2", "::1")
	for addr, want := range map[string]Down{
		"10.1.0.1": NoRoute, "fd10:1::1": NoRoute, "10.2.0.1": NoRoute, "fd10:2::1": NoRoute, "10.3.0.1": NoRoute, "fd10:3::1": NoRoute,
		"10.4.0.1": NoEthernet, "fd10:4::1": NoEthernet, "127.0.0.2": Box, "::1": Box,
	} {
		if w := f.way(addr); w.Down != want {
			t.Errorf("%s: %+v (%s), want %s", addr, w, w.Down, want)
		}
	}
	n.box.addr("lo", "10.1.0.1/32", "fd10:1::1/128")
	f.awaitDown("an address of the box's own", "10.1.0.1", Box)
	f.awaitDown("an address of the box's own", "fd10:1::1", Box)
}

// TestServerDies: a server that goes is noticed within the kernel's own times, and one that comes, be it with another MAC.
func TestServerDies(t *testing.T) {
	t.Parallel() // its time is the pauses between rounds
	n := newNetwork(t)
	n.box.hasty("inner")
	f := follow(t, n.box, append(realServers, "192.168.0.11", "fd00::11")...)
	each := func(f func(server, length, nobody string)) {
		f("192.168.0.10", "/24", "192.168.0.11")
		f("fd00::10", "/64", "fd00::11")
	}
	each(func(server, _, nobody string) {
		f.await("the server", server, up)
		f.awaitDown("a server that never was", nobody, Failed)
	})
	each(func(server, length, _ string) { n.server.delAddr("eth0", server+length) })
	each(func(server, _, _ string) { f.awaitDown("a server that is gone", server, Failed) })
	each(func(server, length, _ string) { n.server.addr("eth0", server+length) })
	each(func(server, _, nobody string) {
		f.await("the server again", server, up)
		f.awaitDown("a server that never was", nobody, Failed)
	})
	replaced := net.HardwareAddr{2, 0, 0, 0, 0, 0x77}
	n.server.must(n.server.links.LinkSetHardwareAddr(n.server.link("eth0"), replaced))
	for _, server := range realServers {
		f.await("the new MAC", server, func(w Way) bool { return up(w) && w.MAC == [6]byte(replaced) })
	}
}

// TestEntries: what the administrator does to the kernel's neighbours.
func TestEntries(t *testing.T) {
	n := newNetwork(t)
	f := follow(t, n.box, realServers...)
	index := n.box.link("inner").Attrs().Index
	for _, server := range realServers {
		f.await("the server", server, up)
		entry := &netlink.Neigh{LinkIndex: index, IP: net.ParseIP(server), State: netlink.NUD_PERMANENT, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 0x88}}
		n.box.must(n.box.links.NeighSet(entry))
		fixed := func(w Way) bool { return up(w) && w.MAC == [6]byte(entry.HardwareAddr) }
		f.await("a permanent entry", server, fixed)
		for range 3 {
			must(t, f.follow(realServers...)) // a round
		}
		e, err := n.box.neighbour(station{index, netip.MustParseAddr(server)})
		if err != nil || e != (neighbour{netlink.NUD_PERMANENT, [6]byte(entry.HardwareAddr)}) {
			t.Errorf("the permanent entry for %s has become %+v, %v", server, e, err)
		}
		n.box.must(n.box.links.NeighDel(entry))
		f.await("the server's own MAC", server, func(w Way) bool { return up(w) && w.MAC == n.server.mac("eth0") })
	}
}

// TestLinkChanges: what happens to the interface.
func TestLinkChanges(t *testing.T) {
	t.Parallel() // its time is the pauses between rounds
	n := newNetwork(t)
	n.box.setSysctl("ipv6/conf/inner/keep_addr_on_down", "1")
	f := follow(t, n.box, realServers...)
	check := func(what string, ok func(w Way) bool) {
		t.Helper()
		for _, server := range realServers {
			f.await(what, server, ok)
		}
	}
	check("the server", up)
	n.server.must(n.server.links.LinkSetDown(n.server.link("eth0")))
	check("no carrier", func(w Way) bool { return w.Down == LinkDown })
	n.server.up("eth0")
	n.server.must(n.server.links.AddrReplace(n.server.link("eth0"), &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP("fd00::10"), Mask: net.CIDRMask(64, 128)}, Flags: unix.IFA_F_NODAD}))
	check("carrier", up)
	n.box.must(n.box.links.LinkSetDown(n.box.link("inner")))
	check("link down", func(w Way) bool { return w.Down == LinkDown || w.Down == NoRoute })
	n.box.up("inner")
	check("link up", up)
	n.box.must(n.box.links.LinkSetMTU(n.box.link("inner"), 1400))
	check("MTU", func(w Way) bool { return up(w) && w.MTU == 1400 })
	own := net.HardwareAddr{2, 0, 0, 0, 0, 0x99}
	n.box.must(n.box.links.LinkSetHardwareAddr(n.box.link("inner"), own))
	check("own MAC", func(w Way) bool { return up(w) && w.Source == [6]byte(own) })
	n.box.must(n.box.links.LinkSetName(n.box.link("inner"), "renamed"))
	check("name", func(w Way) bool { return up(w) && w.Name == "renamed" })
	n.box.must(n.box.links.LinkDel(n.box.link("renamed")))
	check("deleted", func(w Way) bool { return w.Down == LinkDown || w.Down == NoRoute })
	check("deleted", func(w Way) bool { return w.Down == NoRoute })
}

// TestFollowClose: following leaves no goroutine behind, in the middle of whatever it is doing.
func TestFollowClose(t *testing.T) {
	n := newNetwork(t)
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	for range 20 {
		f := follow(t, n.box, realServers...)
		go n.box.links.LinkSetUp(n.box.link("inner"))
		must(t, f.Close())
	}
	if _, err := OpenNeighbours(t.TempDir() + "/gone"); err == nil {
		t.Error("OpenNeighbours of no namespace: no error")
	}
}
