package tunlb

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/neigh"
	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
)

// The stations of the segment. The servers' MACs are configured: what happens without is another test's.
var (
	macOwn    = packet.MAC{2, 0, 0, 0, 0, 0x02}
	macClient = packet.MAC{2, 0, 0, 0, 0, 0x07}
	macRouter = packet.MAC{2, 0, 0, 0, 0, 0x01}
	macRS     = [2]packet.MAC{{2, 0, 0, 0, 0, 0x10}, {2, 0, 0, 0, 0, 0x11}}
)

// lan is the segment in one family.
type lan struct {
	name                               string
	prefix                             netip.Prefix
	client, own, vip, rs1, rs2, router netip.Addr
	remote                             netip.Addr
}

var lans = []lan{
	{"v4", netip.MustParsePrefix("203.0.113.0/24"), addr("203.0.113.7"), addr("203.0.113.2"), addr("203.0.113.22"),
		addr("203.0.113.10"), addr("203.0.113.11"), addr("203.0.113.1"), addr("198.51.100.7")},
	{"v6", netip.MustParsePrefix("2001:db8:113::/64"), addr("2001:db8:113::7"), addr("2001:db8:113::2"), addr("2001:db8:113::22"),
		addr("2001:db8:113::10"), addr("2001:db8:113::11"), addr("2001:db8:113::1"), addr("2001:db8:1::7")},
}

func eachLAN(t *testing.T, test func(t *testing.T, n lan)) {
	for _, n := range lans {
		t.Run(n.name, func(t *testing.T) { test(t, n) })
	}
}

// direct are a directly routed web and DNS service, and a translated one, on the same servers.
func direct(pinned bool) (specs []policy.Spec) {
	for _, n := range lans {
		servers := func(port uint16) []policy.ServerSpec {
			s := []policy.ServerSpec{{Name: "rs1", Address: at(n.rs1, port), Weight: 1}, {Name: "rs2", Address: at(n.rs2, port), Weight: 1}}
			for i := range s {
				if pinned {
					s[i].MAC = macRS[i]
				}
			}
			return s
		}
		specs = append(specs,
			policy.Spec{Name: "web-" + n.name, Listen: policy.On(at(n.vip, 80), policy.TCP), Mode: policy.DR, Scheduler: "rr", Servers: servers(80)},
			policy.Spec{Name: "dns-" + n.name, Listen: policy.On(at(n.vip, 53), policy.UDP), Mode: policy.DR, Scheduler: "rr", Servers: servers(53)},
			policy.Spec{Name: "nat-" + n.name, Listen: policy.On(at(n.vip, 8080), policy.TCP), Scheduler: "rr", Servers: servers(80)},
		)
	}
	return specs
}

// onSegment is tunlb's attachment to the segment.
func onSegment(side neigh.Side) Attachment {
	a := Attachment{MAC: macOwn, Side: side}
	if side == neigh.Servers {
		return a
	}
	for _, n := range lans {
		a.Own = append(a.Own, n.own)
		a.Subnets = append(a.Subnets, n.prefix)
		a.Via = append(a.Via, Via{netip.PrefixFrom(n.remote.Prev(), n.remote.BitLen()-8).Masked(), n.router})
	}
	return a
}

// newOneArm has one port on the segment.
func newOneArm(t testing.TB, edit ...func(*Options, *Config)) *rig {
	edit = append([]func(*Options, *Config){func(_ *Options, c *Config) { c.Services = direct(true) }}, edit...)
	return settled(newRig(t, []Attachment{onSegment(neigh.Shared)}, edit...))
}

// newSwitch has a port for the clients (0) and one for the servers (1).
func newSwitch(t testing.TB, edit ...func(*Options, *Config)) *rig {
	edit = append([]func(*Options, *Config){func(_ *Options, c *Config) { c.Services = direct(true) }}, edit...)
	return settled(newRig(t, []Attachment{onSegment(neigh.Clients), onSegment(neigh.Servers)}, edit...))
}

// settled lets the announcements of the start go, and asks for nothing more.
func settled(r *rig) *rig {
	for range 20 {
		r.tick(0)
	}
	for _, p := range r.ports {
		p.take()
	}
	return r
}

