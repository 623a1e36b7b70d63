package tunlb

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
	"github.com/tunlb/tunlb/stack/port"
)

// only has the engine balance one service, made for each family.
func only(service func(f family) policy.Spec) func(*Options, *Config) {
	return func(_ *Options, c *Config) {
		c.Services = nil
		for _, f := range families {
			spec := service(f)
			spec.Name = "s-" + f.name
			c.Services = append(c.Services, spec)
		}
	}
}

// twoServers are rs1 and rs2 at a port.
func twoServers(f family, port uint16) []policy.ServerSpec {
	return []policy.ServerSpec{{Name: "rs1", Address: at(f.rs1, port), Weight: 1}, {Name: "rs2", Address: at(f.rs2, port), Weight: 1}}
}

// serverOf finds the status of a server.
func (r *rig) serverOf(service, server string) ServerStatus {
	r.t.Helper()
	for _, svc := range r.e.Status().Services {
		for _, srv := range svc.Servers {
			if svc.Name == service && srv.Name == server {
				return srv
			}
		}
	}
	r.t.Fatalf("no server %s/%s", service, server)
	return ServerStatus{}
}

// TestOnePacket: each datagram of one client port is scheduled anew, and every server's answer comes back
// from the VIP. IPVS does not translate those.
func TestOnePacket(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		r := newRouter(t, only(func(f family) policy.Spec {
			return policy.Spec{Listen: policy.On(at(f.vip, 53), policy.UDP), Scheduler: "rr", OnePacket: true, Servers: twoServers(f, 5353)}
		}))
		client, vip := at(f.client, 4000), at(f.vip, 53)
		servers := []netip.AddrPort{at(f.rs1, 5353), at(f.rs2, 5353)}
		for i := range 6 {
			pt.Check(t, r.one(0, 1, pt.UDP(t, client, vip, pt.PayloadLen(9))), pt.SrcDst(client, servers[i%2]), pt.ValidChecksums())
		}
		for _, s := range servers {
			pt.Check(t, r.one(1, 0, pt.UDP(t, s, client, pt.PayloadLen(9))), pt.SrcDst(vip, client), pt.ValidChecksums())
		}
		for _, name := range []string{"rs1", "rs2"} {
			// As recorded from IPVS: every datagram is a connection, and none of them lasts.
			if s := r.serverOf("s-"+f.name, name); s.Traffic.Conns != 3 || s.Active+s.Inactive != 0 || s.Traffic.OutPackets != 1 {
				t.Errorf("%s: %+v", name, s)
			}
		}
		if n := r.e.flows.Len(); n != 2 {
			t.Errorf("%d flows, want one for each server", n)
		}
		r.now += time.Hour
		r.e.expire()
		if n := r.e.flows.Len(); n != 0 {
			t.Errorf("%d flows are left", n)
		}
		r.dropped(1, pt.UDP(t, at(f.own, 1), client), packet.MartianSource) // the counters' control: still at work
	})
}

// TestOnePacketHairpin: a server that asks its own VIP has its source translated, and is answered.
func TestOnePacketHairpin(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		r := newRouter(t, only(func(f family) policy.Spec {
			return policy.Spec{Listen: policy.On(at(f.vip, 53), policy.UDP), Scheduler: "rr", OnePacket: true, Servers: twoServers(f, 5353)[:1]}
		}))
		out := r.one(1, 1, pt.UDP(t, at(f.rs1, 4000), at(f.vip, 53)))
		var v packet.View
		if reason := v.Parse(out); reason != packet.None || v.Tuple.Source().Addr() != f.inside.Addr().Next() {
			t.Fatalf("%v: source %v, want tunlb's own", reason, v.Tuple.Source())
		}
		pt.Check(t, r.one(1, 1, pt.UDP(t, at(f.rs1, 5353), v.Tuple.Source())), pt.SrcDst(at(f.vip, 53), at(f.rs1, 4000)))
	})
}

