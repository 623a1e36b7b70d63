package policy_test

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

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

// TestDiffForPeople: values are written as people write them.
func TestDiffForPeople(t *testing.T) {
	web := func() policy.Spec {
		s := web("sh", 1)
		s.Mode = policy.DR
		s.Servers[0].Address = netip.AddrPortFrom(s.Servers[0].Address.Addr(), 80)
		return s
	}
	const subject = "~ service web 10.0.0.10:80/tcp: "
	server := policy.ServerSpec{Name: "last", Address: netip.MustParseAddrPort("192.168.0.9:80")}
	for _, c := range []struct {
		edit func(s *policy.Spec)
		want []string
	}{
		{func(s *policy.Spec) { s.Flags = policy.Fallback | policy.HashPort }, []string{subject + "scheduler flags none -> fallback,port"}},
		{func(s *policy.Spec) { s.Persistence.Timeout = 5 * time.Minute }, []string{subject + "persistence timeout none -> 5m0s"}},
		{func(s *policy.Spec) { s.Timeouts.SynRecv = time.Minute }, []string{subject + "timeout syn recv none -> 1m0s"}},
		{func(s *policy.Spec) { s.Timeouts.UDP = time.Minute }, []string{subject + "timeout udp none -> 1m0s"}},
		{func(s *policy.Spec) { s.Health.Statuses = []policy.StatusRange{{200, 299}, {404, 404}} }, []string{subject + "health statuses none -> 200-299,404"}},
		{func(s *policy.Spec) { s.Health.Statuses, s.Health.Command = []policy.StatusRange{}, []string{} }, nil},
		{func(s *policy.Spec) { s.Health.Command = []string{"/bin/check", "-v"} }, []string{subject + "health command none -> /bin/check -v"}},
		{func(s *policy.Spec) { s.Health.Remove = true }, []string{subject + "health remove off -> on"}},
		{func(s *policy.Spec) { s.Sorry = &server }, []string{subject + "sorry server none -> last 192.168.0.9:80 weight 0"}},
		{func(s *policy.Spec) { s.Keep = true }, []string{subject + "keep off -> on"}}, // not for each server once more
		{func(s *policy.Spec) { s.Servers[0].Keep = true }, []string{"~ server web/a 192.168.0.1:80: keep off -> on"}},
		{func(s *policy.Spec) { s.Servers[0].Mode = policy.NAT }, []string{"~ server web/a 192.168.0.1:80: mode dr -> nat"}},
		{func(s *policy.Spec) { s.Servers[0].Upper = 5 }, []string{"~ server web/a 192.168.0.1:80: upper bound 0 -> 5"}},
		{func(s *policy.Spec) { s.Servers[0].Tunnel = policy.Tunnel{Type: "gue", Port: 6080, Checksum: "nocsum"} }, []string{"~ server web/a 192.168.0.1:80: tunnel ipip -> gue port 6080 nocsum"}},
		{func(s *policy.Spec) {
			server.Mode, server.Tunnel.Type, server.Keep, server.Upper = policy.Tunnelled, "gre", true, 7
			s.Servers = append(s.Servers, server)
		}, []string{"+ server web/last 192.168.0.9:80 weight 0 mode tunnel tunnel gre bounds 7/0 keep"}},
	} {
		s := web()
		c.edit(&s)
		prev := build(t, nil, web())
		if got := build(t, prev, s).Diff(prev); !slices.Equal(got, c.want) {
			t.Errorf("got %q\nwant %q", got, c.want)
		}
	}
	// A server may change its mode to what its service's changes to.
	one, two := web(), web()
	one.Servers[0].Mode, one.Sorry, two.Sorry = policy.FullNAT, &policy.ServerSpec{Name: "last", Address: server.Address, Mode: policy.NAT}, &server
	one.Mode, server = policy.NAT, policy.ServerSpec{Name: "last", Address: server.Address}
	prev := build(t, nil, one)
	want := []string{subject + "mode nat -> dr", "~ server web/a 192.168.0.1:80: mode fullnat -> dr"}
	if got := build(t, prev, two).Diff(prev); !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	// Services by mark, and with several places.
	marked := policy.Spec{Name: "marked", Mark: policy.Mark{Value: 7}}
	several, single := web(), web()
	several.Mode, single.Mode = policy.NAT, policy.NAT
	several.Listen = append(several.Listen, policy.Listen{Addr: vip.Addr(), Proto: policy.TCP, First: 8000, Last: 8100}, policy.Listen{Addr: vip.Addr().Next(), Proto: policy.UDP})
	want = []string{"+ service marked mark 7 nat wlc", "~ service web 10.0.0.10:80/tcp +2: listen 10.0.0.10:80/tcp -> 10.0.0.10:80/tcp,10.0.0.10:8000-8100/tcp,10.0.0.11:0/udp"}
	prev = build(t, nil, single)
	if got := build(t, prev, marked, several).Diff(prev); !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

// TestDiffOfNewService: one line, whatever it has, and its servers.
func TestDiffOfNewService(t *testing.T) {
	for _, at := range []policy.Listen{{Addr: netip.MustParseAddr("10.0.0.10")}, {Addr: netip.MustParseAddr("fd00::10")}} {
		at.Proto, at.First, at.Last = policy.TCP, 80, 80
		last := policy.ServerSpec{Name: "last", Address: netip.AddrPortFrom(at.Addr.Next(), 80)}
		s := policy.Spec{
			Name: "full", Listen: []policy.Listen{at, {Addr: at.Addr, Proto: policy.TCP, First: 443, Last: 443}}, Mode: policy.NAT, Scheduler: "mh", Flags: policy.Fallback,
			Persistence: policy.Persistence{Timeout: 5 * time.Minute, HostBits: 8}, Timeouts: policy.Timeouts{FinWait: time.Second}, Keep: true,
			Health:    policy.Health{Type: "http", Interval: time.Second, Timeout: time.Second, Rise: 1, Fall: 1, Remove: true, Path: "/"},
			SlowStart: time.Minute, Quorum: 1, Sorry: &last,
			Servers: []policy.ServerSpec{{Name: "a", Address: netip.AddrPortFrom(at.Addr.Next().Next(), 80), Weight: 3, Mode: policy.FullNAT, Keep: true}},
		}
		want := []string{
			"+ service full " + at.String() + "," + s.Listen[1].String() + " nat mh persistence 5m0s health http",
			"+ server full/a " + s.Servers[0].Address.String() + " weight 3 mode fullnat",
		}
		if got := build(t, nil, s).Diff(nil); !slices.Equal(got, want) {
			t.Errorf("got %q\nwant %q", got, want)
		}
	}
}

// TestDiffKnowsAllFields: a field that Diff does not print would change silently. It changes each of them alone,
// in the structs below, too.
func TestDiffKnowsAllFields(t *testing.T) {
	base := func() *policy.Spec {
		s := web("rr", 1)
		s.Listen = policy.On(vip, policy.UDP)
		s.Mode = policy.NAT
		s.Servers[0].Mode = policy.NAT
		s.Sorry = &policy.ServerSpec{Name: "sorry", Address: address(9), Mode: policy.NAT}
		return &s
	}
	prev := build(t, nil, *base())
	seen := make(map[string]bool)
	var change func(path string, field func(*policy.Spec) reflect.Value)
	change = func(path string, field func(*policy.Spec) reflect.Value) {
		v := field(base())
		switch {
		case path == "Sorry":
			change(path+".*", func(s *policy.Spec) reflect.Value { return field(s).Elem() })
		case path == "Servers":
			change(path+".0", func(s *policy.Spec) reflect.Value { return field(s).Index(0) })
		case v.Kind() == reflect.Struct && v.Type() != reflect.TypeFor[netip.AddrPort]():
			for i := range v.NumField() {
				change(path+"."+v.Type().Field(i).Name, func(s *policy.Spec) reflect.Value { return field(s).Field(i) })
			}
			return
		}
		s := base()
		v = field(s)
		switch {
		case path == "Mark.IPv6": // of no meaning alone, and what tells services apart
			prev := build(t, nil, policy.Spec{Name: "marked", Mark: policy.Mark{Value: 7}})
			want := []string{"+ service marked mark 7 IPv6 nat wlc", "- service marked mark 7"}
			if got := build(t, nil, policy.Spec{Name: "marked", Mark: policy.Mark{Value: 7, IPv6: true}}).Diff(prev); !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
			return
		case path == "Scheduler":
			v.SetString("wlc")
		case path == "Listen":
			s.Listen = append(s.Listen, policy.Listen{Addr: vip.Addr().Next(), Proto: policy.UDP, First: 53, Last: 53})
		case v.Type() == reflect.TypeFor[netip.AddrPort]():
			v.Set(reflect.ValueOf(address(10)))
		case v.Kind() == reflect.Pointer:
			v.SetZero()
		case v.Kind() == reflect.Slice:
			v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		case v.Kind() == reflect.Array:
			v.Index(0).SetUint(2)
		case v.Kind() == reflect.Bool:
			v.SetBool(true)
		case v.Kind() == reflect.String:
			v.SetString(v.String() + "x")
		case v.CanInt():
			v.SetInt(v.Int() + 1)
		case v.CanUint():
			v.SetUint(v.Uint() + 1)
		default:
			t.Fatalf("%s: a field of kind %s: teach this test to change it", path, v.Kind())
		}
		if path == "Servers" {
			s.Servers = s.Servers[:0]
		}
		seen[path] = true
		table, err := policy.Build([]policy.Spec{*s}, nil)
		if err != nil {
			t.Errorf("%s: %v: teach this test a change that is valid", path, err)
			return
		}
		if lines := table.Diff(prev); len(lines) == 0 {
			t.Errorf("%s: Diff does not see it change to %v", path, v)
		}
	}
	spec := reflect.TypeFor[policy.Spec]()
	for i := range spec.NumField() {
		change(spec.Field(i).Name, func(s *policy.Spec) reflect.Value { return reflect.ValueOf(s).Elem().Field(i) })
	}
	for _, path := range []string{"Name", "Mark.Value", "Persistence.HostBits", "Timeouts.SynAck", "Health.Command", "Sorry", "Sorry.*.Tunnel.Checksum", "Servers", "Servers.0.MAC", "Servers.0.Keep"} {
		if !seen[path] {
			t.Errorf("%s was not tried", path)
		}
	}
	if len(seen) < 60 {
		t.Errorf("%d fields were tried: %v", len(seen), seen)
	}
}
