package main

import (
	"bytes"
	"context"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
	"github.com/tunlb/tunlb/stack/port"
	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/config"
	"github.com/tunlb/tunlb/tunlb/control"
	"github.com/tunlb/tunlb/tunlb/watch"
	"github.com/tunlb/tunlb/tunlb/wiring"
)

var updateGolden = flag.Bool("update", false, "write testdata/*/*.golden anew")

// stage is a running director between two links in memory, and a clock that stands still.
type stage struct {
	t       *testing.T
	cfg     *config.Config
	engine  *tunlb.Engine
	clients port.Port
	seen    *watch.Subscription
	now     atomic.Int64
}

func newStage(t *testing.T, services string) *stage {
	t.Helper()
	cfg, err := config.Parse("tunlb.yaml", []byte(services))
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{t: t, cfg: cfg}
	near, clients := port.Pipe("clients", packet.LinkIP, 1500)
	far, servers := port.Pipe("servers", packet.LinkIP, 1500)
	s.clients = clients
	prefixes := func(all ...string) (p []netip.Prefix) {
		for _, text := range all {
			p = append(p, netip.MustParsePrefix(text))
		}
		return p
	}
	addrs := func(all ...string) (a []netip.Addr) {
		for _, text := range all {
			a = append(a, netip.MustParseAddr(text))
		}
		return a
	}
	s.engine, err = tunlb.New(tunlb.Options{
		Attachments: []tunlb.Attachment{
			{Port: near, Subnets: prefixes("198.51.100.0/24", "2001:db8:1::/64"), Own: addrs("198.51.100.1", "2001:db8:1::1")},
			{Port: far, Subnets: prefixes("192.168.0.0/24", "2001:db8:c0::/64"), Own: addrs("192.168.0.1", "2001:db8:c0::1")},
		},
		MaxFlows: 100, Log: zerolog.Nop(), Now: func() time.Duration { return time.Duration(s.now.Load()) }, Ticks: make(chan time.Time),
	}, wiring.Config(cfg))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.engine.Run(ctx) }()
	s.seen = s.engine.Watch(watch.Options{})
	t.Cleanup(func() {
		cancel()
		<-ended
		s.seen.Close()
		clients.Close()
		servers.Close()
	})
	return s
}

// connect opens a connection.
func (s *stage) connect(client, vip string) {
	s.t.Helper()
	syn := pt.TCP(s.t, netip.MustParseAddrPort(client), netip.MustParseAddrPort(vip), pt.Flags(packet.TCPSyn))
	if err := s.clients.Write(syn); err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), 15*time.Second)
	defer cancel()
	for opened := false; !opened; {
		r, ok := s.seen.Next(ctx)
		if !ok {
			s.t.Fatalf("%s to %s: nothing has come of it", client, vip)
		}
		opened = r.Opened
		s.seen.Release(r)
	}
}

// remove reloads the configuration without a server.
func (s *stage) remove(server string) {
	s.t.Helper()
	cfg := wiring.Config(s.cfg)
	cfg.Services[0].Servers = slices.DeleteFunc(cfg.Services[0].Servers, func(p policy.ServerSpec) bool { return p.Name == server })
	if err := s.engine.Apply(cfg); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) order(o tunlb.ServerOrder) {
	s.t.Helper()
	if _, err := s.engine.Order(o); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) report(server string, ok bool) {
	s.now.Add(int64(time.Second)) // so that the table is built at once
	s.engine.Report("web", netip.MustParseAddrPort(server), ok, "connection refused")
}

// web is a service of three servers; what follows may say more of it.
func web(scheduler string, more ...string) string {
	return "services:\n  - name: web\n    listen: 203.0.113.22:80/tcp\n    scheduler: " + scheduler + "\n    " + strings.Join(append(more, ""), "\n    ") +
		"servers: [{name: rs1, address: 192.168.0.10:8080, weight: 3}, {name: rs2, address: 192.168.0.11:8080, weight: 2}, {name: rs3, address: 192.168.0.12:8080, weight: 1}]\n"
}

