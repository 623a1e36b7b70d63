package tunlb

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
)

// explained asks, and asks again for the same: asking changes nothing.
func (r *rig) explained(q Question) Explanation {
	r.t.Helper()
	x, err := r.e.Explain(q)
	if err != nil {
		r.t.Fatal(err)
	}
	if again, err := r.e.Explain(q); err != nil || !reflect.DeepEqual(again, x) {
		r.t.Fatalf("asked again: %+v, %v\nbefore: %+v", again, err, x)
	}
	return x
}

func tcp(client, vip netip.AddrPort) Question {
	return Question{Client: client, VIP: vip, Protocol: "tcp"}
}

// follows opens a connection from port i to port o, and wants it where the explanation says.
func (r *rig) follows(i, o int, client, vip netip.AddrPort) Explanation {
	r.t.Helper()
	x := r.explained(tcp(client, vip))
	var v packet.View
	if reason := v.Parse(r.one(i, o, pt.TCP(r.t, client, vip, syn))); reason != packet.None {
		r.t.Fatal(reason)
	}
	source := x.Source
	if !source.IsValid() {
		source = client.Addr()
	}
	if v.Tuple.Destination() != x.Address || v.Tuple.Source().Addr() != source || x.Flow != nil {
		r.t.Fatalf("%v -> %v, explained: %+v", v.Tuple.Source(), v.Tuple.Destination(), x)
	}
	return x
}

// TestExplainFollowed: packets go where the explanation has said, with the source that it has said.
func TestExplainFollowed(t *testing.T) {
	for _, scheduler := range policy.Schedulers() {
		t.Run(scheduler, func(t *testing.T) {
			each(t, func(t *testing.T, f family) {
				for _, timeout := range []time.Duration{0, time.Minute} {
					r := newRouter(t, only(func(f family) policy.Spec {
						s := policy.Spec{Listen: policy.On(at(f.vip, 80), policy.TCP), Scheduler: scheduler, Flags: policy.HashPort | policy.Fallback, Servers: twoServers(f, 8080)}
						s.Persistence.Timeout = timeout
						s.Servers[1].Weight = 3
						return s
					}))
					for i := range 20 {
						client := at(f.client, uint16(40000+i*i))
						if full := r.explained(tcp(client, at(f.vip, 80))); scheduler == "ovf" && full.Server == "" {
							if len(full.Servers) != 2 || full.Servers[1].Active != 4 || full.Why != "all servers that take new connections have more than they should" {
								t.Fatalf("%+v", full)
							}
							break
						}
						x := r.follows(0, 1, client, at(f.vip, 80))
						if x.Mode != "nat" || x.Template != (timeout > 0 && i > 0) || len(x.Servers) != 2 {
							t.Fatalf("%+v", x)
						}
					}
				}
			})
		})
	}
}

// TestExplainSource: the source is translated where the explanation says so, for the reason that it gives.
func TestExplainSource(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		r := newBox(t)
		for _, c := range []struct {
			client netip.Addr
			port   uint16
			why    string
		}{
			{f.client, 80, ""},
			{f.client, 443, "fullnat"},
			{f.rs2, 80, "the client is the server itself"},
			{f.inside.Addr().Next(), 80, "the client is this box"},
			{f.rs1.Next().Next().Next(), 80, "share a link"},
		} {
			if x := r.follows(0, 0, at(c.client, 40000), at(f.vip, c.port)); !strings.Contains(x.SourceWhy, c.why) || (c.why == "") != (x.SourceWhy == "") {
				t.Errorf("%s to port %d: %q, want %q", c.client, c.port, x.SourceWhy, c.why)
			}
		}
		// One client port to two services that share a server.
		r = newBox(t, func(_ *Options, c *Config) {
			two := func(vip netip.Addr) policy.Spec {
				return policy.Spec{Name: vip.String(), Listen: policy.On(at(vip, 80), policy.TCP), Servers: twoServers(f, 8080)[:1]}
			}
			c.Services = []policy.Spec{two(f.vip), two(f.masq)}
		})
		r.follows(0, 0, at(f.client, 40000), at(f.vip, 80))
		if x := r.follows(0, 0, at(f.client, 40000), at(f.masq, 80)); !strings.Contains(x.SourceWhy, "known by the server already") {
			t.Errorf("%+v", x)
		}
		if x := r.explained(tcp(at(f.client, 0), at(f.masq, 80))); x.SourceWhy != "" {
			t.Errorf("any port: %s", x.SourceWhy)
		}
	})
}

