package flow

import (
	"encoding/binary"
	"runtime"
	"testing"

	"github.com/tunlb/tunlb/stack/packet"
)

// tuples derives the n-th flow's tuples from n, so that a benchmark has no list of them whose own cache
// misses it would measure.
func tuples(n uint32) (outer, inner packet.Tuple) {
	outer = packet.Tuple{Proto: packet.ProtoTCP, SrcPort: uint16(n)&0x7fff + 1024, DstPort: 80}
	v4(&outer.Src, 10<<24|n>>15)
	v4(&outer.Dst, 0xcb007116) // 203.0.113.22
	inner = outer
	v4(&inner.Dst, 0xc0a80000+n%64+10)
	inner.DstPort = 8080
	return outer, inner
}

func v4(a *[16]byte, addr uint32) {
	a[10], a[11] = 0xff, 0xff
	binary.BigEndian.PutUint32(a[12:], addr)
}

// shuffle is a bijection on the numbers below 2^bits.
func shuffle(n uint32, bits uint) uint32 {
	mask := uint32(1)<<bits - 1
	n = n * 0x9e3779b1 & mask
	n ^= n >> (bits / 2)
	n = n * 0x85ebca6b & mask
	n ^= n >> (bits / 2)
	return n
}

// establish fills a table with established flows.
func establish(tb testing.TB, t *Table, n int) {
	v := tcpView(packet.TCPAck, 1, 1, 0)
	for i := range n {
		outer, inner := tuples(uint32(i))
		f, err := t.Insert(outer, inner, 0)
		if err != nil {
			tb.Fatal(err)
		}
		f.state = StateEstablished
		f.flags |= assured
		f.end, f.ack = [2]uint32{1, 1}, [2]uint32{1, 1}
		f.flags |= endForward | endReverse | ackedForward | ackedReverse
		t.reschedule(f, 0)
		t.Track(f, Forward, v, 0)
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func benchmarkFindTrackEdit(b *testing.B, bits uint) {
	before := heap()
	t := New(Options{Cap: 1 << bits})
	establish(b, t, 1<<bits)
	perFlow := float64(heap()-before) / float64(t.Len())
	v := tcpView(packet.TCPAck, 1, 1, 0)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		outer, inner := tuples(shuffle(uint32(i)&(1<<bits-1), bits))
		v.Tuple = outer
		if i&1 != 0 {
			v.Tuple = inner.Reverse()
		}
		f, d := t.Find(&v.Tuple)
		t.Track(f, d, v, Tick(i>>20))
		e := f.Edit(d)
		e.Apply(v)
	}
	b.ReportMetric(perFlow, "B/flow")
	runtime.KeepAlive(t)
}

// BenchmarkFindTrackEdit1M is the whole of what a packet of an established flow costs here, in random
// order. The others tell how it grows.
func BenchmarkFindTrackEdit1M(b *testing.B)  { benchmarkFindTrackEdit(b, 20) }
func BenchmarkFindTrackEdit4M(b *testing.B)  { benchmarkFindTrackEdit(b, 22) }
func BenchmarkFindTrackEdit4Ki(b *testing.B) { benchmarkFindTrackEdit(b, 12) }

// BenchmarkBaseline is what the benchmark above spends on making tuples.
func BenchmarkBaseline(b *testing.B) {
	v := tcpView(packet.TCPAck, 1, 1, 0)
	for i := range b.N {
		outer, inner := tuples(shuffle(uint32(i)&(1<<20-1), 20))
		v.Tuple = outer
		if i&1 != 0 {
			v.Tuple = inner.Reverse()
		}
	}
}

// BenchmarkFindAlone is a Find in a table of 2^20.
func BenchmarkFindAlone(b *testing.B) {
	t := New(Options{Cap: 1 << 20})
	establish(b, t, 1<<20)
	b.ResetTimer()
	for i := range b.N {
		outer, _ := tuples(shuffle(uint32(i)&(1<<20-1), 20))
		t.Find(&outer)
	}
}

// BenchmarkInsert fills tables up to 2^20, growth included.
func BenchmarkInsert(b *testing.B) {
	var t *Table
	b.ReportAllocs()
	for i := range b.N {
		n := uint32(i) & (1<<20 - 1)
		if n == 0 {
			b.StopTimer()
			t = New(Options{Cap: 1 << 20})
			runtime.GC()
			b.StartTimer()
		}
		outer, inner := tuples(shuffle(n, 20))
		if _, err := t.Insert(outer, inner, Tick(i>>10)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkInsertAtCap is a flood of SYNs into a full table: each evicts one.
func BenchmarkInsertAtCap(b *testing.B) {
	t := New(Options{Cap: 1 << 20})
	v := tcpView(packet.TCPSyn, 1, 0, 0)
	insert := func(i uint32) {
		now := Tick(i >> 10)
		outer, inner := tuples(i)
		f, err := t.Insert(outer, inner, now)
		if err != nil {
			b.Fatal(err)
		}
		t.Track(f, Forward, v, now)
	}
	for i := range uint32(1 << 20) {
		insert(i)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range uint32(b.N) {
		insert(1<<20 + i)
	}
}

// BenchmarkExpire is the end of a flow by its timeout.
func BenchmarkExpire(b *testing.B) {
	b.ReportAllocs()
	for done := 0; done < b.N; {
		b.StopTimer()
		t := New(Options{Cap: 1 << 20})
		for i := range min(b.N-done, 1<<20) {
			outer, inner := tuples(shuffle(uint32(i), 20))
			if _, err := t.Insert(outer, inner, Tick(i>>8)); err != nil {
				b.Fatal(err)
			}
		}
		done += t.Len()
		b.StartTimer()
		for t.Expire(1<<30, 512) {
		}
		if t.Len() != 0 {
			b.Fatalf("%d flows left", t.Len())
		}
	}
}
