package policy

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// rig is a service under random changes.
type rig struct {
	spec  Spec
	table *Table
	six   bool
	next  int
	now   time.Duration
	cache cacheOracle // of lblc and lblcr
	light bool        // weights are small, so that servers soon have more connections than that
	flows []flowOf
}

type flowOf struct {
	server *Server
	active bool
}

func (r *rig) service() *Service { return r.table.Services()[0] }

func (r *rig) build(t *rapid.T) {
	before := ""
	if r.table != nil {
		before = r.service().Scheduler
	}
	table, err := Build([]Spec{r.spec}, r.table)
	if err != nil {
		t.Fatal(err)
	}
	r.table = table
	if r.spec.Scheduler != before {
		r.cache = make(cacheOracle)
	}
	r.cache.forget()
}

// address is of a server or, with a high first byte, of a client.
func (r *rig) address(n int) netip.Addr {
	if r.six {
		a := [16]byte{0x20, 0x01, 0x0d, 0xb8}
		binary.BigEndian.PutUint64(a[8:], uint64(n)*0x9E3779B97F4A7C15)
		return netip.AddrFrom16(a)
	}
	return netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
}

var anyWeight = rapid.OneOf(rapid.IntRange(0, 6), rapid.SampledFrom([]int{0, 1, 10, 60, 63, 64, 100, 65535, MaxWeight}))

func (r *rig) weight(t *rapid.T) int {
	if r.light {
		return rapid.IntRange(0, 3).Draw(t, "weight")
	}
	return anyWeight.Draw(t, "weight")
}

func (r *rig) add(t *rapid.T) {
	r.next++
	at := rapid.IntRange(0, len(r.spec.Servers)).Draw(t, "at")
	s := ServerSpec{Name: fmt.Sprint(r.next), Address: netip.AddrPortFrom(r.address(r.next), uint16(8000+r.next)), Weight: r.weight(t)}
	r.spec.Servers = slices.Insert(r.spec.Servers, at, s)
}

// TestPicks changes a service in all ways there are, one after another, and compares every pick with the
// scheduler's oracle, and every index with what it is of.
func TestPicks(t *testing.T) {
	for _, name := range Schedulers() {
		t.Run(name, func(t *testing.T) { rapid.Check(t, func(t *rapid.T) { testPicks(t, name) }) })
	}
}

