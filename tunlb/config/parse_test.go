package config

import (
	"bytes"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tunlb/tunlb/policy"
)

var (
	ap  = netip.MustParseAddrPort
	adr = netip.MustParseAddr
	pfx = netip.MustParsePrefix
)

// compareNetip lets cmp look at addresses, whose fields are not exported.
var compareNetip = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

// base is what a file gets that has nothing but the service web.
func base() *Config {
	return &Config{
		Ports: []Port{{
			Name: "tunlb0", Type: "tun",
			Addresses: []netip.Prefix{pfx("10.255.0.1/30"), pfx("fd00:7474::1/126")},
			Router:    []netip.Addr{adr("10.255.0.2"), adr("fd00:7474::2")},
			Routes:    []netip.Prefix{pfx("0.0.0.0/0"), pfx("::/0")},
			MTU:       1500, Offload: "auto",
		}},
		Services: []policy.Spec{{
			Name: "web", Listen: policy.On(ap("203.0.113.22:80"), policy.TCP), Mode: policy.NAT, Scheduler: "wlc",
			Servers: []policy.ServerSpec{{Name: "rs1", Address: ap("192.168.0.10:80"), Weight: 1}},
		}},
		Control:  Control{Mode: 0o600},
		Flows:    Flows{Max: 1_000_000},
		Timeouts: DefaultTimeouts(),
	}
}

// normal fills in what the policy does.
func normal(t *testing.T, specs []policy.Spec) []policy.Spec {
	t.Helper()
	specs, err := policy.Normalize(specs)
	if err != nil {
		t.Fatal(err)
	}
	return specs
}

const web = "services: [{name: web, listen: 203.0.113.22:80, servers: [192.168.0.10]}]\n"