// TestRanges: a range and all ports keep the client's port where the server has none of its own.
func TestRanges(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		r := newRouter(t, func(_ *Options, c *Config) {
			c.Services = []policy.Spec{
				{Name: "range", Listen: []policy.Listen{{Addr: f.vip, Proto: policy.TCP, First: 8000, Last: 8100}, {Addr: f.masq, Proto: policy.TCP, First: 9000, Last: 9000}},
					Servers: []policy.ServerSpec{{Name: "rs1", Address: at(f.rs1, 0), Weight: 1}}},
				{Name: "fixed", Listen: []policy.Listen{{Addr: f.vip, Proto: policy.UDP, First: 100, Last: 200}},
					Servers: []policy.ServerSpec{{Name: "rs1", Address: at(f.rs1, 53), Weight: 1}}},
				{Name: "rest", Listen: []policy.Listen{{Addr: f.vip, Proto: policy.TCP}}, Persistence: policy.Persistence{Timeout: time.Minute},
					Servers: []policy.ServerSpec{{Name: "rs2", Address: at(f.rs2, 0), Weight: 1}}},
			}
		})
		client := at(f.client, 4000)
		for _, c := range []struct{ vip, server netip.AddrPort }{
			{at(f.vip, 8000), at(f.rs1, 8000)}, {at(f.vip, 8100), at(f.rs1, 8100)}, {at(f.masq, 9000), at(f.rs1, 9000)},
			{at(f.vip, 7999), at(f.rs2, 7999)}, {at(f.vip, 8101), at(f.rs2, 8101)}, {at(f.vip, 65535), at(f.rs2, 65535)},
		} {
			pt.Check(t, r.one(0, 1, pt.TCP(t, client, c.vip, syn)), pt.SrcDst(client, c.server), pt.ValidChecksums())
			pt.Check(t, r.one(1, 0, pt.TCP(t, c.server, client, pt.Flags(packet.TCPSyn|packet.TCPAck))), pt.SrcDst(c.vip, client), pt.ValidChecksums())
		}
		pt.Check(t, r.one(0, 1, pt.UDP(t, client, at(f.vip, 150))), pt.SrcDst(client, at(f.rs1, 53)))
		pt.Check(t, r.answered(0, 0, pt.UDP(t, client, at(f.vip, 201))), pt.HasICMP(f.icmpUnreachable, f.codePort))
	})
}

// TestPersistence: a client's connections go to one server, on every port of an all-ports service, as long as
// its template lives.
func TestPersistence(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		r := newRouter(t, func(_ *Options, c *Config) {
			c.Services = []policy.Spec{{Name: "all", Listen: []policy.Listen{{Addr: f.vip, Proto: policy.TCP}}, Scheduler: "rr",
				Persistence: policy.Persistence{Timeout: time.Minute}, Servers: twoServers(f, 0)}}
		})
		first := pt.SrcDst(at(f.client, 1), at(f.rs1, 80))
		pt.Check(t, r.one(0, 1, pt.TCP(t, at(f.client, 1), at(f.vip, 80), syn)), first)
		pt.Check(t, r.one(0, 1, pt.TCP(t, at(f.other, 1), at(f.vip, 80), syn)), pt.SrcDst(at(f.other, 1), at(f.rs2, 80)))
		for port := uint16(2); port < 6; port++ {
			pt.Check(t, r.one(0, 1, pt.TCP(t, at(f.client, port), at(f.vip, 443), syn)), pt.SrcDst(at(f.client, port), at(f.rs1, 443)))
		}
		var templates []Conn
		r.e.Conns(ConnFilter{Templates: true}, func(c Conn) bool {
			if c.Template {
				templates = append(templates, c)
			}
			return true
		})
		if len(templates) != 2 || templates[0].VIP != at(f.vip, 0) || templates[0].Client.Port() != 0 {
			t.Errorf("templates: %+v", templates)
		}
		// All flows and with them the templates end; the next of the same client is scheduled anew.
		for range 4 {
			r.now += 10 * time.Minute
			r.e.expire()
		}
		pt.Check(t, r.one(0, 1, pt.TCP(t, at(f.other, 9), at(f.vip, 80), syn)), pt.SrcDst(at(f.other, 9), at(f.rs1, 80)))
	})
}

