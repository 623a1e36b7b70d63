package packets

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack"
	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/stack/port"
	"github.com/tunlb/tunlb/tunlb"
)

// builder lets packettest make packets outside of a test: what it can't make is a fault of this package.
type builder struct{ testing.TB }

func (builder) Helper()                      {}
func (builder) Fatal(a ...any)               { panic(fmt.Sprint(a...)) }
func (builder) Fatalf(f string, args ...any) { panic(fmt.Sprintf(f, args...)) }

var tb = builder{}

// cast is who plays in one address family.
type cast struct {
	is6                                     bool
	client, other, outside, vip, own, masq  netip.Addr
	rs                                      [2]netip.Addr
	outer, inside                           netip.Prefix
	unreachable, bigType, bigCode, codePort uint8
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

var casts = []cast{
	{false, addr("198.51.100.7"), addr("198.51.100.8"), addr("198.51.100.99"), addr("203.0.113.22"), addr("192.168.0.1"), addr("203.0.113.50"),
		[2]netip.Addr{addr("192.168.0.10"), addr("192.168.0.11")}, netip.MustParsePrefix("198.51.0.0/16"), netip.MustParsePrefix("192.168.0.0/16"), 3, 3, 4, 3},
	{true, addr("2001:db8:1::7"), addr("2001:db8:1::8"), addr("2001:db8:1::99"), addr("2001:db8:113::22"), addr("2001:db8:c0::1"), addr("2001:db8:113::50"),
		[2]netip.Addr{addr("2001:db8:c0::10"), addr("2001:db8:c0::11")}, netip.MustParsePrefix("2001:db8:1::/48"), netip.MustParsePrefix("2001:db8:c0::/48"), 1, 2, 0, 4},
}

// The stations of the Ethernet segment and of the box's interfaces.
var (
	macOwn    = packet.MAC{2, 0, 0, 0, 0, 0x02}
	macClient = packet.MAC{2, 0, 0, 0, 0, 0x07}
	macRS     = [2]packet.MAC{{2, 0, 0, 0, 0, 0x10}, {2, 0, 0, 0, 0, 0x11}}
)

// out is a port that shows each frame written to it and keeps none.
type out struct {
	name string
	link packet.Link
	see  *func(frame []byte)
}

func (o *out) Name() string             { return o.name }
func (o *out) MTU() int                 { return 1500 }
func (o *out) Link() packet.Link        { return o.link }
func (o *out) Read([]byte) (int, error) { return 0, os.ErrClosed }
func (o *out) Close() error             { return nil }
func (o *out) Write(frame []byte) error {
	(*o.see)(frame)
	return nil
}

// ways are those of the box's interfaces: known to all servers and clients but for every 16th address, which never answers.
type ways struct{ see *func(frame []byte) }

func (w *ways) Way(a [16]byte) (tunlb.Way, bool) {
	if a[15]&15 == 15 {
		return tunlb.Way{}, false
	}
	return tunlb.Way{Link: 7, MTU: 1500, Source: macOwn, MAC: macClient}, true
}
func (w *ways) NewBurst() port.Burst { return port.Singly(w.Write) }
func (w *ways) Write(frame []byte, _ int) error {
	(*w.see)(frame)
	return nil
}

// site is an engine with ports in memory, which is stepped. Not safe for concurrent use.
type site struct {
	name   string
	engine *tunlb.Engine
	config tunlb.Config
	ether  []bool // by port
	now    time.Duration
	host   *stack.SteppedClock
	see    func(frame []byte) // each frame that is written; borrowed
}

// newSite makes an engine over attachments, whose ports it makes.
func newSite(name string, cfg tunlb.Config, maxFlows int, seed uint64, attachments ...tunlb.Attachment) (*site, error) {
	s := &site{name: name, config: cfg, host: stack.NewSteppedClock(), see: func([]byte) {}}
	for i := range attachments {
		a := &attachments[i]
		link := packet.LinkIP
		if a.Box || !a.MAC.IsZero() {
			link = packet.LinkEthernet
		}
		a.Port = &out{fmt.Sprintf("%s%d", name, i), link, &s.see}
		s.ether = append(s.ether, link == packet.LinkEthernet)
	}
	opts := tunlb.Options{Attachments: attachments, MaxFlows: maxFlows, Log: zerolog.Nop(), Now: func() time.Duration { return s.now },
		HostClock: s.host, Seed: seed}
	if name == "box" {
		opts.Direct = &ways{&s.see}
	}
	var err error
	s.engine, err = tunlb.New(opts, cfg)
	return s, err
}

// inject hands over a packet (vnet header | IP) as the port would have read it.
func (s *site) inject(port int, frame []byte) error { return s.engine.Inject(port, frame) }

// advance lets time pass, in steps.
func (s *site) advance(d, step time.Duration) {
	for end := s.now + d; s.now < end; {
		s.now += step
		s.host.Advance(step)
		s.engine.Advance()
	}
}

// left lists what is left in the engine of packets that came.
func (s *site) left(r *Result) {
	status := s.engine.Status()
	r.want(status.Flows.Count == 0, "%s: %d flows are left", s.name, status.Flows.Count)
	r.want(status.Fragments.Datagrams == 0 && status.Fragments.Parked == 0, "%s: %d datagrams and %d bytes of fragments are left", s.name, status.Fragments.Datagrams, status.Fragments.Parked)
	r.want(s.engine.Waiting() == 0, "%s: %d packets wait for their next hop", s.name, s.engine.Waiting())
	for _, g := range status.Gateways {
		r.want(g.Mappings == 0, "%s: %d mappings of %v are left", s.name, g.Mappings, g.Inside)
	}
	for _, svc := range status.Services {
		for _, srv := range svc.Servers {
			r.want(srv.Active == 0 && srv.Inactive == 0, "%s: server %s/%s counts %d active and %d inactive connections", s.name, svc.Name, srv.Name, srv.Active, srv.Inactive)
		}
	}
	f := status.Flows
	r.want(f.Opened == f.Expired+f.Evicted+f.Deleted+uint64(f.Count), "%s: of %d flows %d expired, %d were evicted, %d deleted, %d are left",
		s.name, f.Opened, f.Expired, f.Evicted, f.Deleted, f.Count)
}

// services are a translated, a fully translated and a directly routed service, TCP and UDP, with every server.
func services(dr bool) (specs []policy.Spec) {
	for i, c := range casts {
		servers := func(port uint16) (list []policy.ServerSpec) {
			for k, rs := range c.rs {
				s := policy.ServerSpec{Name: fmt.Sprintf("rs%d", k+1), Address: at(rs, port), Weight: 1}
				if dr {
					s.MAC = macRS[k]
				}
				list = append(list, s)
			}
			return list
		}
		mode, web, dns := policy.NAT, uint16(8080), uint16(5353)
		if dr {
			mode, web, dns = policy.DR, 80, 53
		}
		name := []string{"v4", "v6"}[i]
		specs = append(specs,
			policy.Spec{Name: "web-" + name, Listen: policy.On(at(c.vip, 80), policy.TCP), Mode: mode, Scheduler: "rr", Servers: servers(web)},
			policy.Spec{Name: "dns-" + name, Listen: policy.On(at(c.vip, 53), policy.UDP), Mode: mode, Scheduler: "rr", Servers: servers(dns)},
			policy.Spec{Name: "once-" + name, Listen: policy.On(at(c.vip, 54), policy.UDP), Mode: mode, Scheduler: "rr", OnePacket: true, Servers: servers(54)},
			policy.Spec{Name: "kept-" + name, Listen: policy.On(at(c.vip, 81), policy.TCP), Mode: mode, Scheduler: "rr",
				Persistence: policy.Persistence{Timeout: time.Minute}, Servers: servers(81)},
			policy.Spec{Name: "full-" + name, Listen: policy.On(at(c.vip, 443), policy.TCP), Mode: policy.FullNAT, Servers: servers(8443)},
		)
	}
	return specs
}

// everywhere is behind the kernel of a box.
var everywhere = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}

