package tunlb

import (
	"context"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
	"github.com/tunlb/tunlb/tunlb/watch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder is a port that keeps what is written to it. Packets are handed to the lane directly, so
// that a test sees what one packet does, and nothing else.
type recorder struct {
	name string
	mtu  int
	link packet.Link

	mu     sync.Mutex
	frames [][]byte
	wrote  chan struct{}
}

func newRecorder(name string, mtu int) *recorder {
	return &recorder{name: name, mtu: mtu, wrote: make(chan struct{}, 1024)}
}

func (r *recorder) Name() string             { return r.name }
func (r *recorder) MTU() int                 { return r.mtu }
func (r *recorder) Link() packet.Link        { return r.link }
func (r *recorder) Read([]byte) (int, error) { return 0, os.ErrClosed }
func (r *recorder) Close() error             { return nil }

func (r *recorder) Write(frame []byte) error {
	r.mu.Lock()
	r.frames = append(r.frames, slices.Clone(frame))
	r.mu.Unlock()
	r.wrote <- struct{}{}
	return nil
}

// take returns what was written and forgets it.
func (r *recorder) take() [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	frames := r.frames
	r.frames = nil
	for len(r.wrote) > 0 {
		<-r.wrote
	}
	return frames
}

// rig is an engine with recorders for ports and a clock that stands still.
type rig struct {
	t     testing.TB
	e     *Engine
	ports []*recorder
	now   time.Duration

	watched *watch.Subscription
}

// family is one of the two address families, with the cast of the story in it.
type family struct {
	name                       string
	client, other, outside     netip.Addr // outside is where servers connect to
	vip, rs1, rs2, own, masq   netip.Addr
	inside, outer, link        netip.Prefix
	icmpUnreachable, icmpBig   uint8
	codePort, icmpTimeExceeded uint8
	codeBig                    uint8
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

var families = []family{
	{
		name: "v4", client: addr("198.51.100.7"), other: addr("198.51.100.8"), outside: addr("198.51.100.99"),
		vip: addr("203.0.113.22"), rs1: addr("192.168.0.10"), rs2: addr("192.168.0.11"), own: addr("10.255.0.2"), masq: addr("203.0.113.50"),
		inside: netip.MustParsePrefix("192.168.0.0/24"), outer: netip.MustParsePrefix("198.51.100.0/24"), link: netip.MustParsePrefix("10.255.0.0/30"),
		icmpUnreachable: 3, codePort: 3, icmpTimeExceeded: 11, icmpBig: 3, codeBig: 4,
	},
	{
		name: "v6", client: addr("2001:db8:1::7"), other: addr("2001:db8:1::8"), outside: addr("2001:db8:1::99"),
		vip: addr("2001:db8:113::22"), rs1: addr("2001:db8:c0::10"), rs2: addr("2001:db8:c0::11"), own: addr("fd00:7474::2"), masq: addr("2001:db8:113::50"),
		inside: netip.MustParsePrefix("2001:db8:c0::/64"), outer: netip.MustParsePrefix("2001:db8:1::/64"), link: netip.MustParsePrefix("fd00:7474::/126"),
		icmpUnreachable: 1, codePort: 4, icmpTimeExceeded: 3, icmpBig: 2, codeBig: 0,
	},
}

// services are a web service on two servers, a DNS one on one, and one that has none to offer.
func services() (specs []policy.Spec) {
	for _, f := range families {
		specs = append(specs,
			policy.Spec{Name: "web-" + f.name, Listen: policy.On(at(f.vip, 80), policy.TCP), Scheduler: "rr", Servers: []policy.ServerSpec{
				{Name: "rs1", Address: at(f.rs1, 8080), Weight: 1}, {Name: "rs2", Address: at(f.rs2, 8080), Weight: 1}}},
			policy.Spec{Name: "dns-" + f.name, Listen: policy.On(at(f.vip, 53), policy.UDP), Scheduler: "rr", Servers: []policy.ServerSpec{
				{Name: "rs1", Address: at(f.rs1, 5353), Weight: 1}}},
			policy.Spec{Name: "full-" + f.name, Listen: policy.On(at(f.vip, 443), policy.TCP), Mode: policy.FullNAT, Servers: []policy.ServerSpec{
				{Name: "rs1", Address: at(f.rs1, 8443), Weight: 1}}},
			policy.Spec{Name: "drained-" + f.name, Listen: policy.On(at(f.vip, 81), policy.TCP), Servers: []policy.ServerSpec{
				{Name: "rs1", Address: at(f.rs1, 8081), Weight: 0}}},
			policy.Spec{Name: "drained-udp-" + f.name, Listen: policy.On(at(f.vip, 81), policy.UDP), Servers: []policy.ServerSpec{
				{Name: "rs1", Address: at(f.rs1, 8081), Weight: 0}}},
		)
	}
	return specs
}

// newBox has one port, into the routing kernel of the box.
func newBox(t testing.TB, edit ...func(*Options, *Config)) *rig {
	a := Attachment{Kernel: true, Routes: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}}
	var box Box
	for _, f := range families {
		a.Own = append(a.Own, f.own)
		a.Subnets = append(a.Subnets, f.link)
		box.Local = append(box.Local, f.own.Prev(), f.inside.Addr().Next())
		box.Links = append(box.Links, f.inside, f.outer)
	}
	r := newRig(t, []Attachment{a}, edit...)
	r.box(box)
	return r
}

// newRouter has a port for the clients (0) and one for the servers (1), each in a namespace of its own.
func newRouter(t testing.TB, edit ...func(*Options, *Config)) *rig {
	var clients, servers Attachment
	for _, f := range families {
		clients.Subnets = append(clients.Subnets, f.outer)
		clients.Own = append(clients.Own, f.outer.Addr().Next())
		servers.Subnets = append(servers.Subnets, f.inside)
		servers.Own = append(servers.Own, f.inside.Addr().Next())
	}
	clients.Routes = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	return newRig(t, []Attachment{clients, servers}, edit...)
}

func newRig(t testing.TB, attachments []Attachment, edit ...func(*Options, *Config)) *rig {
	t.Helper()
	r := &rig{t: t}
	for i := range attachments {
		p := newRecorder("port"+string(rune('0'+i)), 1500)
		if attachments[i].Box || !attachments[i].MAC.IsZero() {
			p.link = packet.LinkEthernet
		}
		attachments[i].Port = p
		r.ports = append(r.ports, p)
	}
	opts := Options{Attachments: attachments, MaxFlows: 1000, Log: zerolog.Nop(), Now: func() time.Duration { return r.now }}
	cfg := Config{Services: services()}
	for _, e := range edit {
		e(&opts, &cfg)
	}
	e, err := New(opts, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	r.e = e
	if _, bench := t.(*testing.B); !bench {
		r.watched = e.Watch(watch.Options{Snap: packet.MaxPacket, Slots: 64, Why: true}) // what is looked at goes no other way
		t.Cleanup(r.watched.Close)
	}
	return r
}

// seen takes the records so far.
func (r *rig) seen() (records []watch.Record) {
	stopped, cancel := context.WithCancel(r.t.Context())
	cancel()
	for {
		rec, ok := r.watched.Next(stopped)
		if !ok {
			return records
		}
		own := *rec
		if rec.In != nil {
			in := *rec.In
			in.Data = slices.Clone(in.Data)
			own.In = &in
		}
		own.Out = slices.Clone(rec.Out)
		for i := range own.Out {
			own.Out[i].Data = slices.Clone(own.Out[i].Data)
		}
		records = append(records, own)
		r.watched.Release(rec)
	}
}

func (r *rig) box(b Box) {
	r.t.Helper()
	if err := r.e.SetBox(b); err != nil {
		r.t.Fatal(err)
	}
}

// send hands a frame to port i's lane and returns what port o wrote on the spot.
func (r *rig) send(i, o int, frame []byte) [][]byte {
	r.t.Helper()
	lane := r.e.lanes[i]
	n := copy(lane.buf[packet.Headroom:], frame)
	lane.take(lane.buf[packet.Headroom:][:n])
	for j, p := range r.ports {
		if j != o && len(p.frames) > 0 {
			r.t.Fatalf("port %d wrote %d frames, which should have left by port %d", j, len(p.take()), o)
		}
	}
	return r.ports[o].take()
}

// one is send for a packet that becomes one packet.
func (r *rig) one(i, o int, frame []byte) []byte {
	r.t.Helper()
	frames := r.send(i, o, frame)
	if len(frames) != 1 {
		r.t.Fatalf("%d frames were written, want 1; drops: %v", len(frames), r.e.Drops())
	}
	return frames[0]
}

// dropped is send for a packet that is not to leave, for the named reason.
func (r *rig) dropped(i int, frame []byte, want packet.Reason) {
	r.t.Helper()
	before := r.e.drops[want].Load()
	if frames := r.send(i, i, frame); len(frames) > 0 {
		r.t.Fatalf("%d frames were written, want a drop: %v", len(frames), want)
	}
	if got := r.e.drops[want].Load(); got != before+1 {
		r.t.Fatalf("drops for %v went from %d to %d; all: %v", want, before, got, r.e.Drops())
	}
}

// answered hands a frame for the host to port i's lane and returns what the host, from its own goroutine,
// writes to port o.
func (r *rig) answered(i, o int, frame []byte) []byte {
	r.t.Helper()
	lane := r.e.lanes[i]
	lane.take(lane.buf[packet.Headroom:][:copy(lane.buf[packet.Headroom:], frame)])
	select {
	case <-r.ports[o].wrote:
		return r.ports[o].take()[0]
	case <-time.After(5 * time.Second):
		r.t.Fatalf("the host wrote nothing; drops: %v", r.e.Drops())
		return nil
	}
}

// each runs a test in both families.
func each(t *testing.T, test func(t *testing.T, f family)) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) { test(t, f) })
	}
}

var syn = pt.Flags(packet.TCPSyn)

func ack() pt.Option { return pt.Flags(packet.TCPAck) }
