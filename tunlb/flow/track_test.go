package flow

import (
	"math/rand/v2"
	"testing"

	"github.com/tunlb/tunlb/stack/packet"
	"pgregory.net/rapid"
)

// established returns a flow whose client is at iss+1 and whose server is at irs+1.
func established(t testing.TB, table *Table, iss, irs uint32) *Flow {
	f := mustInsert(t, table, families[0].outer, families[0].inner, 0)
	table.Track(f, Forward, tcpView(syn, iss, 0, 0), 0)
	table.Track(f, Reverse, tcpView(synAck, irs, iss+1, 0), 0)
	table.Track(f, Forward, tcpView(ack, iss+1, irs+1, 0), 0)
	if f.State() != StateEstablished || !f.Assured() {
		t.Fatalf("handshake leads to %v, assured %v", f.State(), f.Assured())
	}
	return f
}

func TestResetWindow(t *testing.T) {
	for _, iss := range []uint32{1000, 1<<32 - 1, 1<<32 - 1500, 1<<31 - 10} {
		for _, irs := range []uint32{7000, 1<<32 - 2} {
			// The client sends 3000 bytes, of which the server acknowledges 1000.
			for _, c := range []struct {
				name string
				d    Direction
				seq  uint32
				want bool
			}{
				{"next byte", Forward, iss + 1 + 3000, true},
				{"what the server expects", Forward, iss + 1 + 1000, true},
				{"in flight", Forward, iss + 1 + 2000, false}, // its receiver asks for another (RFC 5961, 3.2)
				{"acknowledged", Forward, iss + 1 + 999, false},
				{"beyond", Forward, iss + 1 + 3001, false},
				{"far", Forward, iss + 1<<31, false},
				{"server's next byte", Reverse, irs + 1, true},
				{"server's last", Reverse, irs, false},
				{"server's beyond", Reverse, irs + 2, false},
			} {
				table := New(Options{})
				f := established(t, table, iss, irs)
				table.Track(f, Forward, tcpView(ack, iss+1, irs+1, 3000), 0)
				table.Track(f, Reverse, tcpView(ack, irs+1, iss+1+1000, 0), 0)
				got := table.Track(f, c.d, tcpView(rst, c.seq, 0, 0), 0)
				if (got.New == StateClose) != c.want || got.Blind == c.want {
					t.Errorf("iss %d, irs %d: %s: %+v, want accepted %v", iss, irs, c.name, got, c.want)
				}
			}
		}
	}
}

// Segments that fit by neither number move nothing, however many come.
func TestBlindSegmentsAreNotLearnedFrom(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		table := New(Options{})
		iss, irs := rapid.Uint32().Draw(rt, "iss"), rapid.Uint32().Draw(rt, "irs")
		f := established(t, table, iss, irs)
		before := [2][2]uint32{f.end, f.ack}
		for range 20 {
			d := Direction(rapid.IntRange(0, 1).Draw(rt, "d"))
			wildSeq := f.end[d] + rapid.Uint32Range(maxWindow+1, 1<<32-1-maxWindow).Draw(rt, "seq")
			wildAck := f.end[d^1] + rapid.Uint32Range(maxWindow, 1<<32-1-maxWindow).Draw(rt, "ack")
			flags := rapid.SampledFrom([]uint8{ack, finAck, syn, synAck, rst, rstAck}).Draw(rt, "flags")
			seq, acked := wildSeq, wildAck
			if flags&(syn|rst) == 0 { // one guess right is not enough
				switch rapid.IntRange(0, 2).Draw(rt, "right") {
				case 1:
					seq = f.end[d]
				case 2:
					acked = f.end[d^1]
				}
			}
			got := table.Track(f, d, tcpView(flags, seq, acked, 10), 0)
			if got.New != StateEstablished || [2][2]uint32{f.end, f.ack} != before {
				rt.Fatalf("%v flags %x seq %d ack %d: %+v, end %d ack %d", d, flags, seq, acked, got, f.end, f.ack)
			}
		}
	})
}

