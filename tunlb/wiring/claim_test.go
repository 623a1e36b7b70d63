package wiring

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/tunlb/config"
)

const services = `
services:
  - {name: web, listen: [203.0.113.22:80, 203.0.113.22:443], servers: [192.168.0.10, 192.168.0.11:8080], sorry_server: 192.168.0.99:81}
  - {name: dns, listen: 203.0.113.22:53/udp, mode: fullnat, servers: [192.168.0.10], on_delete: keep}
  - {name: far, listen: 203.0.113.23:80, mode: dr, servers: [192.168.0.12, {address: 192.168.0.13, mode: nat, on_delete: keep}]}
  - {name: range6, listen: "[2001:db8::22]:8000-8100", servers: ["2001:db8:c0::10"]}
  - {name: all6, listen: "[2001:db8::22]:0/udp", persistence: 5m, servers: ["2001:db8:c0::10", "[2001:db8:c0::11]:53"]}
`

func parse(t *testing.T, yaml string) *config.Config {
	t.Helper()
	cfg, err := config.Parse("x.yaml", []byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func at(addr string, proto uint8, first, last uint16) packet.Endpoints {
	return packet.Endpoints{Addr: netip.MustParseAddr(addr), Proto: proto, First: first, Last: last}
}

const tcp, udp = packet.ProtoTCP, packet.ProtoUDP

// answers are those of services: a server without a port has the client's.
var answers = []packet.Endpoints{
	at("192.168.0.10", tcp, 80, 80), at("192.168.0.11", tcp, 8080, 8080), at("192.168.0.99", tcp, 81, 81),
	at("192.168.0.10", tcp, 443, 443),
	at("192.168.0.10", udp, 53, 53),
	at("192.168.0.13", tcp, 80, 80),
	at("2001:db8:c0::10", tcp, 8000, 8100),
	at("2001:db8:c0::10", udp, 0, 0), at("2001:db8:c0::11", udp, 53, 53),
}

func TestAnswers(t *testing.T) {
	kept := []packet.Endpoints{at("192.168.0.77", tcp, 80, 80), at("192.168.0.10", tcp, 80, 80)}
	got := Answers(parse(t, services), kept)
	equal(t, got, append(answers[:len(answers):len(answers)], kept[0]))
}

// TestClaim: a VIP of the box's is taken by its services, another one as a whole, with ping.
func TestClaim(t *testing.T) {
	cfg := parse(t, services)
	own := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("203.0.113.22"), netip.MustParseAddr("192.168.0.100"), netip.IPv6Loopback()}
	c := Claim(cfg, nil, own)
	equal(t, c.VIPs, []packet.Endpoints{
		at("203.0.113.22", tcp, 80, 80), at("203.0.113.22", tcp, 443, 443), at("203.0.113.22", udp, 53, 53),
		at("203.0.113.23", tcp, 0, 0), at("203.0.113.23", udp, 0, 0), at("203.0.113.23", packet.ProtoICMP, 0, 0),
		at("2001:db8::22", tcp, 0, 0), at("2001:db8::22", udp, 0, 0), at("2001:db8::22", packet.ProtoICMPv6, 0, 0),
	})
	equal(t, c.Servers, answers)
	if diff := cmp.Diff(own[1:3], c.Own, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("own addresses (-want +got):\n%s", diff)
	}
	c = Claim(cfg, nil, append(own, netip.MustParseAddr("2001:db8::22")))
	equal(t, c.VIPs[6:], []packet.Endpoints{at("2001:db8::22", tcp, 8000, 8100), at("2001:db8::22", udp, 0, 0)})
	if c := Claim(parse(t, "services: [{listen: 203.0.113.22:80, servers: []}]"), nil, own); len(c.VIPs) != 1 || len(c.Servers) != 0 {
		t.Errorf("a service without servers: %+v", c)
	}
}

// TestKept: those of deleted servers whose connections go on, and only of such that answer by tunlb.
func TestKept(t *testing.T) {
	old, none := parse(t, services), parse(t, "services: [{listen: 203.0.113.22:80, servers: [192.168.0.10]}]")
	known := []packet.Endpoints{at("192.168.0.77", tcp, 80, 80)}
	want := append(known[:1:1], at("192.168.0.10", udp, 53, 53), at("192.168.0.13", tcp, 80, 80))
	kept := Kept(old, none, known)
	equal(t, kept, want)
	equal(t, Kept(none, old, kept), want) // they may come back, and go again
	equal(t, Kept(old, old, known), known)
	// A server that is routed directly from now on answers past tunlb, but for what it has.
	direct := parse(t, "services: [{listen: 203.0.113.23:80, mode: dr, servers: [192.168.0.13]}]")
	equal(t, Kept(old, direct, nil), want[1:])
}

func equal(t *testing.T, got, want []packet.Endpoints) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