func TestParseAccepts(t *testing.T) {
	tests := []struct {
		name, yaml string
		change     func(*Config) // from base
	}{
		{"defaults", web, func(*Config) {}},
		{"byte order mark", "\ufeff" + web, func(*Config) {}},
		{"directive and document end", "%YAML 1.2\n---\n" + web + "...\n", func(*Config) {}},
		{"windows line ends", strings.ReplaceAll("control:\n  mode: 0660\n"+web, "\n", "\r\n"), func(c *Config) { c.Control.Mode = 0o660 }},
		{"json", `{"services": [{"name": "web", "listen": "203.0.113.22:80", "servers": ["192.168.0.10"]}]}`, func(*Config) {}},
		{"control", "control: {socket: /run//tunlb.sock, mode: \"0660\"}\n" + web, func(c *Config) { c.Control = Control{Socket: "/run/tunlb.sock", Mode: 0o660} }},
		{"metrics", "metrics: {listen: 127.0.0.1:9474}\n" + web, func(c *Config) { c.Metrics = Metrics{"127.0.0.1:9474", 1000} }},
		{"metrics of IPv6", "metrics: {listen: '[::1]:9474', max_servers: 5}\n" + web, func(c *Config) { c.Metrics = Metrics{"[::1]:9474", 5} }},
		{"metrics on a socket", "metrics: {listen: /run//metrics.sock}\n" + web, func(c *Config) { c.Metrics = Metrics{"/run/metrics.sock", 1000} }},
		{"metrics beside a service", "metrics: {listen: 0.0.0.0:80}\n" + web, func(c *Config) { c.Metrics = Metrics{"0.0.0.0:80", 1000} }},
		{"threads", "threads: 3\n" + web, func(c *Config) { c.Threads = 3 }},
		{"flows", "flows: {max: 2_000_000}\n" + web, func(c *Config) { c.Flows.Max = 2_000_000 }},
		{"fast path by the kernel", "fastpath: kernel\n" + web, func(c *Config) { c.Fastpath, c.Services[0].Fastpath = true, true }},
		{"fast path by the kernel below the services", web + "fastpath: kernel", func(c *Config) { c.Fastpath, c.Services[0].Fastpath = true, true }},
		{"fast path by the kernel beside a segment", "fastpath: kernel\nports: [{addresses: [10.255.0.1/30, fd00:7474::1/126]}, {type: tap, addresses: [198.18.0.2/24]}]\n" + web, func(c *Config) {
			c.Ports = append(c.Ports, Port{Name: "tunlb1", Type: TAP, Own: []netip.Prefix{pfx("198.18.0.2/24")}, MTU: 1500, Offload: "auto"})
			c.Fastpath, c.Services[0].Fastpath = true, true
		}},
		{"fast path", "fastpath: user\n" + web, func(*Config) {}},
		{"fast path without services", "fastpath: kernel\nservices: [{name: web, listen: 203.0.113.22:80, mode: fullnat, servers: []}]", func(c *Config) {
			c.Fastpath, c.Services[0].Fastpath, c.Services[0].Mode, c.Services[0].Servers = true, true, policy.FullNAT, nil
		}},
		{"fast path of those that have one", `fastpath: kernel
services:
  - {name: web, listen: 203.0.113.22:80, servers: [192.168.0.10], fastpath: user}
  - {name: direct, listen: 203.0.113.22:81, servers: [192.168.0.10], mode: dr}
  - {name: some, listen: 203.0.113.22:82, servers: [{address: 192.168.0.10, mode: dr}], sorry_server: 192.168.0.11}
  - {name: single, listen: 203.0.113.22:83/udp, servers: [192.168.0.10], one_packet: true}
`, func(c *Config) {
			c.Fastpath = true
			add := func(name string, port uint16, edit func(*policy.Spec)) {
				s := c.Services[0]
				s.Name, s.Listen = name, policy.On(netip.AddrPortFrom(adr("203.0.113.22"), port), policy.TCP)
				s.Servers = []policy.ServerSpec{{Name: "rs1", Address: netip.AddrPortFrom(adr("192.168.0.10"), port), Weight: 1}}
				edit(&s)
				c.Services = append(c.Services, s)
			}
			add("direct", 81, func(s *policy.Spec) { s.Mode = policy.DR })
			add("some", 82, func(s *policy.Spec) {
				s.Fastpath, s.Servers[0].Mode = true, policy.DR
				s.Sorry = &policy.ServerSpec{Name: "sorry", Address: ap("192.168.0.11:82"), Weight: 1}
			})
			add("single", 83, func(s *policy.Spec) { s.OnePacket, s.Listen[0].Proto = true, policy.UDP })
		}},
		{"box ports", web + "ports: [{type: packet, name: eth0}, {name: eth1, type: packet}]", func(c *Config) {
			c.Ports = []Port{{Name: "eth0", Type: Packet, Offload: "auto"}, {Name: "eth1", Type: Packet, Offload: "auto"}}
		}},
		{"box ports, a TUN and a gateway", "ports: [{type: packet, name: eth0}, {addresses: [10.255.0.1/30, fd00:7474::1/126]}]\ngateway: [{inside: 192.168.0.0/24, masquerade: 198.51.100.1}]\n" + web, func(c *Config) {
			c.Ports = append([]Port{{Name: "eth0", Type: Packet, Offload: "auto"}}, c.Ports...)
			c.Gateways = []Gateway{{pfx("192.168.0.0/24"), adr("198.51.100.1"), 61000, 65534}}
		}},
		{"box ports to directly routed servers of both families", `ports: [{type: packet, name: eth0}]
services:
  - {name: web, listen: 203.0.113.22:80, mode: dr, health: tcp, servers: [198.51.100.10]}
  - {name: web6, listen: "[2001:db8::22]:80", mode: dr, servers: ["2001:db8:c0::10"]}
`, func(c *Config) {
			c.Ports = []Port{{Name: "eth0", Type: Packet, Offload: "auto"}}
			web, web6 := direct("web", "203.0.113.22:80", "198.51.100.10:80"), direct("web6", "[2001:db8::22]:80", "[2001:db8:c0::10]:80")
			web.Health = policy.Health{Type: "tcp", Interval: 2 * time.Second, Timeout: time.Second, Rise: 2, Fall: 3}
			c.Services = []policy.Spec{web, web6}
		}},
		{"timeouts", "timeouts: {established: 1h30m, syn_ack: 500ms}\n" + web, func(c *Config) {
			c.Timeouts.Established, c.Timeouts.SynAck = 90*time.Minute, 500*time.Millisecond
		}},
		{"service names by default", "services: [{listen: 203.0.113.22:80, servers: [192.168.0.10]}, {listen: '[2001:db8::22]:53/udp', servers: ['2001:db8::10', '[2001:db8::10]:5353']}]",
			func(c *Config) {
				c.Services[0].Name = "203.0.113.22:80/tcp"
				c.Services = append(c.Services, policy.Spec{
					Name: "[2001:db8::22]:53/udp", Listen: policy.On(ap("[2001:db8::22]:53"), policy.UDP), Scheduler: "wlc",
					Mode: policy.NAT, Servers: []policy.ServerSpec{{Name: "rs1", Address: ap("[2001:db8::10]:53"), Weight: 1}, {Name: "rs2", Address: ap("[2001:db8::10]:5353"), Weight: 1}},
				})
			}},
		{"colons in a list in braces", "services: [{name: web, listen: 203.0.113.22:80, servers: [192.168.0.10:80, 192.168.0.11:8080 ]}]\nports: [{addresses: [10.255.0.1/30, fd00:7474::1/126], routes: [0.0.0.0/0, ::/0]}]",
			func(c *Config) {
				c.Services[0].Servers = append(c.Services[0].Servers, policy.ServerSpec{Name: "rs2", Address: ap("192.168.0.11:8080"), Weight: 1})
			}},
		{"mode, scheduler, weights", "services:\n- name: web\n  listen: 203.0.113.22:80/tcp\n  mode: fullnat\n  scheduler: rr\n  servers:\n  - {name: a, address: 192.168.0.10:80, weight: 0}\n  - address: 192.168.0.11:81\n    weight: 65535\n",
			func(c *Config) {
				s := &c.Services[0]
				s.Mode, s.Scheduler = policy.FullNAT, "rr"
				s.Servers = []policy.ServerSpec{{Name: "a", Address: ap("192.168.0.10:80")}, {Name: "rs2", Address: ap("192.168.0.11:81"), Weight: 65535}}
			}},
		{"service without servers on purpose", "services: [{name: web, listen: 203.0.113.22:80, servers: []}]", func(c *Config) { c.Services[0].Servers = nil }},
		{"tcp and udp on one VIP and port", "services:\n- {name: web, listen: 203.0.113.22:80, servers: [192.168.0.10]}\n- {name: h3, listen: 203.0.113.22:80/udp, servers: [192.168.0.10]}",
			func(c *Config) {
				h3 := c.Services[0]
				h3.Name, h3.Listen = "h3", policy.On(ap("203.0.113.22:80"), policy.UDP)
				c.Services = append(c.Services, h3)
			}},
		{"gateway only", "gateway: [{inside: 192.168.0.0/24, masquerade: 198.51.100.1}]", func(c *Config) {
			c.Services = nil
			c.Gateways = []Gateway{{pfx("192.168.0.0/24"), adr("198.51.100.1"), 61000, 65534}}
		}},
		{"gateway that masquerades as a VIP with other ports", web + "gateway: [{inside: 192.168.0.0/24, masquerade: 203.0.113.22, ports: 81-90}]", func(c *Config) {
			c.Gateways = []Gateway{{pfx("192.168.0.0/24"), adr("203.0.113.22"), 81, 90}}
		}},
		{"port", web + "ports: [{name: lb0, type: tun, addresses: [10.0.0.2/31], routes: [192.168.0.0/24, 203.0.113.22/32], mtu: 9000, offload: off}]", func(c *Config) {
			c.Ports = []Port{{Name: "lb0", Type: "tun", Addresses: []netip.Prefix{pfx("10.0.0.2/31")}, Router: []netip.Addr{adr("10.0.0.3")},
				Routes: []netip.Prefix{pfx("192.168.0.0/24"), pfx("203.0.113.22/32")}, MTU: 9000, Offload: "off"}}
		}},
		{"virtual router", web + `ports:
  - {netns: client, addresses: [203.0.113.7/24], router: [203.0.113.1]}
  - {name: tunlb0, netns: /run//netns/servers, addresses: [192.168.0.1/24, "fd00::2/127"], router: [192.168.0.100], mtu: 1280}
`, func(c *Config) {
			c.Ports = []Port{
				{Name: "tunlb1", Type: "tun", NetNS: "/run/netns/client", Addresses: []netip.Prefix{pfx("203.0.113.7/24")}, Router: []netip.Addr{adr("203.0.113.1")}, MTU: 1500, Offload: "auto"},
				{Name: "tunlb0", Type: "tun", NetNS: "/run/netns/servers", Addresses: []netip.Prefix{pfx("192.168.0.1/24"), pfx("fd00::2/127")},
					Router: []netip.Addr{adr("192.168.0.100"), adr("fd00::3")}, MTU: 1280, Offload: "auto"},
			}
		}},
		{"anchors, aliases and merge keys", `services:
  - &web
    name: web
    listen: 203.0.113.22:80
    servers: &pool
      - &rs1 {name: rs1, address: 192.168.0.10:80}
  - <<: *web
    name: alt
    listen: 203.0.113.22:8080
  - {<<: [{scheduler: rr}, *web], name: third, listen: 203.0.113.22:81, servers: [{<<: *rs1, weight: 5}]}
  - {name: fourth, listen: 203.0.113.22:82, servers: *pool}
`, func(c *Config) {
			web := c.Services[0]
			alt, third, fourth := web, web, web
			alt.Name, alt.Listen = "alt", policy.On(ap("203.0.113.22:8080"), policy.TCP)
			third.Name, third.Listen, third.Scheduler = "third", policy.On(ap("203.0.113.22:81"), policy.TCP), "rr"
			third.Servers = []policy.ServerSpec{{Name: "rs1", Address: ap("192.168.0.10:80"), Weight: 5}}
			fourth.Name, fourth.Listen = "fourth", policy.On(ap("203.0.113.22:82"), policy.TCP)
			c.Services = []policy.Spec{web, alt, third, fourth}
		}},
		{"string tag", "ports: [{name: !!str 10, addresses: [10.255.0.1/30, 'fd00:7474::1/126']}]\n" + web, func(c *Config) { c.Ports[0].Name = "10" }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := base()
			tt.change(want)
			want.Services = normal(t, want.Services)
			got, err := Parse("x.yaml", []byte(tt.yaml))
			if err != nil {
				t.Fatalf("%v\n%s", err, tt.yaml)
			}
			if diff := cmp.Diff(want, got, compareNetip); diff != "" {
				t.Errorf("Parse (-want +got):\n%s\n%s", diff, tt.yaml)
			}
		})
	}
}

