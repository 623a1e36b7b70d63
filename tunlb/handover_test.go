package tunlb

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
	"github.com/tunlb/tunlb/tunlb/flow"
)

// TestHandOver: a connection is handed over with its first packet, and back with its last.
func TestHandOver(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		r := newFast(t, f)
		r.fromClient(40000, syn, pt.Seq(1000))
		r.want(40000, "SYN_RECV", 0)
		r.step()
		r.want(40000, "SYN_RECV, kernel", 1)
		got, want := r.path.carried[0], Carried{
			Outer: packet.Tuple{Src: f.client.As16(), SrcPort: 40000, Dst: f.vip.As16(), DstPort: 80, Proto: packet.ProtoTCP},
			Inner: packet.Tuple{Src: f.client.As16(), SrcPort: 40000, Dst: f.rs1.As16(), DstPort: 8080, Proto: packet.ProtoTCP},
		}
		if got != want {
			t.Errorf("handed over %v, want %v", got, want)
		}
		// What follows the SYN and ACK goes by the kernel; both FINs come here, with numbers far ahead.
		r.fromServer(40000, pt.Flags(packet.TCPSyn|packet.TCPAck), pt.Seq(9000), pt.Ack(1001))
		r.path.pass(flow.Forward, 3, 300)
		r.path.pass(flow.Reverse, 1000, 60_000_000)
		r.fromServer(40000, fin(), pt.Seq(9001+60_000_000), pt.Ack(1101))
		r.want(40000, "FIN_WAIT, kernel", 1)
		r.fromClient(40000, fin(), pt.Seq(1101), pt.Ack(9002+60_000_000))
		r.want(40000, "TIME_WAIT", 1)
		r.step()
		r.want(40000, "TIME_WAIT", 0)
		if s := r.fastpath(); s.Carried != 0 || s.HandedOver != 1 || s.TakenBack != 1 || s.HalfOpen != 0 || s.Bytes != 60_000_300 {
			t.Errorf("%+v", s)
		}
		if c, _ := r.conn(40000); c.OutBytes < 60_000_000 || c.OutBytes > 60_001_000 {
			t.Errorf("%d bytes out", c.OutBytes)
		}
		svc := r.e.Status().Services[0]
		if f.name == "v6" {
			svc = r.e.Status().Services[len(services())/2]
		}
		if svc.Traffic.OutPackets != 1002 || svc.Traffic.InPackets != 5 || svc.Servers[0].Traffic != svc.Traffic {
			t.Errorf("the service has counted %+v, its server %+v", svc.Traffic, svc.Servers[0].Traffic)
		}
		// The client's port may be used again.
		r.fromClient(40000, syn, pt.Seq(5000))
		r.step()
		r.want(40000, "SYN_RECV, kernel", 1)
	})
}

// TestHalfClosed: a client that says no more may hear a lot yet, the acknowledgement of its handshake gone by the kernel.
func TestHalfClosed(t *testing.T) {
	r := newFast(t, families[0])
	r.fromClient(40000, syn, pt.Seq(1000))
	r.step()
	r.fromServer(40000, pt.Flags(packet.TCPSyn|packet.TCPAck), pt.Seq(9000), pt.Ack(1001))
	r.fromClient(40000, fin(), pt.Seq(1101), pt.Ack(9001))
	r.want(40000, "CLOSE_WAIT, kernel", 1)
	r.fromServer(40000, fin(), pt.Seq(9001), pt.Ack(1102))
	r.step()
	r.want(40000, "TIME_WAIT", 0)
}

