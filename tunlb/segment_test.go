package tunlb

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/neigh"
	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
)

// unpinned has the servers' MACs asked for.
func unpinned(_ *Options, c *Config) { c.Services = direct(false) }

// tick is a quarter of a second of the segments' time; what they wrote to port o is returned.
func (r *rig) tick(o int) [][]byte {
	r.now += neigh.TickInterval
	r.e.tickSegments(&sender{tx: r.e.ownTx})
	return r.ports[o].take()
}

// TestFirstPacketWaits: a server whose MAC is not known yet is asked for, and the packets wait for the
// answer, in order; no more than a few.
func TestFirstPacketWaits(t *testing.T) {
	eachLAN(t, func(t *testing.T, n lan) {
		r := newRig(t, []Attachment{onSegment(neigh.Shared)}, unpinned)
		client, vip := at(n.client, 40000), at(n.vip, 80)
		var want [][]byte
		for i := range 5 {
			frame := pt.TCP(t, client, vip, syn, pt.Seq(uint32(i)))
			want = append(want, packet.AppendEthernet(nil, frame, macRS[0], macOwn))
			for _, f := range r.send(0, 0, from(macClient, frame)) {
				if h, _ := packet.DecodeEthernet(f); h.Dst == macRS[0] || h.Type == packet.EtherTypeOf(n.vip.Is6()) && !neigh.Is(f) {
					t.Errorf("left before the server was known: %x", f)
				}
			}
		}
		r.tick(0)
		got := r.send(0, 0, pt.Tell(macRS[0], macOwn, n.rs1, n.own))
		if !slices.EqualFunc(got, want[:3], bytes.Equal) {
			t.Errorf("%d packets left after the answer, want the first 3 as they came; drops: %v", len(got), r.e.Drops())
		}
		if lost := r.e.Drops()["hop-queue"]; lost != 2 {
			t.Errorf("%d were refused, want 2", lost)
		}
	})
}

// TestUnreachableSkipped: a server that does not answer for its address gets no connections until it does;
// with none left clients are refused.
func TestUnreachableSkipped(t *testing.T) {
	eachLAN(t, func(t *testing.T, n lan) {
		r := newRig(t, []Attachment{onSegment(neigh.Shared)}, unpinned)
		r.tick(0)
		r.send(0, 0, pt.Tell(macRS[0], macOwn, n.rs1, n.own))
		for range 20 {
			r.tick(0)
		}
		for port := range uint16(3) {
			out := r.one(0, 0, from(macClient, pt.TCP(t, at(n.client, 40000+port), at(n.vip, 80), syn)))
			if h, _ := packet.DecodeEthernet(out); h.Dst != macRS[0] {
				t.Errorf("connection %d went to %v", port, h.Dst)
			}
		}
		r.send(0, 0, pt.Tell(macRS[1], macOwn, n.rs2, n.own)) // it answers the repeated question
		r.tick(0)
		seen := map[packet.MAC]bool{}
		for port := range uint16(2) {
			h, _ := packet.DecodeEthernet(r.one(0, 0, from(macClient, pt.TCP(t, at(n.client, 41000+port), at(n.vip, 80), syn))))
			seen[h.Dst] = true
		}
		if !seen[macRS[1]] {
			t.Error("the server is back and gets nothing")
		}
		for range 100 { // nobody answers any more
			r.tick(0)
		}
		out, _ := strip(t, r.one(0, 0, from(macClient, pt.TCP(t, at(n.client, 42000), at(n.vip, 80), syn))))
		pt.Check(t, out, pt.SrcDst(at(n.vip, 0), at(n.client, 0)), pt.Quoted(pt.SrcDst(at(n.client, 42000), at(n.vip, 80))))
	})
}

