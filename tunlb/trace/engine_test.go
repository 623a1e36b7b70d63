package trace_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
	"github.com/tunlb/tunlb/stack/port"
	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/trace"
	"github.com/tunlb/tunlb/tunlb/watch"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	patience = 10 * time.Second
	step     = 200 * time.Microsecond // between two packets, on the engine's clock
)

// The cast, in both families.
var (
	client4, vip4, rs4 = addr("198.51.100.7"), addr("203.0.113.22"), addr("192.168.0.10")
	client6, vip6, rs6 = addr("2001:db8:1::7"), addr("2001:db8:113::22"), addr("2001:db8:c0::10")
	macOwn             = packet.MAC{2, 0, 0, 0, 0, 0x02}
	macClient          = packet.MAC{2, 0, 0, 0, 0, 0x07}
	macServer          = packet.MAC{2, 0, 0, 0, 0, 0x10}
)

func addr(s string) netip.Addr                    { return netip.MustParseAddr(s) }
func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }
func prefix(s string) netip.Prefix                { return netip.MustParsePrefix(s) }
func server(name string, at netip.AddrPort, weight int) policy.ServerSpec {
	return policy.ServerSpec{Name: name, Address: at, Weight: weight}
}

// scene is a running engine, the far ends of its ports, and one who looks on.
type scene struct {
	t        *testing.T
	ends     []port.Port
	sub      *watch.Subscription
	own      bool // what tunlb sends of its own accord is looked at, too
	now      *atomic.Int64
	journeys []*trace.Journey
}

// play runs an engine until the test ends.
func play(t *testing.T, link packet.Link, attachments []tunlb.Attachment, services ...policy.Spec) *scene {
	t.Helper()
	s := &scene{t: t, now: &atomic.Int64{}}
	names := []string{"outer", "inner"}
	for i := range attachments {
		near, far := port.Pipe(names[i], link, 1500)
		attachments[i].Port = near
		s.ends = append(s.ends, far)
	}
	e, err := tunlb.New(tunlb.Options{
		Attachments: attachments, MaxFlows: 100, Log: zerolog.Nop(), Seed: 1,
		Now: func() time.Duration { return time.Duration(s.now.Load()) }, Ticks: make(chan time.Time),
	}, tunlb.Config{Services: services})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil && ctx.Err() == nil {
			t.Error(err)
		}
		e.Close()
		for _, end := range s.ends {
			end.Close()
		}
	})
	s.sub = e.Watch(watch.Options{Why: true})
	t.Cleanup(s.sub.Close)
	return s
}

// send puts a frame onto a port, and waits until that many records have come of it.
func (s *scene) send(i int, frame []byte, records int) []*trace.Journey {
	s.t.Helper()
	s.now.Add(int64(step))
	if err := s.ends[i].Write(frame); err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for range records {
		r, ok := s.sub.Next(ctx)
		for ; ok && r.In == nil && !s.own; r, ok = s.sub.Next(ctx) {
			s.sub.Release(r)
		}
		if !ok {
			s.t.Fatalf("record %d has not come", len(s.journeys)+1)
		}
		// Kept longer than the record, as a line of the stream is: by way of JSON.
		b, err := json.Marshal(r)
		if err != nil {
			s.t.Fatal(err)
		}
		s.sub.Release(r)
		var own watch.Record
		if err := json.Unmarshal(b, &own); err != nil {
			s.t.Fatal(err)
		}
		if own.Why != nil { // how schedulers put it is not looked at here
			own.Why.Why, own.Why.State = "how "+own.Why.Scheduler+" decides", "its state"
			for i := range own.Why.Servers {
				own.Why.Servers[i].Score = "7"
			}
		}
		if !s.own { // announcements have numbers, too
			own.Seq = uint64(len(s.journeys) + 1)
		}
		own.Time = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).Add(own.At)
		s.journeys = append(s.journeys, trace.Of(&own, s.sub.Lost()))
	}
	return s.journeys[len(s.journeys)-records:]
}

