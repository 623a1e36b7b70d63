package config

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tunlb/tunlb/policy"
)

// TestWriteServices: what is written is what was read, whatever the services.
func TestWriteServices(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		specs := drawSpecs(t)
		want, err := policy.Normalize(specs)
		if err != nil {
			t.Fatalf("the test's own services: %v", err)
		}
		var b bytes.Buffer
		if err := WriteServices(&b, specs); err != nil {
			t.Fatalf("%v\n%+v", err, specs)
		}
		const ports = "ports: [{addresses: [10.255.0.1/30, \"fd00:7474::1/126\"]}, {type: tap, addresses: [198.18.0.2/24, \"2001:db8:18::2/64\"]}]\n"
		cfg, err := Parse("x.yaml", []byte(ports+b.String()))
		if err != nil {
			t.Fatalf("%v\n%s", err, b.String())
		}
		if diff := cmp.Diff(want, cfg.Services, compareNetip); diff != "" {
			t.Fatalf("Parse of what is written (-want +got):\n%s\n%s", diff, b.String())
		}
	})
}

// drawSpecs gives services that a file can have beside a TUN on the box and a tap.
func drawSpecs(t *rapid.T) []policy.Spec {
	specs := make([]policy.Spec, rapid.IntRange(1, 3).Draw(t, "services"))
	for i := range specs {
		specs[i] = drawSpec(t, i)
	}
	return specs
}

func drawSpec(t *rapid.T, i int) policy.Spec {
	yes := rapid.Bool()
	is6 := yes.Draw(t, "IPv6")
	s := policy.Spec{
		Name:      fmt.Sprintf("%s-%d", rapid.SampledFrom([]string{"web", "true", "null", "8", "a:b", "[x]", "#x", "'x'", "-"}).Draw(t, "name"), i),
		Mode:      rapid.SampledFrom([]policy.Mode{0, policy.NAT, policy.FullNAT, policy.DR}).Draw(t, "mode"),
		Scheduler: rapid.SampledFrom(append(policy.Schedulers(), "")).Draw(t, "scheduler"),
		Keep:      yes.Draw(t, "keep"),
		Listen:    drawListen(t, i, is6),
	}
	if slices.Contains(flagged, s.Scheduler) {
		s.Flags = policy.Flags(rapid.IntRange(0, 3).Draw(t, "flags"))
	}
	if yes.Draw(t, "persistent") || slices.ContainsFunc(s.Listen, policy.Listen.All) {
		s.Persistence = policy.Persistence{Timeout: drawDuration(t, time.Second, 744*time.Hour), HostBits: rapid.IntRange(0, 31).Draw(t, "host bits")}
	}
	s.OnePacket = yes.Draw(t, "one packet") && !slices.ContainsFunc(s.Listen, func(l policy.Listen) bool { return l.Proto != policy.UDP })
	s.Fastpath = !s.OnePacket && s.Mode != policy.DR && yes.Draw(t, "fast path")
	for _, f := range timeoutFields(&s.Timeouts) {
		if yes.Draw(t, f.name) {
			*f.value = drawDuration(t, time.Millisecond, 480*time.Hour)
		}
	}
	port := (&service{Spec: s}).port()
	for k := range rapid.IntRange(0, 4).Draw(t, "servers") {
		s.Servers = append(s.Servers, drawServer(t, s.Mode, k, is6, port))
	}
	if sum := weights(s.Servers); sum > 0 {
		s.Quorum = rapid.IntRange(0, sum).Draw(t, "quorum")
	}
	if yes.Draw(t, "sorry") {
		sorry := drawServer(t, s.Mode, 200, is6, port)
		sorry.Weight = 1
		s.Sorry = &sorry
	}
	if direct := (&service{Spec: s, serverAt: make([]serverPlace, len(s.Servers))}).onlyDirect(); direct {
		s.Fastpath = false
	}
	if yes.Draw(t, "health") {
		s.Health = drawHealth(t)
		if yes.Draw(t, "slow start") {
			s.SlowStart = drawDuration(t, time.Millisecond, 480*time.Hour)
		}
		normal, err := policy.Normalize([]policy.Spec{s})
		s.Health.Direct = err == nil && servesDirect(&normal[0]) && yes.Draw(t, "direct")
	}
	return s
}