// TestReloadAnnounces: a VIP that a reload brings is announced; one that it takes is no longer answered for.
func TestReloadAnnounces(t *testing.T) {
	eachLAN(t, func(t *testing.T, n lan) {
		r := newOneArm(t)
		added := n.vip.Next()
		cfg := Config{Services: append(direct(true), policy.Spec{
			Name: "new", Listen: policy.On(at(added, 80), policy.TCP), Mode: policy.DR, Servers: []policy.ServerSpec{{Name: "rs1", Address: at(n.rs1, 80), Weight: 1}}})}
		if err := r.e.Apply(cfg); err != nil {
			t.Fatal(err)
		}
		want := pt.Tell(macOwn, packet.Broadcast, added, added)
		if n.vip.Is4() {
			want[packet.VnetLen+packet.EthernetLen+7] = 1 // in the request's form
			copy(want[packet.VnetLen+packet.EthernetLen+18:], make([]byte, 6))
		}
		if got := r.tick(0); !slices.ContainsFunc(got, func(f []byte) bool { return bytes.Equal(f, want) }) {
			t.Errorf("among %d frames is not\n%x\n%x", len(got), want, got)
		}
		if got := r.send(0, 0, pt.Ask(macClient, n.client, added)); len(got) != 1 {
			t.Errorf("%d answers for the new VIP", len(got))
		}
		if err := r.e.Apply(Config{Services: direct(true)}); err != nil {
			t.Fatal(err)
		}
		if got := r.send(0, 0, pt.Ask(macClient, n.client, added)); len(got) != 0 {
			t.Errorf("%d answers for a VIP that is gone", len(got))
		}
	})
}

// TestBetweenKinds: clients come by a TUN and the servers are on a segment: translated there and back, whole
// super-packets among them; direct routing, too, whose answers go past.
func TestBetweenKinds(t *testing.T) {
	eachLAN(t, func(t *testing.T, n lan) {
		remote := netip.PrefixFrom(n.remote, n.remote.BitLen()-8).Masked()
		clients := Attachment{Subnets: []netip.Prefix{remote}, Own: []netip.Addr{n.remote.Prev()}}
		servers := onSegment(neigh.Shared)
		servers.Via = nil
		r := settled(newRig(t, []Attachment{clients, servers}, func(_ *Options, c *Config) { c.Services = direct(true) }))
		client, nat, rs := at(n.remote, 40000), at(n.vip, 8080), at(n.rs1, 80)
		for _, opts := range [][]pt.Option{{syn}, {ack(), pt.PayloadLen(100)}, {ack(), pt.PayloadLen(100), pt.PartialChecksum()}, {ack(), pt.PayloadLen(40_000), pt.GSO(1400)}} {
			out, h := strip(t, r.one(0, 1, pt.TCP(t, client, nat, opts...)))
			pt.Check(t, out, pt.SrcDst(client, rs), pt.HasTTL(63), pt.ValidChecksums())
			if h.Dst != macRS[0] || h.Src != macOwn {
				t.Errorf("left from %v to %v", h.Src, h.Dst)
			}
			pt.Check(t, r.one(1, 0, from(macRS[0], pt.TCP(t, rs, client, append(opts[1:len(opts):len(opts)], ack())...))), pt.SrcDst(nat, client), pt.HasTTL(63), pt.ValidChecksums())
		}
		want := pt.TCP(t, client, at(n.vip, 80), syn)
		if out, h := strip(t, r.one(0, 1, bytes.Clone(want))); !bytes.Equal(out, want) || h.Dst != macRS[0] {
			t.Errorf("direct routing changed the packet, or sent it to %v", h.Dst)
		}
	})
}

