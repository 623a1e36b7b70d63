package policy_test

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/tunlb/tunlb/policy"
	"pgregory.net/rapid"
)

// at is a service without servers at places of IPv4, or at their counterparts of IPv6.
func at(t testing.TB, v6 bool, name string, listens ...string) policy.Spec {
	t.Helper()
	s := policy.Spec{Name: name, Scheduler: "rr"}
	for _, text := range listens {
		l, err := policy.ParseListen(text)
		if err != nil {
			t.Fatal(err)
		}
		s.Listen = append(s.Listen, l)
	}
	if v6 {
		s = twin(s)
	}
	return s
}

// found is the name of the service at a place, "" for none.
func found(table *policy.Table, v6 bool, proto uint8, addr string, port uint16) string {
	a := netip.MustParseAddr(addr)
	if v6 {
		a = sixth(a)
	}
	if s := table.Service(proto, a.As16(), port); s != nil {
		return s.Name
	}
	return ""
}

// TestPlaces: single ports and ranges go before all ports.
func TestPlaces(t *testing.T) {
	twins(t, func(t *testing.T, v6 bool) {
		table := build(t, nil,
			at(t, v6, "all", "10.0.0.10:0/tcp"),
			at(t, v6, "range", "10.0.0.10:8000-8100/tcp", "10.0.0.11:1-65535/tcp"),
			at(t, v6, "one", "10.0.0.10:8080/udp", "10.0.0.10:80/tcp", "10.0.0.12:0/udp"),
			at(t, v6, "more", "10.0.0.10:8101-8200/tcp", "10.0.0.10:8000-8079/udp", "10.0.0.13:80/tcp", "10.0.0.13:81/tcp"),
		)
		for _, c := range []struct {
			proto uint8
			addr  string
			port  uint16
			want  string
		}{
			{policy.TCP, "10.0.0.10", 80, "one"},
			{policy.TCP, "10.0.0.10", 79, "all"},
			{policy.TCP, "10.0.0.10", 7999, "all"},
			{policy.TCP, "10.0.0.10", 8000, "range"},
			{policy.TCP, "10.0.0.10", 8080, "range"}, // udp is one's
			{policy.TCP, "10.0.0.10", 8100, "range"},
			{policy.TCP, "10.0.0.10", 8101, "more"},
			{policy.TCP, "10.0.0.10", 8200, "more"},
			{policy.TCP, "10.0.0.10", 8201, "all"},
			{policy.TCP, "10.0.0.10", 65535, "all"},
			{policy.TCP, "10.0.0.10", 0, "all"},
			{policy.UDP, "10.0.0.10", 8000, "more"},
			{policy.UDP, "10.0.0.10", 8080, "one"},
			{policy.UDP, "10.0.0.10", 8081, ""},
			{policy.TCP, "10.0.0.11", 1, "range"},
			{policy.TCP, "10.0.0.11", 65535, "range"},
			{policy.TCP, "10.0.0.11", 0, ""},
			{policy.UDP, "10.0.0.11", 1, ""},
			{policy.UDP, "10.0.0.12", 53, "one"},
			{policy.TCP, "10.0.0.12", 53, ""},
			{policy.TCP, "10.0.0.13", 81, "more"},
			{policy.TCP, "10.0.0.13", 82, ""},
			{policy.SCTP, "10.0.0.10", 80, ""},
		} {
			if got := found(table, v6, c.proto, c.addr, c.port); got != c.want {
				t.Errorf("%s:%d/%d: got %q, want %q", c.addr, c.port, c.proto, got, c.want)
			}
		}
		for addr, want := range map[string]bool{"10.0.0.9": false, "10.0.0.10": true, "10.0.0.11": true, "10.0.0.12": true, "10.0.0.13": true, "10.0.0.14": false} {
			a := netip.MustParseAddr(addr)
			if v6 {
				a = sixth(a)
			}
			if got := table.IsVIP(a.As16()); got != want {
				t.Errorf("IsVIP(%s): got %t, want %t", a, got, want)
			}
		}
	})
}

