package policy

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestRingRecorded fills the ring of the paper's example.
func TestRingRecorded(t *testing.T) {
	file, err := os.ReadFile("testdata/maglev.json")
	if err != nil {
		t.Fatal(err)
	}
	var example struct {
		M                   uint32
		Backends            []struct{ Offset, Skip, Weight int }
		Ring                []int32
		RingWithoutBackend1 []int32 `json:"ring_without_backend_1"`
	}
	if err := json.Unmarshal(file, &example); err != nil {
		t.Fatal(err)
	}
	var walks []walk
	for _, b := range example.Backends {
		walks = append(walks, walk{uint32(b.Offset), uint32(b.Skip), b.Weight})
	}
	if got := newRing(example.M, walks); !slices.Equal(got, example.Ring) || len(got) == 0 {
		t.Errorf("got %v, want %v", got, example.Ring)
	}
	walks[1].turns = 0
	if got := newRing(example.M, walks); !slices.Equal(got, example.RingWithoutBackend1) || len(got) == 0 {
		t.Errorf("without backend 1: got %v, want %v", got, example.RingWithoutBackend1)
	}
	if got := newRing(example.M, walks[1:2]); got != nil {
		t.Errorf("without any: got %v", got)
	}
}

// shares are those of servers that have the weights, at addresses that nothing orders.
func shares(weights ...int) (shares []share) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, w := range weights {
		a := netip.AddrFrom4([4]byte{10, byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32())})
		s := &Server{ServerSpec: ServerSpec{Address: netip.AddrPortFrom(a, 80), Weight: w}, lastWeight: w}
		shares = append(shares, share{s, w})
	}
	return shares
}

// TestTurns: weights by their common divisor, cut to half as many bits as the ring's size has.
func TestTurns(t *testing.T) {
	for _, c := range []struct {
		size    uint32
		weights []int
		want    []int
	}{
		{4093, []int{1, 1, 1}, []int{1, 1, 1}},
		{4093, []int{30, 10, 20}, []int{3, 1, 2}},
		{4093, []int{0, 10, 20}, []int{0, 1, 2}},
		{4093, []int{0, 0}, []int{0, 0}},
		{4093, []int{63, 1}, []int{63, 1}}, // six bits
		{4093, []int{64, 1}, []int{32, 1}},
		{4093, []int{100, 1, 7}, []int{50, 1, 3}},
		{4093, []int{6400, 100}, []int{32, 1}},
		{4093, []int{MaxWeight, 1}, []int{63, 1}},
		{251, []int{100, 1}, []int{12, 1}},
		{65537, []int{255, 1}, []int{255, 1}},
		{65537, []int{256, 3}, []int{128, 1}},
		{131071, []int{256, 3}, []int{128, 1}},
	} {
		var got []int
		for _, w := range walks(c.size, shares(c.weights...)) {
			got = append(got, w.turns)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%d slots, weights %v: got %v, want %v", c.size, c.weights, got, c.want)
		}
	}
}

// TestRing compares rings with those of preference lists, and their parts with the weights.
func TestRing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shares := shares(rapid.SliceOfN(anyWeight, 0, 20).Draw(t, "weights")...)
		var list []*Server
		for _, s := range shares {
			list = append(list, s.server)
		}
		walks := walks(maglevSize, shares)
		ring, want := newRing(maglevSize, walks), ringOracle(list, maglevSize)
		if len(ring) != len(want) {
			t.Fatalf("got %d slots, want %d", len(ring), len(want))
		}
		slots, all := make([]int, len(list)), 0
		for slot, at := range ring {
			if list[at] != want[slot] {
				t.Fatalf("slot %d: got %s, want %s", slot, list[at].text(), want[slot].text())
			}
			slots[at]++
		}
		for _, w := range walks {
			all += w.turns
		}
		for i, w := range walks {
			if all > 0 && (slots[i] < maglevSize/all*w.turns || slots[i] > (maglevSize/all+1)*w.turns) {
				t.Fatalf("%d of %d turns: %d slots", w.turns, all, slots[i])
			}
		}
	})
}

