package neigh

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/tunlb/tunlb/stack/packet"
)

// eachFamily runs a test for IPv4 and for IPv6.
func eachFamily(t *testing.T, run func(t *testing.T, f family)) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) { run(t, f) })
	}
}

func expect(t *testing.T, table *Table, addr [16]byte, now time.Duration, mac packet.MAC, state State) {
	t.Helper()
	if m, s := table.Lookup(addr, now); m != mac || s != state {
		t.Fatalf("%v is %v at %v, want %v at %v", packet.Addr(addr), s, m, state, mac)
	}
}

func events(t *testing.T, table *Table, want ...EventKind) {
	t.Helper()
	var got []EventKind
	for _, e := range table.Events() {
		got = append(got, e.Kind)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("events %v, want %v", got, want)
	}
}

// A next hop: asked three times, a second apart; packets wait and come out in order.
func TestResolve(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		table, now := quiet(t, config(false))
		table.Events()
		addr := f.other.As16()
		expect(t, table, addr, now, packet.MAC{}, Incomplete)
		for i := range maxHeld + 1 {
			want := packet.None
			if i == maxHeld {
				want = packet.Unresolved
			}
			if r := table.Hold(addr, []byte{byte(i)}); r != want {
				t.Fatalf("packet %d: %v", i, r)
			}
		}
		out := append(drain(table), tick(table, &now, 2500*time.Millisecond)...)
		if to := requestsTo(t, out, f.other); !slices.Equal(to, []packet.MAC{all(f.other), all(f.other), all(f.other)}) {
			t.Fatalf("asked %v", to)
		}
		if m := parse(t, out[0].Bytes()); m.Sender != f.own.Addr().As16() || m.MAC != tunlb || out[0].Scope != Everywhere {
			t.Fatalf("%+v", m)
		}
		if v := handle(t, table, replies(foreign, f.other, tunlb, f.own.Addr()), Shared, now); v != (Verdict{}) {
			t.Fatal(v)
		}
		held := table.Released()
		if len(held) != maxHeld || held[0].MAC != foreign || held[0].Addr != addr || !bytes.Equal(held[2].Frame, []byte{2}) || table.heldBytes != 0 {
			t.Fatalf("%+v", held)
		}
		expect(t, table, addr, now, foreign, Reachable)
		events(t, table)
		// Not used, it is not asked for again, turns stale, and is forgotten.
		if out := tick(table, &now, dynamicFresh); len(requestsTo(t, out, f.other)) != 0 {
			t.Fatal("asked though nobody needs it")
		}
		if table.entries[addr].state != Stale {
			t.Fatal(table.entries[addr].state)
		}
		tick(table, &now, forget-dynamicFresh)
		if table.entries[addr] != nil {
			t.Fatal("not forgotten")
		}
		checkTable(t, table)
	})
}

func TestStaleIsProbedWhenUsed(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		table, now := quiet(t, config(false))
		addr := f.other.As16()
		table.Lookup(addr, now)
		drain(table)
		handle(t, table, replies(foreign, f.other, tunlb, f.own.Addr()), Shared, now)
		tick(table, &now, dynamicFresh+time.Second)
		expect(t, table, addr, now, foreign, Probing)
		out := drain(table)
		if to := requestsTo(t, out, f.other); !slices.Equal(to, []packet.MAC{foreign}) || out[0].Scope != Unicast {
			t.Fatalf("asked %v", to)
		}
		handle(t, table, replies(foreign, f.other, tunlb, f.own.Addr()), Shared, now)
		expect(t, table, addr, now, foreign, Reachable)
		// Silence: three times to its MAC, three times to all, then it has failed; used, it is tried again.
		tick(table, &now, dynamicFresh+TickInterval)
		expect(t, table, addr, now, foreign, Probing)
		out = append(drain(table), tick(table, &now, 6*time.Second)...)
		if to := requestsTo(t, out, f.other); !slices.Equal(to, []packet.MAC{foreign, foreign, foreign, all(f.other), all(f.other), all(f.other)}) {
			t.Fatalf("asked %v", to)
		}
		expect(t, table, addr, now, packet.MAC{}, Failed)
		if r := table.Hold(addr, []byte{1}); r != packet.Unresolved {
			t.Fatal(r)
		}
		if to := requestsTo(t, tick(table, &now, 5*time.Second), f.other); len(to) != 1 {
			t.Fatalf("asked %v for one packet", to)
		}
	})
}