// TestThresholds: a server with as many flows as it may have gets no more.
func TestThresholds(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		r := newRouter(t, only(func(f family) policy.Spec {
			s := policy.Spec{Listen: policy.On(at(f.vip, 80), policy.TCP), Scheduler: "rr", Servers: twoServers(f, 80)}
			s.Servers[0].Upper, s.Servers[1].Upper = 1, 2
			return s
		}))
		servers := []netip.Addr{f.rs1, f.rs2, f.rs2}
		for i, s := range servers {
			pt.Check(t, r.one(0, 1, pt.TCP(t, at(f.client, uint16(i+1)), at(f.vip, 80), syn)), pt.SrcDst(at(f.client, uint16(i+1)), at(s, 80)))
		}
		pt.Check(t, r.one(0, 0, pt.TCP(t, at(f.client, 9), at(f.vip, 80), syn)), pt.HasICMP(f.icmpUnreachable, f.codePort))
	})
}

// TestOwnTimeouts: a service's own timeouts go before the general ones, and both can change.
func TestOwnTimeouts(t *testing.T) {
	f := families[0]
	cfg := Config{Services: []policy.Spec{
		{Name: "own", Listen: policy.On(at(f.vip, 53), policy.UDP), Timeouts: policy.Timeouts{UDP: time.Second}, Servers: twoServers(f, 53)},
		{Name: "general", Listen: policy.On(at(f.vip, 54), policy.UDP), Servers: twoServers(f, 54)},
	}, Timeouts: policy.Timeouts{UDP: 10 * time.Second, Established: time.Hour}}
	r := newRouter(t, func(_ *Options, c *Config) { *c = cfg })
	expires := func(port uint16, want time.Duration) {
		t.Helper()
		client := at(f.client, port)
		r.one(0, 1, pt.UDP(t, client, at(f.vip, port)))
		r.e.Conns(ConnFilter{}, func(c Conn) bool {
			if c.Client == client && c.Expires != want {
				t.Errorf("port %d expires in %v, want %v", port, c.Expires, want)
			}
			return true
		})
	}
	expires(53, time.Second)
	expires(54, 10*time.Second)
	cfg.Services = slices.Clone(cfg.Services)
	cfg.Services[0].Timeouts = policy.Timeouts{}
	cfg.Services[1].Timeouts = policy.Timeouts{UDP: 5 * time.Second}
	cfg.Timeouts.UDP = 20 * time.Second
	if err := r.e.Apply(cfg); err != nil {
		t.Fatal(err)
	}
	r.now += time.Minute
	r.e.expire()
	expires(53, 20*time.Second)
	expires(54, 5*time.Second)
	cfg.Services = nil
	for i := range 300 {
		cfg.Services = append(cfg.Services, policy.Spec{Listen: policy.On(at(f.vip, uint16(i+1)), policy.UDP), Timeouts: policy.Timeouts{UDP: time.Duration(i+1) * time.Second}})
	}
	if err := r.e.Apply(cfg); err == nil {
		t.Error("300 different timeouts were taken")
	}
}

// TestKeep: flows to a deleted server go on only if the service says so.
func TestKeep(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		for _, keep := range []bool{false, true} {
			spec := policy.Spec{Name: "web", Listen: policy.On(at(f.vip, 80), policy.TCP), Scheduler: "rr", Keep: keep, Servers: twoServers(f, 80)}
			r := newRouter(t, func(_ *Options, c *Config) { c.Services = []policy.Spec{spec} })
			client, vip := at(f.client, 1), at(f.vip, 80)
			r.one(0, 1, pt.TCP(t, client, vip, syn, pt.Seq(1)))
			spec.Servers = spec.Servers[1:]
			if err := r.e.Apply(Config{Services: []policy.Spec{spec}}); err != nil {
				t.Fatal(err)
			}
			answer := pt.TCP(t, at(f.rs1, 80), client, pt.Flags(packet.TCPSyn|packet.TCPAck), pt.Seq(100), pt.Ack(2))
			if !keep {
				r.dropped(1, answer, packet.ServerGone)
				continue
			}
			pt.Check(t, r.one(1, 0, answer), pt.SrcDst(vip, client))
			pt.Check(t, r.one(0, 1, pt.TCP(t, client, vip, ack(), pt.Seq(2), pt.Ack(101))), pt.SrcDst(client, at(f.rs1, 80)))
			pt.Check(t, r.one(0, 1, pt.TCP(t, at(f.client, 2), vip, syn)), pt.SrcDst(at(f.client, 2), at(f.rs2, 80)))
		}
	})
}

