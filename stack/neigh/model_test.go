package neigh

import (
	"net/netip"
	"testing"
	"time"

	"github.com/tunlb/tunlb/stack/packet"
	"pgregory.net/rapid"
)

// world is the segment as it really is: who has which address, and who lies. It is the second, simple
// model that the table is held against.
type world struct {
	f     family
	table *Table
	now   time.Duration

	owner map[netip.Addr]packet.MAC // who has the address now and answers for it; none: nobody
	since map[netip.Addr]time.Duration
	// believed is who answered last when all were asked, the only time at which a new MAC is believed.
	believed map[netip.Addr]packet.MAC
	taught   map[netip.Addr]packet.MAC // by a question to us, while nothing was known
	waiting  map[netip.Addr]int        // packets that Hold has taken
}

var worldMACs = []packet.MAC{macOf(0x31), macOf(0x32), macOf(0x33), {}}

// deliver carries what the table sends to who has the address.
func (w *world) deliver(t *rapid.T) {
	for _, frame := range drain(w.table) {
		m := parse(t, frame.Bytes())
		if m.EtherSrc != tunlb {
			t.Fatalf("not from us: %+v", m)
		}
		if sender := w.table.local[m.Sender]; m.Form == Request && sender != nil && sender.vip {
			t.Fatalf("asked from a VIP: %+v", m)
		}
		addr := packet.Addr(m.Target)
		if m.Form != Request || w.table.local[m.Target] != nil {
			continue
		}
		owner := w.owner[addr]
		if owner.IsZero() || !m.EtherDst.IsGroup() && m.EtherDst != owner {
			continue
		}
		if m.EtherDst.IsGroup() {
			w.believed[addr] = owner
		}
		w.handle(t, replies(owner, addr, tunlb, w.f.own.Addr()), Servers)
	}
}

func (w *world) handle(t *rapid.T, frame []byte, side Side) {
	m := parse(t, frame)
	v := w.table.Handle(m, frame, 0, side, w.now)
	if !v.Forward || side != Servers {
		return
	}
	forwarded := parse(t, frame)
	if addr, _, ok := forwarded.Claim(); ok && w.table.local[addr] != nil {
		t.Fatalf("a claim to %v is forwarded: %x", packet.Addr(addr), frame)
	}
}

// check compares what the table believes with what it was told by those it asked.
func (w *world) check(t *rapid.T) {
	checkTable(t, w.table)
	for addr, e := range w.table.entries {
		a := packet.Addr(addr)
		if a == w.f.rs1 && (e.state != Static || e.mac != rs1MAC) {
			t.Fatalf("the pinned server is %v at %v", e.state, e.mac)
		}
		if e.state == Static || e.state == Incomplete || e.state == Failed {
			continue
		}
		if e.mac != w.believed[a] && (e.server || e.answered != never || e.mac != w.taught[a]) {
			t.Fatalf("%v is %v at %v, who has not answered a question to all: %v has", a, e.state, e.mac, w.believed[a])
		}
	}
	// Who has had a server's address for long enough is known, and nobody is if it is nobody's.
	e := w.table.entries[w.f.rs2.As16()]
	steady := w.now - w.since[w.f.rs2]
	switch owner := w.owner[w.f.rs2]; {
	case owner.IsZero() && steady > serverFresh+7*retransmit && e.state != Failed:
		t.Fatalf("rs2 has been silent for %v and is %v", steady, e.state)
	case !owner.IsZero() && steady > serverFresh+7*retransmit+failedRetry && (e.state != Reachable && e.state != Probing || e.mac != owner):
		t.Fatalf("rs2 has been at %v for %v, and is %v at %v", owner, steady, e.state, e.mac)
	}
	held := 0
	for _, h := range w.table.Released() {
		a := packet.Addr(h.Addr)
		if w.waiting[a]--; w.waiting[a] < 0 {
			t.Fatalf("a packet for %v came out that nobody put in", a)
		}
	}
	for _, n := range w.waiting {
		held += n
	}
	for _, e := range w.table.list {
		held -= e.holds
	}
	if held != 0 {
		t.Fatalf("%d packets are lost", held)
	}
}

