package tunlb

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/tunlb/tunlb/stack/neigh"
	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
	"github.com/tunlb/tunlb/tunlb/watch"
)

// sole is the one record that is not about ARP or neighbour discovery.
func sole(t *testing.T, records []watch.Record) watch.Record {
	t.Helper()
	records = slices.DeleteFunc(records, func(r watch.Record) bool { return r.Protocol == "arp" || r.Protocol == "icmp" && r.In == nil })
	if len(records) != 1 {
		t.Fatalf("%d records, want 1: %+v", len(records), records)
	}
	return records[0]
}

// TestWitnessHeld: a packet that waits for its server's MAC is told of twice, and is the same connection's both times.
func TestWitnessHeld(t *testing.T) {
	eachLAN(t, func(t *testing.T, n lan) {
		for port, service := range map[uint16]string{80: "web-", 8080: "nat-"} {
			r := newRig(t, []Attachment{onSegment(neigh.Shared)}, func(_ *Options, c *Config) { c.Services = direct(false) })
			client, vip := at(n.client, 40000), at(n.vip, port)
			r.send(0, 0, from(macClient, pt.TCP(t, client, vip, syn)))
			held := sole(t, slices.DeleteFunc(r.seen(), func(rec watch.Record) bool { return rec.Protocol != "tcp" }))
			if held.Exit != "held" || len(held.Out) != 0 || !held.Opened || held.Waited {
				t.Errorf("%+v, want a connection opened by a packet that is held", held)
			}
			r.send(0, 0, pt.Tell(macRS[0], macOwn, n.rs1, n.own))
			gone := sole(t, slices.DeleteFunc(r.seen(), func(rec watch.Record) bool { return rec.Protocol != "tcp" }))
			if !gone.Waited || gone.In != nil || len(gone.Out) != 1 || gone.Exit != "port" || gone.Reply || gone.Opened {
				t.Errorf("%+v, want the packet sent on", gone)
			}
			if gone.Flow != held.Flow || gone.Flow == 0 || gone.ServerName != "rs1" || gone.Service != service+n.name || gone.Client != client || gone.VIP != vip {
				t.Errorf("%+v, want the connection of %+v", gone, held)
			}
		}
	})
}

// TestWitnessFragments: a later fragment belongs where its first does, and what has waited for the first is a journey
// of its own.
func TestWitnessFragments(t *testing.T) {
	for _, f := range families {
		for _, order := range [][]int{{0, 1, 2}, {1, 0, 2}, {2, 1, 0}} {
			r := newBox(t)
			client, vip := at(f.client, 40000), at(f.vip, 53)
			pieces := pt.Fragments(t, pt.UDP(t, client, vip, pt.PayloadLen(4000)), 1500, 77)
			var sent, parked, waited int
			for _, i := range order {
				r.send(0, 0, pieces[i])
			}
			for _, rec := range r.seen() {
				if rec.Exit == "parked" {
					parked++
					continue
				}
				if rec.Waited {
					waited++
				}
				sent += len(rec.Out)
				if len(rec.Out) != 1 || rec.Service != "dns-"+f.name || rec.ServerName != "rs1" || rec.Flow == 0 || rec.Client != client || rec.VIP != vip || (rec.In == nil) != rec.Waited {
					t.Errorf("%s %v: %+v, want one fragment of the connection", f.name, order, rec)
				}
			}
			first := slices.Index(order, 0)
			if sent != 3 || parked != first || waited != first {
				t.Errorf("%s %v: %d sent, %d parked, %d sent on; want 3, %d, %d", f.name, order, sent, parked, waited, first, first)
			}
		}
	}
}

// TestWitnessLost: every drop that is counted is told of, those of tunlb's own packets and of those that have waited too.
func TestWitnessLost(t *testing.T) {
	f := families[0]
	told := func(r *rig, reason packet.Reason) {
		t.Helper()
		counted := int(r.e.drops[reason].Load())
		n := 0
		for _, rec := range r.seen() {
			if rec.Drop == reason.String() {
				n++
				if rec.Exit != "" || rec.Protocol == "" || rec.Client.Addr().IsUnspecified() {
					t.Errorf("%+v, want it named, and nowhere to have gone", rec)
				}
			}
		}
		if n != counted || n == 0 {
			t.Errorf("%d records of %v, %d are counted", n, reason, counted)
		}
	}
	r := newBox(t)
	for port := range uint16(icmpBurst + 10) {
		r.send(0, 0, pt.UDP(t, at(f.client, 1000+port), at(f.vip, 81)))
		if port < icmpBurst {
			r.seen()
		}
	}
	told(r, packet.RateLimited)

	r = newBox(t)
	r.send(0, 0, pt.Fragments(t, pt.UDP(t, at(f.client, 1), at(f.vip, 53), pt.PayloadLen(4000)), 1500, 77)[1])
	r.now += 2 * time.Duration(datagramLifetime) * time.Millisecond
	r.e.expire()
	told(r, packet.FragmentTimeout)

	n := lans[0]
	r = newRig(t, []Attachment{onSegment(neigh.Shared)}, func(_ *Options, c *Config) { c.Services = direct(false) })
	r.send(0, 0, from(macClient, pt.TCP(t, at(n.client, 1), at(n.vip, 80), syn)))
	for range 100 {
		r.tick(0)
		r.ports[0].take()
	}
	told(r, packet.Unresolved)
}

// broken is a port that takes nothing.
type broken struct{ *recorder }

func (broken) Write([]byte) error { return errors.New("broken") }

// TestWitnessRefused: what a device has not taken was not sent.
func TestWitnessRefused(t *testing.T) {
	l, frame := established(t)
	e := l.engine
	l.Port = broken{newRecorder("port0", 1500)}
	s := e.Watch(watch.Options{})
	defer s.Close()
	l.take(l.buf[packet.Headroom:][:copy(l.buf[packet.Headroom:], frame)])
	rec, ok := s.Next(t.Context())
	if !ok || rec.Drop != "port-write" || len(rec.Out) != 0 || rec.Exit != "" || rec.Flow == 0 {
		t.Errorf("%+v, want a drop and nothing sent", rec)
	}
}

// TestPeek: extension headers hide neither the protocol nor the ports of what is told of.
func TestPeek(t *testing.T) {
	f := families[1]
	client, vip := at(f.client, 40000), at(f.vip, 80)
	pieces := pt.Fragments(t, pt.UDP(t, client, vip, pt.PayloadLen(4000)), 1500, 77)
	for i, want := range []uint16{40000, 0, 0} {
		tu, ok := peek(pieces[i][packet.VnetLen:])
		if !ok || tu.Proto != packet.ProtoUDP || tu.SrcPort != want || tu.Source().Addr() != f.client {
			t.Errorf("fragment %d: %+v, want UDP from port %d", i, tu, want)
		}
	}
	whole := pt.TCP(t, client, vip, syn)[packet.VnetLen:]
	hop := append(slices.Clone(whole[:40]), packet.ProtoTCP, 0, 1, 4, 0, 0, 0, 0) // PadN
	hop[6] = 0
	if tu, ok := peek(append(hop, whole[40:]...)); !ok || tu.Proto != packet.ProtoTCP || tu.DstPort != 80 {
		t.Errorf("behind a hop-by-hop header: %+v, want TCP to port 80", tu)
	}
	for n := range whole {
		peek(whole[:n])
		peek(append(slices.Clone(hop), whole[40:]...)[:n])
	}
}