// TestKill: both ends hear a reset with the number that they expect.
func TestKill(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		r := newRouter(t)
		client, vip, server := at(f.client, 1), at(f.vip, 80), at(f.rs1, 8080)
		r.one(0, 1, pt.TCP(t, client, vip, syn, pt.Seq(1000)))
		r.one(1, 0, pt.TCP(t, server, client, pt.Flags(packet.TCPSyn|packet.TCPAck), pt.Seq(5000), pt.Ack(1001)))
		r.one(0, 1, pt.TCP(t, client, vip, ack(), pt.Seq(1001), pt.Ack(5001), pt.PayloadLen(10)))
		var id string
		r.e.Conns(ConnFilter{Server: "rs1"}, func(c Conn) bool { id = c.ID(); return true })
		if err := r.e.Kill(id); err != nil {
			t.Fatal(err)
		}
		toClient, toServer := r.ports[0].take(), r.ports[1].take()
		if len(toClient) != 1 || len(toServer) != 1 {
			t.Fatalf("%d and %d resets, want one each; drops %v", len(toClient), len(toServer), r.e.Drops())
		}
		pt.Check(t, toClient[0], pt.SrcDst(vip, client), pt.HasFlags(packet.TCPRst|packet.TCPAck), pt.HasSeq(5001), pt.HasAck(1011), pt.ValidChecksums())
		pt.Check(t, toServer[0], pt.SrcDst(client, server), pt.HasFlags(packet.TCPRst|packet.TCPAck), pt.HasSeq(1011), pt.HasAck(5001), pt.ValidChecksums())
		for _, bad := range []string{id, "", "tcp", "tcp/x/y", "tcp/" + client.String() + "/nowhere", "gre/" + client.String() + "/" + vip.String()} {
			if err := r.e.Kill(bad); !errors.Is(err, ErrNoConn) {
				t.Errorf("%q: %v, want ErrNoConn", bad, err)
			}
		}
	})
}

// TestSweep: who is connected to a server that is gone hears of it at once, and so does the server; kept
// connections and those to others go on.
func TestSweep(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		for _, keep := range []bool{false, true} {
			spec := policy.Spec{Name: "web", Listen: policy.On(at(f.vip, 80), policy.TCP), Scheduler: "rr", Keep: keep, Servers: twoServers(f, 80)}
			r := newRouter(t, func(_ *Options, c *Config) { c.Services = []policy.Spec{spec} })
			for i, server := range []netip.AddrPort{at(f.rs1, 80), at(f.rs2, 80)} {
				client := at(f.client, uint16(i+1))
				r.one(0, 1, pt.TCP(t, client, at(f.vip, 80), syn, pt.Seq(10)))
				r.one(1, 0, pt.TCP(t, server, client, pt.Flags(packet.TCPSyn|packet.TCPAck), pt.Seq(20), pt.Ack(11)))
			}
			spec.Servers = spec.Servers[1:]
			if err := r.e.Apply(Config{Services: []policy.Spec{spec}}); err != nil {
				t.Fatal(err)
			}
			r.e.sweepSome()
			toClient, toServer := r.ports[0].take(), r.ports[1].take()
			if keep {
				if n := r.e.flows.Len(); len(toClient)+len(toServer) != 0 || n != 2 {
					t.Errorf("kept: %d and %d frames, %d flows", len(toClient), len(toServer), n)
				}
				continue
			}
			if len(toClient) != 1 || len(toServer) != 1 || r.e.flows.Len() != 1 {
				t.Fatalf("%d and %d frames, %d flows; drops %v", len(toClient), len(toServer), r.e.flows.Len(), r.e.Drops())
			}
			pt.Check(t, toClient[0], pt.SrcDst(at(f.vip, 80), at(f.client, 1)), pt.HasFlags(packet.TCPRst|packet.TCPAck), pt.HasSeq(21), pt.HasAck(11))
			pt.Check(t, toServer[0], pt.SrcDst(at(f.client, 1), at(f.rs1, 80)), pt.HasFlags(packet.TCPRst|packet.TCPAck), pt.HasSeq(11), pt.HasAck(21))
			r.e.sweepSome()
			if n := len(r.ports[0].take()) + len(r.ports[1].take()); n != 0 {
				t.Errorf("a second sweep sent %d frames", n)
			}
		}
	})
}