// TestMalformed: what is no sound frame is dropped for its reason.
func TestMalformed(t *testing.T) {
	eachLAN(t, func(t *testing.T, n lan) {
		r := newSwitch(t)
		question := pt.Ask(macClient, n.client, n.vip)
		bad := packet.BadARP
		if n.vip.Is6() {
			bad = packet.BadND
		}
		r.dropped(0, question[:len(question)-10], bad)
		broken := bytes.Clone(question)
		broken[len(broken)-1] ^= 1 // of an address, or a checksummed option
		if n.vip.Is6() {
			r.dropped(0, broken, bad)
		}
		r.dropped(0, question[:packet.VnetLen+10], packet.Truncated)
		r.dropped(0, from(macOwn, pt.UDP(t, at(n.client, 1), at(n.vip, 53))), packet.Loop)
		r.dropped(0, from(macClient, pt.UDP(t, at(n.vip, 1), at(n.vip, 53)))[:packet.VnetLen+packet.EthernetLen+8], packet.Truncated)
		// A checksum to be written into the Ethernet header makes another frame of it.
		forged := packet.AppendEthernet(nil, pt.UDP(t, at(n.client, 1), at(n.rs1, 2), pt.PartialChecksum()), macRS[0], macClient)
		binary.LittleEndian.PutUint16(forged[6:], 0)
		binary.LittleEndian.PutUint16(forged[8:], 12)
		r.dropped(0, forged, packet.BadVnet)
	})
}

// TestClaimsStay: whatever form a server claims the VIP in, no client's port sends it on.
func TestClaimsStay(t *testing.T) {
	eachLAN(t, func(t *testing.T, n lan) {
		r := newSwitch(t)
		r.one(0, 1, packet.AppendEthernet(nil, pt.UDP(t, at(n.client, 1), at(n.rs1, 2)), macRS[0], macClient))
		r.dropped(1, pt.Tell(macRS[0], packet.Broadcast, n.vip, n.vip), packet.Suppressed)
		r.dropped(1, pt.Tell(macRS[0], macClient, n.vip, n.client), packet.Suppressed)
		// Asked in the VIP's name, it goes on in the server's own.
		if got, want := r.one(1, 0, pt.Ask(macRS[0], n.vip, n.client)), pt.Ask(macRS[0], n.rs1, n.client); !bytes.Equal(got, want) {
			t.Errorf("got\n%x, want\n%x", got, want)
		}
		// A client's claim is a conflict, which is defended.
		r.now += 2 * time.Second
		if got := r.send(0, 0, pt.Tell(macRouter, packet.Broadcast, n.vip, n.vip)); len(got) != 1 || !bytes.Equal(got[0][packet.VnetLen+6:packet.VnetLen+12], macOwn[:]) {
			t.Errorf("a client's claim was answered by %x", got)
		}
		if c := r.e.Status().Segments[0].Conflicts; len(c) != 1 || c[0].MAC != macRouter || c[0].VIP != n.vip {
			t.Errorf("conflicts: %+v", c)
		}
		// What is asked of tunlb does not reach the servers.
		r.one(0, 0, pt.Ask(macClient, n.client, n.vip))
	})
}

// TestStorm: questions at any rate cost bounded memory, no garbage, and no connection.
func TestStorm(t *testing.T) {
	eachLAN(t, func(t *testing.T, n lan) {
		r := newSwitch(t)
		l := r.e.lanes[0]
		client, vip := at(n.client, 40000), at(n.vip, 80)
		l.Port, r.e.lanes[1].Port = null{r.ports[0]}, null{r.ports[1]}
		l.handle(from(macClient, pt.TCP(t, client, vip, syn)))
		frame := pt.Ask(macClient, n.client, n.vip)
		i := uint32(0)
		storm := func() {
			i++
			if i%100 == 0 {
				r.now += time.Millisecond // 100,000 a second
			}
			f := frame
			if i%2 == 0 { // half of them from made-up stations
				binary.BigEndian.PutUint32(f[packet.VnetLen+8:], i)
			}
			l.handle(f)
		}
		for range 100_000 {
			storm()
		}
		if allocs := testing.AllocsPerRun(10_000, storm); allocs > 0 {
			t.Errorf("%v allocations a message", allocs)
		}
		s := r.e.segments[0]
		if len(s.stations) > maxStations || len(s.neigh.Neighbours(r.now)) > 1100 {
			t.Errorf("%d stations, %d neighbours", len(s.stations), len(s.neigh.Neighbours(r.now)))
		}
		if conns := r.conns(); len(conns) != 1 || conns[0].State != "SYN_RECV" && conns[0].State != "SYN_SENT" && conns[0].State != "ESTABLISHED" {
			t.Errorf("%+v", conns)
		}
	})
}