// TestRingBalance has the bounds of the paper's ring: equal servers have equal parts, and the loss of one
// moves hardly a slot of others.
func TestRingBalance(t *testing.T) {
	const size, n = 65537, 400
	walks := walks(size, shares(slices.Repeat([]int{1}, n)...))
	ring := newRing(size, walks)
	slots := make([]int, n)
	for _, at := range ring {
		slots[at]++
	}
	if least, most := slices.Min(slots), slices.Max(slots); most-least > 1 {
		t.Errorf("parts of %d to %d slots", least, most)
	}
	for _, gone := range []int{0, 7, n - 1} {
		turns := walks[gone].turns
		walks[gone].turns = 0
		moved := 0
		for slot, at := range newRing(size, walks) {
			if int(at) == gone {
				t.Fatalf("slot %d belongs to server %d, which is gone", slot, gone)
			}
			if was := ring[slot]; int(was) != gone && was != at {
				moved++
			}
		}
		walks[gone].turns = turns
		if part := float64(moved) / float64(size-slots[gone]); part >= 0.01 {
			t.Errorf("loss of server %d moves %.2f %% of the others' slots", gone, 100*part)
		}
	}
}

// TestQuiesced: a server that gets weight 0 and comes back moves nobody else's clients, nor does it make the
// ring anew; one that is added with weight 0 has no slot until it gets a weight.
func TestQuiesced(t *testing.T) {
	spec := Spec{Listen: On(netip.MustParseAddrPort("203.0.113.22:80"), TCP), Scheduler: "mh"}
	for i, w := range []int{3, 2, 1} {
		address := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 168, 0, byte(10 + i)}), 80)
		spec.Servers = append(spec.Servers, ServerSpec{Name: fmt.Sprint(i), Address: address, Weight: w})
	}
	var table *Table
	ring := func(edit func([]ServerSpec)) []int32 {
		spec.Servers = slices.Clone(spec.Servers)
		edit(spec.Servers)
		var err error
		if table, err = Build([]Spec{spec}, table); err != nil {
			t.Fatal(err)
		}
		return table.Services()[0].scheduler.(*maglev).ring
	}
	first := ring(func([]ServerSpec) {})
	if quiesced := ring(func(s []ServerSpec) { s[1].Weight = 0 }); &quiesced[0] != &first[0] {
		t.Error("quiescing a server has made the ring anew")
	}
	table.Services()[0].Servers[0].Add(true)
	if again := ring(func(s []ServerSpec) { s[1].Weight = 2 }); &again[0] != &first[0] {
		t.Error("the return of a quiesced server has made the ring anew")
	}
	if reweighted := ring(func(s []ServerSpec) { s[1].Weight = 5 }); slices.Equal(reweighted, first) {
		t.Error("a new weight has no effect")
	}
	ring(func(s []ServerSpec) { s[0].Weight = 0 }) // goes with its flow still open, comes back without weight
	back := spec.Servers[0]
	spec.Servers = spec.Servers[1:]
	ring(func([]ServerSpec) {})
	spec.Servers = append(spec.Servers, back)
	if added := ring(func([]ServerSpec) {}); slices.Contains(added, 2) {
		t.Error("a server that was added with weight 0 has slots")
	}
	if weighted := ring(func(s []ServerSpec) { s[2].Weight = 1 }); !slices.Contains(weighted, 2) {
		t.Error("a server that has got a weight has no slot")
	}
}

// BenchmarkRing makes the kernel's ring and the paper's for 1,000 servers.
func BenchmarkRing(b *testing.B) {
	weights := slices.Repeat([]int{1, 2, 3, 4, 5}, 200)
	for _, size := range []uint32{4093, 65537} {
		shares := shares(weights...)
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			for b.Loop() {
				newRing(size, walks(size, shares))
			}
		})
	}
}
