package tunlb

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
	"github.com/tunlb/tunlb/tunlb/flow"
	"github.com/tunlb/tunlb/tunlb/keep"
)

func newMemory(t *testing.T) *keep.Memory {
	t.Helper()
	m, err := keep.Create(flow.Format())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// inherited is the memory as another process finds it.
func inherited(t *testing.T, m *keep.Memory) *keep.Memory {
	t.Helper()
	fd, err := unix.FcntlInt(uintptr(m.Descriptor()), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	next, err := keep.Open(fd, flow.Format())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { next.Close() })
	return next
}

// talk is a connection of which both sides have said something. It returns what the client is seen as, and how it goes on.
func talk(t *testing.T, r *rig, client, vip, server packetEnd) (goesOn func(r *rig)) {
	t.Helper()
	sent := r.one(client.port, server.port, pt.TCP(t, client.at, vip.at, syn, pt.Seq(100)))
	seen := source(t, sent)
	r.one(server.port, client.port, pt.TCP(t, seen.Destination(), seen.Source(), pt.Flags(packet.TCPSyn|packet.TCPAck), pt.Seq(500), pt.Ack(101)))
	r.one(client.port, server.port, pt.TCP(t, client.at, vip.at, ack(), pt.Seq(101), pt.Ack(501)))
	return func(r *rig) {
		t.Helper()
		pt.Check(t, r.one(client.port, server.port, pt.TCP(t, client.at, vip.at, ack(), pt.Seq(101), pt.Ack(501), pt.PayloadLen(30))),
			pt.SrcDst(seen.Source(), seen.Destination()), pt.ValidChecksums())
		pt.Check(t, r.one(server.port, client.port, pt.TCP(t, seen.Destination(), seen.Source(), ack(), pt.Seq(501), pt.Ack(131), pt.PayloadLen(10))),
			pt.SrcDst(vip.at, client.at), pt.ValidChecksums())
	}
}

// TestSuccessor: the connections of an engine that has ended without a word go on with the next one on its memory, and what was
// said of servers holds.
func TestSuccessor(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		m := newMemory(t)
		now := 50 * time.Hour // no flow of the predecessor's is from before its clock began
		on := func(m *keep.Memory) func(*Options, *Config) {
			return func(o *Options, c *Config) {
				o.Keep, o.Now = m, func() time.Duration { return now }
				for i := range c.Services {
					c.Services[i].Persistence.Timeout = time.Minute
				}
				for _, f := range families {
					c.Gateways = append(c.Gateways, Gateway{Inside: f.inside, Masquerade: f.masq, FirstPort: 61000, LastPort: 61999})
				}
			}
		}
		old := newBox(t, on(m))
		if s := old.e.Succession(); s != (Succession{}) {
			t.Errorf("the first succeeds nobody: %+v", s)
		}
		var goOn []func(*rig)
		for i := range uint16(20) {
			goOn = append(goOn, talk(t, old, packetEnd{0, at(f.client, 40000+i)}, packetEnd{0, at(f.vip, 80)}, packetEnd{}))
			goOn = append(goOn, talk(t, old, packetEnd{0, at(f.client, 40000+i)}, packetEnd{0, at(f.vip, 443)}, packetEnd{}))
		}
		query := pt.UDP(t, at(f.client, 40000), at(f.vip, 53), pt.PayloadLen(30))
		old.one(0, 0, query)
		inside, out := at(f.rs1, 5000), at(f.outside, 53)
		ext := source(t, old.one(0, 0, pt.UDP(t, inside, out))).Source()
		if _, err := old.e.Order(ServerOrder{Service: "web-" + f.name, Server: "rs2", Do: Drain}); err != nil {
			t.Fatal(err)
		}
		if err := old.e.remember(); err != nil { // as its clock would have
			t.Fatal(err)
		}
		picked := old.e.services.Services()

		now += time.Second
		r := newBox(t, on(inherited(t, m)))
		if s := r.e.Succession(); s.Adopted != 42 || s.Damaged+s.Refused+s.Late > 0 || s.Cause != "" {
			t.Fatalf("%+v", s)
		}
		for _, more := range goOn {
			more(r)
		}
		pt.Check(t, r.one(0, 0, pt.UDP(t, at(f.rs1, 5353), at(f.client, 40000), pt.PayloadLen(30))), pt.SrcDst(at(f.vip, 53), at(f.client, 40000)), pt.ValidChecksums())
		pt.Check(t, r.one(0, 0, pt.UDP(t, out, ext)), pt.SrcDst(out, inside), pt.ValidChecksums())
		pt.Check(t, r.one(0, 0, pt.UDP(t, inside, at(f.other, 53))), pt.SrcDst(ext, at(f.other, 53)), pt.ValidChecksums())
		for i, svc := range r.e.services.Services() {
			for k, srv := range svc.Servers {
				if was := picked[i].Servers[k]; srv.Active != was.Active || srv.Inactive != was.Inactive || srv.ID != was.ID {
					t.Errorf("%s of %s has %d and %d connections and ID %d, had %d, %d and %d", srv.Name, svc.Name, srv.Active, srv.Inactive, srv.ID, was.Active, was.Inactive, was.ID)
				}
			}
		}
		goes := func(who netip.Addr, what string) {
			t.Helper()
			for i := range uint16(6) {
				from := at(who, 50000+i)
				if who != f.client {
					who = who.Next() // another one
				}
				if to := source(t, r.one(0, 0, pt.TCP(t, from, at(f.vip, 80), syn))).Destination(); to.Addr() != f.rs1 {
					t.Errorf("%s: %v goes to %v, want %v", what, from, to, f.rs1)
				}
			}
		}
		goes(f.other, "rs2 is drained")
		if _, err := r.e.Order(ServerOrder{Service: "web-" + f.name, Server: "rs2", Do: Undrain}); err != nil {
			t.Fatal(err)
		}
		goes(f.client, "its connections are to rs1")
		now += 24 * time.Hour
		r.e.expire()
		if got := r.e.Status(); got.Flows.Count != 0 || got.Gateways[0].Mappings+got.Gateways[1].Mappings != 0 {
			t.Errorf("%d connections and some of %+v stay for ever", got.Flows.Count, got.Gateways)
		}
	})
}