// TestExplainFlow: a connection that there is decides, and is left alone.
func TestExplainFlow(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		r := newRouter(t)
		client, vip := at(f.client, 40000), at(f.vip, 80)
		r.follows(0, 1, client, vip)
		r.now += 5 * time.Second
		x := r.explained(tcp(client, vip))
		if x.Flow == nil || x.Flow.ServerName != "rs1" || x.Flow.State != "SYN_RECV" || x.Server != "rs2" || x.Flow.Expires != 55*time.Second {
			t.Fatalf("%+v %+v", x, x.Flow)
		}
		r.e.services.Service(policy.TCP, f.vip.As16(), 80).Servers[0].SetUnreachable(true)
		if x = r.explained(tcp(client, vip)); len(x.Notes) != 1 || !strings.Contains(x.Notes[0], "next SYN is scheduled anew") || !x.FlowEnds {
			t.Errorf("ends %v, notes %q", x.FlowEnds, x.Notes)
		}
		if x = r.explained(tcp(at(f.client, 40001), vip)); x.Flow != nil || x.Server != "rs2" || x.Servers[0].Excluded != "does not answer for its address" {
			t.Errorf("%+v", x)
		}
	})
}

// TestExplainFlowEnds: a connection whose next packet leaves it no longer decides, and that packet goes where a new one
// would.
func TestExplainFlowEnds(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		client := at(f.client, 40000)
		for _, c := range []struct {
			what, note string
			proto      uint8
			end        func(r *rig, rs1 *policy.Server)
		}{
			{"removed", "rs1 is no longer a server of s-" + f.name + ": the client's next datagram is scheduled anew", policy.UDP, func(r *rig, _ *policy.Server) { r.remove("rs1") }},
			{"removed", "rs1 is no longer a server of s-" + f.name + ": the client's next SYN is scheduled anew", policy.TCP, func(r *rig, _ *policy.Server) { r.remove("rs1") }},
			{"unreachable", "rs1 does not answer: the client's next datagram", policy.UDP, func(_ *rig, rs1 *policy.Server) { rs1.SetUnreachable(true) }},
			{"forgotten", "its server is gone: the client's next datagram", policy.UDP, func(r *rig, rs1 *policy.Server) {
				r.remove("rs1")
				rs1.Remove(false) // its last flow, as it thinks
			}},
		} {
			t.Run(fmt.Sprint(c.what, c.proto), func(t *testing.T) {
				r := newRouter(t, only(func(f family) policy.Spec {
					return policy.Spec{Listen: policy.On(at(f.vip, 53), c.proto), Scheduler: "rr", Servers: twoServers(f, 5353)}
				}))
				vip, q := at(f.vip, 53), Question{Client: client, VIP: at(f.vip, 53), Protocol: policy.ProtoName(c.proto)}
				frame := func() []byte {
					if c.proto == policy.UDP {
						return pt.UDP(t, client, vip)
					}
					return pt.TCP(t, client, vip, syn)
				}
				r.one(0, 1, frame())
				if x := r.explained(q); x.FlowEnds || x.Flow == nil || len(x.Notes) != 0 {
					t.Fatalf("at first: %+v", x)
				}
				c.end(r, r.e.services.Service(c.proto, f.vip.As16(), 53).Servers[0])
				x := r.explained(q)
				if !x.FlowEnds || x.Flow == nil || x.Server != "rs2" || len(x.Notes) != 1 || !strings.Contains(x.Notes[0], c.note) {
					t.Errorf("%+v", x)
				}
				pt.Check(t, r.one(0, 1, frame()), pt.SrcDst(client, x.Address))
			})
		}
	})
}