// toBox is a way out of the box's interfaces that records.
type toBox struct {
	ways   map[[16]byte]Way
	frames [][]byte
	links  []int
}

func (b *toBox) Way(a [16]byte) (Way, bool) { w, ok := b.ways[a]; return w, ok }
func (b *toBox) NewBurst() port.Burst       { return port.Singly(b.Write) }
func (b *toBox) Write(frame []byte, link int) error {
	b.frames, b.links = append(b.frames, slices.Clone(frame)), append(b.links, link)
	return nil
}

// TestDirectFromBox: with a TUN alone, direct routing leaves by the box's own interfaces, the packet as it is.
func TestDirectFromBox(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		way := Way{Link: 7, MTU: 1500, Source: packet.MAC{2, 1}, MAC: packet.MAC{2, 2}}
		box := &toBox{ways: map[[16]byte]Way{f.rs1.As16(): way}}
		r := newBox(t, func(o *Options, _ *Config) { o.Direct = box }, only(func(f family) policy.Spec {
			return policy.Spec{Listen: policy.On(at(f.vip, 80), policy.TCP), Scheduler: "rr", Mode: policy.DR, Servers: twoServers(f, 80)[:1]}
		}))
		client, vip := at(f.client, 1), at(f.vip, 80)
		for i, form := range [][]pt.Option{{syn}, {ack(), pt.PayloadLen(100), pt.PartialChecksum()}, {ack(), pt.PayloadLen(5000), pt.GSO(1400)}} {
			in := pt.TCP(t, client, vip, form...)
			if out := r.send(0, 0, in); len(out) > 0 || len(box.frames) != i+1 {
				t.Fatalf("%d frames into the TUN, %d out of the box; drops %v", len(out), len(box.frames), r.e.Drops())
			}
			if want := packet.AppendEthernet(nil, in, way.MAC, way.Source); !slices.Equal(box.frames[i], want) || box.links[i] != 7 {
				t.Errorf("link %d, got %x\nwant %x", box.links[i], box.frames[i], want)
			}
		}
		way.MTU = 1000
		box.ways[f.rs1.As16()] = way
		pt.Check(t, r.one(0, 0, pt.TCP(t, client, vip, ack(), pt.PayloadLen(1200), pt.DontFragment())), pt.HasICMP(f.icmpBig, f.codeBig), pt.HasMTU(1000))
		way.Down = true
		box.ways[f.rs1.As16()] = way
		r.dropped(0, pt.TCP(t, client, vip, ack()), packet.Unresolved)
		delete(box.ways, f.rs1.As16())
		for range maxHopPackets {
			r.send(0, 0, pt.TCP(t, client, vip, ack()))
		}
		r.dropped(0, pt.TCP(t, client, vip, ack()), packet.HopQueue)
		// The server is the box itself: its own kernel has the VIP and answers.
		box.ways[f.rs1.As16()] = Way{Local: true}
		in := pt.TCP(t, at(f.client, 2), vip, syn)
		if out := r.one(0, 0, in); !slices.Equal(out, in) {
			t.Errorf("to the box itself: got %x\nwant %x", out, in)
		}
	})
}

// TestMixedModes: servers of one service may be reached in different ways.
func TestMixedModes(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		box := &toBox{ways: map[[16]byte]Way{f.rs2.As16(): {Link: 3, MTU: 1500}}}
		r := newBox(t, func(o *Options, _ *Config) { o.Direct = box }, only(func(f family) policy.Spec {
			s := policy.Spec{Listen: policy.On(at(f.vip, 80), policy.TCP), Scheduler: "rr", Servers: twoServers(f, 80)}
			s.Servers[1].Mode = policy.DR
			return s
		}))
		pt.Check(t, r.one(0, 0, pt.TCP(t, at(f.client, 1), at(f.vip, 80), syn)), pt.SrcDst(at(f.client, 1), at(f.rs1, 80)))
		if out := r.send(0, 0, pt.TCP(t, at(f.client, 2), at(f.vip, 80), syn)); len(out) != 0 || len(box.frames) != 1 {
			t.Errorf("%d frames into the TUN, %d out of the box", len(out), len(box.frames))
		}
	})
}