// TestNotHandedOver: what the kernel can't carry, it is not asked for.
func TestNotHandedOver(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		user := func(_ *Options, c *Config) {
			for i := range c.Services {
				c.Services[i].Fastpath = false
			}
		}
		for name, c := range map[string]struct {
			edit  func(*Options, *Config)
			frame func(t *testing.T) []byte
		}{
			"a service without": {user, func(t *testing.T) []byte { return pt.TCP(t, at(f.client, 40000), at(f.vip, 80), syn) }},
			"the box itself":    {nil, func(t *testing.T) []byte { return pt.TCP(t, at(f.own.Prev(), 40000), at(f.vip, 80), syn) }},
			"a datagram":        {nil, func(t *testing.T) []byte { return pt.UDP(t, at(f.client, 40000), at(f.vip, 53), pt.PayloadLen(9)) }},
		} {
			t.Run(name, func(t *testing.T) {
				if c.edit == nil {
					c.edit = func(*Options, *Config) {}
				}
				r := newFast(t, f, c.edit)
				r.one(0, 0, c.frame(t))
				r.step()
				if len(r.path.carried) > 0 {
					t.Errorf("the kernel was asked to carry %v", r.path.carried)
				}
			})
		}
		t.Run("a router's ports", func(t *testing.T) {
			path := newMemoryPath()
			r := newRouter(t, func(o *Options, c *Config) {
				o.Fastpath = path
				c.Services[0].Fastpath = true
			})
			r.one(0, 1, pt.TCP(t, at(families[0].client, 40000), at(families[0].vip, 80), syn))
			if r.e.carrier.work() || len(path.carried) > 0 {
				t.Errorf("the kernel was asked to carry %v", path.carried)
			}
		})
	})
}

// TestHandOverFullNAT: both addresses are translated, and answers are addressed to tunlb.
func TestHandOverFullNAT(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		r := newFast(t, f)
		r.one(0, 0, pt.TCP(t, at(f.client, 40000), at(f.vip, 443), syn))
		r.step()
		if inner := r.path.carried[0].Inner; inner.Source() != at(f.own, 40000) || inner.Destination() != at(f.rs1, 8443) {
			t.Errorf("handed over to %v", inner)
		}
	})
}

// TestHandOverUDP: a question and its answer are not worth it.
func TestHandOverUDP(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		r := newFast(t, f)
		ask := pt.UDP(t, at(f.client, 40000), at(f.vip, 53), pt.PayloadLen(9))
		r.one(0, 0, ask)
		r.one(0, 0, pt.UDP(t, at(f.rs1, 5353), at(f.client, 40000), pt.PayloadLen(9)))
		r.step()
		r.want(40000, "UDP", 0)
		r.one(0, 0, ask)
		r.step()
		r.want(40000, "UDP, kernel", 1)
		// 300 s of silence end it.
		r.pass(200 * time.Second)
		r.path.pass(flow.Forward, 1, 100)
		r.pass(298 * time.Second)
		r.want(40000, "UDP, kernel", 1)
		if c, _ := r.conn(40000); c.Expires != 2*time.Second {
			t.Errorf("it expires in %v", c.Expires)
		}
		r.pass(10 * time.Second)
		r.want(40000, "none", 0)
	})
}

// TestGoneBeforeTheAnswer: the flow ends, or its place is another's, while the kernel is told of it.
func TestGoneBeforeTheAnswer(t *testing.T) {
	f := families[0]
	vip := "tcp/" + at(f.client, 40000).String() + "/" + at(f.vip, 80).String()
	for name, between := range map[string]func(r *fastRig){
		"killed": func(r *fastRig) {
			if err := r.e.Kill(vip); err != nil {
				r.t.Fatal(err)
			}
			r.ports[0].take()
		},
		"reset by the server": func(r *fastRig) {
			r.fromServer(40000, pt.Flags(packet.TCPRst|packet.TCPAck), pt.Seq(0), pt.Ack(1001))
		},
		"another server": func(r *fastRig) {
			r.fromServer(40000, pt.Flags(packet.TCPRst|packet.TCPAck), pt.Seq(0), pt.Ack(1001))
			r.path.between = nil
			r.fromClient(40000, syn, pt.Seq(77000)) // the scheduler's turn is rs2's
		},
		"drained": func(r *fastRig) {
			if _, err := r.e.Order(ServerOrder{Server: "rs1", Do: Drain}); err != nil {
				r.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newFast(t, f)
			r.fromClient(40000, syn, pt.Seq(1000))
			r.path.between = func() { between(r) }
			if !r.c.work() {
				t.Fatal("nothing was offered")
			}
			r.path.between = nil
			if name != "another server" {
				if r.step(); r.path.len() != 0 || r.fastpath().Carried != 0 || r.c.halfOpen != 0 {
					t.Fatalf("the kernel still carries %d connections, %+v", r.path.len(), r.fastpath())
				}
				return
			}
			r.step()
			r.want(40000, "SYN_RECV, kernel", 1)
			for _, c := range r.path.conns {
				if c.Inner.Destination() != at(f.rs2, 8080) {
					t.Errorf("the kernel carries it to %v", c.Inner.Destination())
				}
			}
			if r.c.halfOpen != 1 {
				t.Errorf("%d half-open ones", r.c.halfOpen)
			}
		})
	}
}