// Of what somebody sends who knows the ports and guesses the numbers, nothing ends a connection or moves it to where a
// second guess would be easier. The transfer goes on meanwhile, fast, so that much is in flight; its own end is still believed.
func TestBlind(t *testing.T) {
	const tries = 30_000
	for _, c := range []struct {
		name   string
		oneWay bool
		down   bool // the server sends
		flags  []uint8
	}{
		{"RST", false, true, []uint8{rst, rstAck}},
		{"RST, upload", false, false, []uint8{rst, rstAck}},
		{"SYN", false, true, []uint8{syn, synAck}},
		{"FIN", false, true, []uint8{finAck, packet.TCPFin}},
		{"FIN, upload", false, false, []uint8{finAck, packet.TCPFin}},
		{"data, then RST", false, true, []uint8{ack, ack, ack, rst}},
		{"one-way RST", true, false, []uint8{rst, rstAck}},
		{"one-way SYN, then RST", true, false, []uint8{syn, rst}},
		{"one-way FIN", true, false, []uint8{finAck, packet.TCPFin}},
		{"one-way data, then FIN", true, false, []uint8{ack, ack, finAck}},
	} {
		t.Run(c.name, func(t *testing.T) {
			random := rand.New(rand.NewPCG(7, 4))
			table := New(Options{})
			f := mustInsert(t, table, families[0].outer, families[0].inner, 0)
			if c.oneWay {
				f.SetOneWay()
			}
			next := [2]uint32{random.Uint32(), random.Uint32()}
			pass := func(d Direction, flags uint8, ack uint32, n int) Change {
				v := tcpView(flags, next[d], ack, n)
				next[d] += segmentLen(v)
				if d == Reverse && c.oneWay {
					return Change{}
				}
				return table.Track(f, d, v, 0)
			}
			pass(Forward, syn, 0, 0)
			pass(Reverse, synAck, next[Forward], 0)
			pass(Forward, ack, next[Reverse], 0)
			const window = 1 << 21 // in flight
			sender := Forward
			if c.down {
				sender = Reverse
			}
			acked := next[sender]
			guess := tcpView(ack, 0, 0, 0)
			for i := range tries {
				if i%64 == 0 {
					pass(sender, ack, next[sender^1], 60_000)
					if next[sender]-acked > window {
						acked = next[sender] - window
						pass(sender^1, ack, acked, 0)
					}
				}
				guess.Seq, guess.Ack, guess.TCPFlags = random.Uint32(), random.Uint32(), c.flags[i%len(c.flags)]
				if i%3 == 0 && i%2 == 1 { // who sees nothing of the client's numbers may still know that it is silent
					guess.Ack = 0
				}
				d := Direction(random.IntN(2))
				if got := table.Track(f, d, guess, 0); got.New != StateEstablished {
					t.Fatalf("try %d: %v %x seq %d ack %d: %+v", i, d, guess.TCPFlags, guess.Seq, guess.Ack, got)
				}
			}
			if got := pass(sender, rst, 0, 0); got.New != StateClose {
				t.Errorf("the sender's own RST: %+v", got)
			}
		})
	}
}

// TestHeals: after a loss that is longer than what is taken on trust, the receiver's acknowledgements tell what has come.
func TestHeals(t *testing.T) {
	table := New(Options{})
	f := established(t, table, 1000, 5000)
	lost, n := uint32(1<<20), uint32(60_000)
	table.Track(f, Reverse, tcpView(ack, 5001, 1001, 1000), 0)
	table.Track(f, Forward, tcpView(ack, 1001, 6001, 50_000), 0) // both send
	table.Track(f, Reverse, tcpView(ack, 6001+lost, 51_001, int(n)), 0)
	if f.end[Reverse] != 6001 {
		t.Fatalf("a gap of %d beside an acknowledgement of 50 kB is believed", lost)
	}
	table.Track(f, Forward, tcpView(ack, 51_001, 6001+lost+n, 0), 0)
	if got := table.Track(f, Reverse, tcpView(finAck, 6001+lost+n, 51_001, 0), 0); got.New != StateFinWait {
		t.Errorf("the server's FIN: %+v, end %d, want %d", got, f.end[Reverse], 6001+lost+n)
	}
}

