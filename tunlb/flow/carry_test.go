package flow

import (
	"testing"
	"time"

	"github.com/tunlb/tunlb/stack/packet"
	"pgregory.net/rapid"
)

// TestCarriedStates: what is seen of a connection that the kernel carries leads to the states that have the right timeouts.
func TestCarriedStates(t *testing.T) {
	const finAck = packet.TCPFin | ack
	type seen struct {
		d     Direction
		flags uint8
	}
	for _, c := range []struct {
		name  string
		early bool // handed over with the first packet
		seen  []seen
		want  State
		after time.Duration // of silence, when it is over
	}{
		{"nothing", false, nil, StateEstablished, 900 * time.Second},
		{"nothing, half-open", true, nil, StateSynRecv, 60 * time.Second},
		{"the server's answer", true, []seen{{Reverse, synAck}}, StateSynRecv, 60 * time.Second},
		{"the client's SYN again", false, []seen{{Forward, syn}}, StateEstablished, 900 * time.Second},
		{"the client ends", false, []seen{{Forward, finAck}}, StateCloseWait, 60 * time.Second},
		{"the server ends", false, []seen{{Reverse, finAck}}, StateFinWait, 120 * time.Second},
		{"both end", false, []seen{{Forward, finAck}, {Reverse, finAck}}, StateTimeWait, 120 * time.Second},
		{"both end, the server first", false, []seen{{Reverse, finAck}, {Forward, finAck}}, StateTimeWait, 120 * time.Second},
		{"both end, and repeat it", false, []seen{{Reverse, finAck}, {Forward, finAck}, {Forward, finAck}, {Reverse, ack}}, StateTimeWait, 120 * time.Second},
		{"the client ends early", true, []seen{{Reverse, synAck}, {Forward, finAck}}, StateCloseWait, 60 * time.Second},
		{"both end early", true, []seen{{Reverse, synAck}, {Forward, finAck}, {Reverse, finAck}}, StateTimeWait, 120 * time.Second},
		{"both end early, the server first", true, []seen{{Reverse, synAck}, {Reverse, finAck}, {Forward, finAck}}, StateTimeWait, 120 * time.Second},
		{"the client resets", false, []seen{{Forward, rst}}, StateClose, 60 * time.Second}, // not 10: it is in doubt
		{"the server resets", false, []seen{{Reverse, rst}}, StateClose, 60 * time.Second},
		{"the server refuses", true, []seen{{Reverse, rst}}, StateClose, 10 * time.Second},
		{"a SYN of nobody's", false, []seen{{Reverse, syn}, {Reverse, synAck}, {Forward, syn}}, StateEstablished, 900 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			table := New(Options{})
			var f *Flow
			if c.early {
				f = mustInsert(t, table, families[0].outer, families[0].inner, 0)
				table.Track(f, Forward, tcpView(syn, 1000, 0, 0), 0)
			} else {
				f = established(t, table, 1000, 9000)
			}
			f.SetCarriage(ByKernel)
			for i, s := range c.seen { // with numbers that nobody could expect
				if change := table.Track(f, s.d, tcpView(s.flags, uint32(i)<<30, 7, 0), 0); change.Blind {
					t.Errorf("segment %d is judged by its numbers", i)
				}
			}
			if f.State() != c.want {
				t.Errorf("the state is %v, want %v", f.State(), c.want)
			}
			over := ticks(c.after)
			if table.Silent(f, over-1) || !table.Silent(f, over) {
				t.Errorf("it is not over after %v but after %d ms", c.after, table.deadline(f))
			}
			// The kernel's is not to expire, ours is.
			expireAll(table, over+30_000)
			if table.Len() != 1 {
				t.Fatal("it has expired in the kernel's hands")
			}
			f.SetCarriage(ByUs)
			expireAll(table, over+60_000)
			if table.Len() != 0 {
				t.Error("it does not expire")
			}
		})
	}
}

func expireAll(t *Table, now Tick) {
	for t.Expire(now, 100) {
	}
}

