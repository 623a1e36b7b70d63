package tunlb

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/neigh"
	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
)

// TestUnreachableForgotten: a server that is down stays so for as long as it is asked for, in whatever mode,
// and no longer.
func TestUnreachableForgotten(t *testing.T) {
	eachLAN(t, func(t *testing.T, n lan) {
		r := newRig(t, []Attachment{onSegment(neigh.Shared)}, unpinned)
		for range 40 {
			r.tick(0)
		}
		out, _ := strip(t, r.one(0, 0, from(macClient, pt.TCP(t, at(n.client, 1), at(n.vip, 8080), syn))))
		pt.Check(t, out, pt.SrcDst(at(n.vip, 0), at(n.client, 0))) // NAT, too: refused at once
		elsewhere := direct(false)
		for i := range elsewhere {
			elsewhere[i].Mode = policy.NAT
			for j := range elsewhere[i].Servers {
				if a := elsewhere[i].Servers[j].Address; a.Addr() == n.rs1 {
					elsewhere[i].Servers[j].Address = at(n.remote, a.Port()) // behind the router
				}
			}
		}
		r.learn(n.router, macRouter)
		if err := r.e.Apply(Config{Services: elsewhere}); err != nil {
			t.Fatal(err)
		}
		for _, svc := range r.e.Status().Services {
			for _, srv := range svc.Servers {
				if srv.Address.Addr() == n.remote && srv.Down != "" {
					t.Errorf("%s: %+v", svc.Name, srv)
				}
			}
		}
		out, h := strip(t, r.one(0, 0, from(macClient, pt.TCP(t, at(n.client, 2), at(n.vip, 8080), syn))))
		if pt.Check(t, out, pt.SrcDst(at(n.client, 2), at(n.remote, 80))); h.Dst != macRouter {
			t.Errorf("left to %v", h.Dst)
		}
	})
}

// TestFlowLeavesDeadServer: who sends its query or its SYN once more gets a server that is there; an
// established connection stays.
func TestFlowLeavesDeadServer(t *testing.T) {
	eachLAN(t, func(t *testing.T, n lan) {
		r := newRig(t, []Attachment{onSegment(neigh.Shared)}, unpinned)
		alive := func(macs ...packet.MAC) {
			for _, mac := range macs {
				r.send(0, 0, pt.Tell(mac, macOwn, map[packet.MAC]netip.Addr{macRS[0]: n.rs1, macRS[1]: n.rs2}[mac], n.own))
			}
		}
		r.tick(0)
		alive(macRS[0], macRS[1])
		r.tick(0)
		query := pt.UDP(t, at(n.client, 5), at(n.vip, 53), pt.PayloadLen(20))
		half := pt.TCP(t, at(n.client, 6), at(n.vip, 80), syn)
		open := pt.TCP(t, at(n.client, 8), at(n.vip, 80), syn)
		data := pt.TCP(t, at(n.client, 8), at(n.vip, 80), ack(), pt.PayloadLen(9))
		to := func(frame []byte) packet.MAC {
			t.Helper()
			h, _ := packet.DecodeEthernet(r.one(0, 0, from(macClient, frame)))
			return h.Dst
		}
		if to(query) != macRS[0] || to(half) != macRS[0] || to(pt.TCP(t, at(n.client, 7), at(n.vip, 80), syn)) != macRS[1] || to(open) != macRS[0] || to(data) != macRS[0] {
			t.Fatal("round robin has changed")
		}
		for range 60 {
			r.tick(0)
			alive(macRS[1])
		}
		if to(query) != macRS[1] || to(half) != macRS[1] {
			t.Error("they stay with a server that is down")
		}
		r.dropped(0, from(macClient, data), packet.Unresolved)
	})
}

// TestSourceOfSegment: the address that tunlb speaks from is the segment's, whichever port has it written down.
func TestSourceOfSegment(t *testing.T) {
	eachLAN(t, func(t *testing.T, n lan) {
		r := settled(newRig(t, []Attachment{onSegment(neigh.Servers), onSegment(neigh.Clients)}, func(_ *Options, c *Config) { c.Services = direct(true) }))
		r.send(0, 1, packet.AppendEthernet(nil, pt.UDP(t, at(n.rs1, 1), at(n.client, 1)), packet.Broadcast, macRS[0]))
		out, _ := strip(t, r.one(1, 0, from(macClient, pt.TCP(t, at(n.client, 40009), at(n.vip, 8080), syn))))
		pt.Check(t, out, pt.SrcDst(at(n.own, 40009), at(n.rs1, 80)))
		// A server whose gateway tunlb is hears that its packet has got too old.
		out, h := strip(t, r.one(0, 0, from(macRS[0], pt.UDP(t, at(n.rs1, 1), at(n.remote, 1), pt.TTL(1)))))
		if pt.Check(t, out, pt.SrcDst(at(n.own, 0), at(n.rs1, 0))); h.Dst != macRS[0] {
			t.Errorf("to %v", h.Dst)
		}
	})
}

