package namespaces

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tunlb/tunlb/labnet/scenario"
	"github.com/tunlb/tunlb/tunlb/config"
)

// TestConfiguration: what a director's networks ask for is what tunlb understands.
func TestConfiguration(t *testing.T) {
	text := "\n\n    services:\n      - {listen: 203.0.113.22:80, mode: dr, servers: [203.0.113.10, 203.0.113.11]}\n"
	addresses := []netip.Prefix{netip.MustParsePrefix("203.0.113.2/24"), netip.MustParsePrefix("2001:db8:113::2/64")}
	file := func(port string, mtu int, sides ...string) *scenario.File {
		f := &scenario.File{Director: scenario.Director{Name: "lb", Port: port, Text: text, Indent: 4}}
		for i, side := range sides {
			a := scenario.Attachment{Network: side + "lan", Side: side}
			if i == 0 {
				a.Addresses = addresses
			}
			f.Networks = append(f.Networks, scenario.Network{Name: a.Network, MTU: mtu})
			f.Director.Attachments = append(f.Director.Attachments, a)
		}
		return f
	}
	type port struct {
		Name, Type, Side, Bridge string
		MTU                      int
		Own                      []netip.Prefix
	}
	for _, tt := range []struct {
		name string
		file *scenario.File
		want []port
	}{
		{"one-arm", file("tap", 0, ""), []port{{"tunlb0", config.TAP, "", "br0", 1500, addresses}}},
		{"inline", file("tap", 9000, "clients", "servers"), []port{
			{"tunlb0", config.TAP, "clients", "br0", 9000, addresses}, {"tunlb1", config.TAP, "servers", "br1", 9000, nil},
		}},
		{"box", file("tun", 0, ""), []port{{"tunlb0", config.TUN, "", "", 1500, nil}}},
		{"narrow box", file("tun", 1280, ""), []port{{"tunlb0", config.TUN, "", "", 1500, nil}}},
		{"wide box", file("tun", 9000, ""), []port{{"tunlb0", config.TUN, "", "", 9000, nil}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := configuration(tt.file)
			cfg, err := config.Parse("lab", []byte(text))
			if err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			var got []port
			for _, p := range cfg.Ports {
				got = append(got, port{p.Name, p.Type, p.Side, p.Bridge, p.MTU, p.Own})
			}
			if diff := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
				t.Errorf("-want +got:\n%s\n%s", diff, text)
			}
		})
	}
}

// TestPlan: the topology is one that labnet takes, and every link's end is found again.
func TestPlan(t *testing.T) {
	for _, name := range scenario.Shipped() {
		f, err := scenario.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		topology, links := plan(f)
		if err := topology.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		want := len(f.Director.Attachments)
		for _, h := range f.Hosts {
			want += len(h.Attachments)
		}
		if len(links) != want || len(topology.Links) != want {
			t.Errorf("%s: %d links, %d known, want %d", name, len(topology.Links), len(links), want)
		}
	}
}