// TestInFlight: what an ICMP error may quote.
func TestInFlight(t *testing.T) {
	table := New(Options{})
	f := established(t, table, 1000, 5000)
	table.Track(f, Reverse, tcpView(ack, 5001, 1001, 10_000), 0)
	table.Track(f, Forward, tcpView(ack, 1001, 7001, 0), 0)
	one := mustInsert(t, table, families[1].outer, families[1].inner, 0)
	one.SetOneWay()
	table.Track(one, Forward, tcpView(syn, 1000, 0, 0), 0)
	if !one.InFlight(Reverse, 77) || !one.InFlight(Forward, 1000) || one.InFlight(Forward, 1002) {
		t.Error("one way, half-open: the SYN is in flight, and of the server nothing is known")
	}
	table.Track(one, Forward, tcpView(ack, 1001, 7001, 50), 0)
	for _, c := range []struct {
		f    *Flow
		d    Direction
		seq  uint32
		want bool
	}{
		{f, Reverse, 7000, false}, {f, Reverse, 7001, true}, {f, Reverse, 15_001, true}, {f, Reverse, 15_002, false}, {f, Reverse, 1 << 31, false},
		{f, Forward, 1000, false}, {f, Forward, 1001, true}, {f, Forward, 1002, false},
		{one, Forward, 1051, true}, {one, Forward, 1052, false}, {one, Forward, 1<<32 - 1<<25, false},
		{one, Reverse, 7000, false}, {one, Reverse, 7001, true}, {one, Reverse, 7001 + maxWindow, true}, {one, Reverse, 7002 + maxWindow, false},
	} {
		if got := c.f.InFlight(c.d, c.seq); got != c.want {
			t.Errorf("one way %v, %v, %d: %v", c.f.OneWay(), c.d, c.seq, got)
		}
	}
	f.SetCarriage(ByKernel)
	f.SetCarriage(ByUs)
	if !f.InFlight(Reverse, 1<<31) {
		t.Error("nothing is known of a flow that the kernel has given back")
	}
}

// TestDoubtfulReset: a RST that comes before the flow given back by the kernel has shown any number closes it in doubt.
func TestDoubtfulReset(t *testing.T) {
	table := New(Options{})
	f := established(t, table, 1000, 5000)
	f.SetCarriage(ByKernel)
	f.SetCarriage(ByUs)
	table.Track(f, Reverse, tcpView(rst, 3_000_000_000, 0, 0), 0)
	if f.State() != StateClose || f.ReusedBy(Forward, tcpView(syn, 1, 0, 0), 2000) {
		t.Fatalf("%v: want closed in doubt, and no SYN to take its place", f.State())
	}
	table.Track(f, Forward, tcpView(ack, 9001, 70_001, 10), 0)
	table.Track(f, Reverse, tcpView(ack, 70_001, 9011, 10), 0)
	if f.State() != StateEstablished {
		t.Errorf("%v after both sides have gone on", f.State())
	}
}

// A real transfer, however long, however lossy and reordered, can be reset by its ends at any time.
func TestTransferIsFollowed(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		table := New(Options{})
		f := established(t, table, rapid.Uint32().Draw(rt, "iss"), 1)
		next, acked := f.end[Forward], f.end[Forward]
		for range rapid.IntRange(1, 300).Draw(rt, "n") {
			n := rapid.IntRange(1, 60000).Draw(rt, "len")
			if int(next-acked)+n > maxWindow {
				acked = next
			}
			if rapid.IntRange(0, 9).Draw(rt, "lost") > 0 {
				table.Track(f, Forward, tcpView(ack, next, 2, n), 0)
				acked = next + uint32(n)
				if rapid.Bool().Draw(rt, "acked") {
					table.Track(f, Reverse, tcpView(ack, 2, acked, 0), 0)
				}
			}
			next += uint32(n)
		}
		table.Track(f, Forward, tcpView(ack, next, 2, 1), 0)
		if got := table.Track(f, Forward, tcpView(rst, next+1, 0, 0), 0); got.New != StateClose {
			rt.Fatalf("reset ignored: %+v, end %d, sent to %d", got, f.end, next+1)
		}
	})
}

func TestLaterFragmentHasNoTCPHeader(t *testing.T) {
	table := New(Options{})
	f := established(t, table, 1000, 5000)
	v := tcpView(rst, 1001, 0, 0)
	v.FragOffset, v.Fragment = 1480, true
	if got := table.Track(f, Forward, v, 5); got.New != StateEstablished || f.Seen() != 5 {
		t.Errorf("got %+v, seen %d", got, f.Seen())
	}
	if v.TCPFlags = packet.TCPSyn; f.ReusedBy(Forward, v, 2000) {
		t.Error("a later fragment opens a connection")
	}
}

// A handshake that came to nothing, forged or given up, leaves a flow in SYN_RECV. The next connection by the same port has other
// numbers, and is known as well as any.
func TestNextHandshake(t *testing.T) {
	for name, before := range map[string]func(*Table, *Flow){
		"reset by the client": func(table *Table, f *Flow) { table.Track(f, Forward, tcpView(rst, 1001, 0, 0), 2) },
		"given up":            func(*Table, *Flow) {},
	} {
		t.Run(name, func(t *testing.T) {
			table := New(Options{})
			f := mustInsert(t, table, families[0].outer, families[0].inner, 0)
			table.Track(f, Forward, tcpView(syn, 1000, 0, 0), 0)
			table.Track(f, Reverse, tcpView(synAck, 5000, 1001, 0), 1)
			before(table, f)
			again(t, table, f, 3_000_000_000, 2_000_000_000)
		})
	}
}

