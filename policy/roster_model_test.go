package policy_test

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/tunlb/tunlb/policy"
	"pgregory.net/rapid"
)

// TestRosterNothingSpecial: where nothing was said of any server, specs come out as they went in.
func TestRosterNothingSpecial(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var specs []policy.Spec
		for i := range rapid.IntRange(0, 4).Draw(t, "services") {
			s := web(rapid.SampledFrom([]string{"rr", "", "wlc"}).Draw(t, "scheduler"), rapid.SliceOfN(rapid.IntRange(1, 9), 1, 5).Draw(t, "weights")...)
			s.Name = fmt.Sprint(i)
			s.Listen[0].First += uint16(i)
			s.Listen[0].Last += uint16(i)
			s.SlowStart = time.Duration(rapid.IntRange(0, 1).Draw(t, "slow start")) * time.Minute
			if rapid.Bool().Draw(t, "six") {
				s = twin(s)
			}
			if rapid.Bool().Draw(t, "checked") {
				s.Health = checked(false).Health
			}
			specs = append(specs, s)
		}
		r := policy.NewRoster()
		if err := r.Configure(specs, 0); err != nil {
			t.Fatal(err)
		}
		for i := range specs {
			if !specs[i].Health.Enabled() {
				continue
			}
			for _, server := range specs[i].Servers {
				r.Observe(policy.Result{Service: specs[i].Name, Server: server.Address, OK: true}, 0)
			}
		}
		if got := r.Compose(0); len(got) != len(specs) || len(specs) > 0 && !reflect.DeepEqual(got, specs) {
			t.Fatalf("got %+v\nwant %+v", got, specs)
		}
		if _, ok := r.Next(0); ok || r.Dirty() {
			t.Fatal("there is more to come")
		}
	})
}

