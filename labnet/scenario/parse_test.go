package scenario

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tunlb/tunlb/labnet"
	"github.com/tunlb/tunlb/tunlb/config"
)

// small is a lab with one of everything that the tests change.
const small = `name: small
networks:
  outside: {mtu: 9000, delay: 1ms, loss: 0.1%, reorder: 1%}
  inside: {}
hosts:
  client:
    networks:
      outside: {addresses: [198.51.100.7/24, "2001:db8:1::7/64"], delay: 2ms}
    gateway: 198.51.100.1
  rs1:
    networks: {inside: [192.168.0.10/24]}
    gateway: [192.168.0.100]
    loopback: [203.0.113.9]
    services: [{type: http, port: 80, slow: 100ms, fail: 503}, {type: udp-echo, port: 7, silent: true}]
director:
  name: lb
  port: tun
  networks: {outside: [198.51.100.1/24], inside: [192.168.0.100/24]}
  config:
    # what tunlb is to do
    services:
      - name: web
        listen: 203.0.113.22:80/tcp
        servers: [192.168.0.10:80]
steps:
  - name: it answers
    request: {from: client, url: "http://203.0.113.22", count: 6, timeout: 2s, parallel: 2}
    expect: {status: 503, servers: {rs1: ">=6"}, client: 198.51.100.7, took: "<1s"}
  - hold: {name: session, from: client, to: "203.0.113.22:7"}
  - check: {hold: session}
    expect: {alive: false}
  - status: {server: rs1, health: down, active: "<3"}
    within: 15s
  - drops: {no-server: 0}
  - impair: {host: lb, network: inside, loss: 5%}
  - behave: {host: rs1, port: 7}
`

