package flow

import (
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
				{"between", Forward, iss + 1 + 2000, true},
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
			wildAck := f.end[d^1] + rapid.Uint32Range(1, 1<<32-1-maxWindow).Draw(rt, "ack")
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
	if v.TCPFlags = packet.TCPSyn; f.ReusedBy(Forward, v) {
		t.Error("a later fragment opens a connection")
	}
}