func testPicks(t *rapid.T, name string) {
	r := &rig{six: rapid.Bool().Draw(t, "IPv6"), light: rapid.Bool().Draw(t, "light")}
	vip := netip.MustParseAddrPort("203.0.113.22:80")
	if r.six {
		vip = netip.MustParseAddrPort("[2001:db8::22]:80")
	}
	r.spec = Spec{Listen: On(vip, TCP), Scheduler: name, Flags: Flags(rapid.IntRange(0, 3).Draw(t, "flags"))}
	for range rapid.IntRange(0, 9).Draw(t, "servers") {
		r.add(t)
	}
	r.build(t)
	server := func(t *rapid.T) int { // its index, -1 if there is none
		return rapid.IntRange(min(0, len(r.spec.Servers)-1), len(r.spec.Servers)-1).Draw(t, "server")
	}
	pick := func(t *rapid.T) {
		for range rapid.IntRange(1, 12).Draw(t, "picks") {
			if s := r.pick(t); s != nil {
				f := flowOf{s, rapid.Bool().Draw(t, "active")}
				s.Add(f.active)
				r.flows = append(r.flows, f)
			}
		}
	}
	t.Repeat(map[string]func(*rapid.T){
		"pick":       pick,
		"pick again": pick,
		"close": func(t *rapid.T) {
			for range rapid.IntRange(1, 12).Draw(t, "flows") {
				if n := len(r.flows); n > 0 {
					i := rapid.IntRange(0, n-1).Draw(t, "flow")
					r.flows[i].server.Remove(r.flows[i].active)
					r.flows = slices.Delete(r.flows, i, i+1)
				}
			}
		},
		"move": func(t *rapid.T) {
			for i := range r.flows {
				if f := &r.flows[i]; rapid.Bool().Draw(t, "moves") {
					f.active = !f.active
					f.server.Move(f.active)
				}
			}
		},
		"reachability": func(t *rapid.T) {
			if at := server(t); at >= 0 {
				r.service().Servers[at].SetUnreachable(rapid.Bool().Draw(t, "unreachable"))
			}
		},
		"time": func(t *rapid.T) {
			r.now += rapid.SampledFrom([]time.Duration{time.Second, 12 * time.Hour, 12*time.Hour + 1, 24 * time.Hour}).Draw(t, "time")
		},
		"add": func(t *rapid.T) {
			r.add(t)
			r.build(t)
		},
		"remove": func(t *rapid.T) {
			if at := server(t); at >= 0 {
				r.spec.Servers = slices.Delete(slices.Clone(r.spec.Servers), at, at+1)
				r.build(t)
			}
		},
		"weight": func(t *rapid.T) {
			if at := server(t); at >= 0 {
				r.spec.Servers[at].Weight = r.weight(t)
				r.build(t)
			}
		},
		"thresholds": func(t *rapid.T) {
			if at := server(t); at >= 0 {
				r.spec.Servers[at].Upper = rapid.IntRange(0, 8).Draw(t, "upper")
				r.spec.Servers[at].Lower = rapid.IntRange(0, r.spec.Servers[at].Upper).Draw(t, "lower")
				r.build(t)
			}
		},
		"order": func(t *rapid.T) {
			r.spec.Servers = rapid.Permutation(r.spec.Servers).Draw(t, "order")
			r.build(t)
		},
		"restart": func(t *rapid.T) {
			r.spec.Scheduler = "lc"
			r.build(t)
			r.spec.Scheduler = name
			r.build(t)
		},
		"flags": func(t *rapid.T) {
			r.spec.Flags = Flags(rapid.IntRange(0, 7).Draw(t, "flags"))
			r.build(t)
		},
		"": func(t *rapid.T) { r.checkIndexes(t) },
	})
}

// pick lets the scheduler and its oracle choose.
func (r *rig) pick(t *rapid.T) *Server {
	svc := r.service()
	list := svc.Servers
	dst := byte(rapid.IntRange(1, 3).Draw(t, "dst"))
	c := Client{
		Src:     r.address(rapid.IntRange(1<<20, 1<<24-1).Draw(t, "src")).As16(),
		Dst:     r.address(int(dst)).As16(),
		SrcPort: rapid.Uint16().Draw(t, "port"),
		Now:     r.now,
	}
	var want, got *Server
	fallback := svc.Flags&Fallback != 0
	switch k := svc.scheduler.(type) {
	case *roundRobin:
		one := 0 // threshold for all: rr is wrr with equal weights
		if len(list) > 0 {
			one = 1
		}
		var after position
		want, after = walkOracle(list, position{one, k.last}, one, 1)
		if want == nil {
			after.last = k.last
		}
		if got = svc.Pick(c); k.last != after.last {
			t.Fatalf("cursor: got %d, want %d", k.last, after.last)
		}
	case *weightedRoundRobin:
		if k.top/k.step > 1<<16 { // a walk takes too long
			got = svc.Pick(c)
			if want = got; got == nil && slices.ContainsFunc(list, (*Server).available) {
				t.Fatal("picked none")
			}
			break
		}
		var after position
		want, after = walkOracle(list, position{k.threshold, k.last}, k.top, k.step)
		if got = svc.Pick(c); (position{k.threshold, k.last}) != after {
			t.Fatalf("position: got %d %d, want %v", k.threshold, k.last, after)
		}
	case *leastLoad:
		want, got = leastOracle(list, loadOracles[svc.Scheduler]), svc.Pick(c)
	case *destinationHash:
		want, got = bucketOracle(list, word(c.Dst), false, func(*Server) int { return 1 }), svc.Pick(c)
	case *sourceHash:
		want, got = bucketOracle(list, clientWord(c, svc.Flags), fallback, func(s *Server) int { return s.Weight }), svc.Pick(c)
	case *maglev:
		ring := make([]*Server, len(k.ring)) // TestRing compares it
		for i, at := range k.ring {
			ring[i] = list[at]
		}
		if len(ring) == 0 {
			ring = nil
		}
		want, got = maglevOracle(ring, clientWord(c, svc.Flags), fallback), svc.Pick(c)
	case *locality:
		want, got = r.cache.pick(list, dst, r.now, k.replicate), svc.Pick(c)
	case *twoWeighted:
		if got = svc.Pick(c); got != nil || !slices.ContainsFunc(list, (*Server).available) {
			want = got
		}
	case *twoChoices: // there is another one that is not better, or none at all
		got = svc.Pick(c)
		others := slices.DeleteFunc(slices.Clone(list), func(s *Server) bool { return s == got || !s.available() })
		load := loadOracles["wlc"]
		if got == nil && len(others) == 0 || got != nil && (len(others) == 0 ||
			slices.ContainsFunc(others, func(s *Server) bool { return load(s).Cmp(load(got)) >= 0 })) {
			want = got
		}
	}
	if got != want {
		t.Fatalf("%s %d: got %s, want %s of %s", svc.Scheduler, svc.Flags, got.text(), want.text(), texts(list))
	}
	if got != nil && (!got.available() || got.Service != svc || list[got.at] != got) {
		t.Fatalf("%s picked %s", svc.Scheduler, got.text())
	}
	return got
}

