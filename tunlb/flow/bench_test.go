package flow

import (
	"encoding/binary"
	"fmt"
	"math"
	"runtime"
	"runtime/metrics"
	"testing"
	"time"

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

// packets makes the tuples of a sequence over 2^bits flows: each flow in turn, in random order, every
// other packet an answer. It makes a few ahead, since a tuple hashed right after it was written would
// wait for all stores before it, cache misses included.
type packets struct {
	bits      uint
	templates [2]packet.Tuple
	ahead     [64]packet.Tuple
}

func newPackets(bits uint) *packets {
	outer, inner := tuples(0)
	return &packets{bits: bits, templates: [2]packet.Tuple{outer, inner.Reverse()}}
}

func (p *packets) next(i int) *packet.Tuple {
	if i%len(p.ahead) == 0 {
		for k := range p.ahead {
			p.write(&p.ahead[k], uint32(i+k))
		}
	}
	return &p.ahead[i%len(p.ahead)]
}

func (p *packets) write(tu *packet.Tuple, i uint32) {
	n := shuffle(i&(1<<p.bits-1), p.bits)
	port, addr := uint16(n)&0x7fff+1024, 10<<24|n>>15
	*tu = p.templates[i&1]
	if i&1 == 0 {
		tu.SrcPort = port
		binary.BigEndian.PutUint32(tu.Src[12:], addr)
		return
	}
	tu.DstPort = port
	binary.BigEndian.PutUint32(tu.Dst[12:], addr)
	tu.Src[15] = byte(n%64 + 10)
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
	v, p := tcpView(packet.TCPAck, 1, 1, 0), newPackets(bits)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		f, d := t.Find(p.next(i))
		t.Track(f, d, v, Tick(i>>20))
		e := f.Edit(d)
		e.Apply(v)
	}
	b.ReportMetric(perFlow, "B/flow")
	runtime.KeepAlive(t)
}

// BenchmarkFindTrackEdit1M is the whole of what a packet of an established flow costs here if it comes
// alone, in random order: two cache misses, one after the other, and the work that 4Ki shows.
func BenchmarkFindTrackEdit1M(b *testing.B)  { benchmarkFindTrackEdit(b, 20) }
func BenchmarkFindTrackEdit4M(b *testing.B)  { benchmarkFindTrackEdit(b, 22) }
func BenchmarkFindTrackEdit4Ki(b *testing.B) { benchmarkFindTrackEdit(b, 12) }

// benchmarkPipeline is benchmarkFindTrackEdit for packets that come many at once, as a ring delivers them:
// each has its own frame, and their searches wait together.
func benchmarkPipeline(b *testing.B, bits uint) {
	before := heap()
	t := New(Options{Cap: 1 << bits})
	establish(b, t, 1<<bits)
	perFlow := float64(heap()-before) / float64(t.Len())
	const atOnce = 32
	var views [atOnce]packet.View
	var lookups [atOnce]Lookup
	for i := range views {
		views[i] = *tcpView(packet.TCPAck, 1, 1, 0)
	}
	p := newPackets(bits)
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; i += atOnce {
		for k := range views {
			p.write(&views[k].Tuple, uint32(i+k))
			lookups[k] = t.Prepare(&views[k].Tuple)
		}
		t.Warm(lookups[:])
		for k := range views {
			f, d := t.FindPrepared(&views[k].Tuple, &lookups[k])
			t.Track(f, d, &views[k], Tick(i>>20))
			e := f.Edit(d)
			e.Apply(&views[k])
		}
	}
	b.StopTimer()
	making := time.Now()
	for i := 0; i < b.N; i += atOnce {
		for k := range views {
			p.write(&views[k].Tuple, uint32(i+k))
		}
	}
	b.ReportMetric(float64(b.Elapsed()-time.Since(making))/float64(b.N), "ns/packet")
	b.ReportMetric(perFlow, "B/flow")
	runtime.KeepAlive(t)
}

// BenchmarkPipeline1M is the whole of what a packet of an established flow costs here if 32 come at once,
// in random order; ns/packet is without the making of tuples.
func BenchmarkPipeline1M(b *testing.B)  { benchmarkPipeline(b, 20) }
func BenchmarkPipeline4M(b *testing.B)  { benchmarkPipeline(b, 22) }
func BenchmarkPipeline4Ki(b *testing.B) { benchmarkPipeline(b, 12) }

// BenchmarkBaseline is what the benchmarks above spend on making tuples.
func BenchmarkBaseline(b *testing.B) {
	p := newPackets(20)
	for i := range b.N {
		p.next(i)
	}
}

// BenchmarkFind1M is Find alone.
func BenchmarkFind1M(b *testing.B) {
	t := New(Options{Cap: 1 << 20})
	establish(b, t, 1<<20)
	p := newPackets(20)
	b.ResetTimer()
	for i := range b.N {
		t.Find(p.next(i))
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

// BenchmarkMemory is one access to a random place of as much memory as 2^20 records are, and as 2^22 are:
// what the machine makes the record of a packet's flow cost, before anything is done with it. The accesses
// of one batch do not depend on each other, those of the next depend on all of them. Find needs two such
// accesses, one to the index and one to the record.
func BenchmarkMemory(b *testing.B) {
	for _, bits := range []uint{20, 22} {
		records := more[Flow](1<<bits, 1<<bits)
		for i := range records {
			records[i].next = uint32(i) // no page is the kernel's page of zeroes
		}
		for _, atOnce := range []int{1, 4, 8, 16, 32} {
			b.Run(fmt.Sprintf("%dMiB/%d-at-once", len(records)>>13, atOnce), func(b *testing.B) {
				var at [32]uint32
				seed := uint32(0)
				for i := 0; i < b.N; i += atOnce {
					for k := range at[:atOnce] {
						at[k] = shuffle((seed+uint32(i+k))&(1<<bits-1), bits)
					}
					for _, ref := range at[:atOnce] {
						seed ^= records[ref].next
					}
				}
				runtime.KeepAlive(seed)
			})
		}
	}
}

// BenchmarkPause1M is how long the garbage collector stops everything while a million flows are there, for
// one collection after the other.
func BenchmarkPause1M(b *testing.B) {
	t := New(Options{Cap: 1 << 20})
	establish(b, t, 1<<20)
	heap()
	before, cycles := pauses(), collections()
	b.ResetTimer()
	for collections() < cycles+uint64(b.N) {
		for range 1000 {
			garbage = make([]*packet.Tuple, 128)
			for i := range garbage {
				garbage[i] = new(packet.Tuple)
			}
		}
	}
	b.ReportMetric(percentile(before, pauses(), 0.99)*1e3, "p99-ms")
	runtime.KeepAlive(t)
}

// garbage is where BenchmarkPause1M lets go of what it has made.
var garbage []*packet.Tuple

func collections() uint64 { return sample("/gc/cycles/total:gc-cycles").Uint64() }

func pauses() *metrics.Float64Histogram {
	return sample("/sched/pauses/total/gc:seconds").Float64Histogram()
}

func sample(name string) metrics.Value {
	s := []metrics.Sample{{Name: name}}
	metrics.Read(s)
	return s[0].Value
}

// percentile is a bound for all but a few of what was counted between two looks.
func percentile(before, after *metrics.Float64Histogram, share float64) float64 {
	total := uint64(0)
	for i := range after.Counts {
		total += after.Counts[i] - before.Counts[i]
	}
	sum := uint64(0)
	for i := range after.Counts {
		if sum += after.Counts[i] - before.Counts[i]; float64(sum) >= share*float64(total) {
			return after.Buckets[i+1]
		}
	}
	return math.Inf(1)
}
