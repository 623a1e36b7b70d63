package flow

import (
	"errors"
	"testing"

	"github.com/tunlb/tunlb/stack/packet"
	"pgregory.net/rapid"
)

func TestCollisions(t *testing.T) {
	a := tuple(packet.ProtoTCP, "198.51.100.7:40000", "203.0.113.22:80")
	other := tuple(packet.ProtoTCP, "198.51.100.7:40000", "203.0.113.23:80") // another VIP
	server := tuple(packet.ProtoTCP, "198.51.100.7:40000", "192.168.0.10:8080")
	table := New(Options{})
	mustInsert(t, table, a, server, 0)
	for _, c := range []struct {
		name         string
		outer, inner packet.Tuple
	}{
		{"same flow", a, server},
		{"same client side", a, other},
		{"same server side", other, server},
		{"outer is an answer", server.Reverse(), other},
		{"answer is an outer", other, a.Reverse()},
		{"own answer", other, other.Reverse()},
	} {
		if f, err := table.Insert(c.outer, c.inner, 0); f != nil || !errors.Is(err, ErrCollision) {
			t.Errorf("%s: %v, %v", c.name, f, err)
		}
	}
	if got := table.Stats(); got.Collisions != 6 || got.Inserted != 1 || table.Len() != 1 {
		t.Errorf("%+v, %d flows", got, table.Len())
	}
	checkTable(t, table)
}

func TestDeleteTellsGone(t *testing.T) {
	var gone []packet.Tuple
	table := New(Options{Gone: func(f *Flow) { gone = append(gone, f.Outer()) }})
	f := mustInsert(t, table, families[0].outer, families[0].inner, 0)
	mustInsert(t, table, families[1].outer, families[1].inner, 0)
	table.Delete(f)
	table.Delete(f)
	if len(gone) != 1 || gone[0] != families[0].outer || table.Len() != 1 {
		t.Errorf("gone %v, %d left", gone, table.Len())
	}
	if got, _ := table.Find(&families[0].outer); got != nil {
		t.Error("found after its deletion")
	}
	checkTable(t, table)
}

func TestWalk(t *testing.T) {
	table := New(Options{})
	var kept []*Flow
	for i := range uint32(1000) {
		outer, inner := tuples(i)
		if f := mustInsert(t, table, outer, inner, 0); i%3 != 0 {
			kept = append(kept, f)
		} else {
			table.Delete(f)
			outer, inner = tuples(i + 5000)
			table.Delete(mustInsert(t, table, outer, inner, 0))
		}
	}
	for _, n := range []int{1, 7, 100, 5000} {
		seen := map[*Flow]int{}
		cursor, more, calls := uint32(0), true, 0
		for more {
			visited := 0
			cursor, more = table.Walk(cursor, n, func(f *Flow) { seen[f]++; visited++ })
			if visited > n {
				t.Fatalf("%d visited, asked for %d", visited, n)
			}
			calls++
		}
		for _, f := range kept {
			if seen[f] != 1 {
				t.Fatalf("n %d: %v visited %d times", n, f.Outer(), seen[f])
			}
		}
		if len(seen) != len(kept) {
			t.Errorf("n %d: %d flows, want %d", n, len(seen), len(kept))
		}
	}
}

// machine runs a Table against a map.
type machine struct {
	table *Table
	now   Tick
	flows map[packet.Tuple]packet.Tuple // inner by outer
	sides map[packet.Tuple]packet.Tuple // outer by each of a flow's two tuples
	gone  []packet.Tuple                // outer tuples told of since the last look

	prepared []packet.Tuple
	lookups  []Lookup // by prepared, from any time before
}

func newMachine(t *rapid.T) *machine {
	m := &machine{
		now:   rapid.SampledFrom(starts).Draw(t, "start"),
		flows: map[packet.Tuple]packet.Tuple{},
		sides: map[packet.Tuple]packet.Tuple{},
	}
	m.table = New(Options{
		Cap:  rapid.IntRange(1, 30).Draw(t, "cap"),
		Gone: func(f *Flow) { m.gone = append(m.gone, f.Outer()) },
	})
	return m
}

