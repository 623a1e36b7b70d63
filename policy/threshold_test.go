package policy_test

import (
	"slices"
	"testing"

	"github.com/tunlb/tunlb/policy"
	"pgregory.net/rapid"
)

func TestThresholds(t *testing.T) {
	twins(t, func(t *testing.T, v6 bool) {
		for _, c := range []struct {
			name         string
			upper, lower int
			full, free   int // flows with which it becomes overloaded, and no longer is
		}{
			{"upper alone", 4, 0, 4, 2}, // 4*3 is not below 3*4
			{"upper alone, of 5", 5, 0, 5, 3},
			{"upper alone, of 100", 100, 0, 100, 74},
			{"both", 4, 2, 4, 1},
			{"close together", 4, 4, 4, 3},
			{"one", 1, 0, 1, 0},
		} {
			spec := web("rr", 1, 1)
			if v6 {
				spec = twin(spec)
			}
			spec.Servers[0].Upper, spec.Servers[0].Lower = c.upper, c.lower
			svc := build(t, nil, spec).Services()[0]
			s, client := svc.Servers[0], from(spec, "10.0.1.1", 80, 0)
			picked := func() bool {
				for range 4 {
					if svc.Pick(client) == s {
						return true
					}
				}
				return false
			}
			for n := 0; n < c.full; n++ {
				if s.Overloaded() || !picked() {
					t.Errorf("%s: overloaded with %d flows", c.name, n)
				}
				s.Add(n%2 == 0) // inactive ones count as well
			}
			for n := c.full; n > c.free; n-- {
				if !s.Overloaded() || picked() {
					t.Errorf("%s: not overloaded with %d flows", c.name, n)
				}
				s.Remove(s.Active > 0)
			}
			if s.Overloaded() || !picked() {
				t.Errorf("%s: still overloaded with %d flows", c.name, s.Flows())
			}
		}
	})
}

// TestThresholdsEdited: only a bound that is raised or taken away makes a server available at once, and one that
// is lowered takes force with the next flow.
func TestThresholdsEdited(t *testing.T) {
	for _, c := range []struct {
		name         string
		upper, lower int
		overloaded   bool
	}{
		{"as it is", 4, 0, true},
		{"raised", 5, 0, false},
		{"raised, but not enough", 5, 1, false},
		{"lowered", 3, 0, true},
		{"none", 0, 0, false},
		{"lower alone", 4, 3, true},
	} {
		for _, scheduler := range []string{"rr", "wlc"} {
			spec := web(scheduler, 1)
			spec.Servers[0].Upper = 4
			table := build(t, nil, spec)
			s := table.Services()[0].Servers[0]
			for range 4 {
				s.Add(true)
			}
			spec.Servers[0].Upper, spec.Servers[0].Lower = c.upper, c.lower
			table = build(t, table, spec)
			if got := table.Services()[0].Pick(policy.Client{}) == nil; s.Overloaded() != c.overloaded || got != c.overloaded {
				t.Errorf("%s, %s: overloaded %t, picks none %t, want %t", c.name, scheduler, s.Overloaded(), got, c.overloaded)
			}
		}
	}
	spec := web("rr", 1)
	table := build(t, nil, spec)
	s := table.Services()[0].Servers[0]
	for range 4 {
		s.Add(true)
	}
	spec.Servers[0].Upper = 2
	table = build(t, table, spec)
	if s.Overloaded() {
		t.Error("overloaded before the next flow")
	}
	s.Add(true)
	if !s.Overloaded() || table.Services()[0].Pick(policy.Client{}) != nil {
		t.Error("not overloaded with the next flow")
	}
}

// TestThresholdsModel: overloaded is a function of the history of counts, and nobody overloaded is picked.
func TestThresholdsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spec := web(rapid.SampledFrom([]string{"rr", "wrr", "lc", "wlc"}).Draw(t, "scheduler"), 1, 2, 3)
		for i := range spec.Servers {
			spec.Servers[i].Upper, spec.Servers[i].Lower = rapid.IntRange(0, 5).Draw(t, "upper"), rapid.IntRange(0, 3).Draw(t, "lower")
		}
		table, err := policy.Build([]policy.Spec{spec}, nil)
		if err != nil {
			t.Fatal(err)
		}
		svc := table.Services()[0]
		full := make([]bool, len(svc.Servers))
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			if s := svc.Pick(policy.Client{}); s != nil {
				if s.Overloaded() {
					t.Fatalf("picked %+v", s)
				}
				s.Add(rapid.Bool().Draw(t, "active"))
			} else if slices.Contains(full, false) {
				t.Fatalf("picked none, though not all are overloaded: %v", full)
			}
			i := rapid.IntRange(0, 2).Draw(t, "server")
			closes := svc.Servers[i].Flows() > 0 && rapid.Bool().Draw(t, "closes")
			for k, s := range svc.Servers {
				if n := s.Flows(); s.Upper > 0 && n >= s.Upper {
					full[k] = true
				}
			}
			if closes {
				s := svc.Servers[i]
				s.Remove(s.Active > 0)
				if n := s.Flows(); s.Lower > 0 && n < s.Lower || s.Lower == 0 && 4*n < 3*s.Upper {
					full[i] = false
				}
			}
			for k, s := range svc.Servers {
				if s.Overloaded() != full[k] {
					t.Fatalf("server %d with %d flows, bounds %d/%d: overloaded is %t", k, s.Flows(), s.Upper, s.Lower, s.Overloaded())
				}
			}
		}
	})
}