func TestParse(t *testing.T) {
	f, err := Parse("small.yaml", []byte(small))
	if err != nil {
		t.Fatal(err)
	}
	prefix, addr := netip.MustParsePrefix, netip.MustParseAddr
	outer := Impairment{Delay: time.Millisecond, Loss: 0.001, Reorder: 0.01}
	no := false
	want := &File{
		Name:     "small",
		Networks: []Network{{"outside", 9000, outer}, {"inside", 1500, Impairment{}}},
		Hosts: []Host{
			{
				Name: "client",
				Attachments: []Attachment{{
					Network: "outside", Addresses: []netip.Prefix{prefix("198.51.100.7/24"), prefix("2001:db8:1::7/64")},
					Link: Impairment{2 * time.Millisecond, 0.001, 0.01},
				}},
				Gateways: []netip.Addr{addr("198.51.100.1")},
			},
			{
				Name:        "rs1",
				Attachments: []Attachment{{Network: "inside", Addresses: []netip.Prefix{prefix("192.168.0.10/24")}}},
				Gateways:    []netip.Addr{addr("192.168.0.100")},
				Loopback:    []netip.Prefix{prefix("203.0.113.9/32")},
				Services: []Service{
					{labnet.Service{Kind: labnet.HTTP, Port: 80}, Behaviour{Slow: 100 * time.Millisecond, Fail: 503}},
					{labnet.Service{Kind: labnet.UDPEcho, Port: 7}, Behaviour{Silent: true}},
				},
			},
		},
		Director: Director{
			Name: "lb", Port: "tun", Indent: 4,
			Attachments: []Attachment{
				{Network: "outside", Addresses: []netip.Prefix{prefix("198.51.100.1/24")}, Link: outer},
				{Network: "inside", Addresses: []netip.Prefix{prefix("192.168.0.100/24")}},
			},
			Text: strings.Repeat("\n", 20) + "    services:\n      - name: web\n        listen: 203.0.113.22:80/tcp\n        servers: [192.168.0.10:80]\n",
		},
		Steps: []Step{
			{
				Line: 26, Name: "it answers",
				Do: &Request{"client", "http://203.0.113.22/", netip.MustParseAddrPort("203.0.113.22:80"), 6, 2, 2 * time.Second},
				Expect: Expectation{Status: 503, Servers: []ServerIs{{"rs1", Condition{Op: ">=", Value: 6}}}, Client: []netip.Addr{addr("198.51.100.7")},
					Took: &Condition{Op: "<", Value: 1e9}},
			},
			{Line: 29, Do: &Hold{"session", "client", netip.MustParseAddrPort("203.0.113.22:7"), 5 * time.Second}},
			{Line: 30, Do: &Check{"session", 5 * time.Second}, Expect: Expectation{Alive: &no}},
			{Line: 32, Within: 15 * time.Second, Do: &Status{Server: "rs1", Health: "down", Counts: []Count{{"active", Condition{Op: "<", Value: 3}}}}},
			{Line: 34, Do: &Drops{[]Count{{"no-server", Condition{Op: "="}}}}},
			{Line: 35, Do: &Impair{"lb", "inside", Impairment{Loss: 0.05}}},
			{Line: 36, Do: &Behave{Host: "rs1", Port: 7}},
		},
	}
	if diff := cmp.Diff(want, f, cmpopts.IgnoreUnexported(Condition{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

// TestErrors changes one thing of the small lab and wants the place, what is wrong, and what to write instead.
func TestErrors(t *testing.T) {
	for _, c := range []struct{ old, with, want string }{
		{"gateway: 198.51.100.1", "gatewai: 198.51.100.1", `9:5: unknown key "gatewai", it is no key of a host, write "gateway"`},
		{"gateway: 198.51.100.1", "gateway: 198.51.100.2", `9:14: gateway 198.51.100.2 is nobody's, no host in network "outside" has it, write 198.51.100.1, which is the director's`},
		{"gateway: 198.51.100.1", "gateway: 192.0.2.1", `9:14: gateway 192.0.2.1 is on no link of "client", none of its networks' prefixes has it, write an address of one of them`},
		{"gateway: 198.51.100.1", "gateway: 198.51.100.7", `9:14: gateway 198.51.100.7 is the host itself, packets would go nowhere, write 198.51.100.1, which is the director's`},
		{"gateway: [192.168.0.100]", "gateway: [192.168.0.100, 192.168.0.10]", `12:30: second IPv4 gateway of "rs1", the first one is in line 12, write one for each family`},
		{"{inside: [192.168.0.10/24]}", "{insid: [192.168.0.10/24]}", `11:16: unknown network "insid", networks: has none of this name, write "inside"`},
		{"{inside: [192.168.0.10/24]}", "{inside: [192.168.0.10]}", `11:25: address "192.168.0.10" is no address with a length, the length says what is on the link, write 192.168.0.10/24`},
		{"{inside: [192.168.0.10/24]}", "{inside: [192.168.0.10/16]}", `11:25: address 192.168.0.10/16 in network "inside", lb says in line 18 that its prefix is 192.168.0.0/24, write 192.168.0.10/24, or an address outside of it`},
		{"{inside: [192.168.0.10/24]}", "{inside: [192.168.0.100/24]}", `11:25: doubled address 192.168.0.100, lb has it in line 18, write another one`},
		{"{inside: [192.168.0.10/24]}", "{inside: [192.168.0.255/24]}", `11:25: address "192.168.0.255/24" is no host's address, the first and the last address of a network are reserved, write one between them`},
		{"  rs1:\n", "  lb:\n", `10:3: host "lb" is the director, names are unique, write another name`},
		{"  rs1:\n", "  a name too long:\n", `10:3: host "a name too long" is no name, names are 1 to 15 letters, digits, -, _ and dots, and begin with a letter or digit, write one like rs1`},
		{"loss: 0.1%", "loss: 5", `3:42: loss "5" is out of range, 0% to 100% are allowed, write 5% if percent are meant`},
		{"delay: 1ms,", "delay: 1,", `3:31: delay "1" has no unit, a time has one, write 1s if seconds are meant`},
		{"inside: {}", "inside: {reorder: 1%}", `4:3: reorder without delay, packets overtake others by not being delayed, write delay: 10ms, too`},
		{"mtu: 9000", "mtu: 900", `3:18: mtu "900" is out of range, a whole number from 1280 to 65521 is expected, write a number from 1280 to 65521`},
		{"type: http, port: 80,", "type: htttp, port: 80,", `14:23: unknown type "htttp", there is http, tcp-echo and udp-echo, write "http"`},
		{"port: 7, silent: true", "port: 7, fail: 500", `14:96: "fail" of a udp-echo, it is a status of HTTP, write silent: true, or stopped: true`},
		{"{type: udp-echo, port: 7, silent: true}", "{type: tcp-echo, port: 80}", `14:64: doubled port 80 of "rs1", the first one is in line 14, write another port`},
		{"port: tun", "port: tap", ""}, // no side: two one-arm segments
		{"{outside: [198.51.100.1/24],", "{outside: {side: clients, addresses: [198.51.100.1/24]},", `18:30: "side" of a director with port: tun, its kernel routes between its networks, remove the key or write port: tap`},
		{"listen: 203.0.113.22:80/tcp", "listen: 203.0.113.22/tcp", `23:17: listen "203.0.113.22" has no port, a service has a port, a range of ports or, with 0, all, write 203.0.113.22:80 if port 80 is meant`},
		{"listen: 203.0.113.22:80/tcp", "liste: 203.0.113.22:80/tcp", `23:9: unknown key "liste", it is no key of a service, write "listen"`},
		{"listen: 203.0.113.22:80/tcp", "listen: 198.51.100.7:80/tcp", `21:5: VIP 198.51.100.7 of service "web" is an address of "client", a VIP is the director's, write another address; for direct routing the servers have it under loopback:`},
		{"    services:\n      - name: web", "    control: {}\n    services:\n      - name: web", `21:5: "control" in the director's config, the lab makes it, from the director's port and networks, remove the key`},
		{"from: client, url", "from: cleint, url", `27:21: unknown host "cleint", the lab has none of this name, write "client"`},
		{"http://203.0.113.22\"", "https://203.0.113.22\"", `27:34: url "https://203.0.113.22" is none of HTTP, the servers speak HTTP without TLS, write it like "http://203.0.113.22/" or "http://[2001:db8::22]:8080/"`},
		{"http://203.0.113.22\"", "http://example.com\"", `27:34: url "http://example.com" has no address, names are not resolved in a lab, write it like "http://203.0.113.22/" or "http://[2001:db8::22]:8080/"`},
		{"parallel: 2", "parallel: 9", `27:90: parallel 9 of 6 requests, there are not so many, write count: 9, too`},
		{"servers: {rs1:", "servers: {rs2:", `28:36: unknown server "rs2", the lab has none of this name, write "rs1"`},
		{"servers: {rs1: \">=6\"}", "servers: {rs1: \"=>6\"}", `28:42: rs1 "=>6" is no condition, it is a number, or a comparison with one, write it like 3, ">=1" or "<5"`},
		{"took: \"<1s\"", "took: \"<1\"", `28:78: took "<1" is no condition, it is a number, or a comparison with one, write it like ">=20ms" or "<1s"`},
		{"status: 503", "error: refused", `28:21: "error" beside what an answer has, an attempt that fails has no answer, remove error: or the others`},
		{"check: {hold: session}", "check: {hold: sesion}", `30:19: unknown hold "sesion", no step above keeps a connection of that name, write "session"`},
		{"expect: {alive: false}", "expect: {status: 200}", `31:22: "status" is nothing that check gives, it gives alive, server, servers, error and took, remove the key`},
		{"status: {server: rs1, health: down", "status: {server: rs9, health: down", `32:22: unknown server "rs9", the director's config has none of this name, write "rs1"`},
		{"status: {server: rs1, health: down", "status: {service: web, health: down", `32:13: status of a service with what only servers have, these are health, drained, weight, active, inactive and passing, write server:, too`},
		{"no-server: 0", "no-servers: 0", `34:13: unknown key "no-servers", it is no key of "drops", write "no-server"`},
		{"impair: {host: lb, network: inside", "impair: {host: client, network: inside", `35:37: "client" has no link to "inside", it is in outside, write outside`},
		{"behave: {host: rs1, port: 7}", "behave: {host: rs1, port: 8}", `36:31: port 8 of "rs1", it serves nothing there, write 80 or 7`},
		{"behave: {host: rs1, port: 7}", "behave: {host: rs1, port: 7}\n    within: 3s", `37:13: "within" of behave, it is done once, write it into a step that looks what has come of it`},
		{"behave: {host: rs1, port: 7}", "wait: 3s\n    ping: {from: client, to: 203.0.113.22}", `37:11: second action in a step, a step does one thing, begin a step of its own with -`},
		{"behave: {host: rs1, port: 7}", "name: nothing", `36:5: step without an action, it would do nothing, write one of request, udp, ping, hold, check, end, drain, undrain, weight, kill, behave, impair, status, wait, drops and explain`},
		{"behave: {host: rs1, port: 7}", "explain: {client: \"[2001:db8:1::7]:9\", vip: \"203.0.113.22:80\"}", `36:23: client [2001:db8:1::7]:9 of the IPv4 VIP 203.0.113.22:80, a connection is of one family, write an IPv4 address`},
		{"name: small", "name: small\nname: again", `2:1: doubled key "name", it stands above already, write it once`},
		{"loss: 0.1%", "loss: 200%", `3:42: loss "200%" is out of range, 0% to 100% are allowed, write it like 5% or 0.05`},
		{"timeout: 2s", "timeout: 0s", `27:76: timeout "0s" is no time at all, nothing answers within it, write one like 2s, or remove the key`},
		{"hosts:", "host:", `5:1: unknown key "host", it is no key of a lab, write "hosts"`},
	} {
		if !strings.Contains(small, c.old) {
			t.Errorf("the small lab has no %q", c.old)
			continue
		}
		_, err := Parse("f", []byte(strings.Replace(small, c.old, c.with, 1)))
		if c.want == "" {
			if err != nil {
				t.Errorf("%q: %v", c.with, err)
			}
			continue
		}
		var errs config.Errors
		if !errors.As(err, &errs) {
			t.Errorf("%q: no error, want %s", c.with, c.want)
			continue
		}
		if got := strings.Split(err.Error(), "\n"); !contains(got, "f:"+c.want) {
			t.Errorf("%q:\ngot  %s\nwant f:%s", c.with, err, c.want)
		}
	}
}

func contains(lines []string, line string) bool {
	for _, l := range lines {
		if l == line {
			return true
		}
	}
	return false
}

// TestColons: addresses with colons need no quotes in lists within braces, whatever the YAML library says.
func TestColons(t *testing.T) {
	text := strings.NewReplacer(
		"      - name: web\n        listen: 203.0.113.22:80/tcp\n        servers: [192.168.0.10:80]\n", "      - {name: web, listen: [203.0.113.22:80/tcp, 203.0.113.22:81], servers: [192.168.0.10:80]}\n",
		`"2001:db8:1::7/64"`, "2001:db8:1::7/64",
	).Replace(small)
	f, err := Parse("f", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := f.Hosts[0].Attachments[0].Addresses[1], netip.MustParsePrefix("2001:db8:1::7/64"); got != want {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestErrorsAllAtOnce: a file's errors come together, in their order.
func TestErrorsAllAtOnce(t *testing.T) {
	text := strings.NewReplacer("mtu: 9000", "mtv: 9000", "gateway: 198.51.100.1", "gateway: x", "count: 6", "count: 0").Replace(small)
	_, err := Parse("f", []byte(text))
	var errs config.Errors
	if !errors.As(err, &errs) {
		t.Fatalf("no errors: %v", err)
	}
	var lines []int
	for _, e := range errs {
		lines = append(lines, e.Line)
	}
	if want := []int{3, 9, 27}; !cmp.Equal(lines, want) {
		t.Errorf("errors in lines %v, want %v:\n%v", lines, want, err)
	}
}

// TestErrorsDoNotFollow: a mistake is reported once, without those that only follow from it.
func TestErrorsDoNotFollow(t *testing.T) {
	for _, c := range []struct{ old, with, want string }{
		{"services: [{type", "servces: [{type", `f:14:5: unknown key "servces", it is no key of a host, write "services"`},
		{"hosts:", "host:", `f:5:1: unknown key "host", it is no key of a lab, write "hosts"`},
		{"networks:\n  outside: {mtu", "netwroks:\n  outside: {mtu", `f:2:1: unknown key "netwroks", it is no key of a lab, write "networks"`},
		{"director:\n", "directr:\n", `f:15:1: unknown key "directr", it is no key of a lab, write "director"`},
		{"name: lb", "name: rs1", `f:10:3: host "rs1" is the director, names are unique, write another name`},
		{"    services:\n      - name: web", "    ports: [{type: tap}]\n    services:\n      - name: web", `f:21:5: "ports" in the director's config, the lab makes it, from the director's port and networks, remove the key`},
	} {
		if !strings.Contains(small, c.old) {
			t.Fatalf("the small lab has no %q", c.old)
		}
		text := strings.Replace(small, c.old, c.with, 1)
		if c.with == "name: rs1" {
			text = strings.Replace(text, "host: lb,", "host: client,", 1)
			text = strings.Replace(text, "client, network: inside", "client, network: outside", 1)
		}
		if _, err := Parse("f", []byte(text)); err == nil || err.Error() != c.want {
			t.Errorf("%q:\ngot  %v\nwant %s", c.with, err, c.want)
		}
	}
}

// TestLoadNearest: a shipped lab's name that is misspelt is recognized.
func TestLoadNearest(t *testing.T) {
	if _, err := Load("nta"); err == nil || !strings.Contains(err.Error(), "did you mean nat? tunlb comes with") {
		t.Error(err)
	}
}

// TestWarnings: what is allowed and most likely a mistake.
func TestWarnings(t *testing.T) {
	for old, c := range map[string][2]string{
		"servers: [192.168.0.10:80]":  {"servers: [192.168.0.10:80, 192.168.0.11:80]", `21:5: server 192.168.0.11 of service "web" is no host's, nobody will answer there, write a host with that address`},
		"listen: 203.0.113.22:80/tcp": {"mode: dr\n        listen: 203.0.113.22:80/tcp", `21:5: host "rs1" does not have the VIP 203.0.113.22, in direct routing it comes to the server as it is, write loopback: ["203.0.113.22"]`},
		"http://203.0.113.22\"":       {"http://203.0.113.23\"", `27:34: 203.0.113.23:80/tcp is no VIP and no host's, nobody will answer there, write "203.0.113.22"`},
	} {
		f, err := Parse("f", []byte(strings.Replace(small, old, c[0], 1)))
		if err != nil {
			t.Error(err)
		} else if !contains(f.Warnings, "f:"+c[1]) {
			t.Errorf("%q:\ngot  %s\nwant f:%s", c[0], strings.Join(f.Warnings, "\n"), c[1])
		}
	}
}

// TestHostile: whatever a file is, it gives errors or a lab.
func TestHostile(t *testing.T) {
	for name, text := range map[string]string{
		"empty":      "",
		"a comment":  "# nothing\n",
		"a list":     "- 1\n- 2\n",
		"a word":     "lab",
		"no UTF-8":   "name: \xff",
		"NUL":        "name: a\x00b",
		"tabs":       "networks:\n\toutside: {}\n",
		"deep":       "networks: " + strings.Repeat("[", 5000),
		"deep block": strings.Repeat("- ", 5000) + "x",
		"two":        "name: a\n---\nname: b\n",
		"bomb":       "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nnetworks: *c\nhosts: *c\nsteps: *c\n",
		"no alias":   "hosts: *nobody\n",
		"merge":      "<<: 3\nname: x\n",
		"null keys":  "networks:\nhosts:\ndirector:\nsteps:\n",
		"config {}":  strings.Replace(small, "  config:\n    # what tunlb is to do\n    services:\n      - name: web\n        listen: 203.0.113.22:80/tcp\n        servers: [192.168.0.10:80]\n", "  config: {services: []}\n", 1),
		"keys":       strings.Repeat("k: 1\n", 100_000),
		"flow keys":  "{" + strings.Repeat("k: 1, ", 100_000) + "}",
		"anchors":    strings.Repeat("&a ", 100_000),
		"colons":     strings.Repeat("a: ", 100_000),
		"too large":  strings.Repeat("#", maxSize+1),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("f", []byte(text))
			var errs config.Errors
			if !errors.As(err, &errs) || len(errs) == 0 {
				t.Fatalf("no errors: %v", err)
			}
			for _, e := range errs {
				if e.Line < 1 || e.Column < 1 || e.What == "" || e.Why == "" || e.Instead == "" {
					t.Errorf("%#v", e)
				}
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(small))
	for _, name := range Shipped() {
		text, _ := shippedText(name)
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		lab, err := Parse("f", text)
		if (lab == nil) == (err == nil) {
			t.Fatalf("%v, %v", lab, err)
		}
		if err != nil {
			return
		}
		for _, format := range Formats() {
			if _, err := Graph(lab, format); err != nil {
				t.Error(err)
			}
		}
	})
}