// A server is kept resolved, goes down when it is silent, and comes back.
func TestServer(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		table, now := quiet(t, config(true))
		addr := f.rs2.As16()
		events(t, table, ServerDown, ServerDown) // rs2 of both families
		expect(t, table, addr, now, packet.MAC{}, Failed)
		// A broadcast every two seconds.
		if to := requestsTo(t, tick(table, &now, 8*time.Second), f.rs2); len(to) != 4 || to[0] != all(f.rs2) {
			t.Fatalf("asked %v", to)
		}
		handle(t, table, replies(rs2MAC, f.rs2, tunlb, f.own.Addr()), Servers, now)
		expect(t, table, addr, now, rs2MAC, Reachable)
		events(t, table, ServerUp)
		// Ten seconds later it is asked again, at its MAC.
		if to := requestsTo(t, tick(table, &now, serverFresh), f.rs2); !slices.Equal(to, []packet.MAC{rs2MAC}) {
			t.Fatalf("asked %v", to)
		}
		expect(t, table, addr, now, rs2MAC, Probing)
		handle(t, table, replies(rs2MAC, f.rs2, tunlb, f.own.Addr()), Servers, now)
		events(t, table)
		tick(table, &now, serverFresh+6*time.Second)
		events(t, table, ServerDown)
		expect(t, table, addr, now, packet.MAC{}, Failed)
		// It announces itself: that is not believed, but asked at once.
		tick(table, &now, time.Second)
		handle(t, table, announces(rs2MAC, f.rs2), Servers, now)
		if to := requestsTo(t, drain(table), f.rs2); !slices.Equal(to, []packet.MAC{all(f.rs2)}) {
			t.Fatalf("asked %v", to)
		}
		expect(t, table, addr, now, packet.MAC{}, Failed)
		// It answers with another MAC: a new network card.
		handle(t, table, replies(foreign, f.rs2, tunlb, f.own.Addr()), Servers, now)
		expect(t, table, addr, now, foreign, Reachable)
		events(t, table, ServerUp)
		checkTable(t, table)
	})
}

// Traffic keeps a server reachable, but not for ever.
func TestHeard(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		var now time.Duration
		talks := true
		cfg := config(false)
		cfg.Heard = func(mac packet.MAC) (time.Duration, bool) { return now - time.Second, talks && mac == rs2MAC }
		table, at := quiet(t, cfg)
		now = at
		tick(table, &now, 2*time.Second)
		handle(t, table, replies(rs2MAC, f.rs2, tunlb, f.own.Addr()), Shared, now)
		if to := requestsTo(t, tick(table, &now, byTraffic-TickInterval), f.rs2); len(to) != 0 {
			t.Fatalf("asked %v though it talks", to)
		}
		if to := requestsTo(t, tick(table, &now, serverFresh), f.rs2); len(to) == 0 {
			t.Fatal("never asked: another station may have the address")
		}
		handle(t, table, replies(rs2MAC, f.rs2, tunlb, f.own.Addr()), Shared, now)
		talks = false
		if to := requestsTo(t, tick(table, &now, serverFresh), f.rs2); len(to) == 0 {
			t.Fatal("not asked though it is silent")
		}
	})
}

