package tunlb

import (
	"bytes"
	"slices"
	"testing"

	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
	"github.com/tunlb/tunlb/tunlb/watch"
)

// TestWatch: the record of a connection's packets says what they were, whose, and what became of them.
func TestWatch(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			r := newBox(t)
			client, vip, rs := at(f.client, 40000), at(f.vip, 80), at(f.rs1, 8080)
			request := pt.TCP(t, client, vip, syn, pt.Seq(10))
			sent := r.one(0, 0, request)
			answer := pt.TCP(t, rs, client, pt.Flags(packet.TCPSyn|packet.TCPAck), pt.Seq(90), pt.Ack(11))
			answered := r.one(0, 0, answer)
			seen := r.seen()
			if len(seen) != 2 {
				t.Fatalf("%d records, want 2: %+v", len(seen), seen)
			}
			for i, want := range []struct {
				in, out       []byte
				opened, reply bool
				state         string
			}{{request, sent, true, false, "SYN_RECV"}, {answer, answered, false, true, "SYN_RECV"}} {
				got := seen[i]
				if got.In == nil || !bytes.Equal(got.In.Data, want.in) || got.In.Port != "port0" {
					t.Errorf("%d: in %+v, want the frame as it came", i, got.In)
				}
				if len(got.Out) != 1 || !bytes.Equal(got.Out[0].Data, want.out) || got.Out[0].Length != len(want.out)-packet.VnetLen {
					t.Errorf("%d: out %+v, want the frame as it was written", i, got.Out)
				}
				if got.Opened != want.opened || got.Reply != want.reply || got.State != want.state || got.Exit != "port" || got.Drop != "" {
					t.Errorf("%d: opened %v, reply %v, state %s, exit %s, drop %s; want %+v", i, got.Opened, got.Reply, got.State, got.Exit, got.Drop, want)
				}
				if got.Client != client || got.VIP != vip || got.Server != rs || got.Service != "web-"+f.name || got.ServerName != "rs1" || got.Mode != "nat" || got.Protocol != "tcp" {
					t.Errorf("%d: %+v", i, got)
				}
				if got.Flow == 0 || got.Flow != seen[0].Flow {
					t.Errorf("%d: flow %d, want the other's, %d", i, got.Flow, seen[0].Flow)
				}
			}
			if why := seen[0].Why; why == nil || why.Server != "rs1" || seen[1].Why != nil {
				t.Errorf("why: %+v, %+v; want rs1 for the first only", why, seen[1].Why)
			}
		})
	}
}

// TestWatchDrop: the record of a dropped packet has the reason, and the error that its sender got.
func TestWatchDrop(t *testing.T) {
	f := families[0]
	r := newBox(t)
	client, vip := at(f.client, 40000), at(f.vip, 81) // nobody serves
	told := r.one(0, 0, pt.TCP(t, client, vip, syn))
	seen := r.seen()
	if len(seen) != 1 || seen[0].Drop != "no-server" || seen[0].Exit != "" || len(seen[0].Out) != 1 || !bytes.Equal(seen[0].Out[0].Data, told) {
		t.Errorf("%+v, want a drop for no-server and the error sent", seen)
	}
	if seen[0].Client != client || seen[0].VIP != vip || seen[0].Protocol != "tcp" || seen[0].Flow != 0 {
		t.Errorf("%+v, want the packet's own addresses", seen[0])
	}
	short := pt.TCP(t, client, vip, syn)
	r.dropped(0, short[:packet.VnetLen+30], packet.Truncated)
	if seen := r.seen(); len(seen) != 1 || seen[0].Drop != "truncated" || seen[0].Client.Addr() != f.client {
		t.Errorf("%+v, want a record of the malformed packet", seen)
	}
}

