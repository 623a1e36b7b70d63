package config

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tunlb/tunlb/policy"
)

// networks are those of the tests, with their twins.
var networks = map[string]string{"203.0.113": "2001:db8:113::", "192.168.0": "2001:db8:c0::"}

var place4 = regexp.MustCompile(`(203\.0\.113|192\.168\.0)\.(\d+)(:[0-9-]+)?(/\w+)?`)

// twin gives the same file with IPv6 addresses.
func twin(yaml string) string {
	yaml = strings.ReplaceAll(yaml, "255.255.255.0", "120") // as many bits of the host
	return place4.ReplaceAllStringFunc(yaml, func(s string) string {
		m := place4.FindStringSubmatch(s)
		address := networks[m[1]] + m[2]
		if m[3] != "" {
			address = "[" + address + "]"
		}
		return "'" + address + m[3] + strings.Replace(m[4], "/24", "/64", 1) + "'"
	})
}

// address6 is the twin of an address.
func address6(a netip.Addr) netip.Addr { return adr(strings.Trim(twin(a.String()), "'")) }

// spec6 is the twin of a service.
func spec6(s policy.Spec) policy.Spec {
	port6 := func(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(address6(a.Addr()), a.Port()) }
	s.Listen, s.Servers = slices.Clone(s.Listen), slices.Clone(s.Servers)
	for i := range s.Listen {
		s.Listen[i].Addr = address6(s.Listen[i].Addr)
	}
	for i := range s.Servers {
		s.Servers[i].Address = port6(s.Servers[i].Address)
	}
	if s.Sorry != nil {
		sorry := *s.Sorry
		sorry.Address = port6(sorry.Address)
		s.Sorry = &sorry
	}
	return s
}

// on is a list of places.
func on(places ...string) (list []policy.Listen) {
	for _, s := range places {
		l, err := policy.ParseListen(s)
		if err != nil {
			panic(err)
		}
		list = append(list, l)
	}
	return list
}

// real is a server as most are.
func real(name, address string) policy.ServerSpec {
	if a, err := netip.ParseAddr(address); err == nil {
		return policy.ServerSpec{Name: name, Address: netip.AddrPortFrom(a, 0), Weight: 1}
	}
	return policy.ServerSpec{Name: name, Address: ap(address), Weight: 1}
}

const (
	tap4 = "ports: [{type: tap, addresses: [203.0.113.2/24]}]\n"
	both = "ports: [{addresses: [10.255.0.1/30, 'fd00:7474::1/126']}, {type: tap, addresses: [203.0.113.2/24]}]\n"
)

