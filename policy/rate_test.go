package policy_test

import (
	"math"
	"testing"

	"github.com/tunlb/tunlb/policy"
)

// TestRatesRecorded: traffic all of one period and the rates that the kernel showed some periods later; and halves,
// which it rounds down.
func TestRatesRecorded(t *testing.T) {
	for _, c := range []struct {
		name    string
		traffic policy.Counters
		periods int
		want    policy.Rates
	}{
		{"four short connections", policy.Counters{Conns: 4, InPackets: 24, OutPackets: 16, InBytes: 1388, OutBytes: 1140}, 5, policy.Rates{Conns: 0, InPackets: 1, OutPackets: 1, InBytes: 55, OutBytes: 45}},
		{"four datagrams", policy.Counters{Conns: 4, InPackets: 4, InBytes: 116}, 4, policy.Rates{InBytes: 6}},
		{"two datagrams", policy.Counters{Conns: 2, InPackets: 2, InBytes: 58}, 4, policy.Rates{InBytes: 3}},
		{"halves", policy.Counters{Conns: 4, InPackets: 5, InBytes: 4, OutBytes: 5}, 1, policy.Rates{InPackets: 1, OutBytes: 1}},
		{"nothing", policy.Counters{}, 4, policy.Rates{}},
	} {
		table := build(t, nil, web("rr", 1))
		svc := table.Services()[0]
		svc.Stats, svc.Servers[0].Stats = c.traffic, c.traffic
		for range c.periods {
			table.Estimate()
		}
		if got := svc.Rates(); got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.name, got, c.want)
		}
		if got := svc.Servers[0].Rates(); got != c.want {
			t.Errorf("%s: server: got %+v, want %+v", c.name, got, c.want)
		}
	}
}

// TestRates: a steady rate is met within 1 after a minute, and gone some time later. Counters go round.
func TestRates(t *testing.T) {
	table := build(t, nil, web("rr", 1))
	s := table.Services()[0].Servers[0]
	s.Stats.InBytes = math.MaxUint64 - 1_000_000
	table.Estimate()
	table.Zero()
	for range 30 {
		for range 20 {
			s.CountConn()
		}
		s.CountIn(200, 2_000_000)
		s.CountOut(100, 80_000_000_000)
		table.Estimate()
	}
	want := policy.Rates{Conns: 10, InPackets: 100, OutPackets: 50, InBytes: 1_000_000, OutBytes: 40_000_000_000}
	near := func(got, want uint64) bool { return got <= want && (want-got)*1000 <= want }
	for _, got := range []policy.Rates{s.Rates(), s.Service.Rates()} {
		if !near(got.Conns, want.Conns) || !near(got.InPackets, want.InPackets) || !near(got.OutPackets, want.OutPackets) || !near(got.InBytes, want.InBytes) || !near(got.OutBytes, want.OutBytes) {
			t.Errorf("got %+v, want about %+v", got, want)
		}
	}
	for range 120 {
		table.Estimate()
	}
	if got := s.Rates(); got != (policy.Rates{}) {
		t.Errorf("without traffic: %+v", got)
	}
}

func TestZero(t *testing.T) {
	other := twin(web("rr", 1))
	other.Name = "other"
	table := build(t, nil, web("rr", 1, 1), other)
	services := table.Services()
	for _, svc := range services {
		for _, s := range svc.Servers {
			s.CountConn()
			s.CountIn(1_000_000, 1_000_000_000)
		}
	}
	table.Estimate()
	services[0].Zero()
	none := policy.Counters{}
	for _, s := range services[0].Servers {
		if s.Counted() != none || s.Rates() != (policy.Rates{}) || s.Stats.InPackets != 1_000_000 {
			t.Errorf("server: counted %+v, rates %+v of %+v", s.Counted(), s.Rates(), s.Stats)
		}
	}
	if svc := services[0]; svc.Counted() != none || svc.Rates() != (policy.Rates{}) || svc.Stats.Conns != 2 {
		t.Errorf("counted %+v, rates %+v of %+v", svc.Counted(), svc.Rates(), svc.Stats)
	}
	if services[1].Counted() == none || services[1].Rates() == (policy.Rates{}) {
		t.Error("another service is zero, too")
	}
	table.Estimate()
	if got := services[0].Rates(); got != (policy.Rates{}) {
		t.Errorf("a rate jumps: %+v", got)
	}
	services[0].Servers[0].CountOut(3, 300)
	if got, want := services[0].Counted(), (policy.Counters{OutPackets: 3, OutBytes: 300}); got != want || services[0].Servers[0].Counted() != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
	table.Zero()
	if services[1].Counted() != none || services[1].Servers[0].Counted() != none {
		t.Error("not all is zero")
	}
}

// TestRatesDeleted: a server that comes back to its service has the rates of its traffic meanwhile, not all of
// it at once.
func TestRatesDeleted(t *testing.T) {
	table := build(t, nil, web("rr", 1, 1))
	s := table.Services()[0].Servers[1]
	s.Add(true)
	table = build(t, table, web("rr", 1))
	for range 100 {
		s.CountIn(100, 1000)
		table.Estimate()
	}
	table = build(t, table, web("rr", 1, 1))
	if table.Services()[0].Servers[1] != s {
		t.Fatal("another server")
	}
	s.CountIn(100, 1000)
	table.Estimate()
	if got := s.Rates().InPackets; got != 50 {
		t.Errorf("got %d packets a second, want 50", got)
	}
}
