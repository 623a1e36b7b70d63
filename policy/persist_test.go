package policy_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/tunlb/tunlb/policy"
)

// sticky is a service with persistence of a minute, in IPv4 or IPv6, with its servers at 1, 2, 3...
func sticky(v6 bool, hostBits int, weights ...int) policy.Spec {
	s := web("rr", weights...)
	if v6 {
		s = twin(s)
	}
	s.Persistence = policy.Persistence{Timeout: time.Minute, HostBits: hostBits}
	return s
}

// twin is the service in IPv6.
func twin(s policy.Spec) policy.Spec {
	at := func(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(sixth(a.Addr()), a.Port()) }
	listen := make([]policy.Listen, len(s.Listen))
	for i, l := range s.Listen {
		l.Addr = sixth(l.Addr)
		listen[i] = l
	}
	servers := make([]policy.ServerSpec, len(s.Servers))
	for i, server := range s.Servers {
		server.Address = at(server.Address)
		servers[i] = server
	}
	s.Listen, s.Servers = listen, servers
	return s
}

// sixth maps an IPv4 address into 2001:db8::/32.
func sixth(a netip.Addr) netip.Addr {
	b := netip.MustParseAddr("2001:db8::").As16()
	four := a.As4()
	copy(b[12:], four[:])
	return netip.AddrFrom16(b)
}

// from is a client's connection to a place of the service.
func from(s policy.Spec, client string, port uint16, now time.Duration) policy.Client {
	addr := netip.MustParseAddr(client)
	if !s.Is4() {
		addr = sixth(addr)
	}
	return policy.Client{Src: addr.As16(), SrcPort: 1234, Dst: s.Listen[0].Addr.As16(), DstPort: port, Proto: s.Listen[0].Proto, Now: now}
}

func twins(t *testing.T, test func(t *testing.T, v6 bool)) {
	t.Run("IPv4", func(t *testing.T) { test(t, false) })
	t.Run("IPv6", func(t *testing.T) { test(t, true) })
}

// names picks for clients in turn and gives the servers' names, - for none.
func names(svc *policy.Service, clients ...policy.Client) (got string) {
	for _, c := range clients {
		if s := svc.Pick(c); s != nil {
			got += s.Name
		} else {
			got += "-"
		}
	}
	return got
}

func TestPersistence(t *testing.T) {
	twins(t, func(t *testing.T, v6 bool) {
		spec := sticky(v6, 0, 1, 1, 1)
		svc := build(t, nil, spec).Services()[0]
		at := func(client string, now time.Duration) policy.Client { return from(spec, client, 80, now) }
		one, two, three := "10.0.1.1", "10.0.1.2", "10.0.1.3"
		if got, want := names(svc, at(one, 0), at(two, 0), at(one, 0), at(one, 59*time.Second), at(three, 0)), "abaac"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		// one's time began anew at 59 s; two's is over after 60.
		if got, want := names(svc, at(two, 60*time.Second), at(one, 118990*time.Millisecond), at(one, 178990*time.Millisecond)), "aab"; got != want {
			t.Errorf("over time: got %s, want %s", got, want)
		}
	})
}

