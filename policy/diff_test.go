package policy_test

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/tunlb/tunlb/policy"
)

func TestDiff(t *testing.T) {
	base := web("rr", 1, 2)
	edit := func(edit func(s *policy.Spec)) []policy.Spec {
		s := base
		s.Servers = slices.Clone(s.Servers)
		edit(&s)
		return []policy.Spec{s}
	}
	for _, c := range []struct {
		name  string
		specs []policy.Spec
		want  []string
	}{
		{"same", []policy.Spec{base}, nil},
		{"name", edit(func(s *policy.Spec) { s.Name = "www" }), []string{"~ service www 10.0.0.10:80/tcp: name web -> www"}},
		{"mode", edit(func(s *policy.Spec) { s.Mode = policy.FullNAT }), []string{"~ service web 10.0.0.10:80/tcp: mode nat -> fullnat"}},
		{"scheduler", edit(func(s *policy.Spec) { s.Scheduler = "" }), []string{"~ service web 10.0.0.10:80/tcp: scheduler rr -> wlc"}},
		{"order", edit(func(s *policy.Spec) { slices.Reverse(s.Servers) }), []string{"~ service web 10.0.0.10:80/tcp: order of servers"}},
		{"weight", edit(func(s *policy.Spec) { s.Servers[1].Weight = 0 }), []string{"~ server web/b 192.168.0.2:8080: weight 2 -> 0"}},
		{"server's name", edit(func(s *policy.Spec) { s.Servers[1].Name = "x" }), []string{"~ server web/x 192.168.0.2:8080: name b -> x"}},
		{"mode dr", edit(func(s *policy.Spec) {
			s.Mode = policy.DR
			s.Servers = []policy.ServerSpec{{Name: "a", Address: netip.MustParseAddrPort("192.168.0.1:80"), Weight: 1, MAC: [6]byte{2, 0, 0x5e, 0x10, 0, 1}}}
		}), []string{
			"~ service web 10.0.0.10:80/tcp: mode nat -> dr",
			"+ server web/a 192.168.0.1:80 weight 1 mac 02:00:5e:10:00:01",
			"- server web/a 192.168.0.1:8080",
			"- server web/b 192.168.0.2:8080"}},
		{"server's MAC", edit(func(s *policy.Spec) { s.Servers[1].MAC = [6]byte{2, 0, 0x5e, 0x10, 0, 1} }), []string{"~ server web/b 192.168.0.2:8080: mac resolved -> 02:00:5e:10:00:01"}},
		{"server's address", edit(func(s *policy.Spec) { s.Servers[0].Address = address(7) }), []string{
			"+ server web/a 192.168.0.7:8080 weight 1",
			"- server web/a 192.168.0.1:8080"}},
		{"protocol", edit(func(s *policy.Spec) { s.Listen = policy.On(vip, policy.UDP); s.Servers = s.Servers[:1] }), []string{
			"+ service web 10.0.0.10:80/udp nat rr",
			"+ server web/a 192.168.0.1:8080 weight 1",
			"- service web 10.0.0.10:80/tcp"}},
		{"listen", edit(func(s *policy.Spec) {
			s.Listen = policy.On(netip.MustParseAddrPort("10.0.0.11:80"), policy.TCP)
			s.Servers = nil
		}), []string{
			"+ service web 10.0.0.11:80/tcp nat rr",
			"- service web 10.0.0.10:80/tcp"}},
		{"nothing left", nil, []string{"- service web 10.0.0.10:80/tcp"}},
	} {
		prev := build(t, nil, base)
		if got := build(t, prev, c.specs...).Diff(prev); !slices.Equal(got, c.want) {
			t.Errorf("%s:\n got %q\nwant %q", c.name, got, c.want)
		}
	}
	if got := build(t, nil, base).Diff(nil); len(got) != 3 {
		t.Errorf("against nothing: got %q, want a service and two servers", got)
	}
}

// TestDiffKnowsAllFields: a field that Diff does not print would change silently.
func TestDiffKnowsAllFields(t *testing.T) {
	if n := reflect.TypeFor[policy.Spec]().NumField(); n != 15 {
		t.Errorf("Spec has %d fields: teach Diff the new ones, add their cases to TestDiff, then put their number here", n)
	}
	if n := reflect.TypeFor[policy.ServerSpec]().NumField(); n != 9 {
		t.Errorf("ServerSpec has %d fields: teach Diff the new ones, add their cases to TestDiff, then put their number here", n)
	}
}
