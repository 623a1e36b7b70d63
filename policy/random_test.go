package policy

import (
	"math"
	"net/netip"
	"slices"
	"testing"
)

// chooser is a service of servers that have the weights.
func chooser(t testing.TB, scheduler string, port uint16, weights ...int) *Service {
	spec := Spec{Listen: On(netip.AddrPortFrom(netip.MustParseAddr("203.0.113.22"), port), TCP), Scheduler: scheduler}
	for i, w := range weights {
		address := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)}), 80)
		spec.Servers = append(spec.Servers, ServerSpec{Address: address, Weight: w})
	}
	table, err := Build([]Spec{spec}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return table.Services()[0]
}

// TestDraws: without load, twos draws by weight and p2c evenly. The bounds are five standard deviations.
func TestDraws(t *testing.T) {
	const n = 100000
	for _, c := range []struct {
		scheduler string
		weights   []int
		want      []float64
	}{
		{"twos", []int{5, 0, 1, 3, 1}, []float64{.5, 0, .1, .3, .1}},
		{"twos", []int{1}, []float64{1}},
		{"twos", []int{MaxWeight, MaxWeight, MaxWeight}, []float64{1. / 3, 1. / 3, 1. / 3}},
		{"p2c", []int{5, 0, 1, 3, 1}, []float64{.25, 0, .25, .25, .25}},
		{"p2c", []int{1, 1}, []float64{.5, .5}},
		{"p2c", []int{1}, []float64{1}},
	} {
		svc, picks := chooser(t, c.scheduler, 80, c.weights...), make([]int, len(c.weights))
		for range n {
			picks[svc.Pick(Client{}).at]++
		}
		for i, p := range c.want {
			if diff := math.Abs(float64(picks[i]) - n*p); diff > 5*math.Sqrt(n*p*(1-p)) {
				t.Errorf("%s %v: server %d has %d of %d picks, want %.2f", c.scheduler, c.weights, i, picks[i], n, p)
			}
		}
	}
}

// TestChoices: two choices keep loads close together where one keeps them far apart.
func TestChoices(t *testing.T) {
	for _, scheduler := range []string{"p2c", "twos"} {
		weights := slices.Repeat([]int{1, 2, 4}, 40)
		svc := chooser(t, scheduler, 80, weights...)
		const perWeight = 100
		for range perWeight * 40 * 7 {
			svc.Pick(Client{}).Add(true)
		}
		for i, s := range svc.Servers {
			if per := float64(s.Active) / float64(weights[i]); math.Abs(per-perWeight) > 10 {
				t.Errorf("%s: server %d of weight %d has %d connections, want about %d", scheduler, i, weights[i], s.Active, perWeight*weights[i])
			}
		}
	}
}

// TestSeeds: a service makes the same choices every time, and not those of another one.
func TestSeeds(t *testing.T) {
	for _, scheduler := range []string{"p2c", "twos"} {
		choices := func(port uint16) (picks []int) {
			svc := chooser(t, scheduler, port, slices.Repeat([]int{1}, 100)...)
			for range 100 {
				picks = append(picks, svc.Pick(Client{}).at)
			}
			return picks
		}
		if !slices.Equal(choices(80), choices(80)) {
			t.Errorf("%s: a service does not repeat its choices", scheduler)
		}
		if slices.Equal(choices(80), choices(81)) {
			t.Errorf("%s: two services make the same choices", scheduler)
		}
	}
}
