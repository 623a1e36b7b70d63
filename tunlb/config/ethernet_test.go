package config

import (
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tunlb/tunlb/policy"
)

// tap is a one-arm port with the defaults.
func tap(own ...string) Port {
	p := Port{Name: "tunlb0", Type: TAP, MTU: 1500, Offload: "auto"}
	for _, s := range own {
		p.Own = append(p.Own, pfx(s))
	}
	return p
}

// direct is a service with mode dr and one server.
func direct(name, listen, server string) policy.Spec {
	return policy.Spec{Name: name, Listen: policy.On(ap(listen), policy.TCP), Mode: policy.DR, Scheduler: "wlc",
		Servers: []policy.ServerSpec{{Name: "rs1", Address: ap(server), Weight: 1}}}
}

const (
	direct4 = "  - {name: web, listen: 203.0.113.22:80, mode: dr, servers: [203.0.113.10]}\n"
	direct6 = "  - {name: web6, listen: '[2001:db8:113::22]:80', mode: dr, servers: ['2001:db8:113::10']}\n"
)

func TestParseAcceptsEthernet(t *testing.T) {
	web4 := direct("web", "203.0.113.22:80", "203.0.113.10:80")
	web6 := direct("web6", "[2001:db8:113::22]:80", "[2001:db8:113::10]:80")
	both := tap("203.0.113.2/24", "2001:db8:113::2/64")
	edit := func(p Port, edit func(*Port)) Port {
		edit(&p)
		return p
	}
	routed := func(p *Port) {
		p.Via = []Route{{pfx("0.0.0.0/0"), adr("203.0.113.1")}, {pfx("::/0"), adr("2001:db8:113::1")},
			{pfx("192.168.0.0/24"), adr("203.0.113.3")}, {pfx("2001:db8:c0::/64"), adr("2001:db8:113::3")}}
	}
	const routes = `routes: [default via 203.0.113.1, "default via 2001:db8:113::1", 192.168.0.0/24   via 203.0.113.3, "2001:db8:c0::/64 via 2001:db8:113::3"]`
	tests := []struct {
		name, yaml string
		ports      []Port
		services   []policy.Spec
	}{
		{"one-arm tap", "ports: [{type: tap, addresses: [203.0.113.2/24, '2001:db8:113::2/64']}]\nservices:\n" + direct4 + direct6,
			[]Port{both}, []policy.Spec{web4, web6}},
		{"type last", "ports: [{bridge: br0, mac: 02:00:5e:10:00:01, mtu: 65521, offload: tcp, netns: x, name: lb, addresses: [203.0.113.2/24], type: tap}]\nservices:\n" + direct4,
			[]Port{{Name: "lb", Type: TAP, Own: []netip.Prefix{pfx("203.0.113.2/24")}, NetNS: "/run/netns/x", MTU: 65521, Offload: "tcp", Bridge: "br0", MAC: [6]byte{2, 0, 0x5e, 0x10, 0, 1}}},
			[]policy.Spec{web4}},
		{"mac of digits, that of YAML 1.1 would be a number", "ports: [{type: tap, mac: 52:54:00:12:34:56, addresses: [203.0.113.2/24]}]\nservices:\n" + direct4,
			[]Port{edit(tap("203.0.113.2/24"), func(p *Port) { p.MAC = [6]byte{0x52, 0x54, 0, 0x12, 0x34, 0x56} })}, []policy.Spec{web4}},
		{"mac on a line, with hyphens", "ports:\n  - type: tap\n    mac: 02-00-5E-10-00-01\n    addresses: [203.0.113.2/24]\nservices:\n" + direct4,
			[]Port{edit(tap("203.0.113.2/24"), func(p *Port) { p.MAC = [6]byte{2, 0, 0x5e, 0x10, 0, 1} })}, []policy.Spec{web4}},
		{"packet", "ports: [{type: packet, name: eth0, addresses: ['2001:db8:113::2/64']}]\nservices:\n" + direct6,
			[]Port{{Name: "eth0", Type: Packet, Own: []netip.Prefix{pfx("2001:db8:113::2/64")}, Offload: "auto"}}, []policy.Spec{web6}},
		{"routes", "ports: [{type: tap, addresses: [203.0.113.2/24, '2001:db8:113::2/64'], " + routes + "}]\nservices:\n" + direct4,
			[]Port{edit(both, routed)}, []policy.Spec{web4}},
		{"nat to the segment and through a router", "ports: [{type: tap, addresses: [203.0.113.2/24, '2001:db8:113::2/64'], " + routes + `}]
services:
  - {name: near, listen: 203.0.113.22:80, servers: [203.0.113.10:8080]}
  - {name: far, listen: "[2001:db8:113::22]:80", servers: ["[2001:db8:c0::10]:8080"]}
`, []Port{edit(both, routed)}, []policy.Spec{
			{Name: "near", Listen: policy.On(ap("203.0.113.22:80"), policy.TCP), Scheduler: "wlc", Servers: []policy.ServerSpec{{Name: "rs1", Address: ap("203.0.113.10:8080"), Weight: 1}}},
			{Name: "far", Listen: policy.On(ap("[2001:db8:113::22]:80"), policy.TCP), Scheduler: "wlc", Servers: []policy.ServerSpec{{Name: "rs1", Address: ap("[2001:db8:c0::10]:8080"), Weight: 1}}},
		}},
		{"static MAC, mode last", "ports: [{type: tap, addresses: [203.0.113.2/24]}]\nservices: [{servers: [{address: 203.0.113.10, mac: 02:00:5e:10:00:0a}], listen: 203.0.113.22:80, name: web, mode: dr}]",
			[]Port{tap("203.0.113.2/24")}, []policy.Spec{func() policy.Spec {
				s := direct("web", "203.0.113.22:80", "203.0.113.10:80")
				s.Servers[0].MAC = [6]byte{2, 0, 0x5e, 0x10, 0, 10}
				return s
			}()}},
		{"a TUN and two taps on the box", `ports:
  - {type: tap, addresses: [203.0.113.2/24]}
  - {addresses: [10.255.0.1/30]}
  - {type: tap, addresses: ["2001:db8:113::2/64"]}
services:
` + direct4 + direct6, []Port{
			tap("203.0.113.2/24"),
			{Name: "tunlb1", Type: TUN, Addresses: []netip.Prefix{pfx("10.255.0.1/30")}, Router: []netip.Addr{adr("10.255.0.2")}, Routes: everything(), MTU: 1500, Offload: "auto"},
			edit(tap("2001:db8:113::2/64"), func(p *Port) { p.Name = "tunlb2" }),
		}, []policy.Spec{web4, web6}},
		{"server in a segment's prefix, routes shorter than it", `ports:
  - {type: tap, addresses: [203.0.113.2/24]}
  - {netns: x, addresses: [10.255.0.1/30], routes: [203.0.0.0/16]}
services:
` + direct4, []Port{
			tap("203.0.113.2/24"),
			{Name: "tunlb1", Type: TUN, NetNS: "/run/netns/x", Addresses: []netip.Prefix{pfx("10.255.0.1/30")}, Router: []netip.Addr{adr("10.255.0.2")},
				Routes: []netip.Prefix{pfx("203.0.0.0/16")}, MTU: 1500, Offload: "auto"},
		}, []policy.Spec{web4}},
		{"switch, its values spread", `ports:
  - {type: tap, side: clients, bridge: br0, addresses: [203.0.113.2/24]}
  - {type: packet, name: eth1, side: servers, addresses: [203.0.113.3/24, "2001:db8:113::2/64"], mac: 02:00:5e:10:00:01}
  - {type: tap, side: servers, bridge: br0, netns: x, mac: 02:00:5e:10:00:01, routes: [default via 203.0.113.1]}
services:
` + direct4 + direct6, []Port{
			{Name: "tunlb0", Type: TAP, Side: Clients, Bridge: "br0", Own: []netip.Prefix{pfx("203.0.113.2/24")}, MTU: 1500, Offload: "auto"},
			{Name: "eth1", Type: Packet, Side: Servers, Own: []netip.Prefix{pfx("203.0.113.3/24"), pfx("2001:db8:113::2/64")}, Offload: "auto", MAC: [6]byte{2, 0, 0x5e, 0x10, 0, 1}},
			{Name: "tunlb1", Type: TAP, Side: Servers, Bridge: "br0", NetNS: "/run/netns/x", Via: []Route{{pfx("0.0.0.0/0"), adr("203.0.113.1")}}, MTU: 1500, Offload: "auto", MAC: [6]byte{2, 0, 0x5e, 0x10, 0, 1}},
		}, []policy.Spec{web4, web6}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := base()
			want.Ports, want.Services = tt.ports, normal(t, tt.services)
			got, err := Parse("x.yaml", []byte(tt.yaml))
			if err != nil {
				t.Fatalf("%v\n%s", err, tt.yaml)
			}
			if diff := cmp.Diff(want, got, compareNetip); diff != "" {
				t.Errorf("Parse (-want +got):\n%s\n%s", diff, tt.yaml)
			}
			if _, err := policy.Build(got.Services, nil); err != nil {
				t.Errorf("accepted what the policy refuses: %v", err)
			}
		})
	}
}