// TestEndsWhileAsked: what the kernel carries before it is known to has not been seen here, and a FIN is not judged by that.
func TestEndsWhileAsked(t *testing.T) {
	r := newFast(t, families[0])
	r.fromClient(40000, syn, pt.Seq(1000))
	r.fromServer(40000, pt.Flags(packet.TCPSyn|packet.TCPAck), pt.Seq(9000), pt.Ack(1001))
	r.fromClient(40000, ack(), pt.Seq(1001), pt.Ack(9001))
	r.path.between = func() {
		r.fromServer(40000, fin(), pt.Seq(9001+100_000), pt.Ack(1101))
		r.fromClient(40000, fin(), pt.Seq(1101), pt.Ack(9002+100_000))
	}
	r.c.work()
	r.step()
	r.want(40000, "TIME_WAIT", 0)
}

// TestFloodIsBounded: a SYN flood does not fill the kernel, and does not keep others out of it.
func TestFloodIsBounded(t *testing.T) {
	r := newFast(t, families[0])
	for i := range maxHalfOpen + 500 {
		r.fromClient(uint16(1000+i), syn)
		if i%100 == 0 {
			r.step()
		}
	}
	r.step()
	if r.path.len() != maxHalfOpen || r.c.halfOpen != maxHalfOpen {
		t.Fatalf("the kernel carries %d, %d of them half-open; want %d", r.path.len(), r.c.halfOpen, maxHalfOpen)
	}
	r.established(50000)
	r.pass(4 * time.Second)
	r.want(50000, "ESTABLISHED, kernel", 1)
	if r.c.halfOpen != 0 {
		t.Fatalf("%d half-open ones remain", r.c.halfOpen)
	}
}

// TestHalfOpenProvesItself: a connection that was handed over with its first packet is judged once by its numbers, in the middle
// of a download.
func TestHalfOpenProvesItself(t *testing.T) {
	r := newFast(t, families[0])
	r.fromClient(40000, syn, pt.Seq(1000))
	r.step()
	r.fromServer(40000, pt.Flags(packet.TCPSyn|packet.TCPAck), pt.Seq(9000), pt.Ack(1001))
	r.path.pass(flow.Reverse, 1000, 60_000_000)
	r.pass(4 * time.Second)
	r.want(40000, "SYN_RECV", 0)
	const far = 9000 + 60_000_000
	r.fromServer(40000, ack(), pt.Seq(far), pt.Ack(1101), pt.PayloadLen(1000))
	r.step()
	r.want(40000, "ESTABLISHED", 0)
	r.fromClient(40000, ack(), pt.Seq(1101), pt.Ack(77)) // a guess
	r.step()
	r.want(40000, "ESTABLISHED", 0)
	r.fromClient(40000, ack(), pt.Seq(1101), pt.Ack(far-2_000_000))
	r.step()
	r.want(40000, "ESTABLISHED, kernel", 1)
	r.pass(10 * time.Second)
	r.want(40000, "ESTABLISHED, kernel", 1)
}

