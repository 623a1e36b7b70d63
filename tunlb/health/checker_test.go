package health

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/tunlb/tunlb/policy"
)

// script is a Dialer whose pings end as the test says, and that keeps book of them.
type script struct {
	mu      sync.Mutex
	act     func(ctx context.Context, addr netip.Addr) error
	running map[netip.Addr]int
	begun   map[netip.Addr][]time.Time
	cut     map[netip.Addr]int // pings whose target was stopped meanwhile
	errors  []string
}

func newScript(act func(context.Context, netip.Addr) error) *script {
	return &script{act: act, running: map[netip.Addr]int{}, begun: map[netip.Addr][]time.Time{}, cut: map[netip.Addr]int{}}
}

func (s *script) Ping(ctx context.Context, addr netip.Addr) error {
	s.mu.Lock()
	s.begun[addr] = append(s.begun[addr], time.Now())
	if s.running[addr]++; s.running[addr] > 1 {
		s.errors = append(s.errors, fmt.Sprintf("%v: %d probes at a time", addr, s.running[addr]))
	}
	s.mu.Unlock()
	err := s.act(ctx, addr)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running[addr]--
	if errors.Is(ctx.Err(), context.Canceled) {
		s.cut[addr]++
	}
	return err
}

func (s *script) runningOf(addr netip.Addr) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running[addr]
}

func (s *script) cutOf(addr netip.Addr) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cut[addr]
}

func (s *script) begunOf(addr netip.Addr) []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.begun[addr])
}

// wrong is what a probe should not have met.
func (s *script) wrong() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.errors)
}

func (*script) DialContext(context.Context, string, string) (net.Conn, error) {
	return nil, errors.New("not in this script")
}

func up(context.Context, netip.Addr) error { return nil }

func stuck(ctx context.Context, _ netip.Addr) error { <-ctx.Done(); return ctx.Err() }

// ledger keeps results.
type ledger struct {
	mu      sync.Mutex
	results map[Key][]Result
}

func (l *ledger) add(r Result) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.results == nil {
		l.results = map[Key][]Result{}
	}
	l.results[r.Key] = append(l.results[r.Key], r)
}

func (l *ledger) of(k Key) []Result {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.results[k])
}

func (l *ledger) count(k Key) int { return len(l.of(k)) }

// pass lets time go by in the bubble, and all that happens at its end happen.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func pinged(n int, d Dialer) Target {
	at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), 80)
	return Target{Key: Key{"web", at}, Name: fmt.Sprint("rs", n), Address: at, Dial: d,
		Health: policy.Health{Type: "icmp", Interval: 2 * time.Second, Timeout: time.Second}}
}

func TestInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got ledger
		s := newScript(up)
		c := New(got.add)
		defer c.Close()
		begin := time.Now()
		target := pinged(1, s)
		c.Set([]Target{target})
		pass(10 * time.Minute)
		times := s.begunOf(target.Address.Addr())
		if first := times[0].Sub(begin); first > startStep {
			t.Errorf("first probe after %v, want at once", first)
		}
		var least, most time.Duration = time.Hour, 0
		for i := range times[1:] {
			gap := times[i+1].Sub(times[i])
			least, most = min(least, gap), max(most, gap)
		}
		if least < 1800*time.Millisecond || most > 2200*time.Millisecond || most-least < 200*time.Millisecond {
			t.Errorf("gaps of %v to %v, want all of 1.8 s to 2.2 s", least, most)
		}
		if n := len(times); n < 295 || n > 305 {
			t.Errorf("%d probes in 10 min, want about 300", n)
		}
		if n := got.count(target.Key); n != len(times) {
			t.Errorf("%d results of %d probes", n, len(times))
		}
		for _, r := range got.of(target.Key) {
			if !r.OK || r.Cause != "" || r.Took != 0 {
				t.Fatalf("got %+v", r)
			}
		}
	})
}