// Nobody becomes a server by saying so.
func TestPoison(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		table, now := quiet(t, config(true))
		tick(table, &now, 2*time.Second)
		handle(t, table, replies(rs2MAC, f.rs2, tunlb, f.own.Addr()), Servers, now)
		addr, pinned := f.rs2.As16(), f.rs1.As16()
		table.Events()
		drain(table)
		lies := func(victim family) [][]byte {
			return [][]byte{
				replies(foreign, f.rs2, tunlb, f.own.Addr()),
				replies(foreign, f.rs2, client, f.client),
				announces(foreign, f.rs2),
				asks(foreign, f.rs2, f.vip),
				asks(foreign, f.rs2, f.client),
			}
		}
		for _, lie := range lies(f) {
			for _, side := range []Side{Clients, Servers} {
				handle(t, table, bytes.Clone(lie), side, now)
				if m, _ := table.Lookup(addr, now); m != rs2MAC {
					t.Fatalf("rs2 is at %v after %x", m, lie)
				}
			}
		}
		// One verification, to the old MAC alone, 250 ms apart.
		out := append(drain(table), tick(table, &now, 500*time.Millisecond)...)
		if to := requestsTo(t, out, f.rs2); !slices.Equal(to, []packet.MAC{rs2MAC, rs2MAC, rs2MAC}) {
			t.Fatalf("asked %v", to)
		}
		handle(t, table, replies(foreign, f.rs2, tunlb, f.own.Addr()), Servers, now) // nobody asked the liar
		expect(t, table, addr, now, rs2MAC, Probing)
		handle(t, table, replies(rs2MAC, f.rs2, tunlb, f.own.Addr()), Servers, now)
		expect(t, table, addr, now, rs2MAC, Reachable)
		// The next lies don't make us ask at once again.
		handle(t, table, announces(foreign, f.rs2), Servers, now)
		if out := drain(table); len(out) != 0 {
			t.Fatalf("%d frames", len(out))
		}
		// It has really moved: the old MAC is silent, so all are asked, and the new one is believed.
		tick(table, &now, verifyAgain)
		handle(t, table, announces(foreign, f.rs2), Servers, now)
		if to := requestsTo(t, append(drain(table), tick(table, &now, time.Second)...), f.rs2); !slices.Equal(to, []packet.MAC{rs2MAC, rs2MAC, rs2MAC, all(f.rs2)}) {
			t.Fatalf("asked %v", to)
		}
		handle(t, table, replies(foreign, f.rs2, tunlb, f.own.Addr()), Servers, now)
		expect(t, table, addr, now, foreign, Reachable)
		events(t, table, ServerMoved)
		// The pinned one never moves. It is reported once a minute.
		for range 3 {
			handle(t, table, announces(foreign, f.rs1), Servers, now)
			handle(t, table, replies(foreign, f.rs1, tunlb, f.own.Addr()), Servers, now)
			expect(t, table, pinned, now, rs1MAC, Static)
		}
		events(t, table, PinnedClaim)
		if c := table.Counters(); c.Pinned != 6 || c.Foreign == 0 {
			t.Errorf("%+v", c)
		}
		tick(table, &now, reportAgain)
		table.Events()
		handle(t, table, announces(foreign, f.rs1), Servers, now)
		events(t, table, PinnedClaim)
		checkTable(t, table)
	})
}

// Who asks us is about to get packets: its MAC is used, and verified by the first of them.
func TestLearn(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		table, now := quiet(t, config(false))
		addr := f.client.As16()
		table.Lookup(addr, now) // asked already, and a packet waits
		table.Hold(addr, []byte{1})
		// Anybody may ask in its name; it is to answer.
		handle(t, table, asks(foreign, f.client, f.vip), Shared, now)
		if h := table.Released(); len(h) != 0 {
			t.Fatalf("%+v", h)
		}
		handle(t, table, replies(client, f.client, tunlb, f.own.Addr()), Shared, now)
		if h := table.Released(); len(h) != 1 || h[0].MAC != client {
			t.Fatalf("%+v", h)
		}
		other := f.other.As16()
		handle(t, table, asks(foreign, f.other, f.own.Addr()), Shared, now)
		if table.entries[other].state != Stale {
			t.Fatal("not learnt")
		}
		drain(table)
		expect(t, table, other, now, foreign, Probing)
		if to := requestsTo(t, drain(table), f.other); !slices.Equal(to, []packet.MAC{foreign}) {
			t.Fatalf("asked %v", to)
		}
		// What is no question to us teaches nothing.
		for _, frame := range [][]byte{asks(foreign, f.free, f.rs1), announces(foreign, f.free), replies(foreign, f.free, tunlb, f.own.Addr())} {
			handle(t, table, frame, Shared, now)
			if table.entries[f.free.As16()] != nil {
				t.Fatalf("learnt from %x", frame)
			}
		}
		checkTable(t, table)
	})
}

