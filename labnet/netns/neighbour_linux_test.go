package netns

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

var twins = []struct{ a, b string }{{"192.0.2.1", "192.0.2.2"}, {"2001:db8::1", "2001:db8::2"}}

func macOf(t *testing.T, ns *NS, iface string) MAC {
	t.Helper()
	macs, err := ns.MACs()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := macs["lo"]; ok {
		t.Errorf("loopback has a MAC: %v", macs)
	}
	return macs[iface]
}

func TestNeighbours(t *testing.T) {
	a, b := newPair(t)
	pinned := MAC{2, 0, 0, 0, 0, 99}
	l, err := b.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, c := range twins {
		address := netip.MustParseAddr(c.b)
		want := func(mac MAC, known bool) Neighbour {
			t.Helper()
			n, ok, err := a.Neighbour(address)
			if err != nil || ok != known || n.MAC != mac {
				t.Errorf("%s is at %+v, %v, %v; want %s, %v", c.b, n, ok, err, mac, known)
			}
			return n
		}
		want(MAC{}, false)
		conn, err := a.DialContext(t.Context(), "tcp", netip.AddrPortFrom(address, 80).String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if n := want(macOf(t, b, "eth0"), true); n.State != "reachable" || n.Interface != "eth0" {
			t.Errorf("%+v", n)
		}
		if err := a.FlushNeighbours(); err != nil {
			t.Error(err)
		}
		want(MAC{}, false)
		if err := errors.Join(a.AddNeighbour("eth0", address, pinned), a.FlushNeighbours()); err != nil {
			t.Error(err)
		}
		if n := want(pinned, true); n.State != "permanent" {
			t.Errorf("%+v", n)
		}
	}
	if err := a.AddNeighbour("eth1", netip.MustParseAddr("192.0.2.9"), pinned); err == nil {
		t.Error("a neighbour on no interface")
	}
}

// TestGivenMAC: an interface has the MAC that it was given, and one of its own otherwise.
func TestGivenMAC(t *testing.T) {
	a, b := newPair(t)
	given := MAC{2, 0, 192, 0, 2, 7}
	if err := Connect(End{NS: a, Name: "x", MAC: given}, End{NS: b, Name: "x"}); err != nil {
		t.Fatal(err)
	}
	if err := Connect(End{NS: a, Name: "y"}, End{NS: b, Name: "y", MAC: given}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		ns    *NS
		iface string
		given bool
	}{{a, "x", true}, {b, "x", false}, {a, "y", false}, {b, "y", true}} {
		if got := macOf(t, c.ns, c.iface); (got == given) != c.given || got == (MAC{}) || got.IsGroup() {
			t.Errorf("%s %s has %s, given: %v", c.ns.Name(), c.iface, got, c.given)
		}
	}
}

// TestSniffARP: what asks for neighbours is captured like everything else, with its MACs.
func TestSniffARP(t *testing.T) {
	a, b := newPair(t)
	for _, c := range twins {
		s, err := a.Sniff("eth0")
		if err != nil {
			t.Fatal(err)
		}
		conn, err := a.DialContext(t.Context(), "udp", netip.AddrPortFrom(netip.MustParseAddr(c.b), 9).String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		resolves := func(p Packet) bool {
			const icmpv6, solicitation, advertisement = 58, 135, 136
			b := p.Payload()
			return p.EtherType() == 0x0806 ||
				p.EtherType() == 0x86dd && b[6] == icmpv6 && (b[40] == solicitation || b[40] == advertisement)
		}
		for _, out := range []bool{true, false} {
			p, err := s.Wait(ctx, func(p Packet) bool { return p.Out == out && resolves(p) })
			if err != nil {
				t.Fatal(err)
			}
			from, to := macOf(t, a, "eth0"), macOf(t, b, "eth0")
			if !out {
				from, to = to, from
			}
			src, dst, ok := p.MACs()
			if !ok || src != from || out && !dst.IsGroup() || !out && dst != to || p.Device {
				t.Errorf("%s: out=%v: from %s to %s, %+v", c.b, out, src, dst, p)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestSniffTAP: what a program sends by a TAP arrives there, on Ethernet.
func TestSniffTAP(t *testing.T) {
	a, _ := newPair(t)
	need(t, CheckTUN())
	for _, mode := range []netlink.TuntapMode{netlink.TUNTAP_MODE_TAP, netlink.TUNTAP_MODE_TUN} {
		device := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "dev0"}, Mode: mode, Flags: netlink.TUNTAP_NO_PI, NonPersist: true, Queues: 1,
			Owner: uint32(os.Getuid()), Group: uint32(os.Getgid())} // 0 is nobody in an ordinary user's namespace
		if err := a.Do(func() error { return netlink.LinkAdd(device) }); err != nil {
			t.Fatal(err)
		}
		if err := a.Up("dev0"); err != nil {
			t.Fatal(err)
		}
		s, err := a.Sniff("dev0")
		if err != nil {
			t.Fatal(err)
		}
		frame := make([]byte, 60)
		frame[0], frame[12], frame[13] = 0xff, 0x88, 0xb5 // an EtherType for experiments
		if mode == netlink.TUNTAP_MODE_TUN {
			frame[0] = 0x45
		}
		if _, err := device.Fds[0].Write(frame); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		p, err := s.Wait(ctx, func(p Packet) bool { return string(p.Data) == string(frame) })
		tap := mode == netlink.TUNTAP_MODE_TAP
		if err != nil || p.Out || !p.Device || p.Ethernet != tap || (p.EtherType() == 0x88b5) != tap || len(p.Payload()) != len(frame)-14 == tap {
			t.Errorf("%s: %+v, %v", mode, p, err)
		}
		if err := errors.Join(s.Close(), device.Fds[0].Close()); err != nil {
			t.Error(err)
		}
	}
}

func TestPacketWithoutFrame(t *testing.T) {
	for _, p := range []Packet{{Data: make([]byte, 40)}, {Ethernet: true, Data: make([]byte, 13)}} {
		_, _, ok := p.MACs()
		if ok || p.EtherType() != 0 || p.Ethernet && p.Payload() != nil || !p.Ethernet && len(p.Payload()) != 40 {
			t.Errorf("%+v", p)
		}
	}
}
