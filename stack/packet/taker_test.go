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
	claimPinged  = []netip.Addr{netip.MustParseAddr("203.0.113.23"), netip.MustParseAddr("2001:db8::23")} // VIPs that echo is claimed for
	claimEcho    = []uint8{packet.ProtoICMP, packet.ProtoICMPv6}
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
			packet.Endpoints{Addr: claimServers[i], Proto: packet.ProtoUDP},
			packet.Endpoints{Addr: claimServers[i], Proto: claimEcho[i]}) // means nothing there
		// Those of the other family mean nothing.
		c.VIPs = append(c.VIPs, packet.Endpoints{Addr: claimPinged[i], Proto: claimEcho[i]}, packet.Endpoints{Addr: claimVIPs[i], Proto: claimEcho[1-i]})
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
			{"claimed ping", pt.Echo(t, client, claimPinged[i], 443, 1), true},
			{"the first fragment of one", pt.Echo(t, client, claimPinged[i], 443, 1, pt.Fragment(7, 0, true), pt.PayloadLen(16)), true},
			{"a later one", pt.Raw(t, claimEcho[i], client, claimPinged[i], later, pt.PayloadLen(16)), true},
			{"a later one of an unclaimed ping", pt.Raw(t, claimEcho[i], client, vip, later, pt.PayloadLen(16)), false},
			{"of another family's protocol", pt.Raw(t, claimEcho[1-i], client, claimPinged[i], later, pt.PayloadLen(16)), false},
			{"an answer to a ping of the VIP's", pt.EchoReply(t, client, claimPinged[i], 443, 1), false},
			{"ping from the VIP", pt.Echo(t, claimPinged[i], client, 443, 1), false},
			{"ping from a server", pt.Echo(t, server, client, 0, 1), false},
			{"a later fragment of a server's ping", pt.Raw(t, claimEcho[i], server, client, later, pt.PayloadLen(16)), false},
			{"TCP to a VIP that ping alone is claimed for", pt.TCP(t, at(client, 1), at(claimPinged[i], 443)), false},
			{"an error about an answer to ping", pt.Unreachable(t, client, claimPinged[i], pt.EchoReply(t, claimPinged[i], client, 443, 1)), false},
			{"a neighbour's question", icmp(t, client, claimPinged[i], 135), false},
			{"an advertisement", icmp(t, client, claimPinged[i], 136), false},
			{"a timestamp request", icmp(t, client, claimPinged[i], 13), false},
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

// icmp is a message of any type that quotes nothing.
func icmp(t *testing.T, src, dst netip.Addr, typ uint8) []byte {
	proto := uint8(packet.ProtoICMP)
	if dst.Is6() {
		proto = packet.ProtoICMPv6
	}
	return pt.Raw(t, proto, src, dst, pt.Payload(append([]byte{typ}, make([]byte, 23)...)))
}

func BenchmarkTakes(b *testing.B) {
	taker := packet.NewTaker(newClaim())
	var v packet.View
	v.Parse(pt.TCP(b, netip.AddrPortFrom(claimServers[0], 8080), netip.AddrPortFrom(claimClients[0], 40000)))
	for b.Loop() {
		taker.Takes(&v)
	}
}
