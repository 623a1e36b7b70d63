package tunlb

import (
	"testing"
	"time"

	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
)

// TestErrorsTranslated: an ICMP error reaches whom it concerns, with the packet that that one sent.
func TestErrorsTranslated(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		r := newBox(t)
		client, vip, rs := at(f.client, 40000), at(f.vip, 80), at(f.rs1, 8080)
		request := r.one(0, 0, pt.TCP(t, client, vip, syn, pt.Seq(1)))
		reply := r.one(0, 0, pt.TCP(t, rs, client, ack(), pt.PayloadLen(1400)))

		// A router towards the client: too big. To the server, which sees what it had sent.
		tooBig := pt.ICMPError(t, f.outside, f.vip, f.icmpBig, f.codeBig, reply, pt.NextMTU(1300))
		pt.Check(t, r.one(0, 0, tooBig), pt.SrcDst(at(f.outside, 0), at(f.rs1, 0)), pt.HasMTU(1300), pt.ValidChecksums(),
			pt.Quoted(pt.SrcDst(rs, client)))
		// The server itself: unreachable. To the client, from the VIP.
		unreachable := pt.Unreachable(t, f.rs1, f.client, request)
		pt.Check(t, r.one(0, 0, unreachable), pt.SrcDst(at(f.vip, 0), at(f.client, 0)), pt.ValidChecksums(),
			pt.Quoted(pt.SrcDst(client, vip)))
		// One about nothing that we know goes back to the kernel as it came.
		foreign := pt.Unreachable(t, f.rs1, f.client, pt.UDP(t, at(f.client, 1), at(f.rs1, 2)))
		if got := r.one(0, 0, foreign); string(got) != string(foreign) {
			t.Error("a foreign error was changed")
		}
	})
}

// TestTTL: the sender of a packet whose time is up is told, quoting what it sent.
func TestTTL(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		r := newRouter(t)
		client, vip := at(f.client, 40000), at(f.vip, 80)
		gw := f.outer.Addr().Next()
		pt.Check(t, r.one(0, 0, pt.TCP(t, client, vip, syn, pt.TTL(1))), pt.HasICMP(f.icmpTimeExceeded, 0),
			pt.SrcDst(at(gw, 0), at(f.client, 0)), pt.Quoted(pt.SrcDst(client, vip)), pt.ValidChecksums())
		pt.Check(t, r.one(0, 0, pt.UDP(t, client, at(f.rs1, 33434), pt.TTL(1))), pt.HasICMP(f.icmpTimeExceeded, 0), pt.SrcDst(at(gw, 0), at(f.client, 0)))
		// Two hops get through.
		pt.Check(t, r.one(0, 1, pt.TCP(t, client, vip, syn, pt.TTL(2))), pt.HasTTL(1))
	})
}

// TestMTU: what does not fit the way out is refused if it may not be cut, else cut.
func TestMTU(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		r := newRouter(t)
		r.e.lanes[1].mtu.Store(1400)
		client, vip := at(f.client, 40000), at(f.vip, 80)
		gw := f.outer.Addr().Next()
		r.one(0, 1, pt.TCP(t, client, vip, syn))
		for _, frame := range [][]byte{
			pt.TCP(t, client, vip, ack(), pt.PayloadLen(1420), pt.DontFragment()),
			pt.TCP(t, client, vip, ack(), pt.PayloadLen(30000), pt.GSO(1420), pt.DontFragment()),
		} {
			pt.Check(t, r.one(0, 0, frame), pt.HasICMP(f.icmpBig, f.codeBig), pt.HasMTU(1400), pt.SrcDst(at(gw, 0), at(f.client, 0)),
				pt.Quoted(pt.SrcDst(client, vip)), pt.ValidChecksums())
		}
		// A super-packet whose segments fit is no matter.
		r.one(0, 1, pt.TCP(t, client, vip, ack(), pt.PayloadLen(30000), pt.GSO(1300), pt.DontFragment()))
		if f.name == "v4" {
			pieces := r.send(0, 1, pt.UDP(t, client, at(f.vip, 53), pt.PayloadLen(1450)))
			if len(pieces) != 2 {
				t.Fatalf("%d fragments, want 2; drops: %v", len(pieces), r.e.Drops())
			}
			pt.Check(t, pieces[0], pt.SrcDst(client, at(f.rs1, 5353)), pt.IsFragment(0, true))
		}
	})
}

