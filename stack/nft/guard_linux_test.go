package nft

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// Few addresses and ports, so that what is drawn from them often meets.
var (
	addrs4 = []netip.Addr{vip4, rs4, client4, box4, netip.MustParseAddr("10.0.0.3")}
	addrs6 = []netip.Addr{vip6, rs6, client6, box6, netip.MustParseAddr("2001:db8:2::3")}
	ports  = []uint16{0, 1, 79, 80, 81, 443, 65534, 65535}
)

func drawEndpoints(t *rapid.T) packet.Endpoints {
	a, b := rapid.SampledFrom(ports).Draw(t, "first"), rapid.SampledFrom(ports).Draw(t, "last")
	if rapid.Bool().Draw(t, "single") {
		b = a
	}
	return packet.Endpoints{
		Addr: rapid.SampledFrom(append(addrs4, addrs6...)).Draw(t, "address"), Proto: rapid.SampledFrom([]uint8{6, 17, 1, 58}).Draw(t, "protocol"),
		First: min(a, b), Last: max(a, b),
	}
}

func drawClaim(t *rapid.T) packet.Claim {
	endpoints := rapid.SliceOfN(rapid.Custom(drawEndpoints), 1, 8)
	return packet.Claim{
		VIPs: endpoints.Draw(t, "VIPs"), Servers: endpoints.Draw(t, "servers"),
		Own: rapid.SliceOfN(rapid.SampledFrom(append(addrs4, addrs6...)), 0, 3).Draw(t, "own"),
	}
}

// drawn is a frame, and whether it is one that is left to the kernel besides.
type drawn struct {
	frame []byte
	what  string
	left  func(packet.Claim) bool
}

func drawFrame(tb testing.TB, t *rapid.T) drawn {
	addrs := addrs4
	if rapid.Bool().Draw(t, "IPv6") {
		addrs = addrs6
	}
	addr := rapid.SampledFrom(addrs)
	src := netip.AddrPortFrom(addr.Draw(t, "src"), rapid.SampledFrom(ports).Draw(t, "sport"))
	dst := netip.AddrPortFrom(addr.Draw(t, "dst"), rapid.SampledFrom(ports).Draw(t, "dport"))
	for dst.Addr() == src.Addr() { // no packet at all, to tunlb
		dst = netip.AddrPortFrom(addr.Draw(t, "dst"), dst.Port())
	}
	var opts []pt.Option
	options := rapid.Bool().Draw(t, "options")
	if options && dst.Addr().Is6() {
		opts = append(opts, pt.Extension(60, 1, 4, 0, 0, 0, 0))
	} else if options {
		opts = append(opts, pt.IPOptions(1, 1, 1, 1, 1))
	}
	make, proto, length := pt.UDP, uint8(17), 40 // a multiple of 8 with the header, as a first fragment's is
	switch rapid.SampledFrom([]string{"TCP", "TCP", "UDP", "UDP", "ICMP", "ICMP"}).Draw(t, "protocol") {
	case "TCP":
		make, proto, length = pt.TCP, 6, 44
	case "ICMP":
		typ := rapid.SampledFrom([]uint8{0, 8, 8, 13, 128, 128, 129, 133, 135, 136}).Draw(t, "message") // neighbour discovery among them
		if proto = 1; dst.Addr().Is6() {
			proto = 58
		}
		make = func(t testing.TB, src, dst netip.AddrPort, opts ...pt.Option) []byte {
			message := append([]byte{typ}, bytes.Repeat([]byte{1}, 23)...)
			return pt.Raw(t, proto, src.Addr(), dst.Addr(), append(opts[:len(opts):len(opts)], pt.Payload(message))...)
		}
	}
	later := false
	switch rapid.SampledFrom([]string{"whole", "whole", "first", "later"}).Draw(t, "fragment") {
	case "first":
		opts = append(opts, pt.Fragment(7, 0, true), pt.PayloadLen(length))
	case "later":
		later = true
		opts = append(opts, pt.Fragment(7, 1480, false), pt.PayloadLen(16))
	}
	d := drawn{frame: make(tb, src, dst, opts...), what: fmt.Sprintf("%s > %s", src, dst)}
	d.left = func(c packet.Claim) bool {
		// Later fragments but those to VIPs that are not the box's own.
		foreign := !slices.Contains(c.Own, dst.Addr()) && slices.ContainsFunc(c.VIPs, func(e packet.Endpoints) bool { return e.Addr == dst.Addr() && e.Proto == proto })
		return later && !foreign
	}
	if !later && rapid.IntRange(0, 2).Draw(t, "error") == 0 {
		types := []uint8{3, 11, 12}
		if src.Addr().Is6() {
			types = []uint8{1, 2, 3, 4}
		}
		extended := src.Addr().Is6() && len(opts) > 0 || options
		d.left = func(packet.Claim) bool { return extended }
		var outer []pt.Option
		if src.Addr().Is4() && rapid.Bool().Draw(t, "error options") {
			outer = append(outer, pt.IPOptions(1, 1, 1, 1))
		}
		from, to := addr.Draw(t, "router"), addr.Draw(t, "sender")
		for from == to {
			to = addr.Draw(t, "sender")
		}
		d.frame = pt.ICMPError(tb, from, to, rapid.SampledFrom(types).Draw(t, "type"), 0, d.frame, outer...)
		d.what = fmt.Sprintf("%s tells %s of %s", from, to, d.what)
	}
	return d
}

