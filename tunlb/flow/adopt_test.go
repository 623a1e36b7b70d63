package flow

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"

	"github.com/tunlb/tunlb/stack/packet"
)

// kept is memory that outlives a table.
type kept struct {
	slabs [][]byte
	most  int // 0 is no bound
}

func (k *kept) Slabs() int { return len(k.slabs) }

func (k *kept) Slab(i int) ([]byte, error) {
	if i == len(k.slabs) {
		if k.most > 0 && i >= k.most {
			return nil, errors.New("no memory")
		}
		words := make([]uint64, SlabSize/8)
		k.slabs = append(k.slabs, unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), SlabSize))
	}
	return k.slabs[i], nil
}

// history makes a table with flows of all kinds, some of them gone again.
func history(t *testing.T, k *kept, random *rand.Rand, n uint32) *Table {
	t.Helper()
	table := New(Options{Memory: k, Cap: 1 << 20})
	var flows []*Flow
	for i := range n {
		outer, inner := tuples(i)
		now := Tick(i)
		switch random.IntN(8) {
		case 0:
			outer.Proto, inner.Proto = packet.ProtoUDP, packet.ProtoUDP
			f, _, err := table.InsertAnswers(outer, inner, now)
			if err != nil {
				t.Fatal(err)
			}
			table.Track(f, Forward, udpView(10), now)
			flows = append(flows, f)
			continue
		case 1:
			outer.Proto, inner.Proto = packet.ProtoUDP, packet.ProtoUDP
			f := mustInsert(t, table, outer, inner, now)
			table.Track(f, Forward, udpView(10), now)
			flows = append(flows, f)
			continue
		}
		f := mustInsert(t, table, outer, inner, now)
		f.SetServer(i % 1000)
		f.SetExit(Forward, uint8(i%3))
		table.Track(f, Forward, tcpView(packet.TCPSyn, 100, 0, 0), now)
		if random.IntN(3) > 0 {
			table.Track(f, Reverse, tcpView(packet.TCPSyn|packet.TCPAck, 200, 101, 0), now)
			table.Track(f, Forward, tcpView(packet.TCPAck, 101, 201, 50), now)
		}
		if random.IntN(5) == 0 {
			table.Track(f, Forward, tcpView(packet.TCPFin|packet.TCPAck, 151, 201, 0), now)
		}
		if random.IntN(9) == 0 {
			f.SetCarriage(ByKernel)
			f.seen -= 1 << 30 // of packets that have passed here
		}
		flows = append(flows, f)
		if random.IntN(4) == 0 {
			at := random.IntN(len(flows))
			table.Delete(flows[at])
			flows = slices.Delete(flows, at, at+1)
		}
	}
	checkTable(t, table)
	return table
}

func all(t *Table, now Tick) (list []Snapshot) {
	t.Walk(0, 1<<30, func(f *Flow) { list = append(list, t.Snapshot(f, now)) })
	return list
}

// TestAdopt: another table on the same memory has the same flows, finds them, and goes on with them.
func TestAdopt(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, n := range []uint32{0, 1, 100, 3<<slabBits + 10} {
		k := &kept{}
		before := history(t, k, random, n)
		now := Tick(n) + 10
		want := all(before, now)
		after := New(Options{Memory: k, Cap: 1 << 20})
		a := after.Adopt(now, func(f *Flow) bool {
			f.Reclaim()
			return true
		})
		checkTable(t, after)
		if a.Adopted != len(want) || a.Damaged+a.Refused+a.Late > 0 || after.Len() != len(want) {
			t.Fatalf("%d flows: %+v", len(want), a)
		}
		for i, got := range all(after, now) {
			w := want[i]
			if w.Carriage == ByKernel { // seen by whom has carried it
				w.Expires, w.Carriage = got.Expires, ByUs
			}
			if got != w {
				t.Fatalf("flow %d is %+v, was %+v", i, got, w)
			}
		}
		for i := range n { // free records are used again, and neither is one used twice
			outer, inner := tuples(1<<24 + i)
			mustInsert(t, after, outer, inner, now)
		}
		checkTable(t, after)
		for more := true; more; {
			more = after.Expire(now+Tick(MaxTimeout/1e6), 1<<30)
		}
		if after.Len() != 0 {
			t.Errorf("%d flows stay for ever", after.Len())
		}
		checkTable(t, after)
	}
}