// from puts a packet onto the wire to tunlb.
func from(mac packet.MAC, frame []byte) []byte { return packet.AppendEthernet(nil, frame, macOwn, mac) }

// TestDirect: the server gets every byte that the client sent, in every form that kernels hand packets
// over, and from tunlb's MAC.
func TestDirect(t *testing.T) {
	forms := map[string][]pt.Option{
		"full checksum":    {pt.PayloadLen(100)},
		"partial checksum": {pt.PayloadLen(100), pt.PartialChecksum()},
		"super-packet":     {pt.PayloadLen(40_000), pt.GSO(1400)},
		"verified":         {pt.PayloadLen(100), pt.DataValid()},
		"last hop":         {pt.PayloadLen(1), pt.TTL(1)},
	}
	eachLAN(t, func(t *testing.T, n lan) {
		for name, opts := range forms {
			t.Run(name, func(t *testing.T) {
				r := newOneArm(t)
				client, vip := at(n.client, 40000), at(n.vip, 80)
				send := func(frame []byte) {
					t.Helper()
					want := packet.AppendEthernet(nil, frame, macRS[0], macOwn)
					if got := r.one(0, 0, from(macClient, frame)); !bytes.Equal(got, want) {
						t.Errorf("got\n%x, want\n%x", got, want)
					}
				}
				send(pt.TCP(t, client, vip, syn))
				send(pt.TCP(t, client, vip, append(opts, ack())...))
				conn := r.conns()[0]
				if conn.State != "ESTABLISHED" || conn.Server != at(n.rs1, 80) || conn.VIP != vip {
					t.Errorf("%+v", conn)
				}
			})
		}
	})
}

// strip gives the packet that an Ethernet frame carries, and the header.
func strip(t *testing.T, frame []byte) ([]byte, packet.Ethernet) {
	t.Helper()
	h, ok := packet.DecodeEthernet(frame)
	if !ok {
		t.Fatalf("%x is no Ethernet frame", frame)
	}
	return packet.StripEthernet(bytes.Clone(frame)), h
}

// learn has tunlb know a station's MAC, as it does of one that asks for the VIP.
func (r *rig) learn(a netip.Addr, mac packet.MAC) {
	r.t.Helper()
	own := lans[0].own
	if a.Is6() {
		own = lans[1].own
	}
	if len(r.send(0, 0, pt.Ask(mac, a, own))) == 0 {
		r.t.Fatal("no answer; drops: ", r.e.Drops())
	}
	for _, s := range r.e.segments {
		s.neigh.Lookup(a.As16(), r.now) // asks, and is answered
		s.collectLocked(&sender{tx: r.e.ownTx})
	}
	r.send(0, 0, pt.Tell(mac, macOwn, a, own))
}

// conns lists the connections.
func (r *rig) conns() (all []Conn) {
	r.e.Conns(ConnFilter{}, func(c Conn) bool {
		all = append(all, c)
		return true
	})
	return all
}

// TestDirectFragments: the pieces of a datagram go to one server, in any order and unchanged.
func TestDirectFragments(t *testing.T) {
	eachLAN(t, func(t *testing.T, n lan) {
		pieces := pt.Fragments(t, pt.UDP(t, at(n.client, 40000), at(n.vip, 53), pt.PayloadLen(4000)), 1500, 77)
		permutations(len(pieces), func(order []int) {
			r := newOneArm(t)
			var got [][]byte
			for _, i := range order {
				got = append(got, r.send(0, 0, from(macClient, pieces[i]))...)
			}
			if len(got) != len(pieces) {
				t.Fatalf("order %v: %d of %d pieces left; drops: %v", order, len(got), len(pieces), r.e.Drops())
			}
			for _, p := range pieces {
				want, found := packet.AppendEthernet(nil, p, macRS[0], macOwn), false
				for _, g := range got {
					found = found || bytes.Equal(g, want)
				}
				if !found {
					t.Errorf("order %v: a piece was changed", order)
				}
			}
		})
	})
}