// TestRefusals: the kernel is not asked again, unless the reason may pass.
func TestRefusedByKernel(t *testing.T) {
	for _, c := range []struct {
		err   error
		name  string
		asked int // with three packets
	}{
		{errors.New("no room"), "kernel", 1},
		{fmt.Errorf("wrapped: %w", RefusedMTU), "mtu", 1},
		{RefusedNoWay, "no-way", 1},
		{RefusedResolving, "resolving", 3},
	} {
		r := newFast(t, families[0])
		r.path.refuse = func(Carried) error { return c.err }
		for range 3 {
			r.fromClient(40000, syn)
			r.step()
		}
		r.want(40000, "SYN_RECV", 0)
		if s := r.fastpath(); len(r.path.carried) != c.asked || s.Refused[c.name] != uint64(c.asked) || s.HalfOpen != 0 {
			t.Errorf("%v: asked %d times, %+v", c.err, len(r.path.carried), s)
		}
	}
}

// TestUsage: what the kernel has counted becomes the flow's, its server's and its service's, once.
func TestUsage(t *testing.T) {
	r := newFast(t, families[0])
	r.established(40000)
	before := r.e.Status().Services[0].Traffic
	for range 3 {
		r.path.pass(flow.Reverse, 10, 10_000)
		r.path.pass(flow.Forward, 5, 200)
		r.c.readAll()
		r.c.readAll()
	}
	got := r.e.Status().Services[0].Traffic
	if got.OutBytes-before.OutBytes != 30_000 || got.InBytes-before.InBytes != 600 || got.OutPackets-before.OutPackets != 30 || got.InPackets-before.InPackets != 15 {
		t.Errorf("from %+v to %+v", before, got)
	}
	// What was counted since the last reading is not lost when it is taken back.
	r.path.pass(flow.Reverse, 1, 7)
	if err := r.e.Kill("tcp/" + at(families[0].client, 40000).String() + "/" + at(families[0].vip, 80).String()); err != nil {
		t.Fatal(err)
	}
	r.step()
	if last := r.e.Status().Services[0].Traffic; last.OutBytes-got.OutBytes != 7 || r.path.len() != 0 {
		t.Errorf("%+v at last, %d carried", last, r.path.len())
	}
}

// TestIdleTimes: a flow that is carried lives as long as the kernel sees packets of it, however short its timeout.
func TestIdleTimes(t *testing.T) {
	r := newFast(t, families[0], func(_ *Options, c *Config) {
		c.Timeouts = policy.Timeouts{Established: 1500 * time.Millisecond}
	})
	r.established(40000)
	for range 20 {
		r.path.pass(flow.Forward, 1, 40)
		r.pass(time.Second)
		r.want(40000, "ESTABLISHED, kernel", 1)
	}
	r.pass(8 * time.Second)
	r.want(40000, "none", 0)
}

// TestDoubtfulReset: a RST for a connection that the kernel carries can't be judged. If both sides go on to speak it lives.
func TestDoubtfulReset(t *testing.T) {
	for name, forge := range map[string]func(r *fastRig){
		"in the client's name": func(r *fastRig) { r.fromClient(40000, rst(), pt.Seq(5)) },
		"in the server's name": func(r *fastRig) { r.fromServer(40000, rst(), pt.Seq(5)) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newFast(t, families[0])
			r.established(40000)
			r.path.pass(flow.Reverse, 1000, 60_000_000)
			forge(r)
			r.want(40000, "CLOSE", 1)
			r.step()
			r.want(40000, "CLOSE", 0)
			r.pass(30 * time.Second)
			const far = 9001 + 60_000_000
			r.fromServer(40000, ack(), pt.Seq(far), pt.Ack(2000), pt.PayloadLen(1000))
			r.step()
			r.want(40000, "CLOSE", 0)
			r.fromClient(40000, ack(), pt.Seq(2000), pt.Ack(far))
			r.step()
			r.want(40000, "ESTABLISHED, kernel", 1)
		})
	}
	t.Run("genuine", func(t *testing.T) {
		r := newFast(t, families[0])
		r.established(40000)
		r.fromServer(40000, rst(), pt.Seq(9001))
		r.step()
		// What the client had sent meanwhile is answered by further ones.
		for i := range 3 {
			r.fromClient(40000, ack(), pt.Seq(1001+uint32(i)), pt.Ack(9001), pt.PayloadLen(1))
			r.fromServer(40000, rst(), pt.Seq(9001))
			r.want(40000, "CLOSE", 0)
		}
		r.pass(65 * time.Second)
		r.want(40000, "none", 0)
	})
}