// TestErrorRate: a flood is not answered packet by packet.
func TestErrorRate(t *testing.T) {
	f := families[0]
	r := newBox(t)
	answers := 0
	for port := range uint16(1000) {
		answers += len(r.send(0, 0, pt.UDP(t, at(f.client, 1000+port), at(f.vip, 81))))
	}
	if answers < icmpBurst || answers > 2*icmpBurst+200 {
		t.Errorf("%d answers to 1000 packets at once, want about %d", answers, icmpBurst)
	}
	if got := r.e.drops[packet.RateLimited].Load(); got != uint64(1000-answers) {
		t.Errorf("%d counted as rate-limited, want %d", got, 1000-answers)
	}
}

// TestNeverLeaves: packets that nobody should see again.
func TestNeverLeaves(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		r := newBox(t)
		client, vip := at(f.client, 40000), at(f.vip, 80)
		r.dropped(0, pt.TCP(t, vip, vip, syn), packet.Land)
		r.dropped(0, pt.TCP(t, client, vip, pt.Flags(packet.TCPSyn|packet.TCPFin)), packet.BadTCPFlags)
		r.dropped(0, pt.TCP(t, client, vip, syn)[:40], packet.Truncated)
		// What the kernel would lead into the device again and again.
		pt.Check(t, r.one(0, 0, pt.UDP(t, client, at(f.own.Next(), 9))), pt.HasICMP(f.icmpUnreachable, 0), pt.SrcDst(at(f.own, 0), at(f.client, 0)))
	})
}

// TestSpoofed: in a virtual router nobody speaks for those behind another port.
func TestSpoofed(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		r := newRouter(t)
		client, vip, rs := at(f.client, 40000), at(f.vip, 80), at(f.rs1, 8080)
		request := r.one(0, 1, pt.TCP(t, client, vip, syn))
		reply := r.one(1, 0, pt.TCP(t, rs, client, pt.Flags(packet.TCPSyn|packet.TCPAck)))

		r.dropped(0, pt.TCP(t, rs, client, ack()), packet.MartianSource)
		r.dropped(1, pt.TCP(t, client, vip, ack()), packet.MartianSource)
		r.dropped(0, pt.UDP(t, at(f.rs2, 1), at(f.rs1, 9)), packet.MartianSource)
		r.dropped(1, pt.UDP(t, at(f.outside, 1), at(f.rs1, 9)), packet.MartianSource)
		r.dropped(0, pt.UDP(t, at(f.vip, 1), at(f.rs1, 9)), packet.MartianSource)

		// An error that is not for the sender of what it quotes, or comes in by the wrong side.
		r.dropped(0, pt.Unreachable(t, f.outside, f.other, reply), packet.BadICMP)
		r.dropped(1, pt.Unreachable(t, f.rs1, f.other, request), packet.BadICMP)
		r.dropped(1, pt.Unreachable(t, f.rs1, f.vip, reply), packet.BadICMP)
		pt.Check(t, r.one(0, 1, pt.Unreachable(t, f.outside, f.vip, reply)), pt.SrcDst(at(f.outside, 0), at(f.rs1, 0)))
	})
}

// TestGroups: a router passes on no broadcast, and no multicast unasked.
func TestGroups(t *testing.T) {
	r := newRouter(t)
	f4, f6 := families[0], families[1]
	for _, frame := range [][]byte{
		pt.UDP(t, at(f4.rs1, 68), at(addr("255.255.255.255"), 67)), pt.UDP(t, at(f4.rs1, 1), at(addr("239.255.255.250"), 1900)),
		pt.UDP(t, at(f6.rs1, 1), at(addr("ff0e::1"), 1900)),
	} {
		r.dropped(1, frame, packet.MartianDestination)
	}
}

// TestBigWithoutDF: super-packets that may be cut are cut, first into segments, then into fragments.
func TestBigWithoutDF(t *testing.T) {
	f := families[0]
	r := newRouter(t)
	r.e.lanes[1].mtu.Store(1400)
	client, vip := at(f.client, 40000), at(f.vip, 80)
	r.one(0, 1, pt.TCP(t, client, vip, syn))
	if n := len(r.send(0, 1, pt.TCP(t, client, vip, ack(), pt.PayloadLen(4*1420), pt.GSO(1420)))); n != 8 {
		t.Errorf("%d packets left, want 4 segments in 2 fragments each; drops: %v", n, r.e.Drops())
	}
}