func TestSegments(t *testing.T) {
	mac := [6]byte{2, 0, 0x5e, 0x10, 0, 1}
	c := Config{Ports: []Port{
		{Type: TUN, Addresses: []netip.Prefix{pfx("10.255.0.1/30")}},
		{Type: TAP, Side: Servers, Own: []netip.Prefix{pfx("203.0.113.2/24")}},
		{Type: TAP, Own: []netip.Prefix{pfx("198.51.100.2/24")}, Via: []Route{{pfx("0.0.0.0/0"), adr("198.51.100.1")}}},
		{Type: Packet, Side: Clients, Own: []netip.Prefix{pfx("2001:db8:113::2/64")}, MAC: mac, Via: []Route{{pfx("::/0"), adr("2001:db8:113::1")}}},
		{Type: Packet, MAC: mac, Own: []netip.Prefix{pfx("192.0.2.2/24")}},
	}}
	want := []Segment{
		{Ports: []int{1, 3}, MAC: mac, Own: []netip.Prefix{pfx("203.0.113.2/24"), pfx("2001:db8:113::2/64")}, Via: []Route{{pfx("::/0"), adr("2001:db8:113::1")}}},
		{Ports: []int{2}, Own: []netip.Prefix{pfx("198.51.100.2/24")}, Via: []Route{{pfx("0.0.0.0/0"), adr("198.51.100.1")}}},
		{Ports: []int{4}, MAC: mac, Own: []netip.Prefix{pfx("192.0.2.2/24")}},
	}
	got := c.Segments()
	if diff := cmp.Diff(want, got, compareNetip); diff != "" {
		t.Fatalf("Segments (-want +got):\n%s", diff)
	}
	for addr, want := range map[string]bool{"203.0.113.10": true, "2001:db8:113::10": true, "198.51.100.10": false, "2001:db8:114::10": false, "10.255.0.2": false} {
		if ok := got[0].OnLink(adr(addr)); ok != want {
			t.Errorf("OnLink(%s) = %v", addr, ok)
		}
	}
	if s := base().Segments(); len(s) != 0 {
		t.Errorf("a file without tap and packet has the segments %v", s)
	}
}