// TestModel plays random schedules: stations come, go and move, liars claim everything at any time.
func TestModel(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) { rapid.Check(t, func(t *rapid.T) { play(t, f) }) })
}

func play(t *rapid.T, f family) {
	w := &world{f: f,
		owner: map[netip.Addr]packet.MAC{}, since: map[netip.Addr]time.Duration{},
		believed: map[netip.Addr]packet.MAC{}, taught: map[netip.Addr]packet.MAC{}, waiting: map[netip.Addr]int{}}
	w.table = New(config(true), 0)
	addrs := []netip.Addr{f.rs1, f.rs2, f.other, f.client, f.vip, f.own.Addr()}
	pick := rapid.SampledFrom(addrs)
	liar := foreign
	t.Repeat(map[string]func(*rapid.T){
		"pass": func(t *rapid.T) {
			for range rapid.SampledFrom([]int{1, 1, 4, 12, 100}).Draw(t, "ticks") {
				w.now += TickInterval
				w.table.Tick(w.now)
				w.deliver(t)
			}
		},
		"lookup": func(t *rapid.T) {
			addr := pick.Draw(t, "addr")
			mac, state := w.table.Lookup(addr.As16(), w.now)
			if w.table.local[addr.As16()] != nil && state != Failed {
				t.Fatalf("our own %v is %v", addr, state)
			}
			if mac.IsZero() != (state == Incomplete || state == Failed) {
				t.Fatalf("%v is %v at %v", addr, state, mac)
			}
			if state == Incomplete && w.table.Hold(addr.As16(), make([]byte, 100)) == packet.None {
				w.waiting[addr]++
			}
			w.deliver(t)
		},
		"move": func(t *rapid.T) {
			addr := rapid.SampledFrom([]netip.Addr{f.rs2, f.other, f.client}).Draw(t, "addr")
			w.owner[addr], w.since[addr] = rapid.SampledFrom(worldMACs).Draw(t, "mac"), w.now
		},
		"lie": func(t *rapid.T) {
			addr := pick.Draw(t, "addr")
			side := rapid.SampledFrom([]Side{Clients, Servers}).Draw(t, "side")
			var frame []byte
			switch kind := rapid.IntRange(0, 3).Draw(t, "kind"); kind {
			case 0:
				frame = announces(liar, addr)
			case 1:
				frame = replies(liar, addr, client, f.client)
			case 2: // an answer to us is believed while everybody is asked: no ARP can tell
				if w.open(addr) {
					return
				}
				if e := w.table.entries[addr.As16()]; e != nil && e.mac == liar && w.taught[addr] == liar {
					w.believed[addr] = liar // it was first, it is asked, and it answers
				}
				frame = replies(liar, addr, tunlb, f.own.Addr())
			case 3:
				frame = asks(liar, addr, f.free)
			}
			w.handle(t, frame, side)
			w.deliver(t)
		},
		"ask us": func(t *rapid.T) {
			addr := rapid.SampledFrom([]netip.Addr{f.other, f.client, f.rs2}).Draw(t, "addr")
			e := w.table.entries[addr.As16()]
			if e == nil || e.state == Incomplete {
				w.taught[addr] = liar
			}
			w.handle(t, asks(liar, addr, f.vip), Servers)
			w.deliver(t)
		},
		"reload": func(t *rapid.T) {
			w.table.Set(config(true), w.now)
			w.deliver(t)
		},
		"": func(t *rapid.T) { w.check(t) },
	})
}

// open says whether an answer by anybody would be believed.
func (w *world) open(addr netip.Addr) bool {
	e := w.table.entries[addr.As16()]
	return e != nil && (e.state == Incomplete || e.state == Failed || e.state == Probing && e.broadcast)
}