// TestSpoofedErrors: an error about a segment that is not in flight, or that tells of an MTU which no path has, goes nowhere.
func TestSpoofedErrors(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		r := newBox(t)
		client, vip, rs := at(f.client, 40000), at(f.vip, 80), at(f.rs1, 8080)
		r.one(0, 0, pt.TCP(t, client, vip, syn, pt.Seq(1000)))
		r.one(0, 0, pt.TCP(t, rs, client, pt.Flags(packet.TCPSyn|packet.TCPAck), pt.Seq(5000), pt.Ack(1001)))
		r.one(0, 0, pt.TCP(t, client, vip, ack(), pt.Seq(1001), pt.Ack(5001)))
		for seq := uint32(5001); seq < 9001; seq += 1000 {
			r.one(0, 0, pt.TCP(t, rs, client, ack(), pt.Seq(seq), pt.Ack(1001), pt.PayloadLen(1000)))
		}
		r.one(0, 0, pt.TCP(t, client, vip, ack(), pt.Seq(1001), pt.Ack(6001)))
		tooBig := func(seq, mtu uint32) []byte {
			quoted := pt.TCP(t, vip, client, ack(), pt.Seq(seq), pt.Ack(1001), pt.PayloadLen(1000))
			return pt.ICMPError(t, f.outside, f.vip, f.icmpBig, f.codeBig, quoted, pt.NextMTU(mtu), pt.QuoteLen(8+len(quoted)-packet.VnetLen-1020))
		}
		least := uint32(leastMTU(f.name == "v6"))
		pt.Check(t, r.one(0, 0, tooBig(6001, 1300)), pt.HasMTU(1300), pt.Quoted(pt.SrcDst(rs, client)))
		pt.Check(t, r.one(0, 0, tooBig(8001, least)), pt.HasMTU(least))
		for _, seq := range []uint32{6000, 9002, 9001 + 1<<31, 77} {
			r.dropped(0, tooBig(seq, 1300), packet.BlindICMP)
		}
		for _, mtu := range []uint32{0, 68, least - 1} {
			r.dropped(0, tooBig(8001, mtu), packet.SmallMTU)
		}
		// About the client's segments, from the server's side.
		unreachable := func(seq uint32) []byte {
			return pt.Unreachable(t, f.rs1, f.client, pt.TCP(t, client, rs, ack(), pt.Seq(seq), pt.Ack(6001)))
		}
		pt.Check(t, r.one(0, 0, unreachable(1001)), pt.SrcDst(at(f.vip, 0), at(f.client, 0)))
		r.dropped(0, unreachable(1002), packet.BlindICMP)
		// About nobody's connection, of the service and of the gateway's; a port of nobody's is the host's to judge.
		r.dropped(0, pt.ICMPError(t, f.outside, f.vip, f.icmpBig, f.codeBig, pt.TCP(t, vip, at(f.other, 1), ack()), pt.NextMTU(1300)), packet.ICMPUnmatched)
		r.dropped(0, pt.Unreachable(t, f.outside, f.other, pt.TCP(t, at(f.other, 1), vip, ack())), packet.ICMPUnmatched)
	})
}

// TestSpoofedErrorsDirect: likewise where only the client's side is seen.
func TestSpoofedErrorsDirect(t *testing.T) {
	eachLAN(t, func(t *testing.T, n lan) {
		r := newOneArm(t)
		client, vip := at(n.client, 40000), at(n.vip, 80)
		r.one(0, 0, from(macClient, pt.TCP(t, client, vip, syn, pt.Seq(1000))))
		r.one(0, 0, from(macClient, pt.TCP(t, client, vip, ack(), pt.Seq(1001), pt.Ack(5001))))
		r.one(0, 0, from(macClient, pt.TCP(t, client, vip, ack(), pt.Seq(1001), pt.Ack(9001))))
		typ, code := uint8(3), uint8(4)
		if n.name == "v6" {
			typ, code = 2, 0
		}
		tooBig := func(seq uint32) []byte {
			return from(macRouter, pt.ICMPError(t, n.router, n.vip, typ, code, pt.TCP(t, vip, client, ack(), pt.Seq(seq), pt.PayloadLen(1000)), pt.NextMTU(1300)))
		}
		r.one(0, 0, tooBig(9001))
		r.one(0, 0, tooBig(9001+65_000))
		for _, seq := range []uint32{9000, 9001 + 1<<25, 77} {
			r.dropped(0, tooBig(seq), packet.BlindICMP)
		}
	})
}

