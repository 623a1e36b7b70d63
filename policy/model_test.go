package policy_test

import (
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"testing"

	"github.com/tunlb/tunlb/policy"
	"pgregory.net/rapid"
)

// A model says which server is next from a written-out period instead of walking the list, and learns of
// every change singly, as IPVS does.
type model interface {
	next(list []policy.ServerSpec) string // "" for none
	changed(list []policy.ServerSpec)     // one server was added or removed, or got a weight
	removing(list []policy.ServerSpec, at int)
}

// rrModel remembers the name of its last pick, "" for none.
type rrModel struct{ last string }

func (m *rrModel) changed([]policy.ServerSpec) {}

func (m *rrModel) removing(list []policy.ServerSpec, at int) {
	if list[at].Name == m.last {
		m.last = ""
		if at > 0 {
			m.last = list[at-1].Name
		}
	}
}

func (m *rrModel) next(list []policy.ServerSpec) string {
	at := slices.IndexFunc(list, func(s policy.ServerSpec) bool { return s.Name == m.last })
	for _, s := range slices.Concat(list[at+1:], list[:at+1]) {
		if s.Weight > 0 {
			m.last = s.Name
			return s.Name
		}
	}
	return ""
}

// wrrModel is at a place in its period: a level and the index of the last pick at that level.
type wrrModel struct{ level, at int }

// turn is one pick of a period.
type turn struct{ level, at int }

// period writes out all picks of a period, the highest level first.
func period(list []policy.ServerSpec) (turns []turn, step, top int) {
	step = 1
	for d := 1; d <= 100; d++ { // no weight is larger
		if divides(d, list) {
			step = d
		}
	}
	for _, s := range list {
		top = max(top, s.Weight-step+1)
	}
	for level := top; level > 0; level -= step {
		for i, s := range list {
			if s.Weight >= level {
				turns = append(turns, turn{level, i})
			}
		}
	}
	return turns, step, top
}

// divides says whether d divides all weights, at least one of them positive.
func divides(d int, list []policy.ServerSpec) bool {
	positive := false
	for _, s := range list {
		positive = positive || s.Weight > 0
		if s.Weight%d != 0 {
			return false
		}
	}
	return positive
}

func (m *wrrModel) next(list []policy.ServerSpec) string {
	turns, _, _ := period(list)
	if len(turns) == 0 {
		return ""
	}
	after := slices.IndexFunc(turns, func(t turn) bool {
		return t.level < m.level || t.level == m.level && t.at > m.at
	})
	pick := turns[max(0, after)] // none: the period is over and begins again
	m.level, m.at = pick.level, pick.at
	return list[pick.at].Name
}

func (m *wrrModel) removing([]policy.ServerSpec, int) {}

func (m *wrrModel) changed(list []policy.ServerSpec) {
	_, step, top := period(list)
	m.at = -1
	if m.level == 0 || m.level > top {
		m.level = top
	} else if step > 1 {
		m.level = m.level/step*step + 1
	}
}

// newModel is of a service without servers, or of one that had some when it got the scheduler.
func newModel(scheduler string, list []policy.ServerSpec) model {
	if scheduler == "rr" {
		return &rrModel{}
	}
	_, _, top := period(list)
	return &wrrModel{level: top, at: -1}
}

var weights = rapid.OneOf(rapid.IntRange(0, 6), rapid.SampledFrom([]int{0, 10, 20, 40, 60, 100}))

// TestRoundRobinModel changes a service at random, one change a Build, and compares all picks.
func TestRoundRobinModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &machine{next: 1, spec: policy.Spec{Listen: policy.On(vip, policy.TCP)}}
		m.spec.Scheduler = rapid.SampledFrom([]string{"rr", "wrr"}).Draw(t, "scheduler")
		m.model = newModel(m.spec.Scheduler, nil)
		for range rapid.IntRange(0, 5).Draw(t, "servers") { // all of them in the first Build
			m.add(weights.Draw(t, "weight"))
		}
		m.build(t)
		t.Repeat(map[string]func(*rapid.T){
			"pick": func(t *rapid.T) {
				for i := range rapid.IntRange(1, 20).Draw(t, "picks") {
					got, want := "", m.model.next(m.spec.Servers)
					if s := m.table.Services()[0].Pick(policy.Client{}); s != nil {
						got = s.Name
					}
					if got != want {
						t.Fatalf("pick %d: got %q, want %q of %v", i, got, want, m.spec.Servers)
					}
				}
			},
			"add": func(t *rapid.T) {
				for range rapid.IntRange(1, 3).Draw(t, "servers") {
					m.add(weights.Draw(t, "weight"))
				}
				m.build(t)
			},
			"remove": func(t *rapid.T) {
				if at := m.draw(t); at >= 0 {
					m.model.removing(m.spec.Servers, at)
					m.spec.Servers = slices.Delete(m.spec.Servers, at, at+1)
					m.model.changed(m.spec.Servers)
					m.build(t)
				}
			},
			"weight": func(t *rapid.T) {
				at, w := m.draw(t), weights.Draw(t, "weight")
				if at >= 0 && m.spec.Servers[at].Weight != w {
					m.spec.Servers[at].Weight = w
					m.model.changed(m.spec.Servers)
					m.build(t)
				}
			},
			"scheduler": func(t *rapid.T) {
				if name := rapid.SampledFrom([]string{"rr", "wrr"}).Draw(t, "scheduler"); name != m.spec.Scheduler {
					m.spec.Scheduler = name
					m.model = newModel(name, m.spec.Servers)
					m.build(t)
				}
			},
			"nothing": m.build,
		})
	})
}