func (m *machine) forget(outer packet.Tuple) {
	delete(m.sides, outer)
	delete(m.sides, m.flows[outer].Reverse())
	delete(m.flows, outer)
}

// drawTuple draws from so few that collisions of all kinds are common.
func drawTuple(t *rapid.T) packet.Tuple {
	tu := packet.Tuple{
		Proto:   rapid.SampledFrom([]uint8{packet.ProtoTCP, packet.ProtoUDP, packet.ProtoICMP}).Draw(t, "proto"),
		SrcPort: rapid.Uint16Range(1, 4).Draw(t, "sport"),
		DstPort: rapid.Uint16Range(1, 2).Draw(t, "dport"),
	}
	v4(&tu.Src, rapid.Uint32Range(1, 4).Draw(t, "src"))
	v4(&tu.Dst, rapid.Uint32Range(1, 4).Draw(t, "dst"))
	return tu
}

func (m *machine) insert(t *rapid.T) {
	outer, inner := drawTuple(t), drawTuple(t)
	inner.Proto = outer.Proto
	evictable := false
	for o := range m.flows {
		f, _ := m.table.Find(&o)
		evictable = evictable || !f.Assured()
	}
	full := len(m.flows) == m.table.Cap()
	translate := rapid.Bool().Draw(t, "translate")
	var f *Flow
	var err error
	if translate {
		first := rapid.Uint16Range(1, 4).Draw(t, "first")
		last := rapid.Uint16Range(first, 6).Draw(t, "last")
		f, err = m.table.InsertTranslated(outer, inner, first, last, m.now)
		taken := true
		for port := first; port <= last; port++ {
			inner.SrcPort = port
			if _, known := m.sides[inner.Reverse()]; !known && inner.Reverse() != outer {
				taken = false
			}
		}
		if f != nil {
			inner.SrcPort = f.Inner().SrcPort
			if inner.SrcPort < first || inner.SrcPort > last {
				t.Fatalf("port %d out of range %d-%d", inner.SrcPort, first, last)
			}
		}
		if _, known := m.sides[outer]; !known && errors.Is(err, ErrPorts) != taken {
			t.Fatalf("all ports taken: %v, got %v", taken, err)
		}
		if errors.Is(err, ErrPorts) {
			return
		}
	} else {
		f, err = m.table.Insert(outer, inner, m.now)
	}
	_, outerKnown := m.sides[outer]
	_, innerKnown := m.sides[inner.Reverse()]
	collides := outerKnown || !translate && (innerKnown || outer == inner.Reverse())
	switch {
	case collides != errors.Is(err, ErrCollision):
		t.Fatalf("collides %v, got %v", collides, err)
	case collides:
	case full && !evictable:
		if !errors.Is(err, ErrFull) {
			t.Fatalf("all assured at the cap, got %v", err)
		}
	case err != nil:
		t.Fatalf("full %v: %v", full, err)
	default:
		if full != (len(m.gone) == 1) {
			t.Fatalf("full %v, %d gone", full, len(m.gone))
		}
		for _, o := range m.gone {
			m.forget(o)
		}
		if f.Outer() != outer || f.Inner() != inner {
			t.Fatalf("inserted %v, %v; want %v, %v", f.Outer(), f.Inner(), outer, inner)
		}
		m.flows[outer], m.sides[outer], m.sides[inner.Reverse()] = inner, outer, outer
		m.gone = nil
	}
	if len(m.gone) > 0 {
		t.Fatalf("refused, and yet gone: %v", m.gone)
	}
}

func (m *machine) find(t *rapid.T) (*Flow, Direction) {
	tu := drawTuple(t)
	f, d := m.table.Find(&tu)
	outer, known := m.sides[tu]
	if known != (f != nil) || known && (f.Outer() != outer || (d == Forward) != (tu == outer)) {
		t.Fatalf("Find(%v) = %v, %v; known %v", tu, f, d, known)
	}
	return f, d
}

