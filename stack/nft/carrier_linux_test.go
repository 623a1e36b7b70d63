package nft

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/tunlb/tunlb/labnet/netns"
	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
)

// connections are some of one client to one server. Their packets go nowhere.
func connections(n int) []Conn {
	hop := func(to netip.Addr) Hop { return Hop{Link: 1, Next: to} }
	list := make([]Conn, n)
	for i := range list {
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(2 + i>>16)}), uint16(i))
		list[i] = Conn{
			Outer:   packet.TupleOf(6, from, netip.AddrPortFrom(vip4, 80)),
			Inner:   packet.TupleOf(6, from, netip.AddrPortFrom(rs4, 8080)),
			Forward: hop(rs4), Reverse: hop(client4),
		}
	}
	return list
}

func usage(t testing.TB, c *Carrier) (all []Usage) {
	t.Helper()
	must(t, c.Usage(func(u Usage) { all = append(all, u) }))
	return all
}

// nat is a connection through the lab.
func (l *lab) nat(proto uint8, client, vip, source, server netip.AddrPort) Conn {
	return Conn{
		Outer: packet.TupleOf(proto, client, vip), Inner: packet.TupleOf(proto, source, server),
		Forward: Hop{Link: l.links["servers"], Next: server.Addr()}, Reverse: Hop{Link: l.links["clients"], Next: client.Addr()},
	}
}

// TestAdd: each connection has an answer of its own, and those that fail leave nothing behind.
func TestAdd(t *testing.T) {
	l := newLab(t)
	c := l.carrier(t, 300)
	all := connections(301)
	if err := c.Add(all[:1])[0]; err != nil {
		t.Fatal(err)
	}
	sameInner := all[1]
	sameInner.Outer.Dst = packet.TupleOf(6, netip.AddrPortFrom(vip4, 1), netip.AddrPortFrom(vip4, 1)).Dst
	sameInner.Outer.DstPort, sameInner.Inner = 81, all[0].Inner
	icmp, mixed, nowhere := all[2], all[2], all[2]
	icmp.Outer.Proto, icmp.Inner.Proto = 1, 1
	mixed.Forward.Next = rs6
	nowhere.Reverse.Link = 0
	for i, tt := range []struct {
		conn Conn
		want error // nil: none that has a name
		ok   bool
	}{
		{all[0], ErrCarried, false}, {all[1], nil, true}, {sameInner, ErrCarried, false}, {icmp, nil, false}, {mixed, nil, false},
		{nowhere, nil, false}, {all[2], nil, true}, {all[2], ErrCarried, false},
	} {
		batch := []Conn{all[100+i], tt.conn, all[200+i]}
		errs := c.Add(batch)
		if errs[0] != nil || errs[2] != nil {
			t.Errorf("case %d: its neighbours: %v, %v", i, errs[0], errs[2])
		}
		if (errs[1] == nil) != tt.ok || tt.want != nil && !errors.Is(errs[1], tt.want) {
			t.Errorf("case %d: %v, want %v", i, errs[1], tt.want)
		}
		t.Log(errs[1])
	}
	if errs := c.Add([]Conn{all[50], all[50], all[51]}); errs[0] != nil || !errors.Is(errs[1], ErrCarried) || errs[2] != nil {
		t.Errorf("twice at once: %v", errs)
	}
	n := c.Len()
	if got := len(usage(t, c)); got != 2*n {
		t.Errorf("%d directions of %d connections", got, n)
	}
	full := 0
	for _, err := range c.Add(all) {
		if errors.Is(err, ErrFull) {
			full++
		}
	}
	if c.Len() != 300 || full != 1 || len(usage(t, c)) != 600 {
		t.Errorf("%d carried of 300, %d told that there is no room", c.Len(), full)
	}
	must(t, c.Remove(append(all, sameInner, mixed)))
	if c.Len() != 0 || len(usage(t, c)) != 0 {
		t.Errorf("%d are left, %v", c.Len(), usage(t, c))
	}
	must(t, c.Close())
	if err := c.Add(all[:1])[0]; !errors.Is(err, os.ErrClosed) {
		t.Errorf("add: %v", err)
	}
	if err := c.Usage(func(Usage) {}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("usage: %v", err)
	}
}

