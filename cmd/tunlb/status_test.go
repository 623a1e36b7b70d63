package main

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/control"
)

// TestWeightOf: people read weights in the measure in which they have written them.
func TestWeightOf(t *testing.T) {
	for _, c := range []struct {
		weight, configured, scale int
		want                      string
	}{
		{3, 3, 0, "3"},
		{3, 3, 1, "3"},
		{0, 3, 0, "0 of 3"},
		{60, 3, 20, "3"}, // one beside the one that rises
		{7, 1, 20, "35% of 1"},
		{1, 65535, 1000, "1% of 65535"},
		{59, 3, 20, "98% of 3"},
		{0, 3, 20, "0 of 3"},
		{0, 0, 20, "0"},
		{1, 3, 1, "1 of 3"}, // a scheduler whose weights are not multiplied
		{45, 2, 20, "2.3 of 2"},
		{60, 2, 20, "3 of 2"},
	} {
		if got := weightOf(tunlb.ServerStatus{Weight: c.weight, Configured: c.configured, Scale: c.scale}); got != c.want {
			t.Errorf("weight %d of %d, multiplied by %d: got %q, want %q", c.weight, c.configured, c.scale, got, c.want)
		}
	}
}

// TestStatusIsNarrow: neither many places nor a long cause makes a row wide.
func TestStatusIsNarrow(t *testing.T) {
	const long = "Get \"https://192.168.0.10:8443/\": tls: failed to verify certificate: x509: certificate is valid for ä.example.com, not www.example.com"
	for _, vip := range []string{"203.0.113.22", "2001:db8::22"} {
		first := policy.Listen{Addr: netip.MustParseAddr(vip), Proto: policy.TCP, First: 80, Last: 80}
		service := tunlb.ServiceStatus{
			Name: "web", Listen: []policy.Listen{first, first, first},
			Servers: []tunlb.ServerStatus{{Name: "rs1", Health: "down", Cause: long}, {Name: "rs2", Down: long}, {Name: "rs3", Health: "down", Cause: "refused"}},
		}
		var out strings.Builder
		if err := showServices(&out, control.Status{Status: tunlb.Status{Services: []tunlb.ServiceStatus{service}}}); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{first.String() + " +2 ", long[:57] + "...\n", "DOWN: " + long[:57] + "...\n", "refused\n"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%q is missing in\n%s", want, out.String())
			}
		}
		if strings.Contains(out.String(), "not www") {
			t.Errorf("a cause was not cut:\n%s", out.String())
		}
		if got := strings.Count(out.String(), first.String()); got != 1 {
			t.Errorf("%d places are shown, want 1", got)
		}
	}
	if got := shortened(strings.Repeat("ä", 61)); got != strings.Repeat("ä", 57)+"..." {
		t.Errorf("got %q: characters count, not bytes", got)
	}
	if got := shortened(strings.Repeat("ä", 60)); strings.HasSuffix(got, "...") {
		t.Errorf("got %q, which fits", got)
	}
}
