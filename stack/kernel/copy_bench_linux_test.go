package kernel

import (
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// manyRoutes adds routes to random prefixes of IPv4 by two gateways, as of a router that knows the Internet.
func (l *lab) manyRoutes(count int) (dsts []netip.Addr) {
	l.t.Helper()
	rnd := rand.New(rand.NewPCG(1, 1))
	gateways := [][]byte{{192, 168, 0, 10}, {198, 51, 100, 2}}
	for len(dsts) < count {
		a := [4]byte{byte(11 + rnd.IntN(100)), byte(rnd.IntN(256)), byte(rnd.IntN(256)), 0}
		bits := 16 + rnd.IntN(9)
		p := netip.PrefixFrom(netip.AddrFrom4(a), bits).Masked()
		err := l.execute(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, []nl.NetlinkRequestData{
			&nl.RtMsg{RtMsg: unix.RtMsg{Family: unix.AF_INET, Dst_len: uint8(bits), Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST, Protocol: unix.RTPROT_STATIC}},
			nl.NewRtAttr(unix.RTA_DST, p.Addr().AsSlice()), nl.NewRtAttr(unix.RTA_GATEWAY, gateways[len(dsts)%2]),
		})
		if err == nil {
			dsts = append(dsts, p.Addr().Next())
		}
	}
	return dsts
}

// manyNeighbours adds neighbours at the outer interface.
func (l *lab) manyNeighbours(count int) (addrs []netip.Addr) {
	l.t.Helper()
	l.addr("outer", "10.8.0.1/16")
	index := l.link("outer").Attrs().Index
	for i := range count {
		a := netip.AddrFrom4([4]byte{10, 8, byte(1 + i>>8), byte(i)})
		l.must(l.links.NeighSet(&netlink.Neigh{LinkIndex: index, IP: a.AsSlice(), State: netlink.NUD_PERMANENT, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, byte(i >> 8), byte(i)}}))
		addrs = append(addrs, a)
	}
	return addrs
}

// BenchmarkWay: among 10,000 routes and 10,000 neighbours, in random order.
func BenchmarkWay(b *testing.B) {
	n := newNetwork(b)
	routed, near := n.box.manyRoutes(10000), n.box.manyNeighbours(10000)
	f, err := OpenNeighbours(n.box.path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	for _, c := range []struct {
		name  string
		addrs []netip.Addr
	}{{"neighbour", near}, {"routed", routed}, {"one", near[:1]}} {
		rand.Shuffle(len(c.addrs), func(i, j int) { c.addrs[i], c.addrs[j] = c.addrs[j], c.addrs[i] })
		var raw [][16]byte
		for _, a := range c.addrs {
			raw = append(raw, a.As16())
		}
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if f.Way(raw[i%len(raw)]).Down > Resolving {
					b.Fatal("no way")
				}
			}
		})
	}
	b.Run("flood", func(b *testing.B) {
		b.ReportAllocs()
		a := netip.MustParseAddr("10.8.0.0").As16()
		for i := uint16(0); b.Loop(); i++ {
			binary.BigEndian.PutUint16(a[14:], 0xc000|i)
			f.Way(a)
		}
	})
}

// BenchmarkRoutes: to copy a router's routes.
func BenchmarkRoutes(b *testing.B) {
	for _, count := range []int{0, 10000, 100000} {
		n := newNetwork(b)
		n.box.manyRoutes(count)
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		f, err := OpenNeighbours(n.box.path)
		if err != nil {
			b.Fatal(err)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.Run("", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := f.copyRoutes(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(f.world.Load().routes), "routes")
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/1e6, "MB-live")
		})
		f.Close()
	}
}

// BenchmarkNews: from the moment when the kernel is told of a neighbour to when Way has it.
func BenchmarkNews(b *testing.B) {
	n := newNetwork(b)
	f, err := OpenNeighbours(n.box.path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	entry := &netlink.Neigh{LinkIndex: n.box.link("outer").Attrs().Index, IP: net.ParseIP("198.51.100.77"), State: netlink.NUD_PERMANENT}
	addr := netip.MustParseAddr("198.51.100.77").As16()
	b.Run("neighbour", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			entry.HardwareAddr = net.HardwareAddr{2, 0, 0, 0, byte(i >> 8), byte(i)}
			n.box.must(n.box.links.NeighSet(entry))
			for f.Way(addr).MAC != [6]byte(entry.HardwareAddr) {
				<-f.Changes()
			}
		}
	})
	n.box.addr("outer", "10.8.0.1/16")
	n.client.addr("eth0", "10.8.0.2/16")
	n.client.must(n.client.links.RouteAdd(&netlink.Route{Dst: ipNet("10.8.1.0/24"), Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, LinkIndex: n.client.link("lo").Attrs().Index, Scope: unix.RT_SCOPE_HOST}))
	i := 0
	b.Run("client", func(b *testing.B) { // who is asked, answers, and is known
		for ; b.Loop(); i++ {
			client := netip.AddrFrom4([4]byte{10, 8, 1, byte(i)})
			for f.Way(client.As16()).Down != Up {
				<-f.Changes()
			}
			b.StopTimer() // what was known half a round ago is forgotten by the time that its turn comes
			_ = n.box.links.NeighDel(&netlink.Neigh{LinkIndex: entry.LinkIndex, IP: net.IP{10, 8, 1, byte(i + 128)}})
			b.StartTimer()
		}
	})
}