// TestDirectErrors: a router's word about the server's answer, which never passed here, reaches the server
// as it was sent. Path MTU discovery depends on it.
func TestDirectErrors(t *testing.T) {
	eachLAN(t, func(t *testing.T, n lan) {
		r := newOneArm(t)
		client, vip := at(n.client, 40000), at(n.vip, 80)
		r.one(0, 0, from(macClient, pt.TCP(t, client, vip, syn)))
		answer := pt.TCP(t, vip, client, ack(), pt.PayloadLen(1400))
		typ, code := uint8(3), uint8(4)
		if n.vip.Is6() {
			typ, code = 2, 0
		}
		for _, err := range [][]byte{
			pt.ICMPError(t, n.router, n.vip, typ, code, answer, pt.NextMTU(1300)), pt.Unreachable(t, n.router, n.vip, answer),
		} {
			want := packet.AppendEthernet(nil, err, macRS[0], macOwn)
			if got := r.one(0, 0, from(macRouter, err)); !bytes.Equal(got, want) {
				t.Errorf("got\n%x, want\n%x", got, want)
			}
		}
		// About the client's packet, by a server that has us for its gateway: to the client, as it was sent.
		r.learn(n.client, macClient)
		err := pt.Unreachable(t, n.rs1, n.client, pt.TCP(t, client, vip, ack()))
		out, h := strip(t, r.one(0, 0, from(macRS[0], err)))
		pt.Check(t, out, pt.SrcDst(at(n.rs1, 0), at(n.client, 0)), pt.Quoted(pt.SrcDst(client, vip)), pt.ValidChecksums())
		if h.Dst != macClient {
			t.Errorf("to %v", h.Dst)
		}
	})
}

// TestDirectGateway: the director may be the servers' gateway, too. Their answers are routed, counted and
// told of, with the TTL counted as a router does.
func TestDirectGateway(t *testing.T) {
	eachLAN(t, func(t *testing.T, n lan) {
		r := newOneArm(t, func(_ *Options, c *Config) { c.Services = direct(true) })
		client, vip := at(n.remote, 40000), at(n.vip, 80)
		r.learn(n.router, macRouter)
		r.one(0, 0, from(macRouter, pt.TCP(t, client, vip, syn)))
		out, h := strip(t, r.one(0, 0, from(macRS[0], pt.TCP(t, vip, client, pt.Flags(packet.TCPSyn|packet.TCPAck)))))
		pt.Check(t, out, pt.SrcDst(vip, client), pt.HasTTL(63), pt.ValidChecksums())
		if h.Dst != macRouter || h.Src != macOwn {
			t.Errorf("left from %v to %v", h.Src, h.Dst)
		}
		for _, svc := range r.e.Status().Services {
			if svc.Listen[0].AddrPort() == vip && (svc.Servers[0].Passing != 1 || svc.Servers[1].Passing != 0) {
				t.Errorf("%+v", svc.Servers)
			}
		}
		// An answer that belongs to no connection any more goes the same way.
		out, _ = strip(t, r.one(0, 0, from(macRS[0], pt.TCP(t, at(n.vip, 80), at(n.remote, 41000), ack()))))
		pt.Check(t, out, pt.SrcDst(vip, at(n.remote, 41000)), pt.HasTTL(63))
	})
}

