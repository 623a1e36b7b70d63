package policy_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/tunlb/tunlb/policy"
	"pgregory.net/rapid"
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
		svc := build(t, nil, spec).Services()[0]
		if got := svc.Pick(client) == svc.Pick(other); got != c.same {
			t.Errorf("%s and %s with %d host bits: same server is %t, want %t", c.a, c.b, c.hostBits, got, c.same)
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

// TestPersistenceModel compares with a map over random connections, reloads and times.
func TestPersistenceModel(t *testing.T) {
	type modelKey struct {
		service  string
		client   netip.Prefix
		port     uint16
		hostBits int
	}
	type modelTemplate struct {
		server netip.AddrPort
		ends   time.Duration
		flows  int
	}
	type modelFlow struct {
		client policy.Client
		server *policy.Server
	}
	keyOf := func(t *rapid.T, svc *policy.Service, c policy.Client) modelKey {
		src := netip.AddrFrom16(c.Src).Unmap()
		network, err := src.Prefix(src.BitLen() - svc.Persistence.HostBits)
		if err != nil {
			t.Fatal(err)
		}
		key := modelKey{svc.Name, network, 0, svc.Persistence.HostBits}
		if svc.Listen[0].Ports() == 1 {
			key.port = c.DstPort
		}
		return key
	}
	rapid.Check(t, func(t *rapid.T) {
		model := make(map[modelKey]*modelTemplate)
		var flows []modelFlow
		var now time.Duration
		specs := []policy.Spec{sticky(false, 0, 1, 1, 1), sticky(true, 8, 2, 1)}
		specs[0].Name, specs[1].Name = "four", "six"
		specs[0].Listen[0].Last, specs[1].Scheduler = 82, "wlc"
		table, err := policy.Build(specs, nil)
		if err != nil {
			t.Fatal(err)
		}
		forget := func(name string) {
			for k := range model {
				if k.service == name {
					delete(model, k)
				}
			}
		}
		// settle puts off or ends what is over by now.
		settle := func() {
			for k, m := range model {
				for m.ends <= now && m.flows > 0 {
					m.ends += time.Minute
				}
				if m.ends <= now {
					delete(model, k)
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"connect": func(t *rapid.T) {
				if len(table.Services()) == 0 {
					return
				}
				svc := table.Services()[rapid.IntRange(0, len(table.Services())-1).Draw(t, "service")]
				addr := fmt.Sprintf("10.0.%d.%d", rapid.IntRange(0, 3).Draw(t, "network"), rapid.IntRange(0, 3).Draw(t, "host"))
				c := from(svc.Spec, addr, svc.Listen[0].First+uint16(rapid.IntRange(0, svc.Listen[0].Ports()-1).Draw(t, "port")), now)
				got := svc.Pick(c)
				key := keyOf(t, svc, c)
				m := model[key]
				if m != nil {
					attracts := false
					for _, s := range svc.Servers {
						attracts = attracts || s.Address == m.server && !s.Unreachable() && !s.Down()
					}
					if !attracts {
						delete(model, key)
						m = nil
					}
				}
				switch {
				case got == nil:
					for _, s := range svc.Servers {
						if s.Weight > 0 && !s.Unreachable() && !s.Overloaded() {
							t.Fatalf("picked none, though there is %+v", s)
						}
					}
					if m != nil {
						t.Fatalf("picked none, want %s", m.server)
					}
					return
				case m != nil && svc.Persistence.Timeout > 0:
					if got.Address != m.server {
						t.Fatalf("picked %s, want %s", got.Address, m.server)
					}
				case got.Weight == 0 || got.Deleted || got.Unreachable() || got.Overloaded():
					t.Fatalf("scheduled %+v", got)
				}
				if svc.Persistence.Timeout > 0 {
					if m == nil {
						m = &modelTemplate{server: got.Address}
						model[key] = m
					}
					m.ends = now + svc.Persistence.Timeout
				}
				if rapid.Bool().Draw(t, "inserted") {
					got.Add(true)
					got.Opened(c)
					if svc.Persistence.Timeout > 0 {
						m.flows++
					}
					flows = append(flows, modelFlow{c, got})
				}
			},
			"close": func(t *rapid.T) {
				if len(flows) == 0 {
					return
				}
				f := flows[0]
				flows = flows[1:]
				f.client.Now = now
				f.server.Closed(f.client)
				if m := model[keyOf(t, f.server.Service, f.client)]; m != nil && m.server == f.server.Address && m.flows > 0 {
					m.flows--
				}
				f.server.Remove(true)
			},
			"wait": func(t *rapid.T) {
				now += 10 * time.Millisecond * time.Duration(rapid.OneOf(rapid.IntRange(0, 10), rapid.IntRange(0, 200_000)).Draw(t, "centiseconds"))
			},
			"expire": func(t *rapid.T) { table.Expire(now, rapid.IntRange(1, 10).Draw(t, "budget")) },
			"unreachable": func(t *rapid.T) {
				for _, svc := range table.Services() {
					for _, s := range svc.Servers {
						s.SetUnreachable(rapid.IntRange(0, 3).Draw(t, "is") == 0)
						s.SetDown(rapid.IntRange(0, 5).Draw(t, "down") == 0)
					}
				}
			},
			"reload": func(t *rapid.T) {
				var next []policy.Spec
				before := table.Services()
				for i := range specs {
					s := specs[i]
					s.Persistence = policy.Persistence{
						Timeout:  rapid.SampledFrom([]time.Duration{time.Minute, time.Minute, 5 * time.Second, time.Hour, 0}).Draw(t, "timeout"),
						HostBits: rapid.SampledFrom([]int{0, 8, 8, 8}).Draw(t, "host bits"),
					}
					s.Servers = nil
					for _, server := range specs[i].Servers {
						server.Weight = rapid.IntRange(0, 2).Draw(t, "weight")
						server.Upper = rapid.SampledFrom([]int{0, 0, 2}).Draw(t, "upper")
						if rapid.IntRange(0, 3).Draw(t, "stays") > 0 {
							s.Servers = append(s.Servers, server)
						}
					}
					if rapid.IntRange(0, 5).Draw(t, "stays") > 0 {
						next = append(next, s)
					} else {
						forget(s.Name)
					}
					for _, old := range before {
						if old.Name == s.Name && (s.Persistence.Timeout == 0 || old.Persistence.HostBits != s.Persistence.HostBits) {
							forget(s.Name)
						}
					}
				}
				if table, err = policy.Build(next, table); err != nil {
					t.Fatal(err)
				}
			},
			"": func(t *rapid.T) {
				settle()
				for range rapid.IntRange(0, 1).Draw(t, "looks") {
					seen := 0
					for _, tpl := range templates(table, now) {
						key := keyOf(t, tpl.Server.Service, policy.Client{Src: tpl.Client.As16(), DstPort: tpl.VIP.Port()})
						m := model[key]
						if m == nil || m.server != tpl.Server.Address || m.ends-now != tpl.Left || m.flows != tpl.Flows {
							t.Fatalf("%v: got %+v, want %+v at %s", key, tpl, m, now)
						}
						seen++
					}
					if seen != len(model) {
						t.Fatalf("%d templates, want %d: %v", seen, len(model), model)
					}
				}
				for _, f := range flows { // none has lost its ID
					if table.Server(f.server.ID) != f.server {
						t.Fatalf("server of a flow: %+v", f.server)
					}
				}
			},
		})
		// All that is left ends, and lets go of everything.
		for _, f := range flows {
			f.server.Closed(f.client)
			f.server.Remove(true)
		}
		if table, err = policy.Build(nil, table); err != nil {
			t.Fatal(err)
		}
		for table.Expire(now, 3) {
		}
		if n := table.TemplateCount(); n != 0 {
			t.Fatalf("%d templates without a service", n)
		}
		for id := range uint32(20) {
			if s := table.Server(id); s != nil {
				t.Fatalf("ID %d is held: %+v", id, s)
			}
		}
	})
}