func weights(servers []policy.ServerSpec) (sum int) {
	for _, s := range servers {
		sum += s.Weight
	}
	return sum
}

// drawListen gives places that no other service has.
func drawListen(t *rapid.T, i int, is6 bool) []policy.Listen {
	vip := netip.AddrFrom4([4]byte{203, 0, 113, byte(100 + i)})
	if is6 {
		vip = adr(fmt.Sprintf("2001:db8:113::%d", 100+i))
	}
	proto := rapid.SampledFrom([]uint8{policy.TCP, policy.UDP}).Draw(t, "proto")
	single := policy.Listen{Addr: vip, Proto: proto, First: 80, Last: 80}
	other := policy.Listen{Addr: vip, Proto: policy.TCP + policy.UDP - proto, First: 80, Last: 80}
	span := policy.Listen{Addr: vip, Proto: proto, First: 8000, Last: 8100}
	all := policy.Listen{Addr: vip, Proto: proto}
	return rapid.SampledFrom([][]policy.Listen{{single}, {single, other}, {span}, {other, span, single}, {all}, {all, span}}).Draw(t, "listen")
}

// drawServer gives the k-th server: one with mode dr is on the tap's segment.
func drawServer(t *rapid.T, mode policy.Mode, k int, is6 bool, port uint16) policy.ServerSpec {
	a := netip.AddrFrom4([4]byte{198, 18, 0, byte(10 + k)})
	if is6 {
		a = adr(fmt.Sprintf("2001:db8:18::%d", 10+k))
	}
	s := policy.ServerSpec{
		Name:   rapid.SampledFrom([]string{"", "", fmt.Sprintf("s%d", k), fmt.Sprintf("no-%d", k), fmt.Sprintf("%d", k)}).Draw(t, "server"),
		Weight: rapid.SampledFrom([]int{0, 1, 3, 65535}).Draw(t, "weight"),
		Mode:   rapid.SampledFrom([]policy.Mode{0, 0, policy.NAT, policy.FullNAT, policy.DR}).Draw(t, "mode"),
		Keep:   rapid.Bool().Draw(t, "keep"),
		Upper:  rapid.IntRange(0, 1<<31-1).Draw(t, "upper"),
	}
	if s.Name == "" {
		s.Name = fmt.Sprintf("rs%d", k+1)
	}
	s.Lower = rapid.IntRange(0, s.Upper).Draw(t, "lower")
	if s.Mode == policy.DR || s.Mode == 0 && mode == policy.DR {
		if rapid.Bool().Draw(t, "static") {
			s.MAC = [6]byte{2, 0, 0x5e, 0x10, 0, byte(k)}
		}
	} else if rapid.Bool().Draw(t, "another port") {
		port = 8080
	}
	s.Address = netip.AddrPortFrom(a, port)
	return s
}

