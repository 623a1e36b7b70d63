package policy

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"
	"unsafe"
)

// check walks all that hangs together: slots, directory, counts and the wheel.
func (t *templates) check(tb testing.TB) {
	tb.Helper()
	total := 0
	for hash, more := uint64(0), true; more; {
		number := t.pageOf(hash)
		page, count := t.pages[number], uint16(0)
		for i := range page {
			e := &page[i]
			ref := number*templateSlots + uint32(i)
			tags, shift := t.groupAt(ref)
			if tag := *tags >> shift & 0xff; e.server == 0 && tag != 0 ||
				e.server != 0 && tag != tagOf(t.hash(&e.templateKey)) {
				tb.Fatalf("template %d: tag %x: %+v", ref, tag, *e)
			}
			if e.server == 0 {
				continue
			}
			count++
			if found, at := t.find(&e.templateKey, t.hash(&e.templateKey)); found != e || at != ref {
				tb.Fatalf("template %d is found at %d", ref, at)
			}
			if e.next != 0 && t.at(e.next).prev != ref || e.next == 0 && t.wheel.tail[e.bucket] != ref ||
				e.prev != 0 && t.at(e.prev).next != ref || e.prev == 0 && t.wheel.head[e.bucket] != ref {
				tb.Fatalf("template %d: its neighbours know another: %+v", ref, *e)
			}
		}
		if count != t.fill[number].count || count > templateLimit {
			tb.Fatalf("page %d counts %d, has %d", number, t.fill[number].count, count)
		}
		total += int(count)
		hash = t.after(hash)
		more = hash != 0
	}
	if total != t.len {
		tb.Fatalf("%d templates, counted %d", total, t.len)
	}
	linked := 0
	for _, ref := range t.wheel.head {
		for ; ref != 0; ref = t.at(ref).next {
			linked++
		}
	}
	if linked != total {
		tb.Fatalf("%d templates, %d in the wheel", total, linked)
	}
}

func TestTemplateIsACacheLine(t *testing.T) {
	if n := unsafe.Sizeof(template{}); n != 64 {
		t.Errorf("a template has %d bytes, want 64", n)
	}
}

// persistent is a service with one server and some minutes of persistence.
func persistent(tb testing.TB, limit int) (*Table, *Service) {
	tb.Helper()
	listen, err := ParseListen("10.0.0.10:80/tcp")
	if err != nil {
		tb.Fatal(err)
	}
	spec := Spec{Name: "web", Listen: []Listen{listen}, Scheduler: "rr", Persistence: Persistence{Timeout: 5 * time.Minute}}
	for _, a := range []string{"192.168.0.1:80/tcp", "192.168.0.2:80/tcp", "192.168.0.3:80/tcp"} {
		l, err := ParseListen(a)
		if err != nil {
			tb.Fatal(err)
		}
		spec.Servers = append(spec.Servers, ServerSpec{Name: a, Address: l.AddrPort(), Weight: 1})
	}
	table, err := Build([]Spec{spec}, nil)
	if err != nil {
		tb.Fatal(err)
	}
	table.LimitTemplates(limit)
	return table, table.Services()[0]
}

// clientOf is the n-th client.
func clientOf(svc *Service, n uint32, now time.Duration) Client {
	c := Client{Dst: svc.Listen[0].Addr.As16(), DstPort: 80, Proto: TCP, Now: now}
	c.Src[10], c.Src[11] = 0xff, 0xff
	binary.BigEndian.PutUint32(c.Src[12:], n)
	return c
}

// TestTemplatesGrowAndShrink has some ten thousand templates come and go in random order.
func TestTemplatesGrowAndShrink(t *testing.T) {
	table, svc := persistent(t, 20_000)
	all := table.registry.templates
	random := rand.New(rand.NewPCG(1, 2))
	now := time.Duration(0)
	for round := range 60 {
		for range 1000 {
			svc.Pick(clientOf(svc, random.Uint32N(30_000), now))
			if svc.Servers[0].ServerSpec.Weight == 0 {
				t.Fatal("a weight has changed")
			}
		}
		now += time.Duration(random.IntN(20)) * time.Second
		table.Expire(now, random.IntN(2000))
		if round%5 == 0 {
			svc.Servers[round/5%3].SetUnreachable(round/5%2 == 0) // so that some are removed from between others
		}
		all.check(t)
		if all.len > 20_000 {
			t.Fatalf("%d templates, the limit is 20000", all.len)
		}
	}
	if len(all.pages) < 50 {
		t.Errorf("%d pages: hardly a split", len(all.pages))
	}
	for table.Expire(now+10*time.Minute, 100) {
		all.check(t)
	}
	if all.len != 0 {
		t.Errorf("%d templates are left", all.len)
	}
	all.check(t)
}

// TestTemplatesWalk: what is there all the time is visited exactly once, whatever comes and goes meanwhile.
func TestTemplatesWalk(t *testing.T) {
	table, svc := persistent(t, 0)
	for n := range uint32(5000) {
		svc.Pick(clientOf(svc, n, 0))
	}
	seen, calls := make(map[uint32]int), uint32(0)
	for cursor, more := uint64(0), true; more; calls++ {
		cursor, more = table.Templates(0, cursor, 200, func(tpl Template) {
			a := tpl.Client.As4()
			seen[binary.BigEndian.Uint32(a[:])]++
		})
		for i := range uint32(300) {
			svc.Pick(clientOf(svc, 10_000+300*calls+i, 0))
		}
	}
	for n := range uint32(5000) {
		if seen[n] != 1 {
			t.Fatalf("client %d was visited %d times", n, seen[n])
		}
	}
	if calls < 10 {
		t.Errorf("%d calls: more than asked for at a time", calls)
	}
}