// remove reloads the configuration without a server.
func (r *rig) remove(server string) {
	r.t.Helper()
	cfg := r.e.config
	cfg.Services = slices.Clone(cfg.Services)
	for i := range cfg.Services {
		cfg.Services[i].Servers = slices.DeleteFunc(slices.Clone(cfg.Services[i].Servers), func(s policy.ServerSpec) bool { return s.Name == server })
	}
	if err := r.e.Apply(cfg); err != nil {
		r.t.Fatal(err)
	}
}

// TestExplainDropped: what may not come in is explained as dropped, for the reason for which it is.
func TestExplainDropped(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		loopback, group := addr("127.0.0.1"), addr("239.0.0.9")
		if f.client.Is6() {
			loopback, group = addr("::1"), addr("ff0e::9")
		}
		r := newRouter(t)
		for _, c := range []struct {
			client netip.AddrPort
			reason packet.Reason
			port   int
		}{
			{at(f.outer.Addr().Next(), 40000), packet.MartianSource, 0}, // tunlb's own
			{at(f.vip, 80), packet.Land, 0},
			{at(f.vip, 81), packet.MartianSource, 0},
			{at(loopback, 40000), packet.MartianSource, 0},
			{at(group, 40000), packet.MartianSource, 0},
		} {
			x := r.explained(tcp(c.client, at(f.vip, 80)))
			if x.Dropped != c.reason.String() || len(x.Notes) != 1 || !strings.Contains(x.Notes[0], c.reason.String()) {
				t.Errorf("%s: dropped %q, want %s: notes %q", c.client, x.Dropped, c.reason, x.Notes)
			}
			r.dropped(c.port, pt.TCP(t, c.client, at(f.vip, 80), syn), c.reason)
		}
		if x := r.follows(0, 1, at(f.client, 40000), at(f.vip, 80)); x.Dropped != "" {
			t.Errorf("control: %s", x.Dropped)
		}
	})
}

// TestExplainBound: a question may name so many servers and no more.
func TestExplainBound(t *testing.T) {
	f := families[0]
	r, q := newRouter(t), tcp(at(f.client, 40000), at(f.vip, 80))
	q.Weights = map[string]int{"rs2": 3}
	q.Without = slices.Repeat([]string{"rs1"}, MaxSupposed-1)
	if x := r.explained(q); x.Server != "rs2" || len(x.Servers) != 2 {
		t.Errorf("%+v", x)
	}
	q.Without = append(q.Without, "rs1")
	if _, err := r.e.Explain(q); !errors.Is(err, ErrQuestion) || !strings.Contains(err.Error(), "want 1024 at most") {
		t.Errorf("one too many: %v", err)
	}
}

