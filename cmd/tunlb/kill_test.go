package main

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb"
)

// TestResolve: services and servers in every spelling are those that connections have, and what there is none of
// is said with what there is.
func TestResolve(t *testing.T) {
	all := []tunlb.ServiceStatus{
		{Name: "web", Listen: policy.On(netip.MustParseAddrPort("203.0.113.22:80"), policy.TCP), Servers: []tunlb.ServerStatus{
			{Name: "rs1", Address: netip.MustParseAddrPort("192.168.0.10:8080")}, {Name: "192.168.0.10", Address: netip.MustParseAddrPort("192.168.0.11:8080")},
		}},
		{Name: "web6", Listen: policy.On(netip.MustParseAddrPort("[2001:db8::22]:80"), policy.TCP), Servers: []tunlb.ServerStatus{
			{Name: "rs1", Address: netip.MustParseAddrPort("[2001:db8:1::10]:8080")},
		}},
	}
	for _, test := range []struct{ service, server, wantService, wantServer, unknown string }{
		{"web", "rs1", "web", "rs1", ""},
		{"203.0.113.22:80/tcp", "rs1", "web", "rs1", ""},
		{"[2001:DB8:0::22]:80/tcp", "2001:db8:1:0::10", "web6", "2001:db8:1::10", ""},
		{"", "[2001:db8:1:0::10]:8080", "", "[2001:db8:1::10]:8080", ""},
		{"", "::ffff:192.168.0.11", "", "192.168.0.11", ""},
		{"nosuch", "", "nosuch", "", "web, web6"},
		{"203.0.113.22:80/udp", "rs1", "203.0.113.22:80/udp", "rs1", "web, web6"},
		{"web", "nosuch", "web", "nosuch", "web/rs1 (192.168.0.10:8080)"},
		{"web6", "192.168.0.10", "web6", "192.168.0.10", "web6/rs1"},
	} {
		got, unknown := resolveIn(all, tunlb.ConnFilter{Service: test.service, Server: test.server})
		if got.Service != test.wantService || got.Server != test.wantServer {
			t.Errorf("%s, %s: %+v", test.service, test.server, got)
		}
		if (unknown == nil) != (test.unknown == "") || unknown != nil && !strings.Contains(unknown.Error(), test.unknown) {
			t.Errorf("%s, %s: %v, want %q", test.service, test.server, unknown, test.unknown)
		}
	}
	if got := serversOf(all[0], "192.168.0.10"); len(got) != 1 || got[0].Address.Addr() != netip.MustParseAddr("192.168.0.11") {
		t.Errorf("a name goes before an address, but got %+v", got)
	}
}