func drawHealth(t *rapid.T) policy.Health {
	h := policy.Health{
		Type: rapid.SampledFrom(healthTypes).Draw(t, "type"),
		Rise: rapid.IntRange(1, maxRise).Draw(t, "rise"), Fall: rapid.IntRange(1, maxRise).Draw(t, "fall"),
		Interval: drawDuration(t, 10*time.Millisecond, maxInterval), Remove: rapid.Bool().Draw(t, "remove"),
	}
	h.Timeout = drawDuration(t, time.Millisecond, h.Interval)
	if slices.Contains(fitting["port"], h.Type) {
		h.Port = uint16(rapid.IntRange(1, 65535).Draw(t, "port"))
	}
	expression := rapid.SampledFrom([]string{"", "ok", `^\s*"a": [1-9]{2}, 'b' #`, `\x00|\\|ü`, "yes", "- x", "a: b"})
	switch h.Type {
	case "http", "https":
		h.Path = rapid.SampledFrom([]string{"", "/", "/a?b=c&d=%20#e", "/:{}[],'\"\\"}).Draw(t, "path")
		h.Host = rapid.SampledFrom([]string{"", "example.com", "example.com:8443", "[2001:db8::1]", "8", "no"}).Draw(t, "host")
		h.Body = expression.Draw(t, "body")
		for range rapid.IntRange(0, 3).Draw(t, "statuses") {
			first := rapid.IntRange(100, 599).Draw(t, "first")
			h.Statuses = append(h.Statuses, policy.StatusRange{First: first, Last: rapid.IntRange(first, 599).Draw(t, "last")})
		}
		h.Insecure = h.Type == "https" && rapid.Bool().Draw(t, "insecure")
	case "tcp", "udp":
		h.Send = rapid.OneOf(rapid.StringN(0, 40, 200), rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 40), func(b []byte) string { return string(b) })).Draw(t, "send")
		h.Reply = expression.Draw(t, "reply")
	case "dns":
		h.Query = rapid.SampledFrom([]string{"", ".", "example.com", "_sip._udp.example.com.", "10", "on"}).Draw(t, "query")
		h.Record = rapid.SampledFrom([]string{"", "A", "AAAA", "NS", "SOA", "TXT"}).Draw(t, "record")
	case "exec":
		h.Command = append([]string{"/usr/lib/check me"}, rapid.SliceOfN(rapid.SampledFrom([]string{"-H", "true", "~", "80", "a b", "$X", "*", "&a", "%", "@", "`"}), 0, 4).Draw(t, "arguments")...)
	}
	return h
}

func drawDuration(t *rapid.T, least, most time.Duration) time.Duration {
	if rapid.Bool().Draw(t, "odd") {
		return time.Duration(rapid.Int64Range(int64(least), int64(most)).Draw(t, "nanoseconds"))
	}
	return time.Duration(rapid.Int64Range(1, int64(most/least)).Draw(t, "times")) * least
}

// TestWriteServicesText is how it looks.
func TestWriteServicesText(t *testing.T) {
	sorry := real("", "192.168.0.99:81")
	sorry.Weight = 5 // does not matter
	specs := []policy.Spec{
		{
			Name: "web", Listen: on("203.0.113.22:80"), Scheduler: "sh", Flags: policy.Fallback | policy.HashPort,
			Persistence: policy.Persistence{Timeout: 5 * time.Minute, HostBits: 8}, Sorry: &sorry, Quorum: 2,
			Timeouts: Timeouts{Established: time.Hour, UDP: 1500 * time.Millisecond}, SlowStart: 90 * time.Second, Keep: true, Fastpath: true,
			Health: policy.Health{Type: "http", Interval: 2 * time.Second, Timeout: time.Second, Rise: 1, Fall: 3, Path: "/healthz", Remove: true,
				Statuses: []policy.StatusRange{{First: 200, Last: 299}, {First: 301, Last: 301}}, Body: "ok"},
			Servers: []policy.ServerSpec{{Address: ap("192.168.0.10:8080"), Weight: 3}, {Name: "b", Address: ap("192.168.0.11:0"), Weight: 1, Mode: policy.FullNAT, Upper: 10, Lower: 8}},
		},
		{Listen: on("[2001:db8::22]:0/udp", "[2001:db8::22]:53/udp"), Mode: policy.DR, OnePacket: true, Persistence: policy.Persistence{Timeout: 6 * time.Minute},
			Servers: []policy.ServerSpec{{Name: "rs1", Address: ap("[2001:db8::10]:0"), MAC: [6]byte{2, 0, 0x5e, 0x10, 0, 1}}}},
		{Name: "none", Listen: on("203.0.113.22:8000-8100")},
	}
	const want = `services:
  - name: web
    listen: 203.0.113.22:80/tcp
    scheduler: sh
    flags: [fallback, port]
    persistence: {timeout: 5m, mask: 24}
    fastpath: kernel
    timeouts: {established: 1h, udp: 1.5s}
    on_delete: keep
    health: {type: http, interval: 2s, timeout: 1s, rise: 1, fall: 3, path: /healthz, status: [200-299, 301], body: ok}
    on_failure: remove
    slow_start: 1m30s
    quorum: 2
    sorry_server: {name: sorry, address: 192.168.0.99:81}
    servers:
      - {name: rs1, address: 192.168.0.10:8080, weight: 3}
      - {name: b, address: 192.168.0.11:80, mode: fullnat, upper: 10, lower: 8}
  - name: "[2001:db8::22]:0/udp"
    listen: ["[2001:db8::22]:0/udp", "[2001:db8::22]:53/udp"]
    mode: dr
    scheduler: wlc
    persistence: 6m
    one_packet: true
    servers:
      - {name: rs1, address: "2001:db8::10", weight: 0, mac: 02:00:5e:10:00:01}
  - name: none
    listen: 203.0.113.22:8000-8100/tcp
    scheduler: wlc
    servers: []
`
	before := slices.Clone(specs[0].Servers)
	var b strings.Builder
	if err := WriteServices(&b, specs); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("WriteServices (-want +got):\n%s", diff)
	}
	if sorry.Name != "" || !slices.Equal(before, specs[0].Servers) {
		t.Error("the services themselves were changed")
	}
	b.Reset()
	if err := WriteServices(&b, nil); err != nil || b.String() != "" {
		t.Errorf("no services: got %v and %q, want nothing", err, b.String())
	}
}

