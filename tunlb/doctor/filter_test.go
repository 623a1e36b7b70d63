package doctor

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// A packet filter whose unknown conditions are all given is another, simpler thing: it is gone through as the kernel
// does it. That is the oracle of what is said with some of them not known.

// exact says whether a packet is dropped, with the unknown conditions as they come in open.
func (s *space) exact(hook string, p passage, open func(*condition) bool) bool {
	for i := range s.chains {
		if c := &s.chains[i]; c.hook == hook && c.sees(p.family) {
			switch s.run(c, &p, open) {
			case "drop":
				return true
			case "":
				if c.drop {
					return true
				}
			}
		}
	}
	return false
}

// run is accept, drop, or "" at the chain's end.
func (s *space) run(c *chain, p *passage, open func(*condition) bool) string {
	for i := range c.rules {
		r := &c.rules[i]
		if slices.ContainsFunc(r.conditions, func(c condition) bool {
			if c.what == "" {
				return !open(&c)
			}
			return c.holds(p) == no
		}) {
			continue
		}
		switch r.verdict {
		case "accept", "drop":
			return r.verdict
		case "return":
			return ""
		case "jump", "goto":
			if v := s.run(s.chainNamed(c, r.target), p, open); v != "" || r.verdict == "goto" {
				return v
			}
		}
	}
	return ""
}

// TestFilterOracle: what is said to be dropped for sure is dropped whatever the unknown conditions are; without unknown
// ones exactly what is dropped is said to be.
func TestFilterOracle(t *testing.T) {
	p := passage{family: 4, iif: "eth0", oif: "tunlb0", state: stateNew}
	rapid.Check(t, func(rt *rapid.T) {
		unknown := 0
		names := []string{"base", "one", "two", "three"}
		s := &space{}
		for i, name := range names {
			c := chain{family: "inet", table: "t", name: name}
			if i == 0 {
				c.hook, c.drop = "forward", rapid.Bool().Draw(rt, "policy")
			}
			for range rapid.IntRange(0, 4).Draw(rt, "rules") {
				verdicts := []string{"", "accept", "drop", "return"}
				if i < len(names)-1 { // onwards only: the kernel refuses loops
					verdicts = append(verdicts, "jump", "goto")
				}
				r := filterRule{verdict: rapid.SampledFrom(verdicts).Draw(rt, "verdict")}
				if r.verdict == "jump" || r.verdict == "goto" {
					r.target = rapid.SampledFrom(names[i+1:]).Draw(rt, "target")
				}
				for range rapid.IntRange(0, 2).Draw(rt, "conditions") {
					kinds := []condition{
						{what: "iif", names: []string{"eth*"}}, {what: "oif", names: []string{"eth0"}}, {what: "state", states: stateNew}, {what: "state", states: stateNew, not: true},
					}
					if unknown < 8 {
						kinds = append(kinds, condition{names: []string{fmt.Sprint(unknown)}}) // numbered, for the oracle
					}
					k := rapid.SampledFrom(kinds).Draw(rt, "condition")
					if k.what == "" {
						unknown++
					}
					r.conditions = append(r.conditions, k)
				}
				c.rules = append(c.rules, r)
			}
			s.chains = append(s.chains, c)
		}
		always, never := true, true
		for bits := range 1 << unknown {
			dropped := s.exact("forward", p, func(c *condition) bool {
				var n int
				fmt.Sscan(c.names[0], &n)
				return bits>>n&1 != 0
			})
			always, never = always && dropped, never && !dropped
		}
		list := s.drops("forward", p)
		sure := len(list) > 0 && list[0].sure
		switch {
		case sure && !always:
			rt.Errorf("said to be dropped for sure by %+v, but need not be: %+v", list[0], s.chains)
		case unknown == 0 && always && !sure:
			rt.Errorf("is dropped, and nobody is blamed: %+v", s.chains)
		case never && sure, never && unknown == 0 && len(list) > 0:
			rt.Errorf("is never dropped, and %+v is blamed: %+v", list[0], s.chains)
		}
	})
}

// TestNamed: devices by name and by how they begin.
func TestNamed(t *testing.T) {
	for _, test := range []struct {
		names  []string
		device string
		want   bool
	}{
		{[]string{"eth0"}, "eth0", true}, {[]string{"eth0"}, "eth01", false}, {[]string{"x", "eth*"}, "eth01", true}, {[]string{"eth*"}, "eth", true}, {nil, "eth0", false}, {[]string{"eth0"}, "", false},
	} {
		if got := named(test.names, test.device); got != test.want {
			t.Errorf("%s is one of %v: %t, want %t", test.device, test.names, got, test.want)
		}
	}
}

// TestCorruptsUDP: the versions that spoil UDP.
func TestCorruptsUDP(t *testing.T) {
	for release, want := range map[string]bool{
		"7.0.0": true, "7.0.2-6-pve": true, "7.1.0-rc5": true, "7.1.4": true, "7.1.5-arch1": false, "7.2.0": false, "6.18.44": false, "7.0-rc1": true, "8.0.1": false, "": false, "weird": false,
	} {
		if got := corruptsUDP(release); got != want {
			t.Errorf("%q: %t, want %t", release, got, want)
		}
	}
}