// TestTemplatesSweep: what a reload made invalid goes in bounded steps, what is valid stays.
func TestTemplatesSweep(t *testing.T) {
	table, svc := persistent(t, 0)
	for n := range uint32(5000) {
		svc.Pick(clientOf(svc, n, 0))
	}
	specs := []Spec{svc.Spec}
	specs[0].Persistence.HostBits = 1
	table, err := Build(specs, table)
	if err != nil {
		t.Fatal(err)
	}
	all := table.registry.templates
	steps := 0
	for n := uint32(0); table.Expire(0, 100); n += 2 {
		before := all.len
		svc.Pick(clientOf(svc, n, 0))
		if gone := before - all.len; gone > 100+templateSlots {
			t.Fatalf("%d in a step", gone)
		}
		steps++
	}
	all.check(t)
	if all.len != steps {
		t.Errorf("%d templates are left, want the %d new ones", all.len, steps)
	}
	if sum := svc.Servers[0].Persistent() + svc.Servers[1].Persistent() + svc.Servers[2].Persistent(); sum != steps || steps < 10 {
		t.Errorf("servers have %d templates, want %d", sum, steps)
	}
}

// TestTemplatesLongWait: time that goes round in 32 bits, long persistence, and calls of Expire that come late.
func TestTemplatesLongWait(t *testing.T) {
	table, svc := persistent(t, 0)
	svc.Spec.Persistence.Timeout = 31 * 24 * time.Hour
	day := 24 * time.Hour
	for now := time.Duration(0); now < 600*day; now += 30 * day {
		first := svc.Pick(clientOf(svc, 1, now))
		if got := svc.Pick(clientOf(svc, 1, now+30*day)); got != first {
			t.Fatalf("after %s: another server", now)
		}
		table.Expire(now, 10)
		table.registry.templates.check(t)
	}
	table.Expire(632*day, 10)
	if n := table.TemplateCount(); n != 0 {
		t.Errorf("%d templates are left", n)
	}
}

func TestTemplatesNoAllocations(t *testing.T) {
	table, svc := persistent(t, 1000)
	n, now := uint32(0), time.Duration(0)
	flow := func() {
		c := clientOf(svc, n%3000, now)
		n++
		now += 50 * time.Millisecond
		s := svc.Pick(c)
		s.Add(true)
		s.Opened(c)
		s.Closed(c)
		s.Remove(true)
		table.Expire(now, 10)
	}
	for range 10_000 { // until all pages are there
		flow()
	}
	if got := testing.AllocsPerRun(10_000, flow); got != 0 {
		t.Errorf("%v allocations a connection, want none", got)
	}
}

// shuffled is a bijection on the numbers below 2^20.
func shuffled(n uint32) uint32 {
	const mask = 1<<20 - 1
	n = n * 0x9e3779b1 & mask
	n ^= n >> 10
	n = n * 0x85ebca6b & mask
	return n ^ n>>10
}

// BenchmarkTemplates is of 2^20 templates in random order. Clients are made some ahead, since a key that is
// hashed right after it was written would wait for all stores before it, cache misses included.
func BenchmarkTemplates(b *testing.B) {
	const n = 1 << 20
	table, svc := persistent(b, n)
	for i := range uint32(n) {
		svc.Pick(clientOf(svc, i, 0))
	}
	var ahead [64]Client
	next := func(i int) *Client {
		if i%len(ahead) == 0 {
			for k := range ahead {
				ahead[k] = clientOf(svc, shuffled(uint32(i+k)&(n-1)), 0)
			}
		}
		return &ahead[i%len(ahead)]
	}
	b.Run("find", func(b *testing.B) {
		b.ReportAllocs()
		all := table.registry.templates
		for i := 0; b.Loop(); i++ {
			if all.of(&svc.persistence, next(i)) == nil {
				b.Fatal("no template")
			}
		}
	})
	b.Run("pick", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if svc.Pick(*next(i)) == nil {
				b.Fatal("no server")
			}
		}
	})
	b.Run("dependent", func(b *testing.B) { // each client is known only when the one before was found
		all := table.registry.templates
		last := uint32(0)
		for i := 0; b.Loop(); i++ {
			c := *next(i)
			c.Src[15] ^= byte(last)
			last = all.of(&svc.persistence, &c).flows
		}
	})
	b.Run("connection", func(b *testing.B) { // pick, open, close
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			c := next(i)
			s := svc.Pick(*c)
			s.Opened(*c)
			s.Closed(*c)
		}
	})
	b.Run("replace", func(b *testing.B) { // at the limit
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			svc.Pick(clientOf(svc, n+uint32(i), time.Duration(i)*time.Microsecond))
		}
	})
	b.Run("none", func(b *testing.B) { // what services without persistence pay
		plain := &Service{}
		server := &Server{Service: plain}
		c := clientOf(svc, 0, 0)
		for b.Loop() {
			server.Opened(c)
			server.Closed(c)
		}
	})
}