// Probes that take longer than the interval follow each other, and nobody else waits for them.
func TestOverrun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got ledger
		s := newScript(func(ctx context.Context, addr netip.Addr) error {
			if addr.As4()[3] == 1 {
				return stuck(ctx, addr)
			}
			return nil
		})
		c := New(got.add)
		defer c.Close()
		slow, fast := pinged(1, s), pinged(2, s)
		slow.Health.Timeout = 5 * time.Second
		c.Set([]Target{slow, fast})
		pass(100*time.Second + 10*time.Millisecond)
		if n := got.count(slow.Key); n != 20 {
			t.Errorf("slow: %d probes, want 20", n)
		}
		if n := got.count(fast.Key); n < 47 || n > 55 {
			t.Errorf("fast: %d probes, want about 50", n)
		}
		for _, r := range got.of(slow.Key) {
			if r.OK || r.Cause != "no answer in 5s" || r.Took != 5*time.Second {
				t.Fatalf("got %+v", r)
			}
		}
		if w := s.wrong(); w != nil {
			t.Error(w)
		}
	})
}

// Many servers are known within a second, and not all asked at once.
func TestStart(t *testing.T) {
	for _, test := range []struct {
		n        int
		interval time.Duration
		within   time.Duration
	}{
		{1, 10 * time.Second, 2 * time.Millisecond},
		{10, 10 * time.Second, 20 * time.Millisecond},
		{500, 10 * time.Second, time.Second},
		{5000, 10 * time.Second, time.Second},
		{5000, 200 * time.Millisecond, 200 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newScript(up)
			c := New(func(Result) {})
			defer c.Close()
			var targets []Target
			for i := range test.n {
				target := pinged(i, s)
				target.Health.Interval = test.interval
				targets = append(targets, target)
			}
			begin := time.Now()
			c.Set(targets)
			pass(test.within)
			var tenths [10]int
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, times := range s.begun {
				tenths[min(9, times[0].Sub(begin)*10/test.within)]++
			}
			if n := len(s.begun); n != test.n {
				t.Errorf("%d of %d probed within %v", n, test.n, test.within)
			}
			if most := slices.Max(tenths[:]); test.n >= 500 && most > test.n/5 {
				t.Errorf("%d: not spread: %d", test.n, tenths)
			}
		})
	}
}

func TestSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got ledger
		s := newScript(stuck)
		c := New(got.add)
		a, b := pinged(1, s), pinged(2, s)
		addr := func(t Target) netip.Addr { return t.Address.Addr() }
		twice := a
		twice.Name = "the same key"
		c.Set([]Target{a, twice, b})
		pass(100 * time.Millisecond) // both are in a probe
		c.Set([]Target{a})
		synctest.Wait()
		if s.cutOf(addr(a)) != 0 || s.cutOf(addr(b)) != 1 || s.runningOf(addr(a)) != 1 {
			t.Errorf("after removing b: cut %d, %d, running %d", s.cutOf(addr(a)), s.cutOf(addr(b)), s.runningOf(addr(a)))
		}
		changed := a
		changed.Health.Timeout = 1500 * time.Millisecond
		c.Set([]Target{changed})
		pass(100 * time.Millisecond)
		if s.cutOf(addr(a)) != 1 || s.runningOf(addr(a)) != 1 || len(s.begunOf(addr(a))) != 2 {
			t.Errorf("after changing a: cut %d, %d, running %d", s.cutOf(addr(a)), s.cutOf(addr(b)), s.runningOf(addr(a)))
		}
		if n := got.count(a.Key) + got.count(b.Key); n != 0 {
			t.Errorf("%d results of probes that were cut", n)
		}
		pass(1500 * time.Millisecond)
		if r := got.of(a.Key); len(r) != 1 || r[0].Cause != "no answer in 1.5s" {
			t.Errorf("got %v", r)
		}
		c.Set([]Target{changed, b}) // again
		pass(100 * time.Millisecond)
		if s.runningOf(addr(b)) != 1 {
			t.Error("b is not probed again")
		}
		c.Close()
		if s.runningOf(addr(a))+s.runningOf(addr(b)) != 0 {
			t.Errorf("after Close: running %v", s.running)
		}
		c.Set([]Target{a, b})
		synctest.Wait()
		if s.runningOf(addr(a)) != 0 {
			t.Error("Set after Close began a probe")
		}
		c.Close()
	})
}