// TestAdoptRefuses: what admit does not take, and what is over, is forgotten, and stays so for the next one.
func TestAdoptRefuses(t *testing.T) {
	k := &kept{}
	before := history(t, k, rand.New(rand.NewPCG(3, 4)), 1000)
	n, now := before.Len(), Tick(1010)
	even := func(f *Flow) bool { return f.Server()%2 == 0 }
	after := New(Options{Memory: k})
	a := after.Adopt(now, even)
	if a.Refused == 0 || a.Adopted == 0 || a.Adopted+a.Refused != n || after.Len() != a.Adopted {
		t.Errorf("of %d: %+v", n, a)
	}
	checkTable(t, after)
	third := New(Options{Memory: k})
	if b := third.Adopt(now, even); b != (Adoption{Adopted: a.Adopted}) {
		t.Errorf("the next one: %+v, want %d adopted", b, a.Adopted)
	}
	late := New(Options{Memory: k})
	if b := late.Adopt(now+Tick(MaxTimeout/1e6), even); b.Adopted+b.Late != a.Adopted || b.Late == 0 {
		t.Errorf("much later: %+v", b)
	}
	checkTable(t, late)
	full := New(Options{Memory: k, Cap: 5})
	if b := full.Adopt(now+Tick(MaxTimeout/1e6), even); full.Len() > 5 {
		t.Errorf("beyond the cap: %+v", b)
	}
	checkTable(t, full)
	New(Options{Memory: &kept{}}).Adopt(now, even)
	if a := New(Options{}).Adopt(now, even); a != (Adoption{}) {
		t.Errorf("no memory: %+v", a)
	}
}

// TestAdoptDamaged: a process may be killed between any two of its writes, and memory is not to be believed.
func TestAdoptDamaged(t *testing.T) {
	for seed := range uint64(30) {
		random := rand.New(rand.NewPCG(seed, 5))
		k := &kept{}
		history(t, k, random, 300)
		for range 200 {
			b := k.slabs[0]
			at := random.IntN(400 * 128)
			switch random.IntN(3) {
			case 0:
				b[at] ^= byte(1 + random.IntN(255))
			case 1: // a record that is another one in its first part
				copy(b[at&^127:at], b[random.IntN(300)*128:][:at&127])
			case 2:
				copy(b[at&^127:][:128], b[random.IntN(300)*128:][:128])
			}
		}
		table := New(Options{Memory: k})
		a := table.Adopt(310, func(f *Flow) bool { return true })
		checkTable(t, table)
		if a.Damaged == 0 || a.Adopted == 0 {
			t.Errorf("%+v", a)
		}
		for more := true; more; {
			more = table.Expire(310+Tick(MaxTimeout/1e6), 1<<30)
		}
		checkTable(t, table)
	}
}

// TestNoMemory: the table is full then, and goes on with what it has.
func TestNoMemory(t *testing.T) {
	table := New(Options{Memory: &kept{most: 1}})
	var err error
	n := uint32(0)
	for ; err == nil; n++ {
		outer, inner := tuples(n)
		_, err = table.Insert(outer, inner, 0)
	}
	if !errors.Is(err, ErrFull) || table.Len() != 1<<slabBits-1 {
		t.Errorf("%d flows, then %v", table.Len(), err)
	}
	checkTable(t, table)
	outer, _ := tuples(7)
	f, _ := table.Find(&outer)
	table.Delete(f)
	outer, inner := tuples(n)
	mustInsert(t, table, outer, inner, 0)
	checkTable(t, table)
}

// BenchmarkAdopt1M is how long a successor takes to have a million flows.
func BenchmarkAdopt1M(b *testing.B) {
	k := &kept{}
	establish(b, New(Options{Cap: 1 << 20, Memory: k}), 1<<20)
	for b.Loop() {
		t := New(Options{Cap: 1 << 20, Memory: k})
		if a := t.Adopt(10, func(*Flow) bool { return true }); a.Adopted != 1<<20 {
			b.Fatalf("%+v", a)
		}
	}
}

// TestAdoptAhead: a predecessor's clock may have been a little ahead. What is from far in the future is no record.
func TestAdoptAhead(t *testing.T) {
	for _, c := range []struct {
		ahead Tick
		want  Adoption
	}{
		{0, Adoption{Adopted: 10}},
		{1, Adoption{Adopted: 10}},
		{clocksDiffer, Adoption{Adopted: 10}},
		{clocksDiffer + 1, Adoption{Damaged: 10}},
	} {
		for _, now := range []Tick{1_000_000, 3} { // the ticks wrap
			k := &kept{}
			table := New(Options{Memory: k})
			for i := range uint32(10) {
				outer, inner := tuples(i)
				f := mustInsert(t, table, outer, inner, now+c.ahead)
				table.Track(f, Forward, tcpView(packet.TCPSyn, 100, 0, 0), now+c.ahead)
			}
			after := New(Options{Memory: k})
			if a := after.Adopt(now, func(*Flow) bool { return true }); a != c.want {
				t.Errorf("%d ms ahead: %+v, want %+v", c.ahead, a, c.want)
			}
			checkTable(t, after)
			after.Walk(0, 100, func(f *Flow) {
				if f.Seen() != now {
					t.Errorf("%d ms ahead: seen %d ms from now", c.ahead, f.Seen().Sub(now))
				}
			})
		}
	}
}
