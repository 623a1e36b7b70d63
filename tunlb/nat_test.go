package tunlb

import (
	"testing"
	"time"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
	"github.com/tunlb/tunlb/tunlb/flow"
)

// TestNAT follows a connection there and back, in every form that a kernel hands packets over.
func TestNAT(t *testing.T) {
	forms := []struct {
		name string
		opts []pt.Option
	}{
		{"full checksum", []pt.Option{pt.PayloadLen(100)}},
		{"partial checksum", []pt.Option{pt.PayloadLen(100), pt.PartialChecksum()}},
		{"super-packet", []pt.Option{pt.PayloadLen(40_000), pt.GSO(1400)}},
		{"verified", []pt.Option{pt.PayloadLen(100), pt.DataValid()}},
	}
	each(t, func(t *testing.T, f family) {
		for _, form := range forms {
			t.Run(form.name, func(t *testing.T) {
				r := newBox(t)
				client, vip, rs := at(f.client, 40000), at(f.vip, 80), at(f.rs1, 8080)
				pt.Check(t, r.one(0, 0, pt.TCP(t, client, vip, syn)), pt.SrcDst(client, rs), pt.ValidChecksums(), pt.HasTTL(64))
				pt.Check(t, r.one(0, 0, pt.TCP(t, rs, client, append(form.opts, ack())...)), pt.SrcDst(vip, client), pt.ValidChecksums())
				pt.Check(t, r.one(0, 0, pt.TCP(t, client, vip, append(form.opts, ack())...)), pt.SrcDst(client, rs), pt.ValidChecksums())
			})
		}
	})
}

// TestRouterTTL: where no kernel forwards for us, the hop is ours to count.
func TestRouterTTL(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		r := newRouter(t)
		client, vip, rs := at(f.client, 40000), at(f.vip, 80), at(f.rs1, 8080)
		pt.Check(t, r.one(0, 1, pt.TCP(t, client, vip, syn)), pt.SrcDst(client, rs), pt.HasTTL(63), pt.ValidChecksums())
		pt.Check(t, r.one(1, 0, pt.TCP(t, rs, client, ack())), pt.SrcDst(vip, client), pt.HasTTL(63), pt.ValidChecksums())
		// What is no service's is routed by longest prefix.
		pt.Check(t, r.one(1, 0, pt.UDP(t, rs, at(f.outside, 123))), pt.SrcDst(rs, at(f.outside, 123)), pt.HasTTL(63), pt.ValidChecksums())
		pt.Check(t, r.one(0, 1, pt.UDP(t, client, at(f.rs2, 123))), pt.HasTTL(63), pt.ValidChecksums())
	})
}

func TestUDP(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		r := newBox(t)
		client, vip, rs := at(f.client, 40000), at(f.vip, 53), at(f.rs1, 5353)
		pt.Check(t, r.one(0, 0, pt.UDP(t, client, vip, pt.PayloadLen(30))), pt.SrcDst(client, rs), pt.ValidChecksums())
		pt.Check(t, r.one(0, 0, pt.UDP(t, rs, client, pt.PayloadLen(30))), pt.SrcDst(vip, client), pt.ValidChecksums())
	})
}

// TestRefusals: what no server takes is answered at once, as by IPVS.
func TestRefusals(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		r := newBox(t)
		client := at(f.client, 40000)
		for _, frame := range [][]byte{pt.TCP(t, client, at(f.vip, 81), syn), pt.UDP(t, client, at(f.vip, 81), pt.PayloadLen(5))} {
			pt.Check(t, r.one(0, 0, frame), pt.HasICMP(f.icmpUnreachable, f.codePort), pt.SrcDst(at(f.vip, 0), at(f.client, 0)),
				pt.Quoted(pt.SrcDst(client, at(f.vip, 81))), pt.ValidChecksums())
		}
		// A port without a service: the host resets, or says unreachable.
		pt.Check(t, r.answered(0, 0, pt.TCP(t, client, at(f.vip, 9), syn, pt.Seq(1000))), pt.SrcDst(at(f.vip, 9), client), pt.HasFlags(packet.TCPRst|packet.TCPAck), pt.HasAck(1001), pt.ValidChecksums())
		pt.Check(t, r.answered(0, 0, pt.UDP(t, client, at(f.vip, 9), pt.PayloadLen(5))), pt.HasICMP(f.icmpUnreachable, f.codePort), pt.Quoted(pt.SrcDst(client, at(f.vip, 9))))
		// A stray segment to a service.
		pt.Check(t, r.answered(0, 0, pt.TCP(t, client, at(f.vip, 80), ack(), pt.Ack(77))), pt.SrcDst(at(f.vip, 80), client), pt.HasFlags(packet.TCPRst), pt.HasSeq(77))
		// Ping.
		pt.Check(t, r.answered(0, 0, pt.Echo(t, f.client, f.vip, 7, 1)), pt.SrcDst(at(f.vip, 0), at(f.client, 7)), pt.ValidChecksums())
	})
}