// checkIndexes compares all that the scheduler keeps up to date with what it would be if made anew.
func (r *rig) checkIndexes(t *rapid.T) {
	svc := r.service()
	list := svc.Servers
	members := func(p pool, belongs func(*Server) bool) {
		for at, s := range list {
			if slices.Contains(p.members, int32(at)) != belongs(s) {
				t.Fatalf("members %v of %s", p.members, texts(list))
			}
		}
	}
	switch k := svc.scheduler.(type) {
	case *roundRobin:
		if !slices.Equal(k.up, newHeights(list)) {
			t.Fatalf("heights %v of %s", k.up, texts(list))
		}
	case *weightedRoundRobin:
		if !slices.Equal(k.up, newHeights(list)) {
			t.Fatalf("heights %v of %s", k.up, texts(list))
		}
	case *leastLoad:
		if fresh := newTournament(list, k.measure); !slices.Equal(k.tree.loads, fresh.loads) || !slices.Equal(k.tree.winners, fresh.winners) {
			t.Fatalf("tournament %v of %s", k.tree, texts(list))
		}
	case *locality:
		if fresh := newTournament(list, k.wlc.measure); !slices.Equal(k.wlc.tree.winners, fresh.winners) {
			t.Fatalf("tournament %v of %s", k.wlc.tree, texts(list))
		}
		members(k.spare, spare)
	case *sourceHash:
		if k.flags != svc.Flags {
			t.Fatalf("flags: got %d, want %d", k.flags, svc.Flags)
		}
		fresh := &sourceHash{flags: k.flags}
		if fresh.start(list); fresh.open != k.open || fresh.buckets != k.buckets && len(list) > 0 {
			t.Fatalf("buckets %x of %s", k.open, texts(list))
		}
	case *maglev:
		if k.flags != svc.Flags {
			t.Fatalf("flags: got %d, want %d", k.flags, svc.Flags)
		}
		fresh := &maglev{size: k.size, flags: k.flags}
		if fresh.start(list); !slices.Equal(fresh.ring, k.ring) {
			t.Fatalf("ring of %s", texts(list))
		}
		if k.flags&Fallback != 0 {
			members(k.up, (*Server).available)
		}
	case *twoChoices:
		members(k.up, (*Server).available)
	case *twoWeighted:
		fresh := &twoWeighted{}
		if fresh.start(list); !slices.Equal(fresh.sums, k.sums) {
			t.Fatalf("sums %v of %s", k.sums, texts(list))
		}
	}
}

// text is what matters of a server.
func (s *Server) text() string {
	if s == nil {
		return "none"
	}
	up := "up"
	if !s.available() {
		up = "unavailable"
	}
	return fmt.Sprintf("%s(%s, weight %d, %d active, %d inactive)", s.Name, up, s.Weight, s.Active, s.Inactive)
}

func texts(list []*Server) (all []string) {
	for _, s := range list {
		all = append(all, s.text())
	}
	return all
}
