package policy

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

// TestReplication: a destination's set in lblcr grows by one server each time that all of it has too much to
// do, and shrinks by the most loaded after a day without a change.
func TestReplication(t *testing.T) {
	spec := Spec{Listen: On(netip.MustParseAddrPort("203.0.113.22:80"), TCP), Scheduler: "lblcr"}
	for i, w := range []int{1, 2, 4} {
		address := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 168, 0, byte(10 + i)}), 80)
		spec.Servers = append(spec.Servers, ServerSpec{Name: string(rune('a' + i)), Address: address, Weight: w})
	}
	table, err := Build([]Spec{spec}, nil)
	if err != nil {
		t.Fatal(err)
	}
	svc := table.Services()[0]
	a, b, c := svc.Servers[0], svc.Servers[1], svc.Servers[2]
	dst := [16]byte{15: 1}
	check := func(what string, now time.Duration, pick string, set string) {
		t.Helper()
		got, names := svc.Pick(Client{Dst: dst, Now: now}), ""
		for _, s := range svc.scheduler.(*locality).cache[dst].servers {
			names += s.Name
		}
		if got == nil || got.Name != pick || names != set {
			t.Errorf("%s: got %s of the set %s, want %s of %s", what, got.text(), names, pick, set)
		}
	}
	active := func(n int, s *Server) {
		for ; s.Active < n; s.Add(true) {
		}
		for ; s.Active > n; s.Remove(true) {
		}
	}
	hour := time.Hour
	check("new", 0, "a", "a")
	active(1, a)
	check("as much as its weight", 1*hour, "a", "a")
	active(2, a)
	check("more than its weight", 2*hour, "b", "ba")
	active(3, b)
	check("both have more", 3*hour, "c", "cba")
	active(0, a)
	active(0, b)
	check("all idle", 15*hour, "c", "cba")
	active(1, a)
	active(1, b)
	active(1, c)
	check("a day after the last change", 27*hour, "c", "cba")
	check("more than a day", 27*hour+1, "c", "cb")
	check("just changed", 39*hour, "c", "cb")
	spec.Servers = slices.Clone(spec.Servers)
	spec.Servers[1].Weight = 0
	if table, err = Build([]Spec{spec}, table); err != nil {
		t.Fatal(err)
	}
	check("the most loaded one is quiesced", 52*hour, "c", "b")
	check("only the quiesced one is left", 53*hour, "c", "cb")
	spec.Servers = spec.Servers[:2]
	if _, err = Build([]Spec{spec}, table); err != nil {
		t.Fatal(err)
	}
	check("deleted", 54*hour, "a", "ab")
	active(5, a)
	check("too much everywhere", 55*hour, "a", "ab")
	check("forgotten", 79*hour, "a", "a")
}

// TestLocalityBounds: the cache takes no more than it may, and makes room by what nobody has asked for lately.
func TestLocalityBounds(t *testing.T) {
	spec := Spec{Listen: On(netip.MustParseAddrPort("203.0.113.22:80"), TCP), Scheduler: "lblc"}
	spec.Servers = []ServerSpec{{Address: netip.MustParseAddrPort("192.168.0.10:80"), Weight: 1}}
	table, err := Build([]Spec{spec}, nil)
	if err != nil {
		t.Fatal(err)
	}
	svc := table.Services()[0]
	cache := svc.scheduler.(*locality).cache
	ask := func(from, n int, now time.Duration) {
		for i := range n {
			if svc.Pick(Client{Dst: [16]byte{0: 0x20, 13: byte((from + i) >> 16), 14: byte((from + i) >> 8), 15: byte(from + i)}, Now: now}) == nil {
				t.Fatal("picked none")
			}
		}
	}
	for _, c := range []struct {
		from, n int
		now     time.Duration
		want    int
	}{
		{0, localityFull + 10, 0, localityFull},
		{0, 100, 5 * time.Minute, localityFull},   // these are in use
		{50000, 1, 5 * time.Minute, localityFull}, // none is idle yet
		{50000, 1, 5*time.Minute + 59*time.Second, localityFull},
		{50001, 1, 6 * time.Minute, 101}, // all but those in use
		{50001, 1, 6*time.Minute + 24*time.Hour, 101},
	} {
		if ask(c.from, c.n, c.now); len(cache) != c.want {
			t.Errorf("%d destinations at %s: got %d entries, want %d", c.n, c.now, len(cache), c.want)
		}
	}
}