// TestDialDirect: a check of the direct way arrives at the server's MAC addressed to the VIP, and its answer
// reaches the checker; without the VIP there is no answer.
func TestDialDirect(t *testing.T) {
	eachLAN(t, func(t *testing.T, n lan) {
		r := newOneArm(t)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		type result struct {
			remote, local string
			err           error
		}
		dialed := make(chan result)
		go func() {
			conn, err := r.e.DialDirect(ctx, "tcp", at(n.rs1, 80), at(n.vip, 80))
			if err != nil {
				dialed <- result{err: err}
				return
			}
			defer conn.Close()
			dialed <- result{conn.RemoteAddr().String(), conn.LocalAddr().String(), nil}
		}()
		<-r.ports[0].wrote
		out := r.ports[0].take()[0]
		if h, _ := packet.DecodeEthernet(out); h.Dst != macRS[0] || h.Src != macOwn {
			t.Errorf("frame to %v from %v, want %v from %v", h.Dst, h.Src, macRS[0], macOwn)
		}
		var v packet.View
		if reason := v.ParseEthernet(out); reason != packet.None || v.Tuple.Destination() != at(n.vip, 80) || v.Tuple.Source().Addr() != n.own {
			t.Fatalf("%v: %v", reason, v.Tuple)
		}
		answer := pt.TCP(t, at(n.vip, 80), v.Tuple.Source(), pt.Flags(packet.TCPSyn|packet.TCPAck), pt.Seq(9), pt.Ack(v.Seq+1))
		r.e.lanes[0].handle(from(macRS[0], answer))
		got := <-dialed
		if got.err != nil || got.remote != at(n.rs1, 80).String() {
			t.Errorf("dialed: %+v; drops %v", got, r.e.Drops())
		}
		if _, err := r.e.DialDirect(ctx, "tcp", at(addr("192.0.2.1"), 80), at(n.vip, 80)); err == nil {
			t.Error("dialed a server that is on no segment")
		}
	})
}

// TestFlapping: 500 servers that come and go once a second cost a bounded number of builds, and lose no word.
func TestFlapping(t *testing.T) {
	const servers, seconds = 500, 3
	f := families[0]
	spec := policy.Spec{Name: "web", Listen: policy.On(at(f.vip, 80), policy.TCP), Health: policy.Health{Type: "tcp", Rise: 1, Fall: 1}}
	for i := range servers {
		spec.Servers = append(spec.Servers, policy.ServerSpec{Name: fmt.Sprint(i), Weight: 1, Address: at(netip.AddrFrom4([4]byte{192, 168, 0, 10}), uint16(1000+i))})
	}
	r := newRouter(t, func(_ *Options, c *Config) { c.Services = []policy.Spec{spec} })
	builds, table := 0, r.e.services
	look := func() {
		if r.e.services != table {
			builds, table = builds+1, r.e.services
		}
	}
	for i := range servers * seconds {
		r.now += time.Second / servers
		r.e.Report("web", spec.Servers[i%servers].Address, i/servers%2 == 0, "refused")
		look()
		if i%(servers/4) == 0 {
			r.e.expire()
			look()
		}
	}
	if builds > 10*seconds {
		t.Errorf("%d builds in %d s", builds, seconds)
	}
	r.now += time.Second
	r.e.expire()
	for _, srv := range r.e.Status().Services[0].Servers {
		if srv.Health != "up" || srv.Weight != 1 {
			t.Fatalf("%s is %s with weight %d after its last success", srv.Name, srv.Health, srv.Weight)
		}
	}
	seen := uint64(0)
	r.e.Events(t.Context(), 0, false, func(ev Event) bool {
		if seen != 0 && ev.Seq != seen+1 {
			t.Fatalf("event %d after %d", ev.Seq, seen)
		}
		seen = ev.Seq
		return true
	})
	if want := uint64(servers*seconds) + 1; seen < want { // each change, and the quorum's
		t.Errorf("%d events, want at least %d", seen, want)
	}
}