// TestServices has each key of a service with what it means, in both families.
func TestServices(t *testing.T) {
	const second = time.Second
	tests := []struct {
		name, ports, keys string             // of a service named web on 203.0.113.22:80 with the server 192.168.0.10, if not said otherwise
		change            func(*policy.Spec) // from one without keys
	}{
		{"range", "", "listen: 203.0.113.22:8000-8100/udp", func(s *policy.Spec) {
			s.Listen, s.Servers[0] = on("203.0.113.22:8000-8100/udp"), real("rs1", "192.168.0.10")
		}},
		{"range of one", "", "listen: 203.0.113.22:81-81", func(s *policy.Spec) {
			s.Listen, s.Servers[0] = on("203.0.113.22:81"), real("rs1", "192.168.0.10:81")
		}},
		{"several places", "", "listen: [203.0.113.22:80, 203.0.113.22:443/udp, 203.0.113.23:1-65535], servers: [192.168.0.10, 192.168.0.11:0, 192.168.0.11:8080]", func(s *policy.Spec) {
			s.Listen = on("203.0.113.22:80", "203.0.113.22:443/udp", "203.0.113.23:1-65535")
			s.Servers = []policy.ServerSpec{real("rs1", "192.168.0.10"), real("rs2", "192.168.0.11"), real("rs3", "192.168.0.11:8080")}
		}},
		{"several places with one port", "", "listen: [203.0.113.22:53, 203.0.113.22:53/udp, 203.0.113.23:53]", func(s *policy.Spec) {
			s.Listen, s.Servers[0] = on("203.0.113.22:53", "203.0.113.22:53/udp", "203.0.113.23:53"), real("rs1", "192.168.0.10:53")
		}},
		{"all ports", "", "listen: 203.0.113.22:0, persistence: 6m", func(s *policy.Spec) {
			s.Listen, s.Servers[0] = on("203.0.113.22:0"), real("rs1", "192.168.0.10")
			s.Persistence.Timeout = 360 * second
		}},
		{"persistence", "", "persistence: {timeout: 1m30s}", func(s *policy.Spec) { s.Persistence.Timeout = 90 * second }},
		{"netmask", "", "persistence: {timeout: 5m, mask: 255.255.255.0}", func(s *policy.Spec) {
			s.Persistence = policy.Persistence{Timeout: 300 * second, HostBits: 8}
		}},
		{"every address by itself", "", "persistence: 744h", func(s *policy.Spec) { s.Persistence.Timeout = 31 * 24 * time.Hour }},
		{"flags", "", "flags: [port, fallback], scheduler: mh", func(s *policy.Spec) { s.Scheduler, s.Flags = "mh", policy.HashPort|policy.Fallback }},
		{"flags as ipvsadm has them", "", "flags: [sh-port], scheduler: sh", func(s *policy.Spec) { s.Scheduler, s.Flags = "sh", policy.HashPort }},
		{"a flag", "", "flags: mh-fallback, scheduler: mh", func(s *policy.Spec) { s.Scheduler, s.Flags = "mh", policy.Fallback }},
		{"no flags", "", "flags: [], scheduler: mh", func(s *policy.Spec) { s.Scheduler = "mh" }},
		{"one packet", "", "listen: 203.0.113.22:53/udp, one_packet: true", func(s *policy.Spec) {
			s.Listen, s.Servers[0], s.OnePacket = on("203.0.113.22:53/udp"), real("rs1", "192.168.0.10:53"), true
		}},
		{"fast path", "", "fastpath: kernel", func(s *policy.Spec) { s.Fastpath = true }},
		{"no fast path", "", "fastpath: user", func(*policy.Spec) {}},
		{"not one packet", "", "one_packet: false", func(*policy.Spec) {}},
		{"timeouts", "", "timeouts: {established: 1h, udp: 30s}", func(s *policy.Spec) { s.Timeouts = Timeouts{Established: time.Hour, UDP: 30 * second} }},
		{"keep", "", "on_delete: keep, sorry_server: 192.168.0.99:81", func(s *policy.Spec) {
			sorry := real("sorry", "192.168.0.99:81")
			s.Keep, s.Sorry = true, &sorry
		}},
		{"reset", "", "on_delete: reset", func(*policy.Spec) {}},
		{"keep one", "", "servers: [{address: 192.168.0.10:80, on_delete: keep}]", func(s *policy.Spec) { s.Servers[0].Keep = true }},
		{"slow start, quorum", "", "slow_start: 30s, quorum: 5, servers: [{address: 192.168.0.10:80, weight: 5}], health: tcp", func(s *policy.Spec) {
			s.SlowStart, s.Quorum, s.Servers[0].Weight = 30*second, 5, 5
			s.Health = policy.Health{Type: "tcp", Interval: 2 * second, Timeout: second, Rise: 2, Fall: 3}
		}},
		{"sorry server", "", "sorry_server: {name: last, address: 192.168.0.99:81, mode: fullnat, upper: 7}", func(s *policy.Spec) {
			sorry := real("last", "192.168.0.99:81")
			sorry.Mode, sorry.Upper = policy.FullNAT, 7
			s.Sorry = &sorry
		}},
		{"thresholds", "", "servers: [{address: 192.168.0.10:80, upper: 10, lower: 10}, {address: 192.168.0.11:80, upper: 2147483647}]", func(s *policy.Spec) {
			s.Servers[0].Upper, s.Servers[0].Lower = 10, 10
			s.Servers = append(s.Servers, real("rs2", "192.168.0.11:80"))
			s.Servers[1].Upper = 1<<31 - 1
		}},
		{"health of the first of a range", "", "listen: 203.0.113.22:8000-8100, health: tcp", func(s *policy.Spec) {
			s.Listen, s.Servers[0] = on("203.0.113.22:8000-8100"), real("rs1", "192.168.0.10")
			s.Health = policy.Health{Type: "tcp", Interval: 2 * second, Timeout: second, Rise: 2, Fall: 3}
		}},
		{"mode of a server", "", "mode: fullnat, servers: [{address: 192.168.0.10:8080, mode: nat}, 192.168.0.11:80]", func(s *policy.Spec) {
			s.Mode, s.Servers = policy.FullNAT, []policy.ServerSpec{real("rs1", "192.168.0.10:8080"), real("rs2", "192.168.0.11:80")}
			s.Servers[0].Mode = policy.NAT
		}},
		{"dr by the box's own interfaces", "", "mode: dr", func(s *policy.Spec) { s.Mode = policy.DR }},
		{"dr with the client's port", "", "listen: 203.0.113.22:8000-8100, mode: dr", func(s *policy.Spec) {
			s.Listen, s.Servers[0], s.Mode = on("203.0.113.22:8000-8100"), real("rs1", "192.168.0.10"), policy.DR
		}},
		{"dr on a segment and by the box", both, "mode: dr, servers: [203.0.113.10:80, 192.168.0.10:80], health: tcp", func(s *policy.Spec) {
			s.Mode, s.Servers = policy.DR, []policy.ServerSpec{real("rs1", "203.0.113.10:80"), real("rs2", "192.168.0.10:80")}
			s.Health = policy.Health{Type: "tcp", Interval: 2 * second, Timeout: second, Rise: 2, Fall: 3}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := policy.Spec{Name: "web", Listen: on("203.0.113.22:80"), Servers: []policy.ServerSpec{real("rs1", "192.168.0.10:80")}}
			tt.change(&want)
			checkService(t, tt.ports, tt.keys, want)
		})
	}
}