// TestLearnsAnew: of what has gone by the kernel nothing is known, so the first segments of both sides that come back
// are believed, and what follows is judged by them.
func TestLearnsAnew(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		table := New(Options{})
		f := established(t, table, rapid.Uint32().Draw(rt, "iss"), rapid.Uint32().Draw(rt, "irs"))
		f.SetCarriage(ByKernel)
		if _, _, _, ok := f.Reset(Forward); ok {
			rt.Fatal("a reset by numbers that are out of date")
		}
		f.SetCarriage(ByUs)
		if !f.LearnsAnew() {
			rt.Fatal("it does not know where it has been")
		}
		client, server := rapid.Uint32().Draw(rt, "client's next"), rapid.Uint32().Draw(rt, "server's next")
		segments := []struct {
			d        Direction
			seq, ack uint32
		}{{Reverse, server, client}, {Forward, client, server + 1000}}
		if rapid.Bool().Draw(rt, "the client first") {
			segments[0], segments[1] = segments[1], segments[0]
			segments[0].ack = server
		}
		for _, s := range segments {
			table.Track(f, s.d, tcpView(ack, s.seq, s.ack, 1000*int(s.d)), 0)
		}
		if got := table.Track(f, Reverse, tcpView(rst, server+1<<25, client, 0), 0); !got.Blind {
			rt.Fatal("a guessed RST is believed")
		}
		if got := table.Track(f, Forward, tcpView(rst, client, 0, 0), 0); got.New != StateClose {
			rt.Fatal("a right RST is not believed")
		}
	})
}

// TestRevives: a connection that a RST has closed in the kernel's hands lives if both sides go on to speak.
func TestRevives(t *testing.T) {
	for name, c := range map[string]struct {
		speak []Direction
		flags uint8
		want  State
	}{
		"both":        {[]Direction{Forward, Reverse}, ack, StateEstablished},
		"the client":  {[]Direction{Forward, Forward, Forward}, ack, StateClose},
		"the server":  {[]Direction{Reverse, Reverse, Reverse}, ack, StateClose},
		"only resets": {[]Direction{Forward, Reverse, Forward, Reverse}, rst, StateClose},
		"only SYNs":   {[]Direction{Forward, Reverse, Forward, Reverse}, syn, StateClose},
	} {
		table := New(Options{})
		f := established(t, table, 1000, 9000)
		f.SetCarriage(ByKernel)
		table.Track(f, Forward, tcpView(rst, 1, 0, 0), 0)
		f.SetCarriage(ByUs)
		// Whoever has forged the RST may send a SYN next: it must not take the connection's place.
		guess := tcpView(syn, 1<<30, 0, 0)
		if f.ReusedBy(Forward, guess, 2000) {
			t.Errorf("%s: a SYN takes its place", name)
		}
		table.Track(f, Forward, guess, 0)
		for _, d := range c.speak {
			table.Track(f, d, tcpView(c.flags, 5000, 5000, 0), 0)
		}
		if f.State() != c.want {
			t.Errorf("%s: %v, want %v", name, f.State(), c.want)
		}
	}
	// One that was closed in ours stays so.
	table := New(Options{})
	f := established(t, table, 1000, 9000)
	table.Track(f, Forward, tcpView(rst, 1001, 0, 0), 0)
	for _, d := range []Direction{Forward, Reverse} {
		table.Track(f, d, tcpView(ack, 1001+8000*uint32(d), 9001-8000*uint32(d), 0), 0)
	}
	if f.State() != StateClose {
		t.Errorf("judged and closed, and now %v", f.State())
	}
}

// TestUsed: bytes are added, and the time of the last packet goes forward only.
func TestUsed(t *testing.T) {
	table := New(Options{})
	f := mustInsert(t, table, families[0].outer, families[0].inner, 1000)
	table.Track(f, Forward, tcpView(syn, 1, 0, 0), 1000)
	before := f.Bytes(Forward)
	table.Used(f, Forward, 5<<32, 500, 3000)
	table.Used(f, Reverse, 7, 2500, 3000)
	if f.Bytes(Forward) != before+5<<32 || f.Bytes(Reverse) != 7 || f.Seen() != 2500 {
		t.Errorf("%d and %d bytes, last heard at %d", f.Bytes(Forward), f.Bytes(Reverse), f.Seen())
	}
}

// TestCarriageIsAlone: it shares a word with flags that it leaves alone.
func TestCarriageIsAlone(t *testing.T) {
	f := &Flow{flags: ^flags(0) &^ (carriageMask << carriageShift)}
	for _, c := range []Carriage{Offered, Asked, Refused, ByUs} {
		f.SetCarriage(c)
		if f.Carriage() != c || f.flags|carriageMask<<carriageShift != ^flags(0) {
			t.Errorf("%v: %b", c, f.flags)
		}
	}
	f.SetCarriage(ByKernel)
	known := endForward | endReverse | ackedForward | ackedReverse
	if f.Carriage() != ByKernel || f.flags|carriageMask<<carriageShift != ^known {
		t.Errorf("%b", f.flags)
	}
	if answersOnly<<1 != 1<<carriageShift || learnsAnew != 1<<(carriageShift+3) {
		t.Error("the flags' places overlap")
	}
}
