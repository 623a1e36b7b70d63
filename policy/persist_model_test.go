package policy_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/tunlb/tunlb/policy"
	"pgregory.net/rapid"
)

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
