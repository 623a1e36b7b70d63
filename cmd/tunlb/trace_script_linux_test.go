package main

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
	"github.com/tunlb/tunlb/tunlb/watch"
)

// Watch of the actor shows a connection's first two packets and a drop, at once; whoever looks on at the port "gone" sees
// the daemon end.
func (a *actor) Watch(o watch.Options) *watch.Subscription {
	s := watch.NewSubscription(o, nil)
	for _, r := range actedRecords() {
		s.Offer(r)
	}
	if o.Filter.Port == "gone" {
		s.Close()
	}
	return s
}

func actedRecords() []*watch.Record {
	client, vip := netip.MustParseAddrPort("198.51.100.7:40000"), netip.MustParseAddrPort("203.0.113.22:80")
	server, idle := netip.MustParseAddrPort("192.168.0.10:8080"), netip.MustParseAddrPort("203.0.113.22:81")
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)
	record := func(seq uint64, vip netip.AddrPort) *watch.Record {
		at := time.Duration(seq) * time.Millisecond
		return &watch.Record{Seq: seq, Time: began.Add(at), At: at, Protocol: "tcp", Client: client, VIP: vip}
	}
	connection := func(seq uint64, reply bool, frame []byte, to packet.Tuple) *watch.Record {
		r := record(seq, vip)
		r.Exit, r.Reply, r.Flow, r.State, r.Mode = "port", reply, 7, "SYN_RECV", "nat"
		r.Server, r.ServerName, r.Service = server, "rs1", "web"
		r.SetIn("tunlb0", false, frame, len(frame))
		out := slices.Clone(frame)
		var v packet.View
		v.Parse(out)
		edit := packet.NewEdit(v.Tuple, to)
		edit.Apply(&v)
		r.AddOut("tunlb0", false, out, len(out))
		return r
	}
	t := noTest{}
	syn := connection(1, false, pt.TCP(t, client, vip, pt.Flags(packet.TCPSyn), pt.Seq(1000)), packet.TupleOf(packet.ProtoTCP, client, server))
	syn.Opened = true
	syn.Why = &policy.Explanation{Service: "web", Scheduler: "wlc", Server: "rs1", Address: server, Why: "rs1 has the least connections for its weight",
		Servers: []policy.Candidate{{Server: "rs1", Address: server, Weight: 2, Score: "0"}}}
	answer := connection(2, true, pt.TCP(t, server, client, pt.Flags(packet.TCPSyn|packet.TCPAck), pt.Seq(5000), pt.Ack(1001)), packet.TupleOf(packet.ProtoTCP, vip, client))
	drop := record(3, idle)
	drop.Drop = packet.NoServer.String()
	frame := pt.TCP(t, client, idle, pt.Flags(packet.TCPSyn))
	drop.SetIn("tunlb0", false, frame, len(frame))
	return []*watch.Record{syn, answer, drop}
}

// noTest is for builders of frames outside of a test: a frame of ours can be built, or it panics.
type noTest struct{ testing.TB }

func (noTest) Helper() {}