// TestTakenBack: connections go by tunlb again where their packets may meet another fate, and to the kernel when that is over.
func TestTakenBack(t *testing.T) {
	f := families[0]
	order := func(do string) func(*fastRig) {
		return func(r *fastRig) {
			if _, err := r.e.Order(ServerOrder{Server: "rs1", Do: do}); err != nil {
				r.t.Fatal(err)
			}
		}
	}
	weight := func(n int) func(r *fastRig) {
		return func(r *fastRig) {
			if _, err := r.e.Order(ServerOrder{Server: "rs1", Do: Weigh, Weight: n}); err != nil {
				r.t.Fatal(err)
			}
		}
	}
	reload := func(edit func(s *policy.Spec)) func(*fastRig) {
		return func(r *fastRig) {
			cfg := Config{Services: services()}
			for i := range cfg.Services {
				cfg.Services[i].Fastpath = true
			}
			edit(&cfg.Services[0])
			if err := r.e.Apply(cfg); err != nil {
				r.t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]struct{ change, undo func(r *fastRig) }{
		"drained":   {order(Drain), order(Undrain)},
		"weight 0":  {weight(0), weight(1)},
		"switched":  {reload(func(s *policy.Spec) { s.Fastpath = false }), reload(func(*policy.Spec) {})},
		"stale way": {func(r *fastRig) { r.only().stale = true }, func(*fastRig) {}},
		"lost":      {func(r *fastRig) { clear(r.path.conns) }, func(*fastRig) {}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newFast(t, f)
			r.established(40000)
			if r.serverOf(40000) != f.rs1 {
				t.Fatal("it is to go to rs1")
			}
			c.change(r)
			r.c.readAll()
			r.want(40000, "ESTABLISHED", 0)
			speak := func() {
				r.fromServer(40000, ack(), pt.Seq(9001), pt.Ack(1001), pt.PayloadLen(1000))
				r.fromClient(40000, ack(), pt.Seq(1001), pt.Ack(10001))
			}
			if name != "stale way" && name != "lost" {
				speak()
				r.step()
				r.want(40000, "ESTABLISHED", 0)
			}
			c.undo(r)
			speak()
			r.step()
			r.want(40000, "ESTABLISHED, kernel", 1)
		})
	}
}

// TestServerDown: a connection whose handshake has gone by the kernel goes on with a server that is said to be down; one that has
// not begun there begins elsewhere.
func TestServerDown(t *testing.T) {
	r := newFast(t, families[0], func(_ *Options, c *Config) {
		c.Services = c.Services[:1]
		c.Services[0].Health = policy.Health{Type: "tcp", Rise: 1, Fall: 1}
	})
	report := func(server netip.Addr, ok bool) {
		r.now += time.Second
		r.e.Report("web-v4", at(server, 8080), ok, "refused")
		r.e.expire()
	}
	report(families[0].rs1, true)
	report(families[0].rs2, true)
	for _, number := range []uint16{40000, 40001, 40002} {
		r.fromClient(number, syn, pt.Seq(1000))
	}
	r.step()
	r.want(40000, "SYN_RECV, kernel", 3)
	first := r.serverOf(40000)
	report(first, false)
	r.c.readAll()
	r.want(40000, "SYN_RECV", 1)
	r.fromClient(40000, ack(), pt.Seq(1001), pt.Ack(9001))
	if got := r.serverOf(40000); got != first {
		t.Errorf("it has gone from %v to %v", first, got)
	}
	r.fromClient(40002, syn, pt.Seq(1000))
	if got := r.serverOf(40002); got == first {
		t.Errorf("it is still %v's", got)
	}
}

// TestServerRemoved: its connections end, in the kernel as well.
func TestServerRemoved(t *testing.T) {
	r := newFast(t, families[0])
	r.established(40000)
	cfg := Config{Services: services()}
	cfg.Services[0].Servers = cfg.Services[0].Servers[1:]
	if err := r.e.Apply(cfg); err != nil {
		t.Fatal(err)
	}
	r.e.sweepSome()
	r.ports[0].take()
	r.step()
	r.want(40000, "none", 0)
}

func (r *fastRig) only() *memoryConn {
	for _, c := range r.path.conns {
		return c
	}
	return nil
}

// TestFullRings: what did not fit into a ring is neither forgotten nor carried for ever.
func TestFullRings(t *testing.T) {
	r := newFast(t, families[0])
	r.c.offers.items, r.c.returns.items = make([]handover, 1), make([]handover, 1)
	for n := range uint16(3) {
		r.fromClient(40000+n, syn, pt.Seq(1000))
	}
	r.step()
	if s := r.fastpath(); s.Carried != 1 || s.Missed != 2 {
		t.Fatalf("%+v", s)
	}
	for n := range uint16(3) {
		r.fromClient(40000+n, syn, pt.Seq(1000))
		r.step()
	}
	if s := r.fastpath(); s.Carried != 3 {
		t.Fatalf("%+v", s)
	}
	for n := range uint16(3) {
		r.fromServer(40000+n, pt.Flags(packet.TCPRst|packet.TCPAck), pt.Seq(0), pt.Ack(1001))
	}
	r.step()
	if n := r.path.len(); n != 2 || r.fastpath().Carried != 0 {
		t.Fatalf("the kernel carries %d, want the 2 of which it could not be told, %+v", n, r.fastpath())
	}
	// One of them is used again before the reading.
	r.fromClient(40002, syn, pt.Seq(5000))
	r.step()
	r.c.readAll()
	r.want(40002, "SYN_RECV, kernel", 1)
	if r.c.halfOpen != 1 {
		t.Errorf("%d half-open ones", r.c.halfOpen)
	}
}

// TestBrokenKernel: what can't be taken back now is taken back later, and flows do not end because of it.
func TestBrokenKernel(t *testing.T) {
	r := newFast(t, families[0])
	r.established(40000)
	r.established(40001)
	r.path.broken = errors.New("netlink is out of order")
	r.fromClient(40000, rst(), pt.Seq(1001))
	r.step()
	r.pass(20 * time.Minute)
	r.want(40001, "ESTABLISHED, kernel", 2)
	if s := r.fastpath(); s.Errors == 0 || !strings.Contains(s.Error, "netlink is out of order") || s.HalfOpen != 0 {
		t.Errorf("%+v", s)
	}
	r.path.broken = nil
	r.path.pass(flow.Forward, 1, 40)
	r.pass(2 * time.Second)
	r.want(40001, "ESTABLISHED, kernel", 1)
}

// TestCarrierRuns: the goroutine wakes, reads when status asks, and ends.
func TestCarrierRuns(t *testing.T) {
	r := newFast(t, families[0])
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { r.c.run(ctx) })
	until := func(what string, done func() bool) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); !done(); {
			if time.Now().After(end) {
				t.Fatalf("not within 10 s: %s", what)
			}
			time.Sleep(time.Millisecond)
		}
	}
	r.fromClient(40000, syn, pt.Seq(1000))
	until("the connection is carried", func() bool { return r.state(40000) == "SYN_RECV, kernel" })
	r.path.pass(flow.Forward, 1, 1234)
	until("status has what the kernel has counted", func() bool {
		r.e.mu.Lock()
		r.now += 2 * time.Second
		r.e.mu.Unlock()
		return r.fastpath().Bytes == 1234
	})
	r.path.mu.Lock()
	r.only().stale = true
	r.path.mu.Unlock()
	r.path.changes <- struct{}{}
	until("the changed way is noticed", func() bool { return r.path.len() == 0 })
	r.fromClient(40001, syn, pt.Seq(1000))
	until("another connection is carried", func() bool { return r.path.len() == 1 })
	f := r.family
	r.path.ends <- []End{{Tuple: packet.TupleOf(packet.ProtoTCP, at(f.client, 40001), at(f.vip, 80)), Flags: packet.TCPRst}}
	until("its reset is noticed", func() bool { return r.path.len() == 0 })
	cancel()
	wg.Wait()
}