// Without an own address of the family questions are probes, whose answers differ.
func TestResolveWithoutOwnAddress(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		cfg := config(false)
		cfg.Own = nil
		table, now := quiet(t, cfg)
		addr := f.other.As16()
		table.Lookup(addr, now)
		if m := parse(t, drain(table)[0].Bytes()); m.Form != Probe {
			t.Fatalf("%+v", m)
		}
		answer := replies(foreign, f.other, tunlb, ip("0.0.0.0"))
		if f.name == "v6" {
			answer = announces(foreign, f.other)
		}
		handle(t, table, answer, Shared, now)
		expect(t, table, addr, now, foreign, Reachable)
		tick(table, &now, dynamicFresh+TickInterval)
		table.Lookup(addr, now)
		out := drain(table)
		if to := requestsTo(t, out, f.other); !slices.Equal(to, []packet.MAC{foreign}) {
			t.Fatalf("asked %v", to)
		}
	})
}

// A VIP is never what we ask from, even if it is an own address, too.
func TestNeverAskFromVIP(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		cfg := config(false)
		cfg.VIPs = append(cfg.VIPs, f.own.Addr())
		table := New(cfg, 0)
		now := time.Duration(0)
		table.Lookup(f.other.As16(), now)
		for _, frame := range append(drain(table), tick(table, &now, time.Minute)...) {
			if m := parse(t, frame.Bytes()); m.Form == Request && table.local[m.Sender] != nil && table.local[m.Sender].vip {
				t.Fatalf("asked from a VIP: %+v", m)
			}
		}
	})
}

func TestLookupOfNobody(t *testing.T) {
	table, now := quiet(t, config(true))
	for _, a := range []string{"203.0.113.22", "2001:db8::22", "192.0.2.100", "2001:db8:2::100", "0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "ff02::1", "127.0.0.1", "::1"} {
		expect(t, table, ip(a).As16(), now, packet.MAC{}, Failed)
	}
	if len(drain(table)) != 0 {
		t.Error("asked")
	}
	checkTable(t, table)
}

// A reload announces what is new, pins and forgets.
func TestSet(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		table, now := quiet(t, config(false))
		tick(table, &now, 2*time.Second)
		handle(t, table, replies(rs2MAC, f.rs2, tunlb, f.own.Addr()), Shared, now)
		table.Lookup(f.free.As16(), now)
		table.Hold(f.free.As16(), []byte{1})
		drain(table)
		table.Events()
		cfg := config(false)
		cfg.VIPs = append(cfg.VIPs, f.free)
		cfg.Servers = []Server{{Name: "rs1", Addr: f.rs1}, {Name: "new", Addr: f.other, MAC: foreign}, {Name: "again", Addr: f.other}, {Name: "odd", Addr: f.vip}}
		table.Set(cfg, now)
		checkTable(t, table)
		if h := table.Released(); len(h) != 1 || !h[0].MAC.IsZero() {
			t.Fatalf("%+v", h)
		}
		n := 0
		for _, frame := range tick(table, &now, 5*time.Second) {
			if m := parse(t, frame.Bytes()); m.Form == Announcement {
				if n++; m.Target != f.free.As16() {
					t.Errorf("announced %v again", packet.Addr(m.Target))
				}
			}
		}
		if n != announcements {
			t.Errorf("%d announcements", n)
		}
		expect(t, table, f.other.As16(), now, foreign, Static)
		if m, s := table.Lookup(f.rs2.As16(), now); m != rs2MAC || s == Static || table.entries[f.rs2.As16()].server {
			t.Errorf("the server that is gone is %v at %v", s, m)
		}
		if e := table.entries[f.rs1.As16()]; e.state != Probing || !e.server {
			t.Errorf("the server that is no longer pinned is %v", e.state)
		}
		tick(table, &now, forget)
		if table.entries[f.rs2.As16()] != nil {
			t.Error("the server that is gone is not forgotten")
		}
		// Pinned again, whatever is said.
		cfg.Servers = []Server{{Name: "rs1", Addr: f.rs1, MAC: rs2MAC}}
		table.Set(cfg, now)
		expect(t, table, f.rs1.As16(), now, rs2MAC, Static)
		if n := table.Neighbours(now); n[0].Server != "rs1" || n[0].MAC != rs2MAC || n[0].State != Static || n[0].Addr != f.rs1 || n[0].Age != -1 {
			t.Errorf("%+v", n[0])
		}
		// Another MAC of ours: everybody has to learn it.
		drain(table)
		cfg.MAC = macOf(0x98)
		table.Set(cfg, now)
		table.Tick(now)
		if out := drain(table); len(out) < len(table.locals) {
			t.Errorf("%d frames", len(out))
		}
		checkTable(t, table)
	})
}