// TestBoxVIP: a VIP that is the box's own address is the kernel's but for the services.
func TestBoxVIP(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		r := newBox(t)
		box := r.e.boxFacts
		box.Local = append(box.Local, f.vip)
		r.box(box)
		client := at(f.client, 40000)
		for _, frame := range [][]byte{
			pt.TCP(t, client, at(f.vip, 22), syn), pt.UDP(t, client, at(f.vip, 9)), pt.Echo(t, f.client, f.vip, 7, 1),
			pt.TCP(t, client, at(f.vip, 80), ack()),
		} {
			if got := r.one(0, 0, frame); string(got) != string(frame) {
				t.Errorf("handed back changed:\n got %x\nwant %x", got, frame)
			}
		}
		pt.Check(t, r.one(0, 0, pt.TCP(t, client, at(f.vip, 80), syn)), pt.SrcDst(client, at(f.rs1, 8080)))
	})
}

// TestTranslatedSource: clients whose answers would go past us.
func TestTranslatedSource(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		r := newBox(t)
		vip := at(f.vip, 80)
		// A server calls its own VIP; a neighbour of the servers; the box itself; and fullnat.
		hairpin := r.one(0, 0, pt.TCP(t, at(f.rs1, 40000), vip, syn))
		pt.Check(t, hairpin, pt.SrcDst(at(f.own, 40000), at(f.rs1, 8080)), pt.ValidChecksums())
		pt.Check(t, r.one(0, 0, pt.TCP(t, at(f.rs1, 8080), at(f.own, 40000), ack())), pt.SrcDst(vip, at(f.rs1, 40000)), pt.ValidChecksums())
		pt.Check(t, r.one(0, 0, pt.TCP(t, at(f.rs1.Prev(), 40001), vip, syn)), pt.SrcDst(at(f.own, 40001), at(f.rs2, 8080)))
		pt.Check(t, r.one(0, 0, pt.TCP(t, at(f.own.Prev(), 40002), vip, syn)), pt.SrcDst(at(f.own, 40002), at(f.rs1, 8080)))
		pt.Check(t, r.one(0, 0, pt.TCP(t, at(f.client, 40003), at(f.vip, 443), syn)), pt.SrcDst(at(f.own, 40003), at(f.rs1, 8443)))
		// A client from elsewhere keeps its address.
		pt.Check(t, r.one(0, 0, pt.TCP(t, at(f.client, 40004), vip, syn)), pt.SrcDst(at(f.client, 40004), at(f.rs2, 8080)))

		// In a virtual router what comes and goes by one port would bypass us.
		r = newRouter(t)
		gw := f.inside.Addr().Next()
		pt.Check(t, r.one(1, 1, pt.TCP(t, at(f.rs2, 40000), vip, syn)), pt.SrcDst(at(gw, 40000), at(f.rs1, 8080)), pt.HasTTL(63))
	})
}

// TestCollision: one client port, two VIPs, one server.
func TestCollision(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		second := f.vip.Next()
		r := newBox(t, func(_ *Options, c *Config) {
			c.Services = append(c.Services, policy.Spec{Name: "twin", Listen: policy.On(at(second, 80), policy.TCP), Servers: []policy.ServerSpec{
				{Name: "rs1", Address: at(f.rs1, 8080), Weight: 1}}})
		})
		client := at(f.client, 40000)
		pt.Check(t, r.one(0, 0, pt.TCP(t, client, at(f.vip, 80), syn)), pt.SrcDst(client, at(f.rs1, 8080)))
		pt.Check(t, r.one(0, 0, pt.TCP(t, client, at(second, 80), syn)), pt.SrcDst(at(f.own, 40000), at(f.rs1, 8080)))
		pt.Check(t, r.one(0, 0, pt.TCP(t, at(f.rs1, 8080), client, ack())), pt.SrcDst(at(f.vip, 80), client))
		pt.Check(t, r.one(0, 0, pt.TCP(t, at(f.rs1, 8080), at(f.own, 40000), ack())), pt.SrcDst(at(second, 80), client))
	})
}