// TestSetAside: what the kernel refuses on its own account, others do without: each answer is the right connection's. The ledger
// knows nothing of what is added behind its back.
func TestSetAside(t *testing.T) {
	l := newLab(t)
	c := l.carrier(t, 1000)
	all := connections(600)
	for i, err := range c.Add(all) {
		if i%7 == 3 || err != nil {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	c.known = newLedger() // forgotten, but there
	var gone []Conn
	for i, conn := range all {
		if i%7 != 3 {
			gone = append(gone, conn)
			now := sighting{}
			c.known.add(entry{conn.Outer, conn.Inner, [2]sighting{now, now}})
		}
	}
	must(t, c.Remove(gone))
	for i, err := range c.Add(all) {
		if want := i%7 == 3; errors.Is(err, ErrCarried) != want || err != nil != want {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
}

// TestHundredThousand are added, counted and removed.
func TestHundredThousand(t *testing.T) {
	l := newLab(t)
	c := l.carrier(t, 100_000)
	all := connections(100_000)
	for i, err := range c.Add(all) {
		if err != nil {
			t.Fatalf("%d: %v", i, err)
		}
	}
	seen := map[packet.Tuple][2]bool{}
	must(t, c.Usage(func(u Usage) {
		s := seen[u.Outer]
		if u.Reverse {
			s[1] = true
		} else {
			s[0] = true
		}
		seen[u.Outer] = s
	}))
	for _, conn := range all {
		if seen[conn.Outer] != [2]bool{true, true} {
			t.Fatalf("%s: %v", conn.Outer, seen[conn.Outer])
		}
	}
	must(t, c.Remove(all[:99_990]))
	if n := len(usage(t, c)); c.Len() != 10 || n != 20 {
		t.Errorf("%d are left, with %d directions", c.Len(), n)
	}
}

// TestUsageMeanwhile: readings and changes do not wait for each other, nor spoil each other.
func TestUsageMeanwhile(t *testing.T) {
	l := newLab(t)
	c := l.carrier(t, 10_000)
	all := connections(5_000)
	stay, come := all[:1000], all[1000:]
	for _, err := range c.Add(stay) {
		must(t, err)
	}
	done := make(chan struct{})
	go func() { // ends with done
		defer close(done)
		for range 5 {
			for _, err := range c.Add(come) {
				if err != nil {
					t.Error(err)
				}
			}
			if err := c.Remove(come); err != nil {
				t.Error(err)
			}
		}
	}()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		seen := map[packet.Tuple]int{}
		must(t, c.Usage(func(u Usage) { seen[u.Outer]++ }))
		for _, conn := range stay {
			if seen[conn.Outer] < 2 {
				t.Fatalf("%s was missed", conn.Outer)
			}
		}
	}
}

// TestCarrierInterfaces: those that are given carry, and no others; one that is made anew does with the next Set.
func TestCarrierInterfaces(t *testing.T) {
	l := newLab(t)
	c := l.carrier(t, 10)
	from, to, server := netip.AddrPortFrom(client4, 4000), netip.AddrPortFrom(vip4, 53), netip.AddrPortFrom(rs4, 53)
	w := l.witness(t)
	carries := func() bool {
		return !w.pass([][]byte{onCable(pt.UDP(t, from, to), l.macs["clients"])})[0]
	}
	must(t, c.Add([]Conn{l.nat(17, from, to, from, server)})[0])
	for _, step := range []struct {
		interfaces []string
		carries    bool
	}{
		{nil, false}, {[]string{"clients"}, true}, {[]string{"clients", "nowhere", "clients"}, true}, {[]string{"servers"}, false}, {[]string{"servers", "clients"}, true},
	} {
		must(t, c.Set(step.interfaces))
		if got := carries(); got != step.carries {
			t.Errorf("%v: carries: %t", step.interfaces, got)
		}
	}
	link, err := l.box.Handle().LinkByName("servers")
	must(t, err)
	must(t, l.box.Handle().LinkDel(link))
	if !carries() {
		t.Error("the way out has gone, and what was translated has come to the kernel")
	}
	must(t, c.Set([]string{"servers", "clients"}))
	link, err = l.box.Handle().LinkByName("clients")
	must(t, err)
	must(t, l.box.Handle().LinkDel(link))
	must(t, c.Set([]string{"clients"}))
	must(t, netns.Connect(
		netns.End{NS: l.box, Name: "clients", Addresses: prefixes([2]netip.Addr{box4, box6})},
		netns.End{NS: l.client, Name: "eth0", Addresses: prefixes([2]netip.Addr{client4, client6})}))
	must(t, l.box.Settle())
	l.macs, err = l.box.MACs()
	must(t, err)
	must(t, c.Set([]string{"clients"}))
	w = l.witness(t)
	if !carries() {
		t.Error("the interface was made anew, and does not carry")
	}
}

// TestIdle: since the last reading that found more, and until then since the beginning.
func TestIdle(t *testing.T) {
	l := newLab(t)
	l.pin(t)
	c, w := l.carrier(t, 10), l.witness(t)
	conn := l.nat(17, netip.AddrPortFrom(client4, 4000), netip.AddrPortFrom(vip4, 53), netip.AddrPortFrom(client4, 4000), netip.AddrPortFrom(rs4, 53))
	must(t, c.Add([]Conn{conn})[0])
	idle := func() (d [2]time.Duration) {
		for _, u := range usage(t, c) {
			if u.Reverse {
				d[1] = u.Idle
			} else {
				d[0] = u.Idle
			}
		}
		return d
	}
	at := func(d time.Duration) { c.opened = c.opened.Add(-d) } // the clock goes on
	at(10 * time.Second)
	if d := idle(); d[0] < 10*time.Second || d[0] > 15*time.Second || d[0] != d[1] {
		t.Errorf("never used: %v", d)
	}
	frame := pt.UDP(t, conn.Outer.Source(), conn.Outer.Destination(), pt.PayloadLen(100))
	w.pass([][]byte{onCable(frame, l.macs["clients"])})
	at(5 * time.Second)
	if d := idle(); d[0] != 0 || d[1] < 15*time.Second {
		t.Errorf("used in one direction: %v", d)
	}
	at(3 * time.Second)
	if d := idle(); d[0] < 3*time.Second || d[0] > 5*time.Second {
		t.Errorf("3 s later: %v", d)
	}
	w.pass([][]byte{onCable(frame, l.macs["clients"])})
	var last []Usage
	must(t, c.Take([]Conn{conn, conn}, func(u Usage) { last = append(last, u) }))
	slices.SortFunc(last, func(a, b Usage) int {
		if a.Reverse {
			return 1
		}
		return -1
	})
	if len(last) != 2 || last[0].Outer != conn.Outer || last[0].Packets != 2 || last[0].Bytes != 256 || last[0].Idle != 0 ||
		!last[1].Reverse || last[1].Packets != 0 || last[1].Idle < 18*time.Second {
		t.Errorf("in the end: %+v", last)
	}
}

// BenchmarkAdd adds and removes connections, so many at a time; the CPU time of both is told for one.
func BenchmarkAdd(b *testing.B) {
	for _, n := range []int{1, 16, 256} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			l := newLab(b)
			c := l.carrier(b, 1<<17)
			all := connections(1 << 16)
			b.ReportAllocs()
			add, remove := time.Duration(0), time.Duration(0)
			at := 0
			for i := 0; i < b.N; i += n {
				if at+n > len(all) {
					at = 0
				}
				some := all[at : at+n]
				at += n
				start := cpu()
				for _, err := range c.Add(some) {
					must(b, err)
				}
				half := cpu()
				must(b, c.Remove(some))
				add, remove = add+half-start, remove+cpu()-half
			}
			b.ReportMetric(float64(add.Nanoseconds())/float64(b.N), "add-ns/conn")
			b.ReportMetric(float64(remove.Nanoseconds())/float64(b.N), "remove-ns/conn")
		})
	}
}

// BenchmarkUsage reads 10,000 connections; the time is for one direction of one.
func BenchmarkUsage(b *testing.B) {
	l := newLab(b)
	c := l.carrier(b, 1<<17)
	for _, err := range c.Add(connections(10_000)) {
		must(b, err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	n := 0
	for n < b.N {
		must(b, c.Usage(func(Usage) { n++ }))
	}
}