// packetEnd is an address and the port of the engine's that it is behind.
type packetEnd struct {
	port int
	at   netip.AddrPort
}

// TestSuccessorOfAnother: ports are known by their names, servers by their service and address, and what is about others
// ends.
func TestSuccessorOfAnother(t *testing.T) {
	f := families[0]
	now := time.Hour
	m := newMemory(t)
	old := newRouter(t, func(o *Options, _ *Config) { o.Keep, o.Now = m, func() time.Duration { return now } })
	client, server := packetEnd{0, at(f.client, 40000)}, packetEnd{port: 1}
	web := talk(t, old, client, packetEnd{0, at(f.vip, 80)}, server)
	talk(t, old, client, packetEnd{0, at(f.vip, 443)}, server)
	if err := old.e.remember(); err != nil {
		t.Fatal(err)
	}
	r := newRouter(t, func(o *Options, c *Config) {
		o.Keep, o.Now = inherited(t, m), func() time.Duration { return now }
		for i := range c.Services { // what is a reload's is a successor's: its server is gone
			if c.Services[i].Name == "full-v4" {
				c.Services[i].Servers = []policy.ServerSpec{{Name: "other", Address: at(f.rs2, 8443), Weight: 1}}
			}
		}
	})
	if s := r.e.Succession(); s.Adopted != 2 {
		t.Fatalf("%+v", s)
	}
	web(r)
	r.e.sweepSome()
	if n := len(r.ports[0].take()) + len(r.ports[1].take()); n != 2 {
		t.Errorf("%d resets were sent for a connection whose server is gone, want 2", n)
	}
	if got := r.e.Status().Flows.Count; got != 1 {
		t.Errorf("%d connections, want 1", got)
	}
	third := newRig(t, []Attachment{{}}, func(o *Options, _ *Config) { // port0 alone, and it is another's
		o.Keep, o.Now = inherited(t, m), func() time.Duration { return now }
	})
	if s := third.e.Succession(); s.Adopted != 0 || s.Refused != 1 {
		t.Errorf("without the servers' port: %+v", s)
	}
}

// TestSuccessorOfNonsense: words that can't be read leave nothing behind for the one after.
func TestSuccessorOfNonsense(t *testing.T) {
	f := families[0]
	for _, damage := range []string{"{", `{"Version": 1, "Config": {"Services": [{"Name": "x", "Scheduler": "none"}]}}`, `{"Version": 2}`, `{}`} {
		m := newMemory(t)
		old := newBox(t, func(o *Options, _ *Config) { o.Keep = m })
		talk(t, old, packetEnd{0, at(f.client, 40000)}, packetEnd{0, at(f.vip, 80)}, packetEnd{})
		if err := m.SetWords([]byte(damage)); err != nil {
			t.Fatal(err)
		}
		r := newBox(t, func(o *Options, _ *Config) { o.Keep = inherited(t, m) })
		if s := r.e.Succession(); s.Cause == "" || s.Adopted > 0 || s.Refused != 1 {
			t.Errorf("%s: %+v", damage, s)
		}
		next := newBox(t, func(o *Options, _ *Config) { o.Keep = inherited(t, m) })
		if s := next.e.Succession(); s != (Succession{}) {
			t.Errorf("the one after: %+v", s)
		}
	}
}