// again makes a connection with other numbers of a flow, and ends it.
func again(t *testing.T, table *Table, f *Flow, iss, irs uint32) {
	t.Helper()
	opening := tcpView(syn, iss, 0, 0)
	if f.ReusedBy(Forward, opening, 1000) {
		t.Fatal("opens a new flow")
	}
	table.Track(f, Forward, opening, 1000)
	table.Track(f, Reverse, tcpView(synAck, irs, iss+1, 0), 1001)
	if f.Assured() {
		t.Fatal("assured before its client has been heard")
	}
	table.Track(f, Forward, tcpView(ack, iss+1, irs+1, 0), 1002)
	table.Track(f, Forward, tcpView(ack, iss+1, irs+1, 500), 1003)
	table.Track(f, Reverse, tcpView(ack, irs+1, iss+501, 1400), 1004)
	if f.State() != StateEstablished || !f.Assured() {
		t.Fatalf("%v, assured %v", f.State(), f.Assured())
	}
	checkTable(t, table)
	if !f.InFlight(Reverse, irs+1) {
		t.Error("a genuine error about the server's data does not fit")
	}
	if f.InFlight(Reverse, 5001) {
		t.Error("an error about the former connection fits")
	}
	for _, c := range []Change{
		table.Track(f, Reverse, tcpView(finAck, irs+1401, iss+501, 0), 1005),
		table.Track(f, Forward, tcpView(finAck, iss+501, irs+1402, 0), 1006),
	} {
		if c.Blind || c.Old == c.New {
			t.Errorf("FIN: %+v", c)
		}
	}
	if f.State() != StateTimeWait {
		t.Errorf("ends in %v", f.State())
	}
}

// Somebody who does not see the connection can't move its state, nor make tunlb take another handshake for its own; nor can
// an old SYN-ACK that comes twice.
func TestBlindSyn(t *testing.T) {
	for _, d := range []Direction{Forward, Reverse} {
		table := New(Options{})
		f := established(t, table, 1000, 5000)
		ends := tcpView(finAck, 1001, 5001, 0)
		if d == Reverse {
			ends = tcpView(finAck, 5001, 1001, 0)
		}
		table.Track(f, d, ends, 1)
		was := f.State()
		for i := range uint32(100) {
			table.Track(f, Forward, tcpView(syn, 77+i*1e7, 0, 0), 2)
			table.Track(f, Forward, tcpView(ack, 78+i*1e7, 5*i*1e7, 0), 2)
			table.Track(f, Reverse, tcpView(ack, 5001, 1001, 0), 3) // what a real server says to that
		}
		table.Track(f, Reverse, tcpView(synAck, 5000, 1001, 0), 3)
		if f.State() != was || !f.Assured() {
			t.Errorf("after a FIN %v: %v, assured %v; before: %v", d, f.State(), f.Assured(), was)
		}
		if c := table.Track(f, Forward, tcpView(rst, 4242, 0, 0), 4); !c.Blind {
			t.Error("a guessed RST fits")
		}
	}
}

// One-way, a client that has closed its half goes on to acknowledge what it is sent: a forged SYN does not take its connection.
func TestHalfClosedOneWay(t *testing.T) {
	table := New(Options{})
	outer, _ := tuples(1)
	f := mustInsert(t, table, outer, outer, 0)
	f.SetOneWay()
	table.Track(f, Forward, tcpView(syn, 1000, 0, 0), 0)
	table.Track(f, Forward, tcpView(ack, 1001, 5001, 0), 1)
	table.Track(f, Forward, tcpView(finAck, 1001, 5001, 0), 2)
	next := tcpView(syn, 900_000, 0, 0)
	for now := Tick(100); now < 5000; now += 100 {
		table.Track(f, Forward, tcpView(ack, 1002, 5001+uint32(now), 0), now)
		if f.ReusedBy(Forward, next, now+99) {
			t.Fatal("a forged SYN opens a new flow")
		}
	}
	if !f.ReusedBy(Forward, next, 4900+halfClosed) {
		t.Error("the port can't be used again")
	}
}