// TestExplainGolden: what people read in a dozen situations. -update writes it anew.
func TestExplainGolden(t *testing.T) {
	const client, vip = "198.51.100.7:40000", "203.0.113.22:80"
	opened := func(clients ...string) func(*stage) {
		return func(s *stage) {
			for _, c := range clients {
				s.connect(c, vip)
			}
		}
	}
	a, b, c, d := "198.51.100.8:1", "198.51.100.8:2", "198.51.100.8:3", "198.51.100.8:4"
	const checks = "health: {type: tcp, interval: 1s, timeout: 1s, rise: 1, fall: 1}"
	for _, test := range []struct {
		name     string
		services string
		past     func(*stage)
		options  []string // besides client and VIP
	}{
		{"rr", web("rr"), opened(a), nil},
		{"wrr", web("wrr"), opened(a, b, c, d), nil},
		{"wlc", web("wlc"), opened(a, b, c, d), nil},
		{"sh-fallback", strings.Replace(web("sh", "flags: fallback"), "weight: 2", "weight: 2, upper: 1", 1), opened("198.51.100.7:1"), nil},
		{"mh", web("mh"), nil, nil},
		{"p2c", web("p2c"), opened(a, b, c, d), nil},
		{"drained-down", web("rr", checks), func(s *stage) {
			s.report("192.168.0.11:8080", false)
			s.report("192.168.0.12:8080", true)
			s.order(tunlb.ServerOrder{Server: "rs1", Do: tunlb.Drain})
		}, nil},
		{"sorry", web("rr", checks, "quorum: 4", "sorry_server: 192.168.0.99:80"), func(s *stage) {
			s.report("192.168.0.10:8080", true)
			s.report("192.168.0.11:8080", false)
		}, nil},
		{"slow-start", web("wlc", checks, "slow_start: 100s"), func(s *stage) {
			s.report("192.168.0.10:8080", true)
			s.report("192.168.0.11:8080", false)
			s.report("192.168.0.11:8080", true)
		}, nil},
		{"no-server", web("rr"), func(s *stage) {
			for _, name := range []string{"rs1", "rs2", "rs3"} {
				s.order(tunlb.ServerOrder{Server: name, Do: tunlb.Drain})
			}
		}, nil},
		{"persistence", web("rr", "persistence: {timeout: 5m, mask: 24}"), func(s *stage) {
			s.connect(a, vip)
			s.now.Add(int64(20 * time.Second))
			s.order(tunlb.ServerOrder{Server: "rs1", Do: tunlb.Weigh, Weight: 0})
		}, nil},
		{"flow", web("rr"), func(s *stage) {
			s.connect(client, vip)
			s.now.Add(int64(5 * time.Second))
		}, nil},
		{"what-if", web("wlc"), opened(a, b, c, d), []string{"--without", "rs1", "--weight", "rs3=4"}},
		{"what-if-same", web("rr"), opened(client), []string{"--weight", "rs3=4"}},
		{"what-if-flow", web("rr"), opened(client), []string{"--without", "rs2"}},
		{"flow-ends", web("rr"), func(s *stage) {
			s.connect(client, vip)
			s.remove("rs1")
		}, nil},
		{"martian", web("rr"), nil, []string{"--client", "192.168.0.1:40000"}},
		{"fullnat", web("lc", "mode: fullnat"), nil, nil},
		{"file", web("lblc", checks), nil, []string{"--config", "testdata/explain/file.yaml"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newStage(t, test.services)
			if test.past != nil {
				test.past(s)
			}
			got := s.explain(append([]string{"--client", client, "--vip", vip}, test.options...)...)
			path := filepath.Join("testdata", "explain", test.name+".golden")
			if *updateGolden {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("-%s +got (-update writes it anew):\n%s", path, diff)
			}
		})
	}
}

// explainer is a daemon that does nothing else.
type explainer struct {
	control.Daemon
	engine *tunlb.Engine
}

func (e explainer) Explain(q tunlb.Question) (tunlb.Explanation, error) { return e.engine.Explain(q) }

// explain is the command, with the engine as its daemon.
func (s *stage) explain(options ...string) string {
	s.t.Helper()
	dir, err := os.MkdirTemp("", "") // short: a socket's path is bounded
	if err != nil {
		s.t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "s")
	l, err := control.Listen(socket, 0o600, control.Allow{})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(s.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- control.Serve(ctx, l, explainer{engine: s.engine}, zerolog.Nop()) }()
	var out, errOut bytes.Buffer
	code := run(append([]string{"tunlb", "explain", "--socket", socket}, options...), nil, &out, &errOut)
	if cancel(); code != 0 {
		s.t.Fatalf("exit %d: %s", code, &errOut)
	}
	if err := <-ended; err != nil {
		s.t.Error(err)
	}
	return out.String()
}