// sample is the documented syntax less the keys of later versions.
const sample = `ports:
  - name: tunlb0
    type: tun                      # tun | tap | packet
    addresses: [10.255.0.1/30]
    # netns: /run/netns/client     # open the device in there
services:
  - name: web
    listen: 203.0.113.22:80/tcp    # VIP:port/proto; [2001:db8::22]:80/tcp
    mode: nat                      # nat | dr | fullnat | tunnel | http
    scheduler: wrr
    servers:
      - {name: rs1, address: 192.168.0.10:8080, weight: 3}
      - {name: rs2, address: 192.168.0.11:8080}
gateway:                           # the servers' own outbound traffic; without it: routed by the box as is
  - {inside: 192.168.0.0/24, masquerade: 198.51.100.1}
control: {socket: /run/tunlb.sock, mode: "0600"}
`

func TestParseSample(t *testing.T) {
	want := base()
	want.Ports[0].Addresses, want.Ports[0].Router = []netip.Prefix{pfx("10.255.0.1/30")}, []netip.Addr{adr("10.255.0.2")}
	want.Services[0].Scheduler = "wrr"
	want.Services[0].Servers = []policy.ServerSpec{
		{Name: "rs1", Address: ap("192.168.0.10:8080"), Weight: 3},
		{Name: "rs2", Address: ap("192.168.0.11:8080"), Weight: 1},
	}
	want.Gateways = []Gateway{{pfx("192.168.0.0/24"), adr("198.51.100.1"), 61000, 65534}}
	want.Control.Socket = "/run/tunlb.sock"
	want.Services = normal(t, want.Services)
	got, err := Parse("tunlb.yaml", []byte(sample))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, compareNetip); diff != "" {
		t.Errorf("Parse (-want +got):\n%s", diff)
	}
}