// machine is a service and its model under random changes.
type machine struct {
	spec  policy.Spec
	next  int
	model model
	table *policy.Table
}

func (m *machine) add(weight int) {
	s := policy.ServerSpec{Name: fmt.Sprint(m.next), Address: address(m.next), Weight: weight}
	m.next++
	m.spec.Servers = slices.Insert(m.spec.Servers, 0, s)
	m.model.changed(m.spec.Servers)
}

// draw chooses a server, -1 if there is none.
func (m *machine) draw(t *rapid.T) int {
	return rapid.IntRange(min(0, len(m.spec.Servers)-1), len(m.spec.Servers)-1).Draw(t, "server")
}

func (m *machine) build(t *rapid.T) {
	table, err := policy.Build([]policy.Spec{m.spec}, m.table)
	if err != nil {
		t.Fatal(err)
	}
	m.table = table
}

// address is a server's, 1 to 65535.
func address(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 168, byte(n >> 8), byte(n)}), 8080)
}

// TestWeightedShares: any full period, wherever it begins, has each server as often as its weight says.
func TestWeightedShares(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &machine{next: 1, spec: policy.Spec{Listen: policy.On(vip, policy.TCP), Scheduler: "wrr"}, model: &rrModel{}}
		for range rapid.IntRange(1, 8).Draw(t, "servers") {
			m.add(weights.Draw(t, "weight"))
		}
		m.build(t)
		turns, step, _ := period(m.spec.Servers)
		for range rapid.IntRange(0, 50).Draw(t, "offset") {
			m.table.Services()[0].Pick(policy.Client{})
		}
		picks := make(map[string]int)
		for range turns {
			picks[m.table.Services()[0].Pick(policy.Client{}).Name]++
		}
		for _, s := range m.spec.Servers {
			if picks[s.Name] != s.Weight/step {
				t.Errorf("server %s of weight %d: %d picks, step %d", s.Name, s.Weight, picks[s.Name], step)
			}
		}
	})
}

// TestLeastConnectionModel compares picks with exact fractions while flows come, go and change.
func TestLeastConnectionModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &machine{next: 1, spec: policy.Spec{Listen: policy.On(vip, policy.TCP)}, model: &rrModel{}}
		m.spec.Scheduler = rapid.SampledFrom([]string{"lc", "wlc", ""}).Draw(t, "scheduler")
		for range rapid.IntRange(0, 6).Draw(t, "servers") {
			m.add(weights.Draw(t, "weight"))
		}
		m.build(t)
		svc := m.table.Services()[0]
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			got, want := svc.Pick(policy.Client{}), leastLoaded(svc.Servers, m.spec.Scheduler != "lc")
			if got != want {
				t.Fatalf("got %+v, want %+v", got, want)
			}
			if got == nil {
				return
			}
			got.Add(rapid.Bool().Draw(t, "active"))
			s := rapid.SampledFrom(svc.Servers).Draw(t, "other")
			if active := s.Active > 0; s.Flows() > 0 && rapid.Bool().Draw(t, "remove") {
				s.Remove(active)
			} else if s.Flows() > 0 {
				s.Move(!active)
			}
		}
	})
}

func leastLoaded(servers []*policy.Server, weighted bool) (least *policy.Server) {
	var load *big.Rat
	for _, s := range servers {
		if s.Weight == 0 {
			continue
		}
		l := big.NewRat(int64(s.Active*256+s.Inactive), 1)
		if weighted {
			l.Quo(l, big.NewRat(int64(s.Weight), 1))
		}
		if load == nil || l.Cmp(load) < 0 {
			least, load = s, l
		}
	}
	return least
}
