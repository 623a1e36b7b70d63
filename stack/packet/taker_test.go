package packet_test

import (
	"net/netip"
	"testing"

	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
)

// A claim of two families: the same ports at vip and server, of TCP.
var (
	claimVIPs    = []netip.Addr{netip.MustParseAddr("203.0.113.22"), netip.MustParseAddr("2001:db8::22")}
	claimServers = []netip.Addr{netip.MustParseAddr("192.168.0.10"), netip.MustParseAddr("fd00::10")}
	claimClients = []netip.Addr{netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8:1::7")}
	claimOwn     = []netip.Addr{netip.MustParseAddr("192.168.0.1"), netip.MustParseAddr("fd00::1")}
)

func newClaim() packet.Claim {
	var c packet.Claim
	for i := range claimVIPs {
		for _, p := range [][2]uint16{{443, 443}, {8000, 8010}, {80, 80}, {8005, 8020}, {9, 8}} {
			c.VIPs = append(c.VIPs, packet.Endpoints{Addr: claimVIPs[i], Proto: packet.ProtoTCP, First: p[0], Last: p[1]})
		}
		c.Servers = append(c.Servers,
			packet.Endpoints{Addr: claimServers[i], Proto: packet.ProtoTCP, First: 8080, Last: 8080},
			packet.Endpoints{Addr: claimServers[i], Proto: packet.ProtoUDP})
	}
	c.Own = claimOwn
	return c
}

// TestTaker: what a claim takes, case by case. Random ones are compared with socket filters in stack/port.
func TestTaker(t *testing.T) {
	taker := packet.NewTaker(newClaim())
	none := packet.NewTaker(packet.Claim{})
	for i, vip := range claimVIPs {
		server, client, own := claimServers[i], claimClients[i], claimOwn[i]
		at := netip.AddrPortFrom
		toVIP := func(port uint16) []byte { return pt.TCP(t, at(client, 40000), at(vip, port)) }
		toServer := pt.TCP(t, at(client, 40000), at(server, 8080))
		later := pt.Fragment(7, 1480, false)
		for _, tt := range []struct {
			name  string
			frame []byte
			want  bool
		}{
			{"to a port", toVIP(443), true},
			{"to another", toVIP(80), true},
			{"below a range", toVIP(7999), false},
			{"first of a range", toVIP(8000), true},
			{"in two ranges", toVIP(8007), true},
			{"last of the longer range", toVIP(8020), true},
			{"above a range", toVIP(8021), false},
			{"in no range, it being none", toVIP(9), false},
			{"another protocol", pt.UDP(t, at(client, 1), at(vip, 443)), false},
			{"another address", pt.TCP(t, at(client, 1), at(server, 443)), false},
			{"an answer", pt.TCP(t, at(server, 8080), at(client, 40000)), true},
			{"an answer to the box", pt.TCP(t, at(server, 8080), at(own, 40000)), false},
			{"from another port", pt.TCP(t, at(server, 8081), at(client, 40000)), false},
			{"from any port", pt.UDP(t, at(server, 65535), at(client, 1)), true},
			{"ping", pt.Echo(t, client, vip, 443, 1), false},
			{"a later fragment to the VIP", pt.Raw(t, packet.ProtoTCP, client, vip, later, pt.PayloadLen(16)), true},
			{"of another protocol", pt.Raw(t, packet.ProtoUDP, client, vip, later, pt.PayloadLen(16)), false},
			{"a later fragment from a server", pt.Raw(t, packet.ProtoUDP, server, client, later, pt.PayloadLen(16)), true},
			{"to the box", pt.Raw(t, packet.ProtoUDP, server, own, later, pt.PayloadLen(16)), false},
			{"an error about an answer", pt.Unreachable(t, client, vip, pt.TCP(t, at(vip, 443), at(client, 40000))), true},
			{"about another port", pt.Unreachable(t, client, vip, pt.TCP(t, at(vip, 444), at(client, 40000))), false},
			{"an error about a request", pt.Unreachable(t, server, client, toServer), true},
			{"about the box's own request", pt.Unreachable(t, server, own, pt.TCP(t, at(own, 1), at(server, 8080))), false},
		} {
			var v packet.View
			if r := v.Parse(tt.frame); r != packet.None {
				t.Fatalf("%s: %s", tt.name, r)
			}
			if got := taker.Takes(&v); got != tt.want {
				t.Errorf("%s, %s: %t, want %t", tt.name, v.Tuple, got, tt.want)
			}
			if none.Takes(&v) {
				t.Errorf("%s: taken by no claim", tt.name)
			}
			if n := testing.AllocsPerRun(10, func() { taker.Takes(&v) }); n != 0 {
				t.Errorf("%s: %v allocations", tt.name, n)
			}
		}
	}
}

func BenchmarkTakes(b *testing.B) {
	taker := packet.NewTaker(newClaim())
	var v packet.View
	v.Parse(pt.TCP(b, netip.AddrPortFrom(claimServers[0], 8080), netip.AddrPortFrom(claimClients[0], 40000)))
	for b.Loop() {
		taker.Takes(&v)
	}
}