// TestExample holds the example to its comments: what it says to be a default is one.
func TestExample(t *testing.T) {
	got, err := Load("example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want := base()
	if diff := cmp.Diff(want.Ports, got.Ports[:1], compareNetip); diff != "" {
		t.Errorf("the TUN is not the default (-want +got):\n%s", diff)
	}
	h := got.Services[0].Health
	if h.Interval != DefaultHealthInterval || h.Timeout != DefaultHealthTimeout || h.Rise != DefaultRise || h.Fall != DefaultFall {
		t.Errorf("the health is not the default one: %+v", h)
	}
	text, err := os.ReadFile("example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range policy.Schedulers() {
		if !regexp.MustCompile(`scheduler: .*#.*\b` + name + `\b`).Match(text) {
			t.Errorf("the scheduler %s is missing", name)
		}
	}
	for _, keys := range []map[string][]string{fitting, {"tcp": nil, "https": nil, "icmp": nil}} {
		for name := range keys {
			if !bytes.Contains(text, []byte(name)) {
				t.Errorf("the key or type %s is missing", name)
			}
		}
	}
	if got.Timeouts != want.Timeouts || got.Flows != want.Flows {
		t.Errorf("got %+v and %+v, want the defaults %+v and %+v", got.Timeouts, got.Flows, want.Timeouts, want.Flows)
	}
}

// TestExampleHasEveryKey: the decoders' tables are read from their source, where each key has a line that names it.
func TestExampleHasEveryKey(t *testing.T) {
	text, err := os.ReadFile("example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	inTable := regexp.MustCompile(`(?:\{name: |\badd\(|^\s*into\(.*\)\()"([a-z_]+)"`)
	keys := map[string]bool{}
	for _, name := range sources {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		source, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(source)) {
			if m := inTable.FindStringSubmatch(line); m != nil && !strings.Contains(line, ", later: ") {
				keys[m[1]] = true
			}
		}
	}
	for _, f := range timeoutFields(&Timeouts{}) {
		keys[f.name] = true
	}
	for _, known := range []string{"netns", "max", "inside", "mask", "lower", "sorry_server", "direct", "send_binary", "syn_ack"} {
		if !keys[known] {
			t.Errorf("the key %s was not found in the source", known)
		}
	}
	for name := range keys {
		if !regexp.MustCompile(`(?m)(?:^|[ {])` + name + `:(?: |$)`).Match(text) {
			t.Errorf("the key %s is missing", name)
		}
	}
}

func TestPortPrefixes(t *testing.T) {
	p := Port{
		Addresses: []netip.Prefix{pfx("10.0.0.1/24"), pfx("10.0.0.2/24"), pfx("fd00::1/64")},
		Routes:    []netip.Prefix{pfx("0.0.0.0/0"), pfx("10.0.0.0/24")},
	}
	want := []netip.Prefix{pfx("10.0.0.0/24"), pfx("fd00::/64"), pfx("0.0.0.0/0")}
	if diff := cmp.Diff(want, p.Prefixes(), compareNetip); diff != "" {
		t.Errorf("Prefixes (-want +got):\n%s", diff)
	}
	p = Port{
		Type: TAP,
		Own:  []netip.Prefix{pfx("10.0.0.1/24"), pfx("fd00::1/64")},
		Via:  []Route{{pfx("0.0.0.0/0"), adr("10.0.0.2")}, {pfx("::/0"), adr("fd00::2")}},
	}
	want = []netip.Prefix{pfx("10.0.0.0/24"), pfx("fd00::/64"), pfx("0.0.0.0/0"), pfx("::/0")}
	if diff := cmp.Diff(want, p.Prefixes(), compareNetip); diff != "" {
		t.Errorf("Prefixes of a tap (-want +got):\n%s", diff)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "tunlb.yaml")
	if err := os.WriteFile(file, []byte(sample), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(file); err != nil {
		t.Errorf("Load: %v", err)
	}

	missing := filepath.Join(dir, "missing.yaml")
	_, err := Load(missing)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), missing) || !strings.Contains(err.Error(), "tunlb check FILE") {
		t.Errorf("got %v, want the cause, the place and the next command", err)
	}
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "ls -ld") {
		t.Errorf("Load of a directory: got %v", err)
	}

	if err := os.WriteFile(file, []byte("ports: 1"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Load(file)
	if errs, ok := errors.AsType[Errors](err); !ok || errs[0].File != file {
		t.Errorf("got %v, want Errors in %s", err, file)
	}
	if e, ok := errors.AsType[*Error](err); !ok || e.Line != 1 {
		t.Errorf("a single error is not found in %v", err)
	}
}