// TestBesideNAT: one port and one VIP have directly routed and translated services. A neighbour of the
// servers would get the answers past us: its source is translated. One from beyond a router keeps its
// address.
func TestBesideNAT(t *testing.T) {
	eachLAN(t, func(t *testing.T, n lan) {
		r := newOneArm(t)
		r.learn(n.client, macClient)
		r.learn(n.router, macRouter)
		nat, rs := at(n.vip, 8080), at(n.rs1, 80)
		out, h := strip(t, r.one(0, 0, from(macClient, pt.TCP(t, at(n.client, 40000), nat, syn))))
		pt.Check(t, out, pt.SrcDst(at(n.own, 40000), rs), pt.HasTTL(63), pt.ValidChecksums())
		if h.Dst != macRS[0] || h.Src != macOwn {
			t.Errorf("left from %v to %v", h.Src, h.Dst)
		}
		out, h = strip(t, r.one(0, 0, from(macRS[0], pt.TCP(t, rs, at(n.own, 40000), ack(), pt.PayloadLen(30_000), pt.GSO(1400)))))
		pt.Check(t, out, pt.SrcDst(nat, at(n.client, 40000)), pt.ValidChecksums())
		if h.Dst != macClient {
			t.Errorf("answer left to %v", h.Dst)
		}
		out, _ = strip(t, r.one(0, 0, from(macRouter, pt.TCP(t, at(n.remote, 40000), nat, syn))))
		pt.Check(t, out, pt.SrcDst(at(n.remote, 40000), at(n.rs2, 80)), pt.ValidChecksums())
		out, h = strip(t, r.one(0, 0, from(macRS[1], pt.TCP(t, at(n.rs2, 80), at(n.remote, 40000), ack()))))
		pt.Check(t, out, pt.SrcDst(nat, at(n.remote, 40000)), pt.ValidChecksums())
		if h.Dst != macRouter {
			t.Errorf("answer left to %v", h.Dst)
		}
		r.one(0, 0, from(macClient, pt.TCP(t, at(n.client, 40001), at(n.vip, 80), syn)))
	})
}

// TestHostOnSegment: ping, closed ports and the end of the servers are answered as on an IP port.
func TestHostOnSegment(t *testing.T) {
	eachLAN(t, func(t *testing.T, n lan) {
		r := newOneArm(t, func(_ *Options, c *Config) {
			for i := range c.Services {
				for j := range c.Services[i].Servers {
					c.Services[i].Servers[j].Weight = 0
				}
			}
		})
		r.learn(n.client, macClient)
		client := at(n.client, 40000)
		for _, a := range []netip.Addr{n.vip, n.own} {
			out, h := strip(t, r.answered(0, 0, from(macClient, pt.Echo(t, n.client, a, 7, 1))))
			pt.Check(t, out, pt.SrcDst(at(a, 0), at(n.client, 7)), pt.ValidChecksums())
			if h.Dst != macClient || h.Src != macOwn {
				t.Errorf("the answer left from %v to %v", h.Src, h.Dst)
			}
		}
		out, _ := strip(t, r.answered(0, 0, from(macClient, pt.TCP(t, client, at(n.vip, 9), syn, pt.Seq(1000)))))
		pt.Check(t, out, pt.SrcDst(at(n.vip, 9), client), pt.HasFlags(packet.TCPRst|packet.TCPAck), pt.HasAck(1001))
		out, h := strip(t, r.one(0, 0, from(macClient, pt.TCP(t, client, at(n.vip, 80), syn))))
		pt.Check(t, out, pt.SrcDst(at(n.vip, 0), at(n.client, 0)), pt.Quoted(pt.SrcDst(client, at(n.vip, 80))), pt.ValidChecksums())
		if h.Dst != macClient || h.Src != macOwn {
			t.Errorf("the refusal left from %v to %v", h.Src, h.Dst)
		}
	})
}