// TestPlacesOverlap: only all ports may be somebody else's, too.
func TestPlacesOverlap(t *testing.T) {
	twins(t, func(t *testing.T, v6 bool) {
		for _, c := range []struct {
			name string
			a, b []string
			want error
		}{
			{"same port", []string{"10.0.0.10:80/tcp"}, []string{"10.0.0.10:80/tcp"}, policy.ErrDuplicateService},
			{"same port among others", []string{"10.0.0.10:80/tcp", "10.0.0.10:81/tcp"}, []string{"10.0.0.10:82/tcp", "10.0.0.10:81/tcp"}, policy.ErrDuplicateService},
			{"same range", []string{"10.0.0.10:80-90/tcp"}, []string{"10.0.0.10:80-90/tcp"}, policy.ErrDuplicateService},
			{"ranges overlap", []string{"10.0.0.10:80-90/tcp"}, []string{"10.0.0.10:90-100/tcp"}, policy.ErrDuplicateService},
			{"range in range", []string{"10.0.0.10:80-90/tcp"}, []string{"10.0.0.10:82-84/tcp"}, policy.ErrDuplicateService},
			{"port in range", []string{"10.0.0.10:80-90/tcp"}, []string{"10.0.0.10:90/tcp"}, policy.ErrDuplicateService},
			{"range around port", []string{"10.0.0.10:80/tcp"}, []string{"10.0.0.10:79-81/tcp"}, policy.ErrDuplicateService},
			{"all ports twice", []string{"10.0.0.10:0/tcp"}, []string{"10.0.0.10:0/tcp"}, policy.ErrDuplicateService},
			{"all ports and one", []string{"10.0.0.10:0/tcp"}, []string{"10.0.0.10:80/tcp"}, nil},
			{"all ports and a range", []string{"10.0.0.10:0/tcp"}, []string{"10.0.0.10:80-90/tcp"}, nil},
			{"ranges side by side", []string{"10.0.0.10:80-90/tcp"}, []string{"10.0.0.10:91-100/tcp"}, nil},
			{"other protocol", []string{"10.0.0.10:80-90/tcp"}, []string{"10.0.0.10:80-90/udp"}, nil},
			{"other VIP", []string{"10.0.0.10:80-90/tcp"}, []string{"10.0.0.11:80-90/tcp"}, nil},
		} {
			for _, both := range [][]policy.Spec{
				{at(t, v6, "a", c.a...), at(t, v6, "b", c.b...)},
				{at(t, v6, "b", c.b...), at(t, v6, "a", c.a...)},
				{at(t, v6, "a", append(append([]string{}, c.a...), c.b...)...)}, // of one service, likewise
			} {
				if _, err := policy.Build(both, nil); !errors.Is(err, c.want) {
					t.Errorf("%s: got %v, want %v", c.name, err, c.want)
				}
			}
		}
	})
	for _, c := range []struct {
		name string
		spec policy.Spec
		want error
	}{
		{"nowhere", policy.Spec{}, policy.ErrNowhere},
		{"two families", policy.Spec{Listen: append(at(t, false, "", "10.0.0.10:80/tcp").Listen, at(t, true, "", "10.0.0.10:80/tcp").Listen...)}, policy.ErrMixedFamilies},
		{"one-packet scheduling of tcp", policy.Spec{OnePacket: true, Listen: at(t, false, "", "10.0.0.10:80/udp", "10.0.0.10:80/tcp").Listen}, policy.ErrOnePacket},
		{"one-packet scheduling of udp", policy.Spec{OnePacket: true, Listen: at(t, false, "", "10.0.0.10:80/udp").Listen}, nil},
	} {
		if _, err := policy.Build([]policy.Spec{c.spec}, nil); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
}

// TestPlacesModel looks at all ports of a VIP under random places, and at what Build refuses.
func TestPlacesModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v6 := rapid.Bool().Draw(t, "six")
		const most = 12 // ports; 0 is all of them
		var specs []policy.Spec
		single, ranged := make(map[uint16]string), make(map[uint16]string)
		all, overlap := "", false
		for i := range rapid.IntRange(1, 5).Draw(t, "services") {
			s := policy.Spec{Name: fmt.Sprint(i), Scheduler: "rr"}
			for range rapid.IntRange(1, 2).Draw(t, "places") {
				first := uint16(rapid.IntRange(0, most).Draw(t, "first"))
				last := first
				if first > 0 {
					last = uint16(rapid.IntRange(int(first), min(most, int(first)+3)).Draw(t, "last"))
				}
				s.Listen = append(s.Listen, policy.Listen{Addr: vip.Addr(), Proto: policy.TCP, First: first, Last: last})
				if first == 0 {
					overlap = overlap || all != ""
					all = s.Name
				}
				for port := first; port <= last && port > 0; port++ {
					overlap = overlap || single[port] != "" || ranged[port] != ""
					if first == last {
						single[port] = s.Name
					} else {
						ranged[port] = s.Name
					}
				}
			}
			if v6 {
				s = twin(s)
			}
			specs = append(specs, s)
		}
		table, err := policy.Build(specs, nil)
		if overlap != errors.Is(err, policy.ErrDuplicateService) || !overlap && err != nil {
			t.Fatalf("overlap is %t: got %v", overlap, err)
		}
		if err != nil {
			return
		}
		for port := uint16(1); port <= most+1; port++ {
			want := single[port]
			if want == "" {
				want = ranged[port]
			}
			if want == "" {
				want = all
			}
			if got := found(table, v6, policy.TCP, vip.Addr().String(), port); got != want {
				t.Fatalf("port %d: got %q, want %q", port, got, want)
			}
		}
	})
}