// newNAT is a TUN on a box.
func newNAT(maxFlows int, seed uint64) (*site, error) {
	a := tunlb.Attachment{Kernel: true, Routes: everywhere}
	for _, c := range casts {
		a.Own = append(a.Own, c.own)
	}
	return newSite("nat", tunlb.Config{Services: services(false)}, maxFlows, seed, a)
}

// newRouter has a port for the clients (0) and one for the servers (1), whose own connections are masqueraded.
func newRouter(maxFlows int, seed uint64) (*site, error) {
	clients, servers := tunlb.Attachment{Routes: everywhere}, tunlb.Attachment{}
	cfg := tunlb.Config{Services: services(false)}
	for _, c := range casts {
		clients.Subnets = append(clients.Subnets, c.outer)
		clients.Own = append(clients.Own, c.outer.Addr().Next())
		servers.Subnets = append(servers.Subnets, c.inside)
		servers.Own = append(servers.Own, c.own)
		cfg.Gateways = append(cfg.Gateways, tunlb.Gateway{Inside: c.inside, Masquerade: c.masq, FirstPort: 1024, LastPort: 65534})
	}
	return newSite("router", cfg, maxFlows, seed, clients, servers)
}

// newSegment is one port on an Ethernet segment, with directly routed servers.
func newSegment(maxFlows int, seed uint64) (*site, error) {
	a := tunlb.Attachment{MAC: macOwn}
	for _, c := range casts {
		a.Own = append(a.Own, c.own)
		a.Subnets = append(a.Subnets, c.inside, c.outer)
	}
	s, err := newSite("segment", tunlb.Config{Services: services(true)}, maxFlows, seed, a)
	if err == nil {
		s.advance(3*time.Second, 100*time.Millisecond) // the announcements of the start
	}
	return s, err
}

// newBox has an interface of the box's own.
func newBox(maxFlows int, seed uint64) (*site, error) {
	return newSite("box", tunlb.Config{Services: services(false)}, maxFlows, seed, tunlb.Attachment{Box: true, Index: 7})
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