func TestPersistenceNetwork(t *testing.T) {
	twins(t, func(t *testing.T, v6 bool) {
		spec := sticky(v6, 8, 1, 1, 1)
		svc := build(t, nil, spec).Services()[0]
		var clients []policy.Client
		for _, client := range []string{"10.0.1.1", "10.0.1.255", "10.0.2.0", "10.0.1.0", "10.0.2.77", "10.0.0.255"} {
			clients = append(clients, from(spec, client, 80, 0))
		}
		if got, want := names(svc, clients...), "aababc"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
	// The mask of a whole family, and one that ends in either half of an IPv6 address.
	for _, c := range []struct {
		hostBits int
		a, b     string
		same     bool
	}{
		{64, "2001:db8::1", "2001:db8::ffff:0:0:1", true},
		{64, "2001:db8::1", "2001:db8:0:1::1", false},
		{80, "2001:db8::1", "2001:db8:0:1::1", true},
		{80, "2001:db8::1", "2001:db8:1::1", false},
		{128, "2001:db8::1", "fd00::1", true},
		{0, "2001:db8::1", "2001:db8::2", false},
		{32, "10.0.0.1", "192.168.0.1", true},
		{128, "10.0.0.1", "192.168.0.1", true},
		{31, "10.0.0.1", "192.168.0.1", false},
	} {
		a, b := netip.MustParseAddr(c.a), netip.MustParseAddr(c.b)
		spec := sticky(a.Is6(), c.hostBits, 1, 1)
		client := from(spec, "10.0.0.1", 80, 0)
		other := client
		client.Src, other.Src = a.As16(), b.As16()
		table := build(t, nil, spec)
		svc := table.Services()[0]
		if got := svc.Pick(client) == svc.Pick(other); got != c.same {
			t.Errorf("%s and %s with %d host bits: same server is %t, want %t", c.a, c.b, c.hostBits, got, c.same)
		}
		if network := templates(table, 0)[0].Client; network.Is4() != a.Is4() {
			t.Errorf("%s with %d host bits is listed as %s", c.a, c.hostBits, network)
		}
	}
}

// TestPersistencePlaces: a place of its own is a template of its own, but for services with many ports.
func TestPersistencePlaces(t *testing.T) {
	twins(t, func(t *testing.T, v6 bool) {
		on := func(listens ...string) policy.Spec {
			s := web("rr", 1, 1, 1)
			s.Listen = nil
			for _, l := range listens {
				listen, err := policy.ParseListen(l)
				if err != nil {
					t.Fatal(err)
				}
				s.Listen = append(s.Listen, listen)
			}
			if v6 {
				s = twin(s)
			}
			s.Persistence.Timeout = time.Minute
			return s
		}
		for _, c := range []struct {
			name  string
			spec  policy.Spec
			ports []uint16
			want  string
			port  uint16
		}{
			{"single ports", on("10.0.0.10:80/tcp", "10.0.0.10:443/tcp"), []uint16{80, 443, 80}, "aba", 80},
			{"range", on("10.0.0.10:8000-8100/tcp"), []uint16{8000, 8100, 8050}, "aaa", 0},
			{"all ports", on("10.0.0.10:0/tcp"), []uint16{1, 65535, 80}, "aaa", 0},
			{"one port and all", on("10.0.0.10:0/tcp", "10.0.0.10:80/tcp"), []uint16{1, 80}, "aa", 0},
		} {
			table := build(t, nil, c.spec)
			got := ""
			for _, port := range c.ports {
				got += names(table.Services()[0], from(c.spec, "10.0.1.1", port, 0))
			}
			if got != c.want {
				t.Errorf("%s: got %s, want %s", c.name, got, c.want)
			}
			if first := templates(table, 0)[0]; first.VIP.Port() != c.port && first.VIP.Port() != 443 {
				t.Errorf("%s: listed %+v, want port %d", c.name, first, c.port)
			}
		}
		// Two VIPs of one service, and one VIP in two protocols.
		spec := on("10.0.0.10:53/udp", "10.0.0.11:53/udp", "10.0.0.10:53/tcp")
		svc := build(t, nil, spec).Services()[0]
		udp, tcp := from(spec, "10.0.1.1", 53, 0), from(spec, "10.0.1.1", 53, 0)
		second := udp
		second.Dst, tcp.Proto = spec.Listen[1].Addr.As16(), policy.TCP
		if got, want := names(svc, udp, second, tcp, udp, second, tcp), "abcabc"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

// templates lists all that are alive.
func templates(table *policy.Table, now time.Duration) (all []policy.Template) {
	for cursor, more := uint64(0), true; more; {
		cursor, more = table.Templates(now, cursor, 100, func(t policy.Template) { all = append(all, t) })
	}
	return all
}

// TestPersistenceServers: which servers keep their clients.
func TestPersistenceServers(t *testing.T) {
	twins(t, func(t *testing.T, v6 bool) {
		spec := sticky(v6, 0, 1, 1)
		client := from(spec, "10.0.1.1", 80, 0)
		edit := func(edit func(s *policy.ServerSpec)) func(table *policy.Table) *policy.Table {
			return func(table *policy.Table) *policy.Table {
				s := sticky(v6, 0, 1, 1)
				edit(&s.Servers[0])
				return build(t, table, s)
			}
		}
		for _, c := range []struct {
			name string
			do   func(table *policy.Table) *policy.Table
			want string
		}{
			{"as it is", func(table *policy.Table) *policy.Table { return table }, "a"},
			{"quiesced", edit(func(s *policy.ServerSpec) { s.Weight = 0 }), "a"},
			{"overloaded", edit(func(s *policy.ServerSpec) { s.Upper = 1 }), "a"},
			{"deleted", func(table *policy.Table) *policy.Table {
				s := sticky(v6, 0, 1, 1)
				s.Servers = s.Servers[1:]
				return build(t, table, s)
			}, "b"},
			{"unreachable", func(table *policy.Table) *policy.Table {
				table.Services()[0].Servers[0].SetUnreachable(true)
				return table
			}, "b"},
			{"down", func(table *policy.Table) *policy.Table {
				s := sticky(v6, 0, 0, 1)
				table = build(t, table, s)
				table.Services()[0].Servers[0].SetDown(true)
				return table
			}, "b"},
			{"scheduler", func(table *policy.Table) *policy.Table {
				s := sticky(v6, 0, 1, 1)
				s.Scheduler = "wlc"
				return build(t, table, s)
			}, "a"},
			{"another timeout", func(table *policy.Table) *policy.Table {
				s := sticky(v6, 0, 1, 1)
				s.Persistence.Timeout = time.Hour
				return build(t, table, s)
			}, "a"},
			{"another mask", func(table *policy.Table) *policy.Table { return build(t, table, sticky(v6, 8, 1, 1)) }, "b"},
			{"off and on", func(table *policy.Table) *policy.Table {
				return build(t, build(t, table, web("rr", 1, 1)), sticky(v6, 0, 1, 1))
			}, "b"},
			{"one more VIP", func(table *policy.Table) *policy.Table {
				s := sticky(v6, 0, 1, 1)
				more := s.Listen[0]
				more.Addr = more.Addr.Next()
				s.Listen = append(s.Listen, more)
				return build(t, table, s)
			}, "a"},
			{"many more ports", func(table *policy.Table) *policy.Table {
				s := sticky(v6, 0, 1, 1)
				more := s.Listen[0]
				more.First, more.Last = 8000, 8100
				s.Listen = append(s.Listen, more)
				return build(t, table, s)
			}, "b"},
		} {
			if c.name == "off and on" && v6 {
				continue // web is IPv4's
			}
			table := build(t, nil, spec)
			s := table.Services()[0].Pick(client)
			s.Add(true)
			s.Opened(client)
			table = c.do(table)
			if c.name == "overloaded" {
				s.Add(true)
				if !s.Overloaded() {
					t.Error("not overloaded")
				}
			}
			if got := names(table.Services()[0], client, client); got != c.want+c.want {
				t.Errorf("%s: got %s, want %s", c.name, got, c.want)
			}
			for more := true; more; {
				more = table.Expire(0, 10)
			}
			if got := len(templates(table, 0)); got != 1 || table.TemplateCount() != 1 {
				t.Errorf("%s: %d templates of %d, want one", c.name, got, table.TemplateCount())
			}
		}
	})
}

// TestPersistenceFlows: while flows live a template that is over is kept for a minute more, again and again.
func TestPersistenceFlows(t *testing.T) {
	twins(t, func(t *testing.T, v6 bool) {
		for _, c := range []struct {
			name   string
			closed time.Duration
			ends   time.Duration
		}{
			{"before the end", 59 * time.Second, 60 * time.Second},
			{"at the end", 60 * time.Second, 120 * time.Second},
			{"soon afterwards", 61 * time.Second, 120 * time.Second},
			{"later", 100 * time.Minute, 101 * time.Minute},
		} {
			for _, expire := range []bool{false, true} { // whether somebody calls it makes no difference
				spec := sticky(v6, 0, 1, 1)
				table := build(t, nil, spec)
				svc := table.Services()[0]
				client := from(spec, "10.0.1.1", 80, 0)
				first := svc.Pick(client)
				first.Add(true)
				first.Opened(client)
				for now := time.Duration(0); now < c.ends; now += 500 * time.Millisecond {
					client.Now = now
					if now == c.closed {
						first.Closed(client)
						first.Remove(true)
					}
					if expire {
						table.Expire(now, 100)
					}
					if n := len(templates(table, now)); n != 1 {
						t.Fatalf("closed %s: %d templates at %s, want one", c.name, n, now)
					}
				}
				if all := templates(table, c.ends); len(all) != 0 {
					t.Errorf("closed %s: %+v, want none at %s", c.name, all, c.ends)
				}
				client.Now = c.ends
				if got := svc.Pick(client); got == first {
					t.Errorf("closed %s: still %s at %s", c.name, got.Name, c.ends)
				}
			}
		}
	})
}

// TestPersistenceLimit: at the cap the template that would have ended next goes.
func TestPersistenceLimit(t *testing.T) {
	spec := sticky(false, 0, 1, 1)
	table := build(t, nil, spec)
	table.LimitTemplates(100)
	svc := table.Services()[0]
	client := func(i int, now time.Duration) policy.Client {
		return from(spec, fmt.Sprintf("10.0.%d.%d", i/256, i%256), 80, now)
	}
	for i := range 100 {
		svc.Pick(client(i, time.Duration(i)*100*time.Millisecond))
	}
	svc.Pick(client(0, 30*time.Second)) // the oldest of all, but used again
	for i := range 50 {
		svc.Pick(client(100+i, 30*time.Second))
	}
	left := make(map[string]bool)
	for _, tpl := range templates(table, 30*time.Second) {
		left[tpl.Client.String()] = true
	}
	if len(left) != 100 || table.TemplateCount() != 100 || !left["10.0.0.0"] || left["10.0.0.1"] || !left["10.0.0.99"] || !left["10.0.0.149"] {
		t.Errorf("left: %d %v", len(left), left)
	}
	if got := svc.Servers[0].Persistent() + svc.Servers[1].Persistent(); got != 100 {
		t.Errorf("servers have %d templates, want 100", got)
	}
	table.LimitTemplates(10)
	if got := svc.Servers[0].Persistent() + svc.Servers[1].Persistent(); got != 10 || table.TemplateCount() != 10 {
		t.Errorf("servers have %d templates, the table has %d, want 10", got, table.TemplateCount())
	}
}

// TestPersistenceHolds: templates keep a deleted server's ID, and let go of it.
func TestPersistenceHolds(t *testing.T) {
	spec := sticky(false, 0, 1)
	for _, c := range []struct {
		name string
		free func(t *testing.T, table *policy.Table)
	}{
		{"in the end", func(t *testing.T, table *policy.Table) { table.Expire(62*time.Second, 100) }},
		{"found", func(t *testing.T, table *policy.Table) {
			table.Services()[0].Pick(from(spec, "10.0.1.1", 80, 0))
			table.Services()[0].Pick(from(spec, "10.0.1.2", 80, 0))
		}},
		{"service gone", func(t *testing.T, table *policy.Table) {
			table = build(t, table)
			for table.Expire(0, 1) {
			}
		}},
		{"persistence off", func(t *testing.T, table *policy.Table) {
			none := spec
			none.Servers, none.Persistence = nil, policy.Persistence{}
			table = build(t, table, none)
			for table.Expire(0, 1) {
			}
		}},
	} {
		table := build(t, nil, spec)
		s := table.Services()[0].Pick(from(spec, "10.0.1.1", 80, 0))
		table.Services()[0].Pick(from(spec, "10.0.1.2", 80, 0))
		none := spec
		none.Servers = nil
		table = build(t, table, none)
		if table.Server(s.ID) != s || s.Persistent() != 2 {
			t.Fatalf("%s: gone at once, with %d templates", c.name, s.Persistent())
		}
		if again := build(t, table, spec); again.Services()[0].Servers[0] != s {
			t.Errorf("%s: not the same when it is back", c.name)
		}
		table = build(t, table, none)
		c.free(t, table)
		if table.Server(s.ID) != nil || table.TemplateCount() != 0 {
			t.Errorf("%s: still there: %v, %d templates", c.name, table.Server(s.ID), table.TemplateCount())
		}
	}
}