// TestWatchFilter: a subscription gets what it asks for, also of packets that others take, and nothing after its end.
func TestWatchFilter(t *testing.T) {
	f := families[0]
	r := newBox(t)
	only := r.e.Watch(watch.Options{Filter: watch.Filter{Server: "rs2"}})
	vip := at(f.vip, 80)
	for port := range uint16(4) {
		r.one(0, 0, pt.TCP(t, at(f.client, 40000+port), vip, syn))
	}
	if all := r.seen(); len(all) != 4 {
		t.Errorf("%d records without a filter, want 4", len(all))
	}
	for range 2 {
		rec, ok := only.Next(t.Context())
		if !ok || rec.ServerName != "rs2" || rec.In == nil || len(rec.In.Data) > packet.VnetLen+watch.DefaultSnap {
			t.Fatalf("%+v, want rs2's", rec)
		}
		only.Release(rec)
	}
	only.Close()
	only.Close()
	r.one(0, 0, pt.TCP(t, at(f.client, 50000), vip, syn))
	r.one(0, 0, pt.TCP(t, at(f.client, 50001), vip, syn))
	if rec, ok := only.Next(t.Context()); ok {
		t.Errorf("a record after the end: %+v", rec)
	}
	r.watched.Close()
	if r.e.watching.now.Load() != nil {
		t.Error("nobody looks on, and yet notes are taken")
	}
}

// TestWatchOverrun: who doesn't read loses records, and the packets go on.
func TestWatchOverrun(t *testing.T) {
	f := families[0]
	r := newBox(t)
	slow := r.e.Watch(watch.Options{Slots: 3})
	defer slow.Close()
	for port := range uint16(10) {
		r.one(0, 0, pt.TCP(t, at(f.client, 40000+port), at(f.vip, 80), syn))
	}
	if slow.Lost() != 7 || r.e.WatchLost() != 7 {
		t.Errorf("lost %d, the engine says %d; want 7", slow.Lost(), r.e.WatchLost())
	}
}

// TestWatchSegment: what goes on on a segment is seen as well: what is switched, ARP, and tunlb's own messages.
func TestWatchSegment(t *testing.T) {
	n := lans[0]
	r := newSwitch(t)
	r.seen()
	r.send(0, 0, pt.Ask(macClient, n.client, n.vip))
	seen := r.seen()
	if !slices.ContainsFunc(seen, func(rec watch.Record) bool { return rec.In != nil && rec.Protocol == "arp" && rec.Exit == "neighbour" }) ||
		!slices.ContainsFunc(seen, func(rec watch.Record) bool { return rec.In == nil && rec.Protocol == "arp" && len(rec.Out) == 1 }) {
		t.Errorf("%+v, want the question taken in and the answer sent", seen)
	}
	r.send(0, 1, packet.AppendEthernet(nil, pt.UDP(t, at(n.client, 1), at(n.rs1, 2)), packet.Broadcast, macClient))
	if seen := r.seen(); len(seen) != 1 || seen[0].Exit != "switch" || len(seen[0].Out) != 1 || seen[0].Out[0].Port != "port1" || !seen[0].Out[0].Ethernet {
		t.Errorf("%+v, want a frame switched to the other port", seen)
	}
}

// TestWatchAllocations: looked at by someone who takes all, a packet costs no allocation, whether its record is read or
// finds the queue full.
func TestWatchAllocations(t *testing.T) {
	l, frame := established(t)
	l.engine.watching.now.Store(nil) // the rig's own, whose records are not given back
	s := l.engine.Watch(watch.Options{Slots: 8, Why: true})
	defer s.Close()
	take := func() {
		l.take(l.buf[packet.Headroom:][:copy(l.buf[packet.Headroom:], frame)])
	}
	ctx := t.Context()
	read := func() {
		take()
		r, ok := s.Next(ctx)
		if !ok || r.In == nil || len(r.Out) != 1 || r.Flow == 0 {
			t.Fatalf("%+v, want the record of a packet", r)
		}
		s.Release(r)
	}
	for range 2 * s.Options().Slots { // each record has its buffers then
		read()
	}
	if n := testing.AllocsPerRun(1000, read); n > 0 {
		t.Errorf("%v allocations per packet that is read of, want 0", n)
	}
	lost := s.Lost()
	if n := testing.AllocsPerRun(1000, take); n > 0 {
		t.Errorf("%v allocations per packet with the queue full, want 0", n)
	}
	if lost != 0 || s.Lost() < 990 {
		t.Errorf("%d and then %d records lost, want none and nearly all", lost, s.Lost())
	}
}

// BenchmarkWatched is BenchmarkHandle with somebody looking on whose queue is full.
func BenchmarkWatched(b *testing.B) {
	l, frame := established(b)
	defer l.engine.Watch(watch.Options{}).Close()
	b.ReportAllocs()
	for b.Loop() {
		l.take(l.buf[packet.Headroom:][:copy(l.buf[packet.Headroom:], frame)])
	}
}