// TestRosterModel has a table follow a roster through results, orders and reloads: who is drained or down gets
// no connection, and no flow ever loses its server by that.
func TestRosterModel(t *testing.T) {
	type state struct {
		health              string
		successes, failures int
		drained             bool
	}
	type flow struct {
		server *policy.Server
		active bool
	}
	rapid.Check(t, func(t *rapid.T) {
		v6 := rapid.Bool().Draw(t, "six")
		spec := checked(v6, 1, 2, 3, 4)
		spec.Scheduler = rapid.SampledFrom([]string{"rr", "wrr", "wlc", "lc"}).Draw(t, "scheduler")
		spec.SlowStart = time.Duration(rapid.IntRange(0, 1).Draw(t, "slow start")) * time.Minute
		if rapid.Bool().Draw(t, "sorry") {
			sorry := spec.Servers[0]
			sorry.Name, sorry.Address = "sorry", netipNext(sorry)
			spec.Sorry = &sorry
		}
		r := policy.NewRoster()
		var now time.Duration
		model := make([]state, len(spec.Servers))
		for i := range model {
			model[i].health = "checking"
		}
		var table *policy.Table
		var flows []flow
		rebuild := func() {
			next, err := policy.Build(r.Compose(now), table)
			if err != nil {
				t.Fatal(err)
			}
			table = next
			r.Mark(table)
		}
		if err := r.Configure([]policy.Spec{spec}, now); err != nil {
			t.Fatal(err)
		}
		rebuild()
		server := func(t *rapid.T) int { return rapid.IntRange(0, len(model)-1).Draw(t, "server") }
		t.Repeat(map[string]func(*rapid.T){
			"observe": func(t *rapid.T) {
				i := server(t)
				m, ok := &model[i], rapid.Bool().Draw(t, "ok")
				for range rapid.IntRange(1, 4).Draw(t, "times") {
					before := m.health
					if ok {
						m.successes, m.failures = m.successes+1, 0
						if m.health == "checking" || m.successes >= 2 {
							m.health = "up"
						}
					} else {
						m.successes, m.failures = 0, m.failures+1
						if m.failures >= 3 {
							m.health = "down"
						}
					}
					if got := r.Observe(policy.Result{Service: "web", Server: spec.Servers[i].Address, OK: ok, Cause: "cause"}, now); got != (m.health != before) {
						t.Fatalf("changed: got %t, %s to %s", got, before, m.health)
					}
				}
			},
			"drain": func(t *rapid.T) {
				i := server(t)
				if _, err := r.Drain("", spec.Servers[i].Name, now); err != nil {
					t.Fatal(err)
				}
				model[i].drained = true
			},
			"undrain": func(t *rapid.T) {
				i := server(t)
				if _, err := r.Undrain("web", spec.Servers[i].Name, now); err != nil {
					t.Fatal(err)
				}
				model[i].drained = false
			},
			"reload": func(t *rapid.T) {
				for i := range spec.Servers {
					spec.Servers[i].Weight = rapid.IntRange(1, 5).Draw(t, "weight")
				}
				if err := r.Configure([]policy.Spec{spec}, now); err != nil {
					t.Fatal(err)
				}
			},
			"wait": func(t *rapid.T) { now += time.Duration(rapid.IntRange(0, 30).Draw(t, "s")) * time.Second },
			"close": func(t *rapid.T) {
				if len(flows) > 0 {
					flows[0].server.Remove(flows[0].active)
					flows = flows[1:]
				}
			},
			"": func(t *rapid.T) {
				if at, ok := r.Next(now); r.Dirty() || ok && at <= now {
					rebuild()
				}
				svc := table.Services()[0]
				anyUp := false
				for _, m := range model {
					anyUp = anyUp || m.health == "up" && !m.drained
				}
				for range 5 {
					s := svc.Pick(policy.Client{})
					if s == nil {
						if anyUp || spec.Sorry != nil {
							t.Fatalf("picked none: %+v", model)
						}
						break
					}
					if s.Name == "sorry" {
						if anyUp {
							t.Fatalf("picked the sorry server: %+v", model)
						}
					} else if m := model[s.Name[0]-'a']; m.drained || m.health != "up" {
						t.Fatalf("picked %s: %+v", s.Name, m)
					}
					active := rapid.Bool().Draw(t, "active")
					s.Add(active)
					flows = append(flows, flow{s, active})
				}
				counts := make(map[*policy.Server]int)
				for _, f := range flows {
					counts[f.server]++
					if f.server.Deleted && !f.server.Keep {
						t.Fatalf("a flow's server is deleted: %+v", f.server)
					}
				}
				for s, n := range counts {
					if s.Flows() != n || table.Server(s.ID) != s {
						t.Fatalf("%d flows to %+v, want %d", s.Flows(), s, n)
					}
				}
				for i, s := range r.States(now)[0].Servers {
					m := model[i]
					if s.Health != m.health || s.Drained != m.drained || s.Successes != m.successes || s.Failures != m.failures || s.Configured != spec.Servers[i].Weight {
						t.Fatalf("got %+v, want %+v", s, m)
					}
					if got := svc.Servers[i]; got.Weight != s.Effective || got.Down() != (m.health != "up") {
						t.Fatalf("composed weight %d, down %t, state %+v", got.Weight, got.Down(), s)
					}
				}
			},
		})
	})
}

// BenchmarkRoster has one of 500 servers change its state each time, in one service and in as many.
func BenchmarkRoster(b *testing.B) {
	for _, services := range []int{1, 50, 500} {
		b.Run(fmt.Sprint(services), func(b *testing.B) {
			var specs []policy.Spec
			for i := range services {
				s := many("wlc", 500/services)
				s.Name = fmt.Sprint(i)
				s.Listen[0].First += uint16(i)
				s.Listen[0].Last += uint16(i)
				s.Health, s.SlowStart = checked(false).Health, time.Second
				specs = append(specs, s)
			}
			r := policy.NewRoster()
			if err := r.Configure(specs, 0); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			now := time.Duration(0)
			for i := 0; b.Loop(); i++ { // all of them flap each second
				if i%500 == 0 {
					now += time.Second
				}
				s := &specs[i%services]
				server := s.Servers[i/services%len(s.Servers)].Address
				for range 3 {
					r.Observe(policy.Result{Service: s.Name, Server: server, OK: i/500%2 == 0, Cause: "refused"}, now)
				}
				r.Compose(now)
				r.Events()
			}
		})
	}
}