// TestReload: flows of servers that stay go on; of those that go, they end (expire_nodest_conn).
func TestReload(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		r := newBox(t)
		vip := at(f.vip, 80)
		first, second := at(f.client, 40000), at(f.client, 40001)
		r.one(0, 0, pt.TCP(t, first, vip, syn))
		r.one(0, 0, pt.TCP(t, second, vip, syn))
		datagram := pt.UDP(t, first, at(f.vip, 53))
		r.one(0, 0, datagram)

		specs := services()
		for i := range specs {
			switch specs[i].Name {
			case "web-" + f.name:
				specs[i].Servers = specs[i].Servers[:1]
			case "dns-" + f.name:
				specs[i].Servers = []policy.ServerSpec{{Name: "rs2", Address: at(f.rs2, 5353), Weight: 1}}
			}
		}
		if err := r.e.Apply(Config{Services: specs}); err != nil {
			t.Fatal(err)
		}
		pt.Check(t, r.one(0, 0, pt.TCP(t, first, vip, ack())), pt.SrcDst(first, at(f.rs1, 8080)))
		pt.Check(t, r.answered(0, 0, pt.TCP(t, second, vip, ack(), pt.Ack(5))), pt.SrcDst(vip, second), pt.HasFlags(packet.TCPRst))
		pt.Check(t, r.one(0, 0, datagram), pt.SrcDst(first, at(f.rs2, 5353)))
	})
}

// TestPortReuse: a SYN on a finished connection is a new one, scheduled at once.
func TestPortReuse(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		r := newBox(t)
		client, vip, rs := at(f.client, 40000), at(f.vip, 80), at(f.rs1, 8080)
		fin := pt.Flags(packet.TCPFin | packet.TCPAck)
		r.one(0, 0, pt.TCP(t, client, vip, syn, pt.Seq(10)))
		r.one(0, 0, pt.TCP(t, rs, client, pt.Flags(packet.TCPSyn|packet.TCPAck), pt.Seq(90), pt.Ack(11)))
		r.one(0, 0, pt.TCP(t, client, vip, ack(), pt.Seq(11), pt.Ack(91)))
		r.one(0, 0, pt.TCP(t, client, vip, fin, pt.Seq(11), pt.Ack(91)))
		r.one(0, 0, pt.TCP(t, rs, client, fin, pt.Seq(91), pt.Ack(12)))
		r.one(0, 0, pt.TCP(t, client, vip, ack(), pt.Seq(12), pt.Ack(92)))
		pt.Check(t, r.one(0, 0, pt.TCP(t, client, vip, syn, pt.Seq(100000))), pt.SrcDst(client, at(f.rs2, 8080)))
	})
}

// TestExpire: idle flows go, and their servers' counts with them.
func TestExpire(t *testing.T) {
	f := families[0]
	r := newBox(t)
	r.one(0, 0, pt.TCP(t, at(f.client, 40000), at(f.vip, 80), syn))
	if got := r.e.Status().Services[0].Servers[0].Active; got != 1 {
		t.Fatalf("active after a SYN: %d, want 1", got)
	}
	r.now = 59 * time.Second
	r.e.expire()
	if got := r.e.flows.Len(); got != 1 {
		t.Fatalf("%d flows a second before SYN_RECV ends, want 1", got)
	}
	r.now = 62 * time.Second
	r.e.expire()
	if got := r.e.flows.Len(); got != 0 {
		t.Fatalf("%d flows after SYN_RECV has ended, want 0", got)
	}
	if got := r.e.Status().Services[0].Servers[0].Active; got != 0 {
		t.Errorf("active after its end: %d, want 0", got)
	}
}