// onCable puts Ethernet in front, in place of the vnet header.
func onCable(frame []byte, to [6]byte) []byte {
	return packet.AppendEthernet(nil, frame, packet.MAC(to), packet.MAC{2})[packet.VnetLen:]
}

// TestGuard: a kernel drops just what a claim takes, on random claims and packets, but what the documentation says is left to it.
func TestGuard(t *testing.T) {
	l := newLab(t)
	g, w := l.guard(t), l.witness(t)
	taken, seen := 0, 0
	rapid.Check(t, func(r *rapid.T) {
		claim := drawClaim(r)
		must(t, g.Set([]string{"clients", "servers", "nowhere"}, claim))
		taker := packet.NewTaker(claim)
		var all []drawn
		var frames [][]byte
		for range 40 {
			d := drawFrame(t, r)
			all = append(all, d)
			frames = append(frames, onCable(d.frame, l.macs["clients"]))
		}
		for i, passed := range w.pass(frames) {
			var v packet.View
			if reason := v.Parse(append([]byte{}, all[i].frame...)); reason != packet.None {
				r.Fatalf("%s: %s", all[i].what, reason)
			}
			want := !taker.Takes(&v) || all[i].left(claim)
			if passed != want {
				r.Fatalf("%s: passed: %t, want %t\n%+v\n%s", all[i].what, passed, want, claim, hex.Dump(frames[i]))
			}
			if seen++; !passed {
				taken++
			}
		}
	})
	t.Logf("%d of %d packets are kept from the kernel", taken, seen)
	if taken < seen/50 {
		t.Errorf("only %d of %d packets", taken, seen)
	}
}