// BenchmarkExplain is a question about 1000 servers, and the part of it that has the lock.
func BenchmarkExplain(b *testing.B) {
	f := families[0]
	r := newRouter(b, func(_ *Options, c *Config) {
		s := policy.Spec{Name: "web", Listen: policy.On(at(f.vip, 80), policy.TCP), Scheduler: "wlc"}
		for i := range 1000 {
			s.Servers = append(s.Servers, policy.ServerSpec{Name: fmt.Sprint("rs", i), Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)}), 80), Weight: 1 + i%9})
		}
		c.Services = []policy.Spec{s}
	})
	q := tcp(at(f.client, 40000), at(f.vip, 80))
	ask := func(b *testing.B) {
		for b.Loop() {
			if _, err := r.e.Explain(q); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("is", ask)
	q.Without, q.Weights = []string{"rs7"}, map[string]int{"rs9": 3}
	b.Run("supposed", ask)
	for i := range MaxSupposed - 2 {
		q.Without = append(q.Without, fmt.Sprint("rs", 10+i%900))
	}
	b.Run("most", ask)
	b.Run("locked", func(b *testing.B) {
		tu, _ := q.tuple()
		for b.Loop() {
			if _, err := snapshot(r.e.roster, r.e.services, r.e.clientOf(&tu)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// TestExplainRoster: what operators and checks have said is why a server is excluded, and suppositions go through it.
func TestExplainRoster(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		r := newRouter(t, only(func(f family) policy.Spec {
			s := policy.Spec{Listen: policy.On(at(f.vip, 80), policy.TCP), Scheduler: "rr", Quorum: 2, SlowStart: 100 * time.Second,
				Health:  policy.Health{Type: "tcp", Interval: time.Second, Timeout: time.Second, Rise: 1, Fall: 1},
				Servers: append(twoServers(f, 8080), policy.ServerSpec{Name: "rs3", Address: at(f.rs2.Next(), 8080), Weight: 1}),
				Sorry:   &policy.ServerSpec{Name: "sorry", Address: at(f.rs2.Next().Next(), 8080)},
			}
			return s
		}))
		service, q := "s-"+f.name, tcp(at(f.client, 40000), at(f.vip, 80))
		excluded := func(x Explanation) string {
			var all []string
			for _, c := range x.Servers {
				all = append(all, c.Server+": "+c.Excluded)
			}
			return strings.Join(all, "; ")
		}
		check := func(server netip.Addr, ok bool) {
			r.e.Report(service, at(server, 8080), ok, "connection refused")
			r.now += time.Second
			r.e.expire()
		}
		wants := func(what string, x Explanation, server, reasons string) {
			t.Helper()
			if got := excluded(x); x.Server != server || got != reasons {
				t.Errorf("%s: %q, %s\nwant %q, %s\n%s", what, x.Server, got, server, reasons, x.Why)
			}
		}
		const unchecked = "no health check has succeeded yet"
		wants("at first", r.explained(q), "sorry", "rs1: "+unchecked+"; rs2: "+unchecked+"; rs3: "+unchecked+"; sorry: ")
		check(f.rs1, true)
		check(f.rs2, false)
		check(f.rs2.Next(), true)
		wants("two are up", r.explained(q), "rs1", "rs1: ; rs2: down: connection refused; rs3: ")
		supposing := q
		supposing.Without = []string{"rs1"}
		x := r.explained(supposing)
		wants("without rs1", x, "sorry", "rs1: left out, as asked; rs2: down: connection refused; rs3: below the quorum: weight 1 is up of 2, so the sorry server serves alone; sorry: ")
		if x.Before == nil || x.Before.Server != "rs1" || x.Mode != "nat" {
			t.Errorf("before: %+v, mode %s", x.Before, x.Mode)
		}
		if _, err := r.e.Order(ServerOrder{Service: service, Server: "rs1", Do: Drain}); err != nil {
			t.Fatal(err)
		}
		wants("rs1 is drained", r.explained(q), "sorry", "rs1: drained by an operator; rs2: down: connection refused; rs3: below the quorum: weight 1 is up of 2, so the sorry server serves alone; sorry: ")
		supposing.Without, supposing.Weights = nil, map[string]int{"rs3": 2}
		wants("rs3 weighs 2", r.explained(supposing), "rs3", "rs1: drained by an operator; rs2: down: connection refused; rs3: ")
		check(f.rs2, true)
		x = r.explained(q)
		if wants("rs2 rises", x, "rs2", "rs1: drained by an operator; rs2: ; rs3: "); !strings.HasPrefix(x.Servers[1].Remark, "slow start: 5% of its weight 1, ") || !strings.HasPrefix(x.Servers[2].Remark, "20 times its weight 1") {
			t.Errorf("%+v", x.Servers)
		}
		pt.Check(t, r.one(0, 1, pt.TCP(t, q.Client, q.VIP, syn)), pt.SrcDst(q.Client, x.Address))
	})
}

// TestExplainRefuses: what cannot be answered is told with what there is.
func TestExplainRefuses(t *testing.T) {
	f, six := families[0], families[1]
	r := newBox(t, func(_ *Options, c *Config) {
		c.Services = append(c.Services,
			policy.Spec{Name: "marked", Mark: policy.Mark{Value: 7}, Servers: twoServers(f, 80)},
			policy.Spec{Name: "calls", Listen: policy.On(at(f.vip, 5060), policy.SCTP), Servers: twoServers(f, 5060)},
			policy.Spec{Name: "wrapped", Listen: policy.On(at(f.vip, 82), policy.TCP), Mode: policy.Tunnelled, Servers: twoServers(f, 82)})
	})
	client := at(f.client, 40000)
	for _, test := range []struct {
		q    Question
		want error
		text string
	}{
		{tcp(client, at(f.vip, 8080)), ErrNoService, "203.0.113.22:8080/tcp; on that VIP there is 203.0.113.22:80/tcp (web-v4), 203.0.113.22:53/udp"},
		{Question{Client: client, VIP: at(f.vip, 80), Protocol: "udp"}, ErrNoService, "203.0.113.22:80/udp; on that VIP there is 203.0.113.22:80/tcp"},
		{tcp(client, at(f.rs1, 8080)), ErrNoService, "which is the server rs1 of web-v4"},
		{tcp(client, at(f.outside, 80)), ErrNoService, "there is 203.0.113.22:80/tcp (web-v4), "},
		{tcp(client, at(f.outside, 80)), ErrNoService, "by firewall mark have no VIP, and are held for ipvsadm and not served: mark 7 (marked)"},
		{tcp(client, at(six.vip, 80)), ErrQuestion, "not of one family"},
		{tcp(client, at(f.vip, 0)), ErrQuestion, "like 203.0.113.22:80"},
		{tcp(netip.AddrPort{}, at(f.vip, 80)), ErrQuestion, "client is missing"},
		{Question{Client: client, VIP: at(f.vip, 80), Protocol: "icmp"}, ErrQuestion, `protocol "icmp": want tcp or udp`},
		{Question{Client: client, VIP: at(f.vip, 80), Protocol: "tcp", Without: []string{"rs9"}}, ErrNoServer, `"rs9" in service "web-v4": it has rs1 (`},
		{Question{Client: client, VIP: at(f.vip, 80), Protocol: "tcp", Weights: map[string]int{"rs1": -1}}, ErrQuestion, "-1: want 0 to"},
	} {
		if _, err := r.e.Explain(test.q); !errors.Is(err, test.want) || !strings.Contains(fmt.Sprint(err), test.text) {
			t.Errorf("%+v: %v\nwant %v with %q", test.q, err, test.want, test.text)
		}
	}
	for _, test := range []struct {
		q    Question
		note string
	}{
		{Question{Client: client, VIP: at(f.vip, 5060), Protocol: "sctp"}, "SCTP is held"},
		{tcp(client, at(f.vip, 82)), "mode tunnel is held"},
	} {
		if x := r.explained(test.q); len(x.Notes) == 0 || !strings.Contains(x.Notes[0], test.note) {
			t.Errorf("%+v: notes %q, want %q", test.q, x.Notes, test.note)
		}
	}
}

// TestExplainConfig: a file's services are explained as a director's that has just started, checks taken as passed.
func TestExplainConfig(t *testing.T) {
	f := families[0]
	specs := []policy.Spec{{Name: "web", Listen: policy.On(at(f.vip, 80), policy.TCP), Scheduler: "rr", Servers: twoServers(f, 8080)}}
	q := tcp(at(f.client, 40000), at(f.vip, 80))
	live := newRouter(t, func(_ *Options, c *Config) { c.Services = specs }).explained(q)
	x, err := ExplainConfig(specs, q)
	if err != nil || len(x.Notes) != 1 {
		t.Fatalf("%+v, %v", x, err)
	}
	if x.Notes = nil; !reflect.DeepEqual(x, live) {
		t.Errorf("file: %+v\nlive: %+v", x, live)
	}
	specs[0].Health = policy.Health{Type: "tcp", Interval: time.Second, Timeout: time.Second, Rise: 1, Fall: 1}
	if x, err = ExplainConfig(specs, q); err != nil || x.Server != "rs1" || len(x.Notes) != 2 || !strings.Contains(x.Notes[1], "checks") {
		t.Errorf("%+v, %v", x, err)
	}
	if _, err = ExplainConfig(append(specs, specs[0]), q); !errors.Is(err, policy.ErrDuplicateService) {
		t.Errorf("two at one place: %v", err)
	}
}