// checkService compares a service with what its keys say, and its twin.
func checkService(t *testing.T, ports, keys string, want policy.Spec) {
	t.Helper()
	if !strings.Contains(keys, "listen:") {
		keys = "listen: 203.0.113.22:80, " + keys
	}
	if !strings.Contains(keys, "servers: ") {
		keys += ", servers: [192.168.0.10]"
	}
	yaml := ports + "services: [{name: web, " + keys + "}]\n"
	for _, v := range []struct {
		yaml string
		want policy.Spec
	}{{yaml, want}, {twin(yaml), spec6(want)}} {
		got, err := Parse("x.yaml", []byte(v.yaml))
		if err != nil {
			t.Errorf("%v\n%s", err, v.yaml)
			continue
		}
		if diff := cmp.Diff(normal(t, []policy.Spec{v.want}), got.Services, compareNetip); diff != "" {
			t.Errorf("Services (-want +got):\n%s\n%s", diff, v.yaml)
		}
		if _, err := policy.Build(got.Services, nil); err != nil {
			t.Errorf("accepted what the policy refuses: %v", err)
		}
	}
}

func TestHealth(t *testing.T) {
	const second = time.Second
	codes := func(ranges ...[2]int) (list []policy.StatusRange) {
		for _, r := range ranges {
			list = append(list, policy.StatusRange{First: r[0], Last: r[1]})
		}
		return list
	}
	tests := []struct {
		health string
		change func(*policy.Health) // from the defaults
	}{
		{"tcp", func(*policy.Health) {}},
		{"icmp", func(h *policy.Health) { h.Type = "icmp" }},
		{"{type: tcp, interval: 500ms}", func(h *policy.Health) { h.Interval, h.Timeout = second/2, second/2 }},
		{"{type: tcp, interval: 5s, timeout: 5s, rise: 7, fall: 1, port: 9}", func(h *policy.Health) {
			h.Interval, h.Timeout, h.Rise, h.Fall, h.Port = 5*second, 5*second, 7, 1, 9
		}},
		{`{send: "PING\r\n\0", reply: '^\+PONG', type: tcp}`, func(h *policy.Health) { h.Send, h.Reply = "PING\r\n\x00", `^\+PONG` }},
		{"{type: udp, send_binary: 00ff0D}", func(h *policy.Health) { h.Type, h.Send = "udp", "\x00\xff\r" }},
		{"{type: udp, send_binary: 0102}", func(h *policy.Health) { h.Type, h.Send = "udp", "\x01\x02" }},
		{"{type: http, path: /healthz?a=b, host: www.example.com, status: 200, body: 'ok|fine'}", func(h *policy.Health) {
			h.Type, h.Path, h.Host, h.Statuses, h.Body = "http", "/healthz?a=b", "www.example.com", codes([2]int{200, 200}), "ok|fine"
		}},
		{"{type: https, status: 200-299, insecure: true}", func(h *policy.Health) {
			h.Type, h.Statuses, h.Insecure = "https", codes([2]int{200, 299}), true
		}},
		{"{type: http, status: [200-299, 301]}", func(h *policy.Health) { h.Type, h.Statuses = "http", codes([2]int{200, 299}, [2]int{301, 301}) }},
		{"{type: dns, query: example.com, record: aaaa}", func(h *policy.Health) { h.Type, h.Query, h.Record = "dns", "example.com", "AAAA" }},
		{"{type: dns, query: .}", func(h *policy.Health) { h.Type, h.Query = "dns", "." }},
		{"{type: exec, command: /bin/true}", func(h *policy.Health) { h.Type, h.Command = "exec", []string{"/bin/true"} }},
		{"{type: exec, command: [/bin/check, -H, 'a b'], port: 7}", func(h *policy.Health) {
			h.Type, h.Command, h.Port = "exec", []string{"/bin/check", "-H", "a b"}, 7
		}},
		{"tcp, on_failure: remove", func(h *policy.Health) { h.Remove = true }},
		{"tcp, on_failure: quiesce", func(*policy.Health) {}},
	}
	for _, tt := range tests {
		t.Run(tt.health, func(t *testing.T) {
			want := policy.Spec{Name: "web", Listen: on("203.0.113.22:80"), Servers: []policy.ServerSpec{real("rs1", "192.168.0.10:80")}}
			want.Health = policy.Health{Type: "tcp", Interval: 2 * second, Timeout: second, Rise: 2, Fall: 3}
			tt.change(&want.Health)
			checkService(t, "", "health: "+tt.health, want)
		})
	}
}

