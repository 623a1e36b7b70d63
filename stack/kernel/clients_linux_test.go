package kernel

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// clients are neighbours of the box that nobody follows.
var clients = []string{"198.51.100.2", "2001:db8:1::2"}

// TestClient: the way to a neighbour that has never been heard is found because somebody wants it, and again after all
// that may happen to it.
func TestClient(t *testing.T) {
	n := newNetwork(t)
	f := follow(t, n.box)
	outer := n.box.link("outer").Attrs()
	check := func(what string) {
		t.Helper()
		for _, client := range clients {
			want := Way{Link: outer.Index, Name: "outer", MTU: 1500, Source: n.box.mac("outer"), MAC: n.client.mac("eth0"), Next: netip.MustParseAddr(client)}
			f.await(what, client, func(w Way) bool { return w == want })
		}
	}
	for _, client := range clients {
		if w := f.way(client); w.Down != Resolving {
			t.Errorf("a client that has not been heard: %+v", w)
		}
	}
	check("the client")
	far := []string{"8.8.8.8", "2001:4860::8888"}
	for i, base := range []string{"0.0.0.0/0", "::/0"} {
		if w := f.way(far[i]); w.Down != NoRoute {
			t.Errorf("%s without a route: %+v", far[i], w)
		}
		n.box.via(base, clients[i])
		f.await("the default route", far[i], func(w Way) bool { return up(w) && w.Next.String() == clients[i] })
	}
	for _, client := range clients {
		n.box.must(n.box.links.NeighDel(&netlink.Neigh{LinkIndex: outer.Index, IP: net.ParseIP(client)}))
		f.await("forgotten by hand", client, func(w Way) bool { return w.Down == Resolving || up(w) })
	}
	check("the client again")
	n.client.must(n.client.links.LinkSetDown(n.client.link("eth0")))
	for _, client := range clients {
		f.awaitDown("no carrier", client, LinkDown)
	}
	n.client.must(n.client.links.LinkSetHardwareAddr(n.client.link("eth0"), net.HardwareAddr{2, 0, 0, 0, 0, 0x55})) // another client
	n.client.up("eth0")
	n.client.must(n.client.links.AddrReplace(n.client.link("eth0"), &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(clients[1]), Mask: net.CIDRMask(64, 128)}, Flags: unix.IFA_F_NODAD}))
	check("carrier")
	n.box.must(n.box.links.LinkDel(n.box.link("outer")))
	for _, client := range clients {
		f.awaitDown("the interface is gone", client, NoRoute)
	}
	veth(n.box, "outer", n.client, "eth0")
	n.client.addr("eth0", "198.51.100.2/24", "2001:db8:1::2/64")
	n.box.addr("outer", "198.51.100.1/24", "2001:db8:1::1/64")
	outer = n.box.link("outer").Attrs()
	check("another interface")
}

// TestMoreSpecific: of several routes the longest prefix counts, and the lowest metric.
func TestMoreSpecific(t *testing.T) {
	n := newNetwork(t)
	f := follow(t, n.box)
	for i, c := range []struct{ short, long, far string }{{"10.0.0.0/8", "10.7.0.0/16", "10.7.0.1"}, {"fd10::/16", "fd10:7::/32", "fd10:7::1"}} {
		by := func(next string) func(Way) bool { return func(w Way) bool { return up(w) && w.Next.String() == next } }
		n.box.via(c.short, clients[i])
		f.await("a route", c.far, by(clients[i]))
		route := netlink.Route{Dst: ipNet(c.long), Gw: net.ParseIP(realServers[i]), Priority: 20}
		n.box.must(n.box.links.RouteAdd(&route))
		f.await("a more specific one", c.far, by(realServers[i]))
		better := netlink.Route{Dst: ipNet(c.long), Gw: net.ParseIP(clients[i]), Priority: 10}
		n.box.must(n.box.links.RouteAdd(&better))
		f.await("one with a lower metric", c.far, by(clients[i]))
		n.box.must(n.box.links.RouteAdd(&netlink.Route{Dst: ipNet(c.long), Type: unix.RTN_UNREACHABLE, Priority: 5}))
		f.awaitDown("unreachable", c.far, NoRoute)
	}
}