// TestDirectReach: what the kernel says of a server's neighbour is heeded with every tick, for worse and for better.
func TestDirectReach(t *testing.T) {
	f := families[0]
	box := &toBox{ways: map[[16]byte]Way{f.rs1.As16(): {Link: 1, MTU: 1500}, f.rs2.As16(): {Link: 1, MTU: 1500}}}
	r := newBox(t, func(o *Options, _ *Config) { o.Direct = box }, only(func(f family) policy.Spec {
		return policy.Spec{Listen: policy.On(at(f.vip, 80), policy.TCP), Scheduler: "rr", Mode: policy.DR, Servers: twoServers(f, 80)}
	}))
	for _, down := range []bool{true, false} {
		box.ways[f.rs1.As16()] = Way{Link: 1, MTU: 1500, Down: down}
		r.e.tickSegments(&sender{tx: r.e.ownTx})
		if srv := r.serverOf("s-v4", "rs1"); (srv.Down != "") != down {
			t.Errorf("down %v: status says %q", down, srv.Down)
		}
	}
}

// TestOnePacketReshaped: a flow of answers outlives a reload that gives its place to another service, and the IDs
// of both services' servers are given back in the end.
func TestOnePacketReshaped(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		spec := policy.Spec{Name: "range", Listen: []policy.Listen{{Addr: f.vip, Proto: policy.UDP, First: 53, Last: 54}}, OnePacket: true, Servers: twoServers(f, 53)[:1]}
		r := newRouter(t, func(_ *Options, c *Config) { c.Services = []policy.Spec{spec} })
		client := at(f.client, 4000)
		r.one(0, 1, pt.UDP(t, client, at(f.vip, 54)))
		single := spec
		single.Name, single.Listen = "single", policy.On(at(f.vip, 54), policy.UDP)
		spec.Listen = policy.On(at(f.vip, 53), policy.UDP)
		apply := func(specs ...policy.Spec) {
			t.Helper()
			if err := r.e.Apply(Config{Services: specs}); err != nil {
				t.Fatal(err)
			}
		}
		apply(spec, single)
		for range 3 {
			r.one(0, 1, pt.UDP(t, client, at(f.vip, 54)))
		}
		if n := r.e.flows.Len(); n != 1 {
			t.Errorf("%d flows, want 1", n)
		}
		apply()
		r.now += time.Hour
		r.e.expire()
		for id := range uint32(8) {
			if srv := r.e.services.Server(id); srv != nil {
				t.Errorf("server %d (%s/%s) still has its ID", id, srv.Service.Name, srv.Name)
			}
		}
	})
}

// TestDialDirectError: an ICMP error about a check of the direct way reaches the checker.
func TestDialDirectError(t *testing.T) {
	eachLAN(t, func(t *testing.T, n lan) {
		r := newOneArm(t)
		conn, err := r.e.DialDirect(t.Context(), "udp", at(n.rs1, 53), at(n.vip, 53))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte("?")); err != nil {
			t.Fatal(err)
		}
		<-r.ports[0].wrote
		question := packet.StripEthernet(r.ports[0].take()[0])
		r.e.lanes[0].handle(from(macRS[0], pt.Unreachable(t, n.vip, n.own, question)))
		conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := conn.Read(make([]byte, 9)); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("read: %v, want refused; drops %v", err, r.e.Drops())
		}
	})
}

// TestDialDirectPorts: checks of several servers do not take one another's ports.
func TestDialDirectPorts(t *testing.T) {
	n := lans[0]
	r := newOneArm(t)
	for i := range 3000 {
		conn, err := r.e.DialDirect(t.Context(), "udp", at(n.rs1, uint16(1+i)), at(n.vip, 53))
		if err != nil {
			t.Fatalf("check %d: %v", i, err)
		}
		defer conn.Close()
	}
}