// More neighbours than there is room for: those that don't answer go first, servers never.
func TestEviction(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		table, now := quiet(t, config(false))
		at := func(i int) [16]byte {
			a := f.other.As16()
			a[13], a[14] = byte(2+i>>8), byte(i)
			return a
		}
		for i := range 5000 {
			now += 10 * time.Millisecond // 100 a second
			if i%25 == 0 {
				table.Tick(now)
			}
			table.Lookup(at(i), now)
			if i < 100 {
				handle(t, table, replies(macOf(byte(i)), packet.Addr(at(i)), tunlb, f.own.Addr()), Shared, now)
			}
			drain(table)
		}
		checkTable(t, table)
		if table.dynamic != maxDynamic {
			t.Errorf("%d neighbours", table.dynamic)
		}
		for i := range 100 {
			if e := table.entries[at(i)]; e == nil || e.mac != macOf(byte(i)) {
				t.Fatalf("neighbour %d had to give way to who doesn't answer", i)
			}
		}
		if table.entries[f.rs1.As16()] == nil || table.entries[f.rs2.As16()] == nil {
			t.Error("a server had to go")
		}
		// At once: only so many questions.
		n := len(drain(table))
		for i := range 5000 {
			table.Lookup(at(10000+i), now)
			n += len(drain(table))
		}
		if n > newBurst {
			t.Errorf("%d questions at once", n)
		}
		checkTable(t, table)
	})
}

// Inline no server is on the clients' side: what is said there in a server's name is not believed, not even
// when we ask for it, and not passed on.
func TestServerFromClientsSide(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		table := New(config(true), 0)
		table.Tick(0)
		drain(table)
		for _, frame := range [][]byte{
			replies(foreign, f.rs2, tunlb, f.own.Addr()), announces(foreign, f.rs2), asks(foreign, f.rs2, f.client), asks(foreign, f.rs2, f.vip),
		} {
			if v := handle(t, table, frame, Clients, 0); v.Forward || v.Reason != packet.MartianMAC {
				t.Errorf("%+v for %x", v, frame)
			}
		}
		if m, state := table.Lookup(f.rs2.As16(), 0); state != Incomplete {
			t.Errorf("rs2 is %v at %v", state, m)
		}
		handle(t, table, replies(rs2MAC, f.rs2, tunlb, f.own.Addr()), Servers, 0)
		expect(t, table, f.rs2.As16(), 0, rs2MAC, Reachable)
		if !table.IsServer(rs2MAC) || table.IsServer(foreign) {
			t.Error("IsServer")
		}
		checkTable(t, table)
	})
}

// TestRouterSolicitation: one in the VIP's name has the server's MAC in it.
func TestRouterSolicitation(t *testing.T) {
	table := New(config(true), 0)
	frame := asks(rs2MAC, families[1].vip, families[1].client)
	frame[ndType] = 133
	if Is(frame) || !table.Solicits(frame) {
		t.Error("not recognised")
	}
	frame = asks(rs2MAC, families[1].rs2, families[1].client)
	frame[ndType] = 133
	if table.Solicits(frame) || table.Solicits(frame[:ndType]) {
		t.Error("a server's own")
	}
}