// TestWriteServicesRefuses what the syntax has no words for.
func TestWriteServicesRefuses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		spoil  func(*policy.Spec)
		held   bool
		reason string
	}{
		{"mark", func(s *policy.Spec) { s.Listen, s.Mark = nil, policy.Mark{Value: 7} }, true, "firewall mark 7"},
		{"SCTP", func(s *policy.Spec) { s.Listen = on("203.0.113.22:80/sctp") }, true, "SCTP"},
		{"engine", func(s *policy.Spec) { s.Persistence = policy.Persistence{Timeout: time.Minute, Engine: "sip"} }, true, "sip"},
		{"tunnel", func(s *policy.Spec) { s.Mode = policy.Tunnelled }, true, "tunnel"},
		{"tunnel to a server", func(s *policy.Spec) { s.Servers[0].Mode = policy.Tunnelled }, true, "192.168.0.10:80"},
		{"weight", func(s *policy.Spec) { s.Servers[0].Weight = 65536 }, false, `weight "65536" is out of range`},
		{"flags of wlc", func(s *policy.Spec) { s.Flags = policy.HashPort }, false, `"flags" with the scheduler wlc`},
		{"third flag", func(s *policy.Spec) { s.Scheduler, s.Flags = "sh", policy.FlagThree }, false, "cannot say"},
		{"all clients one", func(s *policy.Spec) { s.Persistence = policy.Persistence{Timeout: time.Minute, HostBits: 32} }, false, `mask "0" is out of range`},
		{"name", func(s *policy.Spec) { s.Name = "my web" }, false, "names are one word"},
		{"unknown scheduler", func(s *policy.Spec) { s.Scheduler = "random" }, false, "unknown scheduler"},
		{"health without a type", func(s *policy.Spec) { s.Health.Port = 80 }, false, "cannot say"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := policy.Spec{Name: "web", Listen: on("203.0.113.22:80"), Servers: []policy.ServerSpec{real("rs1", "192.168.0.10:80")}}
			good := s
			s.Servers = slices.Clone(s.Servers)
			tt.spoil(&s)
			var b strings.Builder
			err := WriteServices(&b, []policy.Spec{good, s})
			if err == nil || errors.Is(err, ErrNotServed) != tt.held || !strings.Contains(err.Error(), tt.reason) || !strings.Contains(err.Error(), s.Name) {
				t.Errorf("got %v, want %q", err, tt.reason)
			}
			if b.Len() > 0 {
				t.Errorf("wrote %q", b.String())
			}
		})
	}
}