// TestGuardOthers: frames for other stations and with a VLAN's tag are other interfaces'.
func TestGuardOthers(t *testing.T) {
	l := newLab(t)
	g, w := l.guard(t), l.witness(t)
	must(t, g.Set([]string{"clients"}, packet.Claim{VIPs: []packet.Endpoints{{Addr: vip4, Proto: 6}, {Addr: vip6, Proto: 6}}}))
	for _, at := range [][2]netip.Addr{{client4, vip4}, {client6, vip6}} {
		frame := func() []byte { return pt.TCP(t, netip.AddrPortFrom(at[0], 4000), netip.AddrPortFrom(at[1], 80)) }
		plain := onCable(frame(), l.macs["clients"])
		other := onCable(frame(), [6]byte{2, 7, 7, 7, 7, 7})
		all := onCable(frame(), [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
		tagged := slices.Insert(slices.Clone(plain), 12, 0x81, 0x00, 0, 5)
		if got, want := w.pass([][]byte{plain, other, all, tagged}), []bool{false, true, true, true}; !slices.Equal(got, want) {
			t.Errorf("%s: ours, another station's, everybody's, tagged: passed %t, want %t", at[1], got, want)
		}
	}
}

// TestGuardInterfaces: those that are given, and no others; one that comes later is kept with the next Set, one that
// goes does not stand in the way.
func TestGuardInterfaces(t *testing.T) {
	l := newLab(t)
	g, w := l.guard(t), l.witness(t)
	claim := packet.Claim{VIPs: []packet.Endpoints{{Addr: vip4, Proto: 17, First: 53, Last: 53}}}
	passes := func() bool {
		frame := pt.UDP(t, netip.AddrPortFrom(client4, 4000), netip.AddrPortFrom(vip4, 53))
		return w.pass([][]byte{onCable(frame, l.macs["clients"])})[0]
	}
	for _, step := range []struct {
		interfaces []string
		claim      packet.Claim
		passes     bool
	}{
		{nil, claim, true},
		{[]string{"clients", "clients"}, claim, false},
		{[]string{"servers"}, claim, true},
		{[]string{"gone", "clients"}, claim, false},
		{[]string{"clients"}, packet.Claim{}, true},
		{[]string{"clients"}, claim, false},
	} {
		must(t, g.Set(step.interfaces, step.claim))
		if got := passes(); got != step.passes {
			t.Errorf("%+v: passes: %t", step, got)
		}
	}
	link, err := l.box.Handle().LinkByName("servers")
	must(t, err)
	must(t, g.Set([]string{"clients", "servers"}, claim))
	must(t, l.box.Handle().LinkDel(link))
	must(t, g.Set([]string{"clients", "servers"}, claim))
	if passes() {
		t.Error("the other interface has gone, and this one is not guarded any more")
	}
	must(t, g.Close())
	if !passes() {
		t.Error("closed, and still there")
	}
	must(t, g.Close())
	if err := g.Set([]string{"clients"}, claim); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// TestGuardSize: thousands of servers are one transaction, and found.
func TestGuardSize(t *testing.T) {
	l := newLab(t)
	g, w := l.guard(t), l.witness(t)
	var claim packet.Claim
	for i := range 5000 {
		a := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		claim.Servers = append(claim.Servers, packet.Endpoints{Addr: a, Proto: 6, First: 80, Last: 80}, packet.Endpoints{Addr: a, Proto: 17, First: 53, Last: 60})
	}
	start := time.Now()
	must(t, g.Set([]string{"clients"}, claim))
	t.Logf("%d endpoints: %v", len(claim.Servers), time.Since(start))
	last := claim.Servers[len(claim.Servers)-1].Addr
	frames := [][]byte{
		pt.TCP(t, netip.AddrPortFrom(last, 80), netip.AddrPortFrom(client4, 4000)),
		pt.TCP(t, netip.AddrPortFrom(last, 81), netip.AddrPortFrom(client4, 4000)),
		pt.UDP(t, netip.AddrPortFrom(last, 60), netip.AddrPortFrom(client4, 4000)),
		pt.UDP(t, netip.AddrPortFrom(last.Next(), 60), netip.AddrPortFrom(client4, 4000)),
	}
	for i := range frames {
		frames[i] = onCable(frames[i], l.macs["clients"])
	}
	if got, want := w.pass(frames), []bool{false, true, false, true}; !slices.Equal(got, want) {
		t.Errorf("passed %t, want %t", got, want)
	}
}

// refused tells whether the box's kernel answers a connection to its own address.
func (l *lab) refused(t testing.TB) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	conn, err := l.client.DialContext(ctx, "tcp", netip.AddrPortFrom(box4, 80).String())
	if err == nil {
		conn.Close()
		t.Fatal("nobody listens there")
	}
	return errors.Is(err, unix.ECONNREFUSED)
}

// TestKilled: with their owner all has gone.
func TestKilled(t *testing.T) {
	l := newLab(t)
	if !l.refused(t) {
		t.Fatal("the kernel does not answer")
	}
	child := l.box.Command(context.Background(), "/proc/self/exe")
	child.Env = append(os.Environ(), owner+"=1")
	out, err := child.StdoutPipe()
	must(t, err)
	must(t, child.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "ready\n" {
		t.Fatalf("%q %v", line, err)
	}
	if l.refused(t) {
		t.Error("the kernel has got a guarded packet")
	}
	if names := strings.Join(l.tables(t), " "); !strings.Contains(names, "guard") || !strings.Contains(names, "carrier") {
		t.Errorf("tables %q", names)
	}
	must(t, child.Process.Kill())
	_ = child.Wait()
	if names := l.tables(t); len(names) > 0 {
		t.Errorf("left over: %q", names)
	}
	if !l.refused(t) {
		t.Error("the kernel does not answer any more")
	}
}

// TestTwo: guards and carriers of one namespace leave each other alone.
func TestTwo(t *testing.T) {
	l := newLab(t)
	claim := packet.Claim{VIPs: []packet.Endpoints{{Addr: box4, Proto: 6, First: 80, Last: 80}}}
	a, b := l.guard(t), l.guard(t)
	must(t, a.Set([]string{"clients"}, claim))
	must(t, b.Set([]string{"clients"}, packet.Claim{}))
	c, d := l.carrier(t, 10), l.carrier(t, 10)
	for _, conn := range connections(10) {
		for _, c := range []*Carrier{c, d} {
			if err := c.Add([]Conn{conn})[0]; err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := len(l.tables(t)); n != 4 {
		t.Errorf("%d tables", n)
	}
	must(t, b.Close())
	must(t, d.Close())
	if l.refused(t) {
		t.Error("one guard has taken the other along")
	}
	if n := len(usage(t, c)); n != 20 {
		t.Errorf("%d directions are left", n)
	}
}

// TestListed: nft has words for what we make, in the main, and lives.
func TestListed(t *testing.T) {
	l := newLab(t)
	claim := packet.Claim{
		VIPs: []packet.Endpoints{
			{Addr: vip4, Proto: 6, First: 80, Last: 80}, {Addr: vip6, Proto: 17, First: 1000, Last: 2000}, {Addr: vip6, Proto: 17, First: 1500, Last: 3000},
			{Addr: vip6, Proto: 58},
		},
		Servers: []packet.Endpoints{{Addr: rs4, Proto: 6, First: 8080, Last: 8080}},
		Own:     []netip.Addr{box4},
	}
	must(t, l.guard(t).Set([]string{"clients"}, claim))
	c := l.carrier(t, 10)
	if err := c.Add(connections(1))[0]; err != nil {
		t.Fatal(err)
	}
	out := strings.Join(strings.Fields(l.nft(t, "list", "ruleset")), " ")
	for _, want := range []string{
		"flags owner",
		"elements = { 203.0.113.22 . tcp . 80 }",
		"elements = { 2001:db8:9::22 . udp . 1000-3000 }",
		"elements = { 10.0.0.2 . tcp . 8080 }",
		"elements = { 198.51.100.1 }",
		`type filter hook ingress device "clients" priority -2147483648; policy accept; meta pkttype host @ll,96,16 0x800 jump claimed4`,
		"@nh,128,32 . meta l4proto . th dport @vips4 drop",
		"icmpv6 type echo-request @nh,192,128 @pinged6 drop",
		"@nh,128,32 != @own4 @nh,96,32 . meta l4proto . th sport @servers4 drop",
		`type filter hook ingress device "servers" priority 100;`,
		"type ipv4_addr . ipv4_addr . mark . inet_proto : ipv4_addr . ipv4_addr . mark . ipv4_addr . iface_index",
		"198.51.100.2 . 203.0.113.22 . ",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("nft does not list %q:\n%s", want, l.nft(t, "list", "ruleset"))
		}
	}
}