// prepare begins to look for some tuples; they are looked for to the end after each step, see findPrepared.
func (m *machine) prepare(t *rapid.T) {
	from := len(m.lookups)
	for range rapid.IntRange(1, 4).Draw(t, "lookups") {
		m.prepared = append(m.prepared, drawTuple(t))
		m.lookups = append(m.lookups, m.table.Prepare(&m.prepared[len(m.prepared)-1]))
	}
	if rapid.Bool().Draw(t, "warm") {
		m.table.Warm(m.lookups[from:])
	}
}

func (m *machine) findPrepared(t *rapid.T) {
	for i, tu := range m.prepared {
		want, wantDir := m.table.Find(&tu)
		if f, d := m.table.FindPrepared(&tu, &m.lookups[i]); f != want || d != wantDir {
			t.Fatalf("%v, prepared: %v %v, want %v %v", tu, f, d, want, wantDir)
		}
	}
}

func (m *machine) delete(t *rapid.T) {
	if f, _ := m.find(t); f != nil {
		outer := f.Outer()
		m.table.Delete(f)
		if len(m.gone) != 1 || m.gone[0] != outer {
			t.Fatalf("gone %v, want %v", m.gone, outer)
		}
		m.forget(outer)
		m.gone = nil
	}
}

func (m *machine) track(t *rapid.T) {
	for range 5 {
		f, d := m.find(t)
		if f == nil {
			continue
		}
		flags := rapid.SampledFrom([]uint8{syn, synAck, ack, ack, finAck, rst}).Draw(t, "flags")
		v := udpView(0)
		if f.proto == packet.ProtoTCP {
			v = tcpView(flags, f.end[d], f.end[d^1], rapid.IntRange(0, 5).Draw(t, "payload"))
		}
		m.table.Track(f, d, v, m.now)
	}
}

// expire lets time go by; all that is due by a slot and nothing before its time is gone.
func (m *machine) expire(t *rapid.T) {
	m.now += Tick(rapid.SampledFrom([]int{1, 900, 10_000, 61_000, 301_000, 1_200_000, 10_000_000}).Draw(t, "ms"))
	due := map[packet.Tuple]int32{}
	for o := range m.flows {
		f, _ := m.table.Find(&o)
		due[o] = (f.Seen() + m.table.timeout(f)).Sub(m.now)
	}
	for m.table.Expire(m.now, rapid.IntRange(1, 4).Draw(t, "budget")) {
	}
	for _, o := range m.gone {
		if due[o] > 0 {
			t.Fatalf("%v is gone %d ms early", o, due[o])
		}
		m.forget(o)
		delete(due, o)
	}
	m.gone = nil
	for o, left := range due {
		// After a pause of more than a round the last slot may come up only with the next.
		if left < -2*slotTicks {
			m.table.Expire(m.now+slotTicks, 1000)
			if f, _ := m.table.Find(&o); f != nil {
				t.Fatalf("%v is overdue by %d ms", o, -left)
			}
		}
	}
	for _, o := range m.gone {
		m.forget(o)
	}
	m.gone = nil
}

func TestTableAgainstMap(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := newMachine(rt)
		rt.Repeat(map[string]func(*rapid.T){
			"insert":  m.insert,
			"track":   m.track,
			"find":    func(t *rapid.T) { m.find(t) },
			"delete":  m.delete,
			"expire":  m.expire,
			"prepare": m.prepare,
			"": func(t *rapid.T) {
				if m.table.Len() != len(m.flows) {
					t.Fatalf("%d flows, want %d", m.table.Len(), len(m.flows))
				}
				checkTable(t, m.table)
				m.findPrepared(t)
			},
		})
		for m.table.Expire(m.now+10_000_000, 3) {
		}
		for m.table.Expire(m.now+10_000_000+slotTicks, 3) {
		}
		if m.table.Len() != 0 {
			rt.Fatalf("%d flows left after all is over", m.table.Len())
		}
		checkTable(rt, m.table)
	})
}
