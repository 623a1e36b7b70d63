package flow

import (
	"testing"
	"time"

	"github.com/tunlb/tunlb/stack/packet"
	"pgregory.net/rapid"
)

// starts are times at which a Tick's arithmetic could go wrong.
var starts = []Tick{0, 1, 1<<31 - 5000, 1<<32 - 5000, 1<<32 - 1}

func udpFlow(n uint32) (outer, inner packet.Tuple) {
	outer, inner = tuples(n)
	outer.Proto, inner.Proto = packet.ProtoUDP, packet.ProtoUDP
	return outer, inner
}

// A flow never ends early, and not later than a slot.
func TestExpireOnTime(t *testing.T) {
	for _, start := range starts {
		for _, timeout := range []time.Duration{time.Millisecond, time.Second, 300 * time.Second, 2 * time.Hour, MaxTimeout} {
			for _, step := range []Tick{100, 997, 250_000} {
				table := New(Options{Timeouts: Timeouts{UDP: timeout}})
				outer, inner := udpFlow(1)
				f := mustInsert(t, table, outer, inner, start)
				table.Track(f, Reverse, udpView(0), start)
				due := ticks(timeout)
				if due/step > 100_000 {
					continue
				}
				for elapsed := step; ; elapsed += step {
					for table.Expire(start+elapsed, 1) {
					}
					if gone := table.Len() == 0; gone && elapsed < due {
						t.Fatalf("start %d, %v: gone after %d ms", start, timeout, elapsed)
					} else if gone {
						break
					} else if elapsed >= due+slotTicks {
						t.Fatalf("start %d, %v: not gone after %d ms", start, timeout, elapsed)
					}
				}
				checkTable(t, table)
			}
		}
	}
}

func TestPacketsKeepFlow(t *testing.T) {
	for _, start := range starts {
		table := New(Options{})
		outer, inner := udpFlow(1)
		f := mustInsert(t, table, outer, inner, start)
		now := start
		for range 100 {
			now += 299_999 // 1 ms before its time
			for table.Expire(now, 1) {
			}
			if table.Len() != 1 {
				t.Fatalf("start %d: gone %d s after its start, 299.999 s after a packet", start, (now-start)/1000)
			}
			table.Track(f, Forward, udpView(0), now)
		}
	}
}

// A shorter timeout counts at once, though the flow waited in a slot far ahead.
func TestChangeOfStateShortensWait(t *testing.T) {
	for _, c := range []struct {
		flags   uint8
		timeout Tick
	}{
		{rst, 10_000},     // no longer assured
		{finAck, 120_000}, // still assured
	} {
		for _, start := range starts {
			table := New(Options{})
			f := mustInsert(t, table, families[0].outer, families[0].inner, start)
			for _, s := range handshake {
				table.Track(f, s.d, tcpView(s.flags, s.seq, s.ack, 0), start)
			}
			table.Track(f, Reverse, tcpView(c.flags, 5001, 1001, 0), start+1000)
			for now := start; now != start+1000+c.timeout; now += 500 {
				if table.Expire(now, 10); table.Len() != 1 {
					t.Fatalf("start %d: gone after %d ms", start, now-start)
				}
			}
			if table.Expire(start+1000+c.timeout+slotTicks, 10); table.Len() != 0 {
				t.Errorf("start %d: %v not gone in time", start, f.State())
			}
		}
	}
}

// A caller who comes hours late finds all that is due done within one more slot, and nothing else.
func TestExpireAfterPause(t *testing.T) {
	for _, start := range starts {
		for _, pause := range []Tick{3_000, 1_047_000, 1_048_576, 1_050_000, 7_300_000, 86_400_000} {
			table := New(Options{Timeouts: Timeouts{UDP: 2 * time.Hour}})
			var all []*Flow
			for i := range uint32(3000) {
				outer, inner := udpFlow(i)
				f := mustInsert(t, table, outer, inner, start+Tick(i*1000))
				table.Track(f, Direction(i&1), udpView(0), start+Tick(i*1000))
				all = append(all, f)
			}
			now := start + 3_000_000 + pause
			for table.Expire(now, 7) {
				now++ // the clock goes on during a long catch-up
			}
			for table.Expire(now+slotTicks, 7) {
			}
			for i, f := range all {
				due := start + Tick(i*1000) + 7_200_000
				if f.flags == 0 && due.Sub(now+slotTicks) > 0 || f.flags != 0 && due.Sub(now) < 0 {
					t.Fatalf("start %d, pause %d: flow due %d ms later: gone %v", start, pause, due.Sub(now), f.flags == 0)
				}
			}
			checkTable(t, table)
		}
	}
}

func TestExpireBudget(t *testing.T) {
	gone := 0
	table := New(Options{Gone: func(*Flow) { gone++ }})
	for i := range uint32(1000) {
		outer, inner := udpFlow(i)
		mustInsert(t, table, outer, inner, 0)
	}
	for calls := 1; table.Expire(400_000, 64); calls++ {
		if gone != 64*calls {
			t.Fatalf("%d gone after %d calls", gone, calls)
		}
		checkTable(t, table)
	}
	if gone != 1000 || table.Len() != 0 {
		t.Errorf("%d gone, %d left", gone, table.Len())
	}
	if table.Expire(1<<31, 1) {
		t.Error("an empty table has more to do")
	}
}

// Buckets are right whatever the wheel's time and the timeouts.
func TestWheelOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := wheel{at: Tick(rapid.Uint32().Draw(rt, "at")) &^ (slotTicks - 1)}
		at := uint16(w.at >> slotBits % wheelSlots)
		a := rapid.Uint16Range(0, farthest).Draw(rt, "a")
		b := rapid.Uint16Range(0, farthest).Draw(rt, "b")
		bucketA, bucketB := (at+a)%wheelSlots, bucketOf(firmList, (at+b)%wheelSlots)
		if got := w.sooner(bucketA, bucketB); got != (a < b) {
			rt.Fatalf("sooner(%d, %d) = %v", a, b, got)
		}
		l := rapid.Uint16Range(unassuredList, feignedList).Draw(rt, "list")
		for _, bucket := range []uint16{bucketA, bucketB} {
			word, bit := mark(bucket)
			w.waiting[l][word] |= bit
		}
		if got, ok := w.first(l); !ok || got != bucketOf(l, (at+min(a, b))%wheelSlots) {
			rt.Fatalf("at %d, set %d and %d ahead: first is %d, %v", at, a, b, got, ok)
		}
	})
}

// The search for what may be evicted goes round the whole wheel from any slot.
func TestFirstGoesRound(t *testing.T) {
	for at := range wheelSlots {
		for _, ahead := range []int{0, 1, 63, 64, 500, farthest - 63, farthest - 1, farthest} {
			w := wheel{at: Tick(at) << slotBits}
			if _, ok := w.first(feignedList); ok {
				t.Fatal("found in an empty wheel")
			}
			want := bucketOf(feignedList, uint16((at+ahead)%wheelSlots))
			word, bit := mark(want)
			w.waiting[feignedList][word] = bit
			if got, ok := w.first(feignedList); !ok || got != want {
				t.Fatalf("at %d: %d, %v, want %d", at, got, ok, want)
			}
			if _, ok := w.first(unassuredList); ok {
				t.Fatal("found in another list")
			}
		}
	}
}