// A probe that does not end as it should keeps that of its successor waiting, and nobody else's.
func TestStubborn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got ledger
		release := make(chan struct{})
		first := newScript(func(context.Context, netip.Addr) error { <-release; return nil })
		second := newScript(up)
		c := New(got.add)
		defer c.Close()
		a, b := pinged(1, first), pinged(2, second)
		c.Set([]Target{a, b})
		pass(time.Minute)
		for range 3 {
			c.Set([]Target{b})
			a.Dial = second
			c.Set([]Target{a, b})
			a.Health.Interval += time.Second
			pass(time.Minute)
		}
		if got.count(a.Key) != 0 || got.count(b.Key) < 100 {
			t.Errorf("while a probe is stuck: %d results, others %d", got.count(a.Key), got.count(b.Key))
		}
		close(release)
		pass(time.Minute)
		if got.count(a.Key) < 10 {
			t.Errorf("after that: %d results", got.count(a.Key))
		}
		if w := append(first.wrong(), second.wrong()...); w != nil {
			t.Error(w)
		}
	})
}

// bubbled hides the deadline, which must not be asked for in a bubble.
type bubbled struct{ *testing.T }

func (bubbled) Deadline() (time.Time, bool) { return time.Time{}, false }

// TestModel changes the targets at random times and asks each time that those wanted are probed, once each,
// those unchanged undisturbed, and no others.
func TestModel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rapid.Check(bubbled{t}, func(t *rapid.T) {
			fates := map[byte]func(context.Context, netip.Addr) error{
				0: up,
				1: func(context.Context, netip.Addr) error { return errors.New("refused") },
				2: stuck,
				3: func(ctx context.Context, _ netip.Addr) error { // slow to answer, deaf to ctx
					time.Sleep(700 * time.Millisecond)
					return nil
				},
			}
			s := newScript(func(ctx context.Context, addr netip.Addr) error { return fates[addr.As4()[3]&3](ctx, addr) })
			var got ledger
			c := New(got.add)
			defer c.Close()
			current := map[Key]Target{}
			for range rapid.IntRange(1, 20).Draw(t, "steps") {
				next := map[Key]Target{}
				var list []Target
				for _, n := range rapid.SliceOfNDistinct(rapid.IntRange(0, 11), 0, 12, rapid.ID[int]).Draw(t, "targets") {
					target := pinged(n, s)
					target.Health.Interval = rapid.SampledFrom([]time.Duration{time.Second, 2 * time.Second}).Draw(t, "interval")
					next[target.Key] = target
					list = append(list, target)
				}
				s.mu.Lock()
				before := maps.Clone(s.cut)
				s.mu.Unlock()
				c.Set(list)
				synctest.Wait()
				known := map[Key]int{}
				for n := range 12 {
					target := pinged(n, s)
					now, wanted := next[target.Key]
					old, had := current[target.Key]
					if wanted && had && now.Health.Interval == old.Health.Interval && s.cutOf(target.Address.Addr()) != before[target.Address.Addr()] {
						t.Fatalf("server %d was disturbed", n)
					}
					known[target.Key] = got.count(target.Key)
				}
				current = next
				pause := rapid.SampledFrom([]time.Duration{0, time.Millisecond, 300 * time.Millisecond, 5 * time.Second}).Draw(t, "pause")
				pass(pause)
				for n := range 12 {
					target := pinged(n, s)
					_, wanted := current[target.Key]
					more := got.count(target.Key) - known[target.Key]
					switch {
					case !wanted && more > 0:
						t.Fatalf("server %d: %d results although it is gone", n, more)
					case wanted && pause == 5*time.Second && (more < 1 || more > 6):
						t.Fatalf("server %d: %d results in %v", n, more, pause)
					}
				}
				if w := s.wrong(); w != nil {
					t.Fatal(w)
				}
			}
			c.Close()
			for addr, n := range s.running {
				if n != 0 {
					t.Fatalf("%v is still probed after Close", addr)
				}
			}
			for key, results := range got.results {
				fate := key.Server.Addr().As4()[3] & 3
				for i, r := range results {
					if r.OK != (fate == 0 || fate == 3) || (r.Cause == "") != r.OK {
						t.Fatalf("%v: got %+v", key, r)
					}
					if i > 0 && r.At.Before(results[i-1].At) {
						t.Fatalf("%v: results out of order", key)
					}
				}
			}
		})
	})
}