func TestRouteTable(t *testing.T) {
	d := decoder{ports: []port{
		{Port: Port{Type: TAP, Own: []netip.Prefix{pfx("203.0.113.2/24"), pfx("2001:db8:113::2/64")}, Via: []Route{{pfx("203.0.113.128/25"), adr("203.0.113.1")}, {pfx("::/0"), adr("2001:db8:113::1")}}}},
		{Port: Port{Type: TUN, Addresses: []netip.Prefix{pfx("10.255.0.1/30")}, Routes: []netip.Prefix{pfx("192.168.0.0/16")}}},
		{Port: Port{Type: Packet, Own: []netip.Prefix{pfx("192.168.7.2/24")}}},
	}}
	routes := d.routes(d.config().Segments())
	for _, c := range []struct {
		addr, prefix string
		segment      int
	}{
		{"203.0.113.10", "203.0.113.0/24", 0},
		{"203.0.113.200", "203.0.113.128/25", elsewhere},
		{"2001:db8:113::10", "2001:db8:113::/64", 0},
		{"2001:db8:114::10", "::/0", elsewhere},
		{"10.255.0.2", "10.255.0.0/30", elsewhere},
		{"192.168.0.10", "192.168.0.0/16", elsewhere},
		{"192.168.7.10", "192.168.7.0/24", 1},
		{"198.51.100.1", "", elsewhere},
	} {
		prefix, segment, ok := routes.lookup(adr(c.addr))
		if ok != (c.prefix != "") || ok && prefix != pfx(c.prefix) || segment != c.segment {
			t.Errorf("lookup(%s) = %v %d %v, want %q %d", c.addr, prefix, segment, ok, c.prefix, c.segment)
		}
	}
}

// TestDocs loads the files that the documentation tells people to start from.
func TestDocs(t *testing.T) {
	files, err := filepath.Glob("../../docs/*.yaml")
	if err != nil || len(files) < 3 {
		t.Fatalf("found %v, %v", files, err)
	}
	ports := map[string][]int{"nat.yaml": nil, "nat-packet.yaml": nil, "dr.yaml": {0}, "dr-inline.yaml": {0, 1}}
	for _, file := range files {
		if filepath.Base(file) == "openapi.yaml" {
			continue // no configuration
		}
		cfg, err := Load(file)
		if err != nil {
			t.Error(err)
			continue
		}
		var got []int
		for _, s := range cfg.Segments() {
			got = append(got, s.Ports...)
		}
		if want, ok := ports[filepath.Base(file)]; ok && !cmp.Equal(want, got) {
			t.Errorf("%s: ports %v on segments, want %v", file, got, want)
		}
		if got, want := cfg.OnBox(), filepath.Base(file) == "nat-packet.yaml"; got != want {
			t.Errorf("%s: on the box's own interfaces is %v, want %v", file, got, want)
		}
		if len(cfg.Services) != 2 {
			t.Errorf("%s: %d services, want one of each family", file, len(cfg.Services))
		}
	}
}