// text prints all journeys so far.
func (s *scene) text(p trace.Printer) []byte {
	s.t.Helper()
	var b bytes.Buffer
	pairs := trace.Pairer{Hold: 5 * time.Millisecond}
	var rows []trace.Row
	for _, j := range s.journeys {
		rows = append(rows, pairs.Add(j)...)
	}
	for _, r := range append(rows, pairs.Flush()...) {
		if err := p.Print(&b, r); err != nil {
			s.t.Fatal(err)
		}
	}
	return b.Bytes()
}

// golden compares all forms of the journeys with what they were.
func (s *scene) golden(name string) {
	s.t.Helper()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetIndent("", " ")
	for _, j := range s.journeys {
		if err := enc.Encode(j); err != nil {
			s.t.Fatal(err)
		}
	}
	compare(s.t, name+".json.golden", b.Bytes())
	compare(s.t, name+".golden", s.text(trace.Printer{}))
	compare(s.t, name+".wide.golden", s.text(trace.Printer{Wide: true, Width: 140}))
}

func compare(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got); if that is meant: go test ./tunlb/trace -update\n%s", path, diff)
	}
}

// router is a virtual router between clients and servers, which counts the hop itself.
func router() []tunlb.Attachment {
	return []tunlb.Attachment{
		{Own: []netip.Addr{addr("198.51.100.1"), addr("2001:db8:1::1")}, Subnets: []netip.Prefix{prefix("198.51.100.0/24"), prefix("2001:db8:1::/64")},
			Routes: []netip.Prefix{prefix("0.0.0.0/0"), prefix("::/0")}},
		{Own: []netip.Addr{addr("192.168.0.1"), addr("2001:db8:c0::1")}, Subnets: []netip.Prefix{prefix("192.168.0.0/24"), prefix("2001:db8:c0::/64")}},
	}
}

func webService(vip, rs netip.Addr) policy.Spec {
	return policy.Spec{Name: "web", Listen: policy.On(at(vip, 80), policy.TCP), Scheduler: "wrr", Servers: []policy.ServerSpec{
		server("rs1", at(rs, 8080), 2), server("rs2", at(rs.Next(), 8080), 1), server("rs3", at(rs.Next().Next(), 8080), 0)}}
}

var (
	syn    = pt.Flags(packet.TCPSyn)
	synAck = pt.Flags(packet.TCPSyn | packet.TCPAck)
	push   = pt.Flags(packet.TCPPsh | packet.TCPAck)
)

// TestNAT is a connection's beginning: a SYN and its answer, then a request and its answer, whose checksums are left to the
// device.
func TestNAT(t *testing.T) {
	for name, cast := range map[string][3]netip.Addr{"nat4": {client4, vip4, rs4}, "nat6": {client6, vip6, rs6}} {
		t.Run(name, func(t *testing.T) {
			client, vip, rs := at(cast[0], 40000), at(cast[1], 80), at(cast[2], 8080)
			s := play(t, packet.LinkIP, router(), webService(cast[1], cast[2]))
			s.send(0, pt.TCP(t, client, vip, syn, pt.Seq(1000)), 1)
			s.send(1, pt.TCP(t, rs, client, synAck, pt.Seq(5000), pt.Ack(1001)), 1)
			s.send(0, pt.TCP(t, client, vip, pt.Seq(1001), pt.Ack(5001)), 1)
			s.send(0, pt.TCP(t, client, vip, push, pt.Seq(1001), pt.Ack(5001), pt.PayloadLen(73)), 1)
			s.send(1, pt.TCP(t, rs, client, push, pt.Seq(5001), pt.Ack(1074), pt.PayloadLen(4000), pt.GSO(1400)), 1)
			s.golden(name)
		})
	}
}

// TestDirectRouting: nothing but the MACs changes.
func TestDirectRouting(t *testing.T) {
	vip, rs := addr("203.0.113.22"), server("rs1", netip.MustParseAddrPort("203.0.113.10:80"), 1)
	rs.MAC = macServer
	s := play(t, packet.LinkEthernet, []tunlb.Attachment{{MAC: macOwn, Own: []netip.Addr{addr("203.0.113.2")}, Subnets: []netip.Prefix{prefix("203.0.113.0/24")}}},
		policy.Spec{Name: "web", Listen: policy.On(at(vip, 80), policy.TCP), Mode: policy.DR, Scheduler: "rr", Servers: []policy.ServerSpec{rs}})
	client := netip.MustParseAddrPort("203.0.113.7:40000")
	s.send(0, packet.AppendEthernet(nil, pt.TCP(t, client, at(vip, 80), syn, pt.Seq(1000)), macOwn, macClient), 1)
	s.send(0, question(client.Addr(), vip), 1)
	s.golden("dr")
}