// TestSwitch: inline, what is not for tunlb is switched: to where its station was heard, or everywhere
// else; groups everywhere else.
func TestSwitch(t *testing.T) {
	eachLAN(t, func(t *testing.T, n lan) {
		r := newSwitch(t)
		frame := packet.AppendEthernet(nil, pt.TCP(t, at(n.client, 1), at(n.rs1, 22), pt.PayloadLen(30_000), pt.GSO(1400)), macRS[0], macClient)
		if got := r.one(0, 1, frame); !bytes.Equal(got, frame) {
			t.Error("an unknown station's frame was changed")
		}
		answer := packet.AppendEthernet(nil, pt.TCP(t, at(n.rs1, 22), at(n.client, 1)), macClient, macRS[0])
		if got := r.one(1, 0, answer); !bytes.Equal(got, answer) {
			t.Error("a frame to a known station was changed")
		}
		// Two stations on one side hear each other without us.
		r.dropped(0, packet.AppendEthernet(nil, pt.UDP(t, at(n.router, 1), at(n.client, 1)), macClient, macRouter), packet.OtherHost)
		for _, group := range []packet.MAC{packet.Broadcast, {0x33, 0x33, 0, 0, 0, 0xfb}, {1, 0, 0x5e, 0, 0, 0xfb}} {
			r.one(0, 1, packet.AppendEthernet(nil, pt.UDP(t, at(n.client, 1), at(n.rs1, 2)), group, macClient))
		}
		// Of the link between two bridges, but for the spanning tree's, which we are no part of; from nobody;
		// our own come back.
		r.one(0, 1, packet.AppendEthernet(nil, pt.UDP(t, at(n.client, 1), at(n.rs1, 2)), packet.MAC{1, 0x80, 0xc2}, macClient))
		r.dropped(0, packet.AppendEthernet(nil, pt.UDP(t, at(n.client, 1), at(n.rs1, 2)), packet.MAC{1, 0x80, 0xc2, 0, 0, 2}, macClient), packet.LinkLocal)
		for _, from := range []packet.MAC{{}, packet.Broadcast, {1, 0, 0x5e, 0, 0, 1}} {
			r.dropped(0, packet.AppendEthernet(nil, pt.UDP(t, at(n.client, 1), at(n.rs1, 2)), macRS[0], from), packet.BadEthernet)
		}
		r.dropped(1, packet.AppendEthernet(nil, pt.UDP(t, at(n.client, 1), at(n.rs1, 2)), packet.Broadcast, macOwn), packet.Loop)
		// Longer than the port may send.
		r.dropped(0, packet.AppendEthernet(nil, pt.UDP(t, at(n.client, 1), at(n.rs1, 2), pt.PayloadLen(1600)), macRS[0], macClient), packet.TooBig)
		// Direct routing through it: the server is behind the other port.
		r.one(0, 1, from(macClient, pt.TCP(t, at(n.client, 40000), at(n.vip, 80), syn)))
	})
}

// TestStations: a station that moves is followed, one that is silent is forgotten, and no more are learned
// than the table may hold; the rest is flooded.
func TestStations(t *testing.T) {
	r := newSwitch(t)
	n := lans[0]
	to := packet.AppendEthernet(nil, pt.UDP(t, at(n.rs1, 1), at(n.client, 2)), macClient, macRS[0])
	hello := packet.AppendEthernet(nil, pt.UDP(t, at(n.client, 1), at(n.rs1, 2)), packet.Broadcast, macClient)
	r.one(0, 1, hello)
	r.one(1, 0, to)
	r.one(1, 0, hello) // it has moved
	r.dropped(1, to, packet.OtherHost)
	r.now += stationLife + time.Minute
	settled(r)
	s := r.e.segments[0]
	if len(s.stations) != 0 {
		t.Errorf("%d stations are left", len(s.stations))
	}
	for i := range maxStations + 1000 {
		r.send(0, 1, packet.AppendEthernet(nil, pt.UDP(t, at(n.client, 1), at(n.rs1, 2)), packet.Broadcast, packet.MAC{2, 1, 0, byte(i >> 16), byte(i >> 8), byte(i)}))
	}
	if len(s.stations) != maxStations {
		t.Errorf("%d stations, want %d", len(s.stations), maxStations)
	}
	r.one(1, 0, to)
}

// TestDirectAllocs: a directly routed frame costs no garbage.
func TestDirectAllocs(t *testing.T) {
	for _, n := range lans {
		r := newOneArm(t)
		frame := from(macClient, pt.TCP(t, at(n.client, 40000), at(n.vip, 80), syn))
		lane := r.e.lanes[0]
		r.send(0, 0, frame)
		lane.Port = null{r.ports[0]}
		data := from(macClient, pt.TCP(t, at(n.client, 40000), at(n.vip, 80), ack(), pt.PayloadLen(1000)))
		if allocs := testing.AllocsPerRun(1000, func() {
			copy(lane.buf[packet.Headroom:], data)
			lane.handle(lane.buf[packet.Headroom:][:len(data)])
		}); allocs != 0 {
			t.Errorf("%s: %v allocations a frame", n.name, allocs)
		}
	}
}