// TestMTUOfSegment: what does not fit the narrowest port is refused before anything is changed, so that the
// sender hears of it, and sees its own packet.
func TestMTUOfSegment(t *testing.T) {
	eachLAN(t, func(t *testing.T, n lan) {
		for _, port := range []uint16{80, 8080} {
			r := newSwitch(t)
			r.ports[1].mtu = 1400
			r.tick(0)
			r.send(1, 0, packet.AppendEthernet(nil, pt.UDP(t, at(n.rs1, 1), at(n.client, 1)), packet.Broadcast, macRS[0]))
			client, vip := at(n.client, 40000), at(n.vip, port)
			r.one(0, 1, from(macClient, pt.TCP(t, client, vip, syn)))
			for _, big := range [][]byte{
				pt.TCP(t, client, vip, ack(), pt.PayloadLen(1420), pt.DontFragment()),
				pt.TCP(t, client, vip, ack(), pt.PayloadLen(30_000), pt.GSO(1420), pt.DontFragment()),
			} {
				out, h := strip(t, r.one(0, 0, from(macClient, big)))
				pt.Check(t, out, pt.HasMTU(1400), pt.SrcDst(at(n.own, 0), at(n.client, 0)), pt.Quoted(pt.SrcDst(client, vip)), pt.ValidChecksums())
				if h.Dst != macClient || h.Src != macOwn {
					t.Errorf("from %v to %v", h.Src, h.Dst)
				}
			}
			// Switched super-packets are no better than others.
			r.dropped(0, packet.AppendEthernet(nil, pt.TCP(t, client, at(n.rs1, 22), pt.PayloadLen(30_000), pt.GSO(1420)), macRS[0], macClient), packet.TooBig)
		}
	})
}

// TestHostUnreachable: a router tells that nobody answers for a packet's destination.
func TestHostUnreachable(t *testing.T) {
	eachLAN(t, func(t *testing.T, n lan) {
		r := newOneArm(t)
		dead := at(n.client.Next(), 1)
		r.send(0, 0, from(macClient, pt.UDP(t, at(n.client, 1), dead)))
		for range 20 {
			r.tick(0)
		}
		out, h := strip(t, r.one(0, 0, from(macClient, pt.UDP(t, at(n.client, 1), dead))))
		if pt.Check(t, out, pt.SrcDst(at(n.own, 0), at(n.client, 0)), pt.Quoted(pt.SrcDst(at(n.client, 1), dead)), pt.ValidChecksums()); h.Dst != macClient {
			t.Errorf("to %v", h.Dst)
		}
	})
}

// TestServersMAC: a client can't draw a server's connections to itself, and where a server has not been heard
// yet, no client hears what is for it.
func TestServersMAC(t *testing.T) {
	eachLAN(t, func(t *testing.T, n lan) {
		r := newSwitch(t)
		r.one(0, 1, from(macClient, pt.TCP(t, at(n.client, 1), at(n.vip, 80), syn)))
		r.dropped(0, packet.AppendEthernet(nil, pt.UDP(t, at(n.client, 1), at(n.router, 1)), packet.Broadcast, macRS[0]), packet.MartianMAC)
		r.one(0, 1, from(macClient, pt.TCP(t, at(n.client, 1), at(n.vip, 80), syn)))
	})
}

// TestMasqueradeAnswered: a gateway's address on the segment is asked for there.
func TestMasqueradeAnswered(t *testing.T) {
	eachLAN(t, func(t *testing.T, n lan) {
		masquerade := n.vip.Next()
		r := newOneArm(t, func(_ *Options, c *Config) {
			c.Services = direct(true)
			inside := netip.MustParsePrefix("192.168.0.0/24")
			if n.vip.Is6() {
				inside = netip.MustParsePrefix("2001:db8:c0::/64")
			}
			c.Gateways = []Gateway{{inside, masquerade, 61000, 65534}}
		})
		if got, want := r.one(0, 0, pt.Ask(macClient, n.client, masquerade)), pt.Tell(macOwn, macClient, masquerade, n.client); !bytes.Equal(got, want) {
			t.Errorf("got\n%x, want\n%x", got, want)
		}
	})
}

// TestLoopTold: stations that go to and fro are noticed.
func TestLoopTold(t *testing.T) {
	n := lans[0]
	r := newSwitch(t)
	frame := packet.AppendEthernet(nil, pt.UDP(t, at(n.client, 1), at(n.client.Next(), 2)), packet.Broadcast, macClient)
	for i := range 1000 {
		r.send(i%2, 1-i%2, frame)
	}
	s := r.e.segments[0]
	if s.moves != 999 || !s.loopLocked(r.now) || s.loopLocked(r.now+time.Second) {
		t.Errorf("%d moves", s.moves)
	}
}

// TestForgedPlace6: an IPv6 frame whose checksum the kernel would write into an ICMPv6 header.
func TestForgedPlace6(t *testing.T) {
	n := lans[1]
	r := newSwitch(t)
	frame := packet.AppendEthernet(nil, pt.Raw(t, packet.ProtoICMPv6, n.rs1, n.client, pt.PayloadLen(40)), macClient, macRS[0])
	frame[0] = packet.FlagNeedsCsum
	binary.LittleEndian.PutUint16(frame[6:], packet.EthernetLen+40)
	r.dropped(1, frame, packet.BadVnet)
	// TCP's own place is as good as ever.
	r.one(1, 0, packet.AppendEthernet(nil, pt.TCP(t, at(n.rs1, 1), at(n.client, 2), pt.PartialChecksum()), packet.Broadcast, macRS[0]))
}