// TestFlood: wishes to send to neighbours that are not there cost a bounded number of questions, and keep nobody out for good.
func TestFlood(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	n.box.addr("inner", "10.3.0.1/16", "fd03::1/64")
	n.server.addr("eth0", "10.3.0.2/16", "fd03::2/64")
	f := follow(t, n.box)
	stop := make(chan struct{})
	var flood sync.WaitGroup
	flood.Add(1)
	go func() {
		defer flood.Done()
		v4, v6 := netip.MustParseAddr("10.3.1.0").As16(), netip.MustParseAddr("fd03::1:0:0").As16()
		for i := uint32(0); ; i++ {
			binary.BigEndian.PutUint16(v4[14:], uint16(i)|0x100)
			binary.BigEndian.PutUint32(v6[12:], i)
			f.Way(v4)
			f.Way(v6)
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	largest := 0
	look := func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if largest = max(largest, f.pending); f.pending > maxPending {
			t.Errorf("%d questions are open", f.pending)
		}
	}
	for _, client := range []string{"10.3.0.2", "fd03::2"} {
		late := time.Now().Add(patience)
		for !up(f.way(client)) {
			if look(); time.Now().After(late) {
				t.Fatalf("the way to %s is still %+v", client, f.way(client))
			}
		}
	}
	for late := time.Now().Add(patience); (largest < maxPending || f.way("10.3.1.0").Down != Failed) && time.Now().Before(late); {
		look()
	}
	close(stop)
	flood.Wait()
	if largest < maxPending {
		t.Errorf("at most %d questions at a time: no flood", largest)
	}
	entries, err := n.box.links.NeighList(n.box.link("inner").Attrs().Index, unix.AF_UNSPEC)
	n.box.must(err)
	asked := 0 // those that have failed and IPv6's groups stay until the kernel wants their room
	for _, e := range entries {
		if e.State == netlink.NUD_INCOMPLETE {
			asked++
		}
	}
	if asked > 2*maxPending { // a list takes its time: some are from before the others have failed
		t.Errorf("the kernel asks for %d neighbours", asked)
	}
}

// TestForgotten: an entry that the kernel lets go for want of room costs no packet if it is in use, and is forgotten if not.
func TestForgotten(t *testing.T) {
	n := newNetwork(t)
	f := follow(t, n.box)
	for _, client := range clients {
		f.await("the client", client, up)
		a := netip.MustParseAddr(client)
		s := station{n.box.link("outer").Attrs().Index, a}
		gone := func(idle int) Way {
			raw := a.As16()
			c := f.contacts.find(s.link, &raw)
			if c == nil {
				t.Fatalf("%s is not known", a)
			}
			f.mu.Lock()
			c.idle = idle
			c.used.Store(false)
			if f.lostLocked(c) {
				t.Errorf("%s: to lose the entry changes the way", a)
			}
			f.mu.Unlock()
			return f.way(client)
		}
		if w := gone(1); !up(w) {
			t.Errorf("used a moment ago: %+v", w)
		}
		if w := gone(lately - 1); !up(w) {
			t.Errorf("used lately: %+v", w)
		}
		if w := gone(lately); w.Down != Resolving {
			t.Errorf("not used for long: %+v", w)
		}
		f.await("asked for anew", client, up)
	}
}

// TestUsed: a neighbour that is in use is looked after, so that another MAC of its is found out, and its end.
func TestUsed(t *testing.T) {
	t.Parallel() // its time is that between looking after
	n := newNetwork(t)
	n.box.hasty("outer")
	f := follow(t, n.box)
	use := time.NewTicker(10 * time.Millisecond) // packets
	defer use.Stop()
	await := func(what string, ok func(w Way) bool) {
		t.Helper()
		for _, client := range clients {
			late := time.After(patience)
			for w := f.way(client); !ok(w); w = f.way(client) {
				select {
				case <-use.C:
				case <-late:
					t.Fatalf("%s: the way to %s is still %+v (%s)", what, client, w, w.Down)
				}
			}
		}
	}
	await("the client", up)
	replaced := net.HardwareAddr{2, 0, 0, 0, 0, 0x66}
	n.client.must(n.client.links.LinkSetHardwareAddr(n.client.link("eth0"), replaced))
	await("the new MAC", func(w Way) bool { return up(w) && w.MAC == [6]byte(replaced) })
	n.client.delAddr("eth0", "198.51.100.2/24")
	n.client.delAddr("eth0", "2001:db8:1::2/64")
	await("a client that is gone", func(w Way) bool { return w.Down == Failed })
	n.client.addr("eth0", "198.51.100.2/24", "2001:db8:1::2/64")
	await("the client again", up)
}

// TestReaders: many ask at the same time while all changes.
func TestReaders(t *testing.T) {
	n := newNetwork(t)
	f := follow(t, n.box, realServers...)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Add(1)
		go func() {
			defer readers.Done()
			for {
				for _, a := range []string{"10.7.0.1", "fd07::1", clients[0], clients[1], realServers[0], realServers[1]} {
					if w := f.way(a); up(w) && (w.MAC == [6]byte{} || w.Link == 0 || !w.Next.IsValid() || w.MTU < 1280) {
						t.Errorf("%s: %+v", a, w)
					}
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		}()
	}
	outer := n.box.link("outer").Attrs().Index
	for i := range 50 {
		n.box.via("10.7.0.0/16", realServers[0])
		n.box.via("fd07::/32", realServers[1])
		for j := range 20 { // neighbours that come and go, enough of them for the table to grow
			e := &netlink.Neigh{LinkIndex: outer, IP: net.ParseIP(fmt.Sprintf("198.51.%d.%d", 101+j, i)), State: netlink.NUD_PERMANENT, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1}}
			n.box.must(n.box.links.NeighSet(e))
			if j%2 == 0 {
				n.box.must(n.box.links.NeighDel(e))
			}
		}
		n.box.must(n.box.links.LinkSetMTU(n.box.link("inner"), 1400+i))
		must(t, f.follow(realServers[i%2]))
		n.box.must(n.box.links.RouteDel(&netlink.Route{Dst: ipNet("10.7.0.0/16")}))
		n.box.must(n.box.links.RouteDel(&netlink.Route{Dst: ipNet("fd07::/32")}))
	}
	for i, a := range []string{"10.7.0.1", "fd07::1"} {
		f.awaitDown("no route in the end", a, NoRoute)
		f.await("the server", realServers[i], func(w Way) bool { return up(w) && w.MTU == 1449 })
	}
	close(stop)
	readers.Wait()
}

// TestQuiet: neighbours that change have no routes read.
func TestQuiet(t *testing.T) {
	n := newNetwork(t)
	n.box.until("the addresses to settle", n.box.settled)
	f := follow(t, n.box)
	round := func() uint64 {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.round
	}
	client := "198.51.100.77"
	for try := 0; ; try++ {
		before := round()
		for i, end := 0, time.Now().Add(20*routesPause); time.Now().Before(end); i++ {
			e := &netlink.Neigh{LinkIndex: n.box.link("outer").Attrs().Index, IP: net.ParseIP(client), State: netlink.NUD_PERMANENT, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, byte(i >> 8), byte(i)}}
			n.box.must(n.box.links.NeighSet(e))
			f.await("the entry", client, func(w Way) bool { return up(w) && w.MAC == [6]byte(e.HardwareAddr) })
		}
		after := round()
		if after == before {
			return
		}
		if try == 5 { // once or twice something else may have happened
			t.Fatalf("routes were read %d times", after-before)
		}
	}
}

// TestSilence: the kernel does not tell of the routes of IPv4 that it takes away with an interface.
func TestSilence(t *testing.T) {
	n := newNetwork(t)
	n.box.setSysctl("ipv6/conf/outer/disable_ipv6", "1") // whose routes it tells of
	for i, gateway := range []string{"198.51.100.2", "192.168.0.10"} {
		n.box.must(n.box.links.RouteAdd(&netlink.Route{Dst: ipNet("10.7.0.0/16"), Gw: net.ParseIP(gateway), Priority: 1 + i}))
	}
	f := follow(t, n.box)
	f.await("the first route", "10.7.0.1", func(w Way) bool { return up(w) && w.Name == "outer" })
	n.client.must(n.client.links.LinkSetDown(n.client.link("eth0")))
	f.await("without carrier the other route", "10.7.0.1", func(w Way) bool { return up(w) && w.Name == "inner" })
	n.client.up("eth0")
	f.await("the first route again", "10.7.0.1", func(w Way) bool { return up(w) && w.Name == "outer" })
	n.box.must(n.box.links.LinkSetDown(n.box.link("outer")))
	f.await("the other route", "10.7.0.1", func(w Way) bool { return up(w) && w.Name == "inner" })
}
