package policy_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/tunlb/tunlb/policy"
	"pgregory.net/rapid"
)

func build(t testing.TB, prev *policy.Table, specs ...policy.Spec) *policy.Table {
	t.Helper()
	table, err := policy.Build(specs, prev)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// web is a TCP service with servers at addresses 1, 2, 3..., given their weights.
func web(scheduler string, weights ...int) policy.Spec {
	s := policy.Spec{Name: "web", Listen: policy.On(vip, policy.TCP), Scheduler: scheduler}
	for i, w := range weights {
		s.Servers = append(s.Servers, policy.ServerSpec{Name: string(rune('a' + i%26)), Address: address(i + 1), Weight: w})
	}
	return s
}

func TestLookup(t *testing.T) {
	tcp, udp, six := web("rr", 1), web("wrr", 1), web("", 1)
	udp.Name, udp.Listen = "dns", policy.On(vip, policy.UDP)
	six.Name, six.Listen = "six", policy.On(netip.MustParseAddrPort("[2001:db8::22]:80"), policy.TCP)
	six.Servers[0].Address = netip.MustParseAddrPort("[2001:db8::1]:80")
	table := build(t, nil, tcp, udp, six)
	for _, c := range []struct {
		proto uint8
		addr  string
		port  uint16
		want  string
	}{
		{policy.TCP, "10.0.0.10", 80, "web"},
		{policy.TCP, "::ffff:10.0.0.10", 80, "web"},
		{policy.UDP, "10.0.0.10", 80, "dns"},
		{policy.TCP, "2001:db8::22", 80, "six"},
		{policy.UDP, "2001:db8::22", 80, ""},
		{policy.TCP, "10.0.0.10", 81, ""},
		{policy.TCP, "10.0.0.11", 80, ""},
	} {
		got := ""
		if s := table.Service(c.proto, netip.MustParseAddr(c.addr).As16(), c.port); s != nil {
			got = s.Name
		}
		if got != c.want {
			t.Errorf("%s %d/%d: got %q, want %q", c.addr, c.port, c.proto, got, c.want)
		}
	}
	for addr, want := range map[string]bool{"10.0.0.10": true, "2001:db8::22": true, "10.0.0.11": false, "192.168.0.1": false} {
		if got := table.IsVIP(netip.MustParseAddr(addr).As16()); got != want {
			t.Errorf("IsVIP(%s): got %t, want %t", addr, got, want)
		}
	}
	for _, svc := range table.Services() {
		for _, s := range svc.Servers {
			if table.Server(s.ID) != s || s.ID == 0 {
				t.Errorf("server of ID %d: got %v, want %v", s.ID, table.Server(s.ID), s)
			}
		}
	}
	if table.Server(0) != nil || table.Server(4) != nil || table.Server(1<<32-1) != nil {
		t.Error("an unknown ID has a server")
	}
	if got := table.Services()[2].Scheduler; got != "wlc" {
		t.Errorf("default scheduler: got %q, want wlc", got)
	}
}

func TestBuildErrors(t *testing.T) {
	edit := func(edit func(s *policy.Spec)) policy.Spec {
		s := web("rr", 1, 1)
		s.Name = "bad"
		s.Listen = policy.On(netip.MustParseAddrPort("10.0.0.11:80"), policy.TCP)
		edit(&s)
		return s
	}
	for _, c := range []struct {
		name string
		bad  policy.Spec
		want error
	}{
		{"same VIP, port, protocol", edit(func(s *policy.Spec) { s.Listen = policy.On(vip, policy.TCP) }), policy.ErrDuplicateService},
		{"same but v4-mapped", edit(func(s *policy.Spec) {
			s.Listen = policy.On(netip.MustParseAddrPort("[::ffff:10.0.0.10]:80"), policy.TCP)
		}), policy.ErrDuplicateService},
		{"same server twice", edit(func(s *policy.Spec) { s.Servers[1].Address = s.Servers[0].Address }), policy.ErrDuplicateServer},
		{"scheduler", edit(func(s *policy.Spec) { s.Scheduler = "random" }), policy.ErrUnknownScheduler},
		{"v6 server of a v4 service", edit(func(s *policy.Spec) { s.Servers[0].Address = netip.MustParseAddrPort("[2001:db8::1]:80") }), policy.ErrMixedFamilies},
		{"v4 server of a v6 service", edit(func(s *policy.Spec) { s.Listen = policy.On(netip.MustParseAddrPort("[2001:db8::1]:80"), policy.TCP) }), policy.ErrMixedFamilies},
		{"no listen address", edit(func(s *policy.Spec) { s.Listen = policy.On(netip.AddrPort{}, policy.TCP) }), policy.ErrInvalidAddress},
		{"no server address", edit(func(s *policy.Spec) { s.Servers[0].Address = netip.AddrPort{} }), policy.ErrInvalidAddress},
		{"dr with unequal ports", edit(func(s *policy.Spec) { s.Mode = policy.DR }), policy.ErrUnequalPorts},
		{"dr with unequal ports in IPv6", edit(func(s *policy.Spec) {
			s.Mode, s.Listen = policy.DR, policy.On(netip.MustParseAddrPort("[2001:db8::22]:80"), policy.TCP)
			s.Servers = []policy.ServerSpec{{Name: "a", Address: netip.MustParseAddrPort("[2001:db8::1]:80")}, {Name: "b", Address: netip.MustParseAddrPort("[2001:db8::2]:81")}}
		}), policy.ErrUnequalPorts},
		{"zone", edit(func(s *policy.Spec) { s.Listen = policy.On(netip.MustParseAddrPort("[fe80::1%eth0]:80"), policy.TCP) }), policy.ErrInvalidAddress},
	} {
		prev := build(t, nil, web("rr", 1, 1))
		good := web("wrr", 5, 0, 1)
		if _, err := policy.Build([]policy.Spec{good, c.bad}, prev); !errors.Is(err, c.want) || !strings.Contains(err.Error(), `"bad"`) {
			t.Errorf("%s: got %v, want %v that names the service", c.name, err, c.want)
		}
		if svc := prev.Services()[0]; svc.Scheduler != "rr" || len(svc.Servers) != 2 || svc.Servers[0].Weight != 1 || prev.Server(3) != nil {
			t.Errorf("%s: a refused Build changed %+v", c.name, svc)
		}
	}
}

func TestSchedulers(t *testing.T) {
	for _, name := range policy.Schedulers() {
		table := build(t, nil, web(name, 3, 0, 1), policy.Spec{Listen: policy.On(netip.MustParseAddrPort("10.0.0.11:80"), policy.TCP), Scheduler: name})
		for range 10 {
			if s := table.Services()[0].Pick(policy.Client{}); s == nil || s.Weight == 0 {
				t.Errorf("%s picked %v", name, s)
			}
			if s := table.Services()[1].Pick(policy.Client{}); s != nil {
				t.Errorf("%s picked %v without any server", name, s)
			}
		}
		table = build(t, table, web(name, 0, 0, 0))
		if s := table.Services()[0].Pick(policy.Client{}); s != nil {
			t.Errorf("%s picked %v of quiesced servers", name, s)
		}
		table = build(t, table, web(name, 4, 2, 6))
		for _, s := range table.Services()[0].Servers {
			s.Deleted = true
		}
		if s := table.Services()[0].Pick(policy.Client{}); s != nil {
			t.Errorf("%s picked %v of deleted servers", name, s)
		}
	}
}

// TestReload: what is still configured stays the same object, wherever it stands and whatever changes.
func TestReload(t *testing.T) {
	first := build(t, nil, web("rr", 1, 1, 1))
	svc := first.Services()[0]
	a, b, c := svc.Servers[0], svc.Servers[1], svc.Servers[2]
	for range 5 { // a b c a b
		svc.Pick(policy.Client{}).Add(true)
	}
	b.CountIn(3, 300)
	b.CountOut(2, 200)

	spec := web("rr", 7, 1, 1)
	spec.Name, spec.Mode = "renamed", policy.FullNAT
	spec.Servers[0].Name = "renamed"
	slices.Reverse(spec.Servers) // c b a
	spec.Servers = append(spec.Servers, policy.ServerSpec{Name: "d", Address: address(9), Weight: 1})
	other := web("lc", 1)
	other.Listen = policy.On(netip.MustParseAddrPort("10.0.0.11:80"), policy.TCP)
	second := build(t, first, other, spec)

	if second.Services()[1] != svc || svc.Name != "renamed" || svc.Mode != policy.FullNAT {
		t.Fatalf("not the same service: %+v", second.Services()[1])
	}
	if !slices.Equal(svc.Servers[:3], []*policy.Server{c, b, a}) || a.Weight != 7 || a.Name != "renamed" {
		t.Errorf("not the same servers: %+v", svc.Servers)
	}
	if second.Services()[0].Servers[0] == a {
		t.Error("a server is shared by two services")
	}
	want := policy.Counters{Conns: 2, InPackets: 3, OutPackets: 2, InBytes: 300, OutBytes: 200}
	if b.Stats != want || b.Active != 2 || b.Flows() != 2 || b.Overhead() != 512 {
		t.Errorf("got %+v, want %+v and two active flows", b, want)
	}
	if want.Conns = 5; svc.Stats != want {
		t.Errorf("service: got %+v, want %+v", svc.Stats, want)
	}
	if next := svc.Pick(policy.Client{}); next != a { // b was last, a is behind it now
		t.Errorf("round robin went on at %s, want %s", next.Name, a.Name)
	}
}

// TestRoundRobinRemoved: the cursor of a removed server steps back, over others that go with it.
func TestRoundRobinRemoved(t *testing.T) {
	for _, c := range []struct {
		picks int
		keep  []int
		want  string
	}{
		{3, []int{0, 1, 3, 4}, "d"}, // c goes: b is last
		{3, []int{0, 3, 4}, "d"},    // b and c: a is last
		{3, []int{3, 4}, "d"},       // a, b and c: the head
		{1, []int{1, 2, 3, 4}, "b"},
		{5, []int{0, 1, 2, 3}, "a"},
		{3, []int{4, 2, 0}, "a"}, // c stays, a is behind it
		{0, []int{2, 3}, "c"},
	} {
		spec := web("rr", 1, 1, 1, 1, 1)
		table := build(t, nil, spec)
		for range c.picks {
			table.Services()[0].Pick(policy.Client{})
		}
		var kept []policy.ServerSpec
		for _, i := range c.keep {
			kept = append(kept, spec.Servers[i])
		}
		spec.Servers = kept
		if got := build(t, table, spec).Services()[0].Pick(policy.Client{}).Name; got != c.want {
			t.Errorf("%d picks, then only %v: got %s, want %s", c.picks, c.keep, got, c.want)
		}
	}
}

// TestWeightedRestart: IPVS begins a service that gets wrr later at the top, a new one with a pick of each.
func TestWeightedRestart(t *testing.T) {
	pick := func(table *policy.Table) (picks string) {
		for range 8 {
			picks += table.Services()[0].Pick(policy.Client{}).Name
		}
		return picks
	}
	if got, want := pick(build(t, nil, web("wrr", 4, 1))), "abaaaaba"; got != want {
		t.Errorf("new: got %s, want %s", got, want)
	}
	if got, want := pick(build(t, build(t, nil, web("rr", 4, 1)), web("wrr", 4, 1))), "aaaabaaa"; got != want {
		t.Errorf("changed from rr: got %s, want %s", got, want)
	}
}

// TestDeleted: a server lingers for its flows, comes back as itself while it does, and is gone afterwards.
func TestDeleted(t *testing.T) {
	table := build(t, nil, web("rr", 1, 1))
	svc := table.Services()[0]
	a, b := svc.Servers[0], svc.Servers[1]
	a.Add(true)
	a.Add(false)

	table = build(t, table)
	if !a.Deleted || !b.Deleted || table.Server(a.ID) != a || table.Server(b.ID) != nil {
		t.Fatalf("want a to linger and b to be gone: %+v %+v", a, b)
	}
	if len(svc.Servers) != 0 || svc.Pick(policy.Client{}) != nil || table.IsVIP(vip.Addr().As16()) {
		t.Error("the deleted service is still in use")
	}
	table = build(t, table, web("rr", 1))
	again := table.Services()[0]
	if again == svc || again.Servers[0] != a || a.Deleted || a.Service != again || a.Flows() != 2 {
		t.Errorf("want the same server in a new service: %+v", again.Servers[0])
	}
	if a.Stats != (policy.Counters{}) {
		t.Errorf("counters of the old service: %+v", a.Stats)
	}
	table = build(t, table)
	a.Remove(true)
	if table.Server(a.ID) != a {
		t.Error("gone before its last flow")
	}
	a.Remove(false)
	if table.Server(a.ID) != nil {
		t.Error("still there after its last flow")
	}
	if table = build(t, table, web("rr", 1)); table.Services()[0].Servers[0] == a {
		t.Error("a released server came back")
	}
}

// TestIDs holds flows as an engine does, by ID alone, over random reloads.
func TestIDs(t *testing.T) {
	type flow struct {
		id     uint32
		server *policy.Server
		active bool
	}
	rapid.Check(t, func(t *rapid.T) {
		table, err := policy.Build(nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		var flows []flow
		t.Repeat(map[string]func(*rapid.T){
			"reload": func(t *rapid.T) {
				var specs []policy.Spec
				for _, v := range []string{"10.0.0.10:80", "10.0.0.11:80"} {
					spec := policy.Spec{Name: v, Listen: policy.On(netip.MustParseAddrPort(v), policy.TCP)}
					spec.Scheduler = rapid.SampledFrom(policy.Schedulers()).Draw(t, "scheduler")
					for _, n := range rapid.SliceOfNDistinct(rapid.IntRange(1, 5), 0, 5, rapid.ID).Draw(t, "servers") {
						spec.Servers = append(spec.Servers, policy.ServerSpec{Address: address(n), Weight: n})
					}
					if rapid.IntRange(0, 3).Draw(t, "configured") > 0 {
						specs = append(specs, spec)
					}
				}
				if table, err = policy.Build(specs, table); err != nil {
					t.Fatal(err)
				}
			},
			"open": func(t *rapid.T) {
				if len(table.Services()) == 0 {
					return
				}
				s := rapid.SampledFrom(table.Services()).Draw(t, "service").Pick(policy.Client{})
				if s != nil {
					f := flow{s.ID, s, rapid.Bool().Draw(t, "active")}
					s.Add(f.active)
					flows = append(flows, f)
				}
			},
			"move": func(t *rapid.T) {
				if len(flows) > 0 {
					f := &flows[rapid.IntRange(0, len(flows)-1).Draw(t, "flow")]
					f.active = !f.active
					table.Server(f.id).Move(f.active)
				}
			},
			"close": func(t *rapid.T) {
				if len(flows) > 0 {
					i := rapid.IntRange(0, len(flows)-1).Draw(t, "flow")
					table.Server(flows[i].id).Remove(flows[i].active)
					flows = slices.Delete(flows, i, i+1)
				}
			},
			"": func(t *rapid.T) { // holds after every step
				active, inactive := make(map[*policy.Server]int), make(map[*policy.Server]int)
				living := make(map[*policy.Server]bool)
				for _, f := range flows {
					if table.Server(f.id) != f.server {
						t.Fatalf("ID %d: got %+v, want %+v", f.id, table.Server(f.id), f.server)
					}
					living[f.server] = true
					if f.active {
						active[f.server]++
					} else {
						inactive[f.server]++
					}
				}
				for _, svc := range table.Services() {
					for i, s := range svc.Servers {
						if s.Deleted || s.Service != svc || s.ServerSpec != svc.Spec.Servers[i] || table.Server(s.ID) != s {
							t.Fatalf("server %d of %s: %+v", i, svc.Name, s)
						}
						living[s] = true
					}
				}
				for id := range uint32(100) {
					if s := table.Server(id); s != nil {
						if !living[s] || s.Active != active[s] || s.Inactive != inactive[s] {
							t.Fatalf("ID %d: %+v, want living %t, active %d, inactive %d", id, s, living[s], active[s], inactive[s])
						}
						delete(living, s)
					}
				}
				if len(living) > 0 {
					t.Fatalf("without ID: %v", living)
				}
			},
		})
	})
}

// TestSplit: a service that is split into two keeps its servers to itself, and gets none of the other's when
// they are one again.
func TestSplit(t *testing.T) {
	one := web("rr", 1)
	both, two := one, one
	two.Listen = policy.On(netip.MustParseAddrPort("10.0.0.11:80"), policy.TCP)
	both.Listen = slices.Concat(one.Listen, two.Listen)
	table := build(t, nil, both)
	kept := table.Services()[0].Servers[0]
	kept.Add(true)
	table = build(t, table, one, two)
	for i, svc := range table.Services() {
		if s := svc.Servers[0]; s.Service != svc || (s == kept) != (i == 0) || s.Deleted {
			t.Errorf("service %d after the split: %+v", i, s)
		}
	}
	table = build(t, table, both)
	if s := table.Services()[0].Servers[0]; s != kept || s.Deleted || s.Active != 1 {
		t.Errorf("in one again: %+v, want %+v", s, kept)
	}
}

func TestListensAt(t *testing.T) {
	tcp, _ := policy.ParseListen("203.0.113.22:80-90/tcp")
	udp, _ := policy.ParseListen("203.0.113.22:53/udp")
	all, _ := policy.ParseListen("[2001:db8::22]:0/tcp")
	s := policy.Spec{Listen: []policy.Listen{tcp, udp, all}}
	v4, other, v6 := netip.MustParseAddr("203.0.113.22"), netip.MustParseAddr("203.0.113.23"), netip.MustParseAddr("2001:db8::22")
	for _, c := range []struct {
		proto uint8
		addr  netip.Addr
		port  uint16
		want  bool
	}{
		{policy.TCP, v4, 80, true}, {policy.TCP, v4, 90, true}, {policy.TCP, v4, 91, false}, {policy.UDP, v4, 80, false}, {policy.UDP, v4, 53, true}, {policy.TCP, v4, 53, false},
		{policy.TCP, other, 80, false}, {policy.TCP, v6, 1, true}, {policy.TCP, v6, 65535, true}, {policy.UDP, v6, 1, false},
	} {
		if got := s.ListensAt(c.proto, c.addr.As16(), c.port); got != c.want {
			t.Errorf("%d %v:%d: %t", c.proto, c.addr, c.port, got)
		}
	}
	if (&policy.Spec{Mark: policy.Mark{Value: 7}}).ListensAt(policy.TCP, v4.As16(), 80) {
		t.Error("a mark is a place")
	}
}