// question asks who has an address.
func question(sender, target netip.Addr) []byte {
	b := make([]byte, packet.VnetLen+packet.EthernetLen, 60)
	packet.Ethernet{Dst: packet.Broadcast, Src: macClient, Type: packet.EtherARP}.Put(b)
	b = append(b, 0, 1, 8, 0, 6, 4, 0, 1)
	b = append(append(b, macClient[:]...), sender.AsSlice()...)
	return append(append(b, 0, 0, 0, 0, 0, 0), target.AsSlice()...)
}

// TestDrops: the reason, what it means, and what the sender is told.
func TestDrops(t *testing.T) {
	idle := policy.Spec{Name: "idle", Listen: policy.On(at(vip4, 81), policy.TCP), Servers: []policy.ServerSpec{server("rs1", at(rs4, 8081), 0)}}
	s := play(t, packet.LinkIP, router(), idle)
	s.send(0, pt.TCP(t, at(client4, 40000), at(vip4, 81), syn, pt.Seq(1000)), 1)
	s.send(0, pt.UDP(t, at(client4, 40000), netip.MustParseAddrPort("192.168.0.99:9"), pt.PayloadLen(5), pt.TTL(1)), 1)
	s.send(0, pt.TCP(t, at(client4, 40000), at(vip4, 81), syn, pt.BadHeaderChecksum()), 1)
	s.golden("drops")
}

// TestError: an ICMP error is translated, and so is the packet that it quotes.
func TestError(t *testing.T) {
	s := play(t, packet.LinkIP, router(), policy.Spec{Name: "dns", Listen: policy.On(at(vip4, 53), policy.UDP), Scheduler: "rr", Servers: []policy.ServerSpec{server("rs1", at(rs4, 5353), 1)}})
	client, vip, rs := at(client4, 40000), at(vip4, 53), at(rs4, 5353)
	s.send(0, pt.UDP(t, client, vip, pt.PayloadLen(30)), 1)
	s.send(1, pt.Unreachable(t, rs4, client4, pt.UDP(t, client, rs, pt.PayloadLen(30), pt.TTL(63))), 1)
	s.golden("error")
}

// TestWaits: a packet that waits for a MAC, and the question for it.
func TestWaits(t *testing.T) {
	vip, rs := addr("203.0.113.22"), server("rs1", netip.MustParseAddrPort("203.0.113.10:80"), 1)
	s := play(t, packet.LinkEthernet, []tunlb.Attachment{{MAC: macOwn, Own: []netip.Addr{addr("203.0.113.2")}, Subnets: []netip.Prefix{prefix("203.0.113.0/24")}}},
		policy.Spec{Name: "web", Listen: policy.On(at(vip, 80), policy.TCP), Mode: policy.DR, Scheduler: "rr", Servers: []policy.ServerSpec{rs}})
	j := s.send(0, packet.AppendEthernet(nil, pt.TCP(t, netip.MustParseAddrPort("203.0.113.7:40000"), at(vip, 80), syn), macOwn, macClient), 1)[0]
	if j.Exit != "held" || !j.Is(trace.StepTo) || j.Is(trace.StepEdit) || j.Is(trace.StepOut) {
		t.Errorf("%s", s.text(trace.Printer{}))
	}
}

// TestHost: what tunlb's own stack answers is beside the question, though no connection is kept of it.
func TestHost(t *testing.T) {
	s := play(t, packet.LinkIP, router(), webService(vip4, rs4))
	s.own = true
	s.send(0, pt.Echo(t, client4, vip4, 7, 1, pt.PayloadLen(56)), 2)
	text := string(s.text(trace.Printer{Wide: true, Width: 160}))
	for _, want := range []string{"──▶ echo request id 7 seq 1 len 56", "◀── #2 +0.000 ms  echo reply id 7 seq 1 len 56", "to     tunlb's own stack"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
	if n := strings.Count(text, "\n\n"); n != 1 {
		t.Errorf("%d rows, want 1:\n%s", n, text)
	}
}