// TestFull: at the cap half-open flows give way, established ones never.
func TestFull(t *testing.T) {
	f := families[0]
	r := newBox(t, func(o *Options, _ *Config) { o.MaxFlows = 4 })
	client, vip, rs := at(f.client, 40000), at(f.vip, 80), at(f.rs1, 8080)
	r.one(0, 0, pt.TCP(t, client, vip, syn, pt.Seq(10)))
	r.one(0, 0, pt.TCP(t, rs, client, pt.Flags(packet.TCPSyn|packet.TCPAck), pt.Seq(90), pt.Ack(11)))
	r.one(0, 0, pt.TCP(t, client, vip, ack(), pt.Seq(11), pt.Ack(91)))
	for port := range uint16(100) {
		r.one(0, 0, pt.TCP(t, at(f.other, 1000+port), vip, syn))
	}
	if fl, _ := r.e.flows.Find(ptr(packet.TupleOf(packet.ProtoTCP, client, vip))); fl == nil || fl.State() != flow.StateEstablished {
		t.Error("the established flow was evicted")
	}
	if s := r.e.Status().Flows; s.Count != 4 || s.Evicted != 97 {
		t.Errorf("%d flows and %d evicted, want 4 and 97", s.Count, s.Evicted)
	}
}

func ptr[T any](v T) *T { return &v }

// TestDeletedServerAnswers: what a removed server still sends must not reach the client untranslated, and
// the client's next segment is reset all the same.
func TestDeletedServerAnswers(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		r := newBox(t)
		client, vip, rs := at(f.client, 40000), at(f.vip, 80), at(f.rs1, 8080)
		r.one(0, 0, pt.TCP(t, client, vip, syn))
		if err := r.e.Apply(Config{}); err != nil {
			t.Fatal(err)
		}
		r.dropped(0, pt.TCP(t, rs, client, ack(), pt.PayloadLen(10)), packet.ServerGone)
		if got := r.e.flows.Len(); got != 1 {
			t.Fatalf("%d flows, want the one until the client has been told", got)
		}
	})
}

// TestApplyRefused: an error changes nothing.
func TestApplyRefused(t *testing.T) {
	f := families[0]
	r := newBox(t)
	bad := append(services(), services()[0])
	if err := r.e.Apply(Config{Services: bad}); err == nil {
		t.Fatal("a doubled service was accepted")
	}
	pt.Check(t, r.one(0, 0, pt.TCP(t, at(f.client, 40000), at(f.vip, 80), syn)), pt.SrcDst(at(f.client, 40000), at(f.rs1, 8080)))
	r.answered(0, 0, pt.Echo(t, f.client, f.vip, 7, 1))
}

// TestNarrowBehind: the box's kernel is behind the TUN, and a narrower interface behind that. Its own error would quote
// the translated packet.
func TestNarrowBehind(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		out := &toBox{ways: map[[16]byte]Way{f.rs1.As16(): {Link: 3, MTU: 1300}, f.client.As16(): {Link: 2, MTU: 1400}}}
		r := newBox(t, func(o *Options, _ *Config) { o.Direct = out })
		client, vip, server := at(f.client, 40000), at(f.vip, 80), at(f.rs1, 8080)
		r.one(0, 0, pt.TCP(t, client, vip, syn))
		big := r.one(0, 0, pt.TCP(t, client, vip, ack(), pt.PayloadLen(1350), pt.DontFragment()))
		pt.Check(t, big, pt.HasICMP(f.icmpBig, f.codeBig), pt.HasMTU(1300), pt.Quoted(pt.SrcDst(client, vip)))
		r.one(0, 0, pt.TCP(t, client, vip, ack(), pt.PayloadLen(1200), pt.DontFragment()))
		r.one(0, 0, pt.TCP(t, client, vip, ack(), pt.PayloadLen(5000), pt.GSO(1200), pt.DontFragment()))

		r.one(0, 0, pt.TCP(t, server, client, ack(), pt.PayloadLen(1300), pt.DontFragment()))
		big = r.one(0, 0, pt.TCP(t, server, client, ack(), pt.PayloadLen(1390), pt.DontFragment()))
		pt.Check(t, big, pt.HasICMP(f.icmpBig, f.codeBig), pt.HasMTU(1400), pt.Quoted(pt.SrcDst(server, client)))
	})
}