// TestRelatedRate: a flood of errors that no number tells from genuine ones is passed on at a bounded rate, of each flow and of all.
func TestRelatedRate(t *testing.T) {
	f := families[0]
	r := newBox(t)
	var spoofed [][]byte
	for port := range uint16(500) {
		request := r.one(0, 0, pt.UDP(t, at(f.client, 40000+port), at(f.vip, 53), pt.PayloadLen(9)))
		spoofed = append(spoofed, pt.Unreachable(t, f.rs1, f.client, request))
	}
	passed := 0
	for range 20 {
		passed += len(r.send(0, 0, spoofed[0]))
	}
	if passed != sharePerSecond {
		t.Errorf("%d errors about one flow passed, want %d", passed, sharePerSecond)
	}
	for range 20 {
		for _, frame := range spoofed {
			passed += len(r.send(0, 0, frame))
		}
	}
	if got := r.e.drops[packet.RateLimited].Load(); passed != relatedBurst || got != 20*501-relatedBurst {
		t.Errorf("%d passed and %d were held back, want %d and the rest", passed, got, relatedBurst)
	}
	r.now += time.Second
	if passed = len(r.send(0, 0, spoofed[0])); passed != 1 {
		t.Error("a second later none passes")
	}
}

// TestErrorsOfOthers: whoever sends 30,000 errors a second about a flow of its own takes nothing away from others', whose path has become
// narrower.
func TestErrorsOfOthers(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		r := newBox(t)
		client, rs := at(f.client, 40000), at(f.rs1, 8080)
		r.one(0, 0, pt.TCP(t, client, at(f.vip, 80), syn, pt.Seq(1)))
		reply := r.one(0, 0, pt.TCP(t, rs, client, ack(), pt.PayloadLen(1400)))
		genuine := pt.ICMPError(t, f.outside, f.vip, f.icmpBig, f.codeBig, reply, pt.NextMTU(1300))
		slotOf := func(frame []byte) *share {
			seen := source(t, frame)
			flow, _ := r.e.flows.Find(&seen)
			outer := flow.Outer()
			return r.e.shares.slot(&outer)
		}
		attacker := at(f.other, 5000)
		victims := slotOf(pt.TCP(t, client, at(f.vip, 80), ack()))
		question := pt.UDP(t, attacker, at(f.vip, 53), pt.PayloadLen(10))
		for r.one(0, 0, question); slotOf(question) == victims; r.one(0, 0, question) { // one time in a thousand
			attacker = at(f.other, attacker.Port()+1)
			question = pt.UDP(t, attacker, at(f.vip, 53), pt.PayloadLen(10))
		}
		answer := r.one(0, 0, pt.UDP(t, at(f.rs1, 5353), attacker, pt.PayloadLen(10)))
		forged := pt.Unreachable(t, f.other, f.vip, answer)
		believed, sent := 0, 0
		for range 600 { // 3 s
			for range 150 {
				believed += len(r.send(0, 0, forged))
				sent++
			}
			if sent%(20*150) == 0 { // ten a second
				pt.Check(t, r.one(0, 0, genuine), pt.HasMTU(1300))
			}
			r.now += 5 * time.Millisecond
			r.seen()
		}
		if believed != 3*sharePerSecond || r.e.drops[packet.RateLimited].Load() != uint64(sent-believed) {
			t.Errorf("%d of %d errors of the attacker's were passed on, want %d; drops %v", believed, sent, 3*sharePerSecond, r.e.Drops())
		}
		outer := source(t, question)
		if n := testing.AllocsPerRun(100, func() { r.e.shares.slot(&outer).allow(r.e.tick()) }); n != 0 {
			t.Errorf("%v allocations", n)
		}
	})
}
