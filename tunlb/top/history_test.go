package top

import (
	"math"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/control"
)

// counted is a status of one service with one server.
func counted(conns, in, out uint64, drops map[string]uint64) *control.Status {
	t := tunlb.Traffic{Conns: conns, InBytes: in, OutBytes: out}
	return &control.Status{Status: tunlb.Status{
		Services: []tunlb.ServiceStatus{{Name: "web", Traffic: t, Servers: []tunlb.ServerStatus{{Name: "rs1", Address: netip.MustParseAddrPort("192.168.0.10:80"), Traffic: t}}}},
		Drops:    drops,
	}}
}

// TestRates: differences over the time that has really passed, for services, servers and all.
func TestRates(t *testing.T) {
	var h history
	rs1 := key{"web", netip.MustParseAddrPort("192.168.0.10:80"), false}
	for i, c := range []struct {
		at             float64 // seconds
		conns, in, out uint64
		want           rates
	}{
		{0, 100, 1000, 2000, rates{}}, // nothing to compare with
		{1, 110, 1500, 3000, rates{true, 10, 500, 1000}},
		{3, 130, 2500, 3000, rates{true, 10, 500, 0}}, // two seconds
		{4, 5, 10, 10, rates{}},                       // counted from the beginning: not known, and not below zero
		{5, 6, 20, 30, rates{true, 1, 10, 20}},
		{5, 999, 999, 999, rates{true, 1, 10, 20}}, // no time has passed
		{4, 999, 999, 999, rates{true, 1, 10, 20}}, // it has gone back
	} {
		h.add(clock(0).Add(time.Duration(c.at*1e9)), counted(c.conns, c.in, c.out, nil))
		for _, k := range []key{rs1, {service: "web"}} {
			if got := h.of(k).rates; got != c.want {
				t.Errorf("%d: %+v: got %+v, want %+v", i, k, got, c.want)
			}
		}
		if h.total.conns != c.want.conns || h.total.in != c.want.in || h.total.out != c.want.out {
			t.Errorf("%d: total %+v, want %+v", i, h.total, c.want)
		}
	}
	h.add(clock(10), &control.Status{})
	if len(h.meters) != 0 {
		t.Errorf("%d meters of services that are gone", len(h.meters))
	}
	h.add(clock(11), counted(7, 7, 7, nil))
	if got := h.of(rs1).rates; got.known {
		t.Errorf("a server that has come back has the rate %+v", got)
	}
}

// TestDropRates: the first packets of a reason count, but not those from before the first look.
func TestDropRates(t *testing.T) {
	var h history
	for i, c := range []struct {
		drops map[string]uint64
		want  map[string]float64
	}{
		{map[string]uint64{"no-flow": 50}, map[string]float64{"no-flow": 0}},
		{map[string]uint64{"no-flow": 50, "loop": 3}, map[string]float64{"no-flow": 0, "loop": 3}},
		{map[string]uint64{"no-flow": 60, "loop": 3}, map[string]float64{"no-flow": 10, "loop": 0}},
		{map[string]uint64{"no-flow": 1}, map[string]float64{"no-flow": 0}},
	} {
		h.add(clock(i), counted(0, 0, 0, c.drops))
		if len(h.drops) != len(c.want) {
			t.Errorf("%d: %d reasons, want %d", i, len(h.drops), len(c.want))
		}
		for reason, want := range c.want {
			if got := h.drops[reason]; got == nil || got.rate != want {
				t.Errorf("%d: %s: got %+v, want %v a second", i, reason, got, want)
			}
		}
	}
}

// TestLanes: the busiest lane's share of a processor.
func TestLanes(t *testing.T) {
	var h history
	for i, cpu := range [][]time.Duration{{0, 0}, {100e6, 250e6}, {100e6}} {
		s := counted(0, 0, 0, nil)
		for _, d := range cpu {
			s.Ports = append(s.Ports, tunlb.PortStatus{CPU: d})
		}
		h.add(clock(i), s)
		if want := []float64{0, 0.25, 0}[i]; h.busiest != want {
			t.Errorf("%d: %v, want %v", i, h.busiest, want)
		}
	}
}

// TestSpark: whatever the times between looks, what has passed within the minute is in the columns, and nothing else.
func TestSpark(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s spark
		at := time.Unix(rapid.Int64Range(1e9, 2e9).Draw(t, "start"), rapid.Int64Range(0, 999e6).Draw(t, "fraction"))
		begin := at
		for range rapid.IntRange(1, 200).Draw(t, "looks") {
			to := at.Add(time.Duration(rapid.IntRange(1e6, 20e9).Draw(t, "span")))
			s.add(at, to, 100*to.Sub(at).Seconds()) // 100 a second all the time
			at = to
		}
		n := rapid.IntRange(1, minute).Draw(t, "columns")
		columns := s.columns(at, n)
		each := (minute + n - 1) / n
		for i, v := range columns {
			if v < 0 || v > 100.01 {
				t.Fatalf("column %d of %d is %v", i, n, v)
			}
			// A column that lies within the time that was looked at is full.
			if age := time.Duration((n-i)*each+each) * time.Second; at.Sub(begin) > age && (n-i)*each < minute-each && math.Abs(v-100) > 0.01 {
				t.Fatalf("column %d of %d is %v, want 100", i, n, v)
			}
		}
	})
}

// TestSparkMoves: a burst goes to the left, keeps its height, and is gone after a minute.
func TestSparkMoves(t *testing.T) {
	var s spark
	at := time.Unix(1e9, 0) // a multiple of the columns' seconds
	s.add(at.Add(-time.Second), at, 0)
	s.add(at, at.Add(time.Second), 600)
	places := map[int]bool{}
	for sec := range 70 {
		now := at.Add(time.Duration(sec+1) * time.Second)
		s.add(now, now.Add(time.Second), 0)
		for i, v := range s.columns(now, 12) {
			if v > 0 {
				places[i] = true
			}
			if v > 0 && sec > minute {
				t.Errorf("still seen after %d seconds", sec)
			}
			if v > 0 && i < 11 && i > 0 && v != 120 {
				t.Errorf("after %d seconds column %d is %v, want 600 in 5 seconds", sec, i, v)
			}
		}
	}
	if len(places) != 12 {
		t.Errorf("it was seen in %d columns, want all 12", len(places))
	}
}