// TestPlacesReload: a service is the same by any place in common, the first one before others, and so are its
// servers.
func TestPlacesReload(t *testing.T) {
	twins(t, func(t *testing.T, v6 bool) {
		const a, b, c, d = "10.0.0.10:80/tcp", "10.0.0.11:80/tcp", "10.0.0.10:8000-8100/tcp", "10.0.0.12:0/udp"
		for _, k := range []struct {
			name string
			next [][]string // services
			old  int        // which of them is the old one; -1: none
		}{
			{"first", [][]string{{a}}, 0},
			{"second", [][]string{{b}}, 0},
			{"range", [][]string{{c}}, 0},
			{"one more", [][]string{{d, a, b, c}}, 0},
			{"in another order", [][]string{{c, b, a}}, 0},
			{"none", [][]string{{d}}, -1},
			{"another range", [][]string{{"10.0.0.10:8000-8101/tcp"}}, -1},
			{"torn apart", [][]string{{d, c}, {b}}, 1}, // whose first place it is
			{"torn apart, in another order", [][]string{{b}, {a}}, 0},
		} {
			withServer := func(s policy.Spec) policy.Spec {
				with := web("rr", 1)
				if v6 {
					with = twin(with)
				}
				s.Servers = with.Servers
				return s
			}
			first := build(t, nil, withServer(at(t, v6, "old", a, b, c)))
			old := first.Services()[0]
			server := old.Servers[0]
			server.Add(true)
			var specs []policy.Spec
			for i, places := range k.next {
				specs = append(specs, withServer(at(t, v6, fmt.Sprint(i), places...)))
			}
			second := build(t, first, specs...)
			for i, svc := range second.Services() {
				if same := svc == old; same != (i == k.old) {
					t.Errorf("%s: service %d is the old one: %t", k.name, i, same)
				} else if same && svc.Servers[0] != server {
					t.Errorf("%s: another server", k.name)
				}
			}
			if deleted := k.old < 0; server.Deleted != deleted {
				t.Errorf("%s: its server is deleted: %t", k.name, server.Deleted)
			}
			if second.Server(server.ID) != server {
				t.Errorf("%s: the server of a flow is gone", k.name)
			}
		}
		// Two services that exchange a place stay what their first places say.
		first := build(t, nil, at(t, v6, "x", a, b), at(t, v6, "y", c, d))
		second := build(t, first, at(t, v6, "x", a, d), at(t, v6, "y", c, b))
		if second.Services()[0] != first.Services()[0] || second.Services()[1] != first.Services()[1] {
			t.Error("they are others")
		}
		if got := found(second, v6, policy.UDP, "10.0.0.12", 9) + found(second, v6, policy.TCP, "10.0.0.11", 80); got != "xy" {
			t.Errorf("found %s, want xy", got)
		}
	})
}

// TestMarks: services by mark are held, with all that the others have, but no packet finds them.
func TestMarks(t *testing.T) {
	four, six := web("wrr", 1, 2), twin(web("wrr", 1, 2))
	four.Listen, six.Listen = nil, nil
	four.Mark, six.Mark = policy.Mark{Value: 7}, policy.Mark{Value: 7, IPv6: true}
	table := build(t, nil, four, six)
	a, b := table.Services()[0], table.Services()[1]
	if !a.Is4() || b.Is4() || len(a.Servers) != 2 || a.Mode != policy.NAT {
		t.Errorf("held: %+v, %+v", a, b)
	}
	for _, addr := range []netip.Addr{{}, netip.IPv4Unspecified(), netip.IPv6Unspecified(), vip.Addr()} {
		if addr.IsValid() && table.IsVIP(addr.As16()) || addr.IsValid() && table.Service(policy.TCP, addr.As16(), 0) != nil {
			t.Errorf("%s is found", addr)
		}
	}
	a.Servers[0].Add(true)
	four.Servers[0].Weight, four.Name = 9, "renamed"
	four.Persistence.Timeout = 60e9
	table = build(t, table, six, four)
	if table.Services()[1] != a || table.Services()[0] != b || a.Servers[0].Weight != 9 || a.Servers[0].Flows() != 1 {
		t.Errorf("after a reload: %+v", table.Services()[1])
	}
	if got := a.Pick(policy.Client{}); got == nil || table.TemplateCount() != 0 {
		t.Errorf("picked %v, %d templates", got, table.TemplateCount())
	}
	other := four
	other.Name = "other"
	if _, err := policy.Build([]policy.Spec{four, other}, table); !errors.Is(err, policy.ErrDuplicateService) {
		t.Errorf("same mark twice: %v", err)
	}
	other.Mark.Value = 8
	if table = build(t, table, other); table.Services()[0] == a {
		t.Error("another mark is the same service")
	}
	six.Servers[0].Address = address(1)
	if _, err := policy.Build([]policy.Spec{six}, table); !errors.Is(err, policy.ErrMixedFamilies) {
		t.Errorf("a server of IPv4: %v", err)
	}
}