// TestDirectHealth: checks go to the VIP at the server's MAC address wherever they can.
func TestDirectHealth(t *testing.T) {
	const dr = "services: [{listen: 203.0.113.22:80, mode: dr, servers: [203.0.113.10], health: "
	for _, tt := range []struct {
		name, yaml string
		want       bool
	}{
		{"by default", tap4 + dr + "tcp}]", true},
		{"said", tap4 + dr + "{type: http, direct: true}}]", true},
		{"switched off", tap4 + dr + "{type: tcp, direct: false}}]", false},
		{"icmp", tap4 + dr + "icmp}]", false},
		{"exec", tap4 + dr + "{type: exec, command: [/bin/true]}}]", false},
		{"packet port, udp", strings.Replace(tap4, "type: tap", "type: packet, name: eth0", 1) + dr + "udp}]", true},
		{"by the box's own interfaces", dr + "tcp}]", false},
		{"switched off there", dr + "{type: tcp, direct: false}}]", false},
		{"nat", tap4 + "services: [{listen: 203.0.113.22:80, servers: [203.0.113.10], health: tcp}]", false},
		{"one server of two", tap4 + "services: [{listen: 203.0.113.22:80, servers: [203.0.113.11, {address: 203.0.113.10, mode: dr}], health: dns}]", false},
		{"nat, said twice", tap4 + "services: [{listen: 203.0.113.22:80, servers: [203.0.113.10], health: {type: tcp, direct: false}}]", false},
		{"by the server's own mode", tap4 + "services: [{listen: 203.0.113.22:80, servers: [{address: 203.0.113.10, mode: dr}], health: dns}]", true},
		{"one on no segment", both + "services: [{listen: 203.0.113.22:80, mode: dr, servers: [203.0.113.11, 192.168.0.10], health: https}]", false},
		{"no servers", tap4 + "services: [{listen: 203.0.113.22:80, mode: dr, servers: [], health: tcp}]", false},
		{"all but the sorry server", strings.Replace(tap4+dr, "servers:", "sorry_server: {address: 203.0.113.11, mode: nat}, servers:", 1) + "tcp}]", true},
		{"all but the sorry server, said", strings.Replace(tap4+dr, "servers:", "sorry_server: {address: 203.0.113.11, mode: nat}, servers:", 1) + "{type: tcp, direct: true}}]", true},
		{"only the sorry server", tap4 + "services: [{listen: 203.0.113.22:80, servers: [203.0.113.11], sorry_server: {address: 203.0.113.10, mode: dr}, health: tcp}]", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, yaml := range []string{tt.yaml, twin(tt.yaml)} {
				cfg, err := Parse("x.yaml", []byte(yaml))
				if err != nil {
					t.Fatalf("%v\n%s", err, yaml)
				}
				if got := cfg.Services[0].Health.Direct; got != tt.want {
					t.Errorf("Direct is %v, want %v\n%s", got, tt.want, yaml)
				}
			}
		})
	}
}

// TestControlAccounts takes names and numeric IDs.
func TestControlAccounts(t *testing.T) {
	cfg, err := Parse("x.yaml", []byte("control: {users: [ops, 1000, 007], groups: wheel}\n"+web))
	if err != nil {
		t.Fatal(err)
	}
	want := Control{Mode: DefaultControlMode, Users: []string{"ops", "1000", "7"}, Groups: []string{"wheel"}}
	if diff := cmp.Diff(want, cfg.Control); diff != "" {
		t.Errorf("Control (-want +got):\n%s", diff)
	}
}
