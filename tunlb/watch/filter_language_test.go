package watch

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tunlb/tunlb/stack/packet"
)

func network(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// TestParseFilter: what each form means, and how it is written back.
func TestParseFilter(t *testing.T) {
	for _, test := range []struct {
		text string
		want Filter
		back string // "" iff it is the text
	}{
		{"client 198.51.100.7", Filter{Client: Endpoint{Network: network("198.51.100.7/32")}}, ""},
		{"client 198.51.100.7:40000", Filter{Client: Endpoint{network("198.51.100.7/32"), 40000}}, ""},
		{"client 198.51.100.0/24:80", Filter{Client: Endpoint{network("198.51.100.0/24"), 80}}, ""},
		{"client 198.51.100.7/24", Filter{Client: Endpoint{Network: network("198.51.100.0/24")}}, "client 198.51.100.0/24"},
		{"client 2001:db8::7", Filter{Client: Endpoint{Network: network("2001:db8::7/128")}}, ""},
		{"client [2001:db8::7]:80", Filter{Client: Endpoint{network("2001:db8::7/128"), 80}}, ""},
		{"client [2001:db8::/32]:80", Filter{Client: Endpoint{network("2001:db8::/32"), 80}}, ""},
		{"client [2001:db8::7]", Filter{Client: Endpoint{Network: network("2001:db8::7/128")}}, "client 2001:db8::7"},
		{"client ::ffff:198.51.100.7", Filter{Client: Endpoint{Network: network("198.51.100.7/32")}}, "client 198.51.100.7"},
		{"client ::ffff:198.51.100.0/120", Filter{Client: Endpoint{Network: network("198.51.100.0/24")}}, "client 198.51.100.0/24"},
		{"client 0.0.0.0/0", Filter{Client: Endpoint{Network: network("0.0.0.0/0")}}, ""},
		{"client :80", Filter{Client: Endpoint{Port: 80}}, ""},
		{"vip 203.0.113.22:80/tcp", Filter{VIP: Endpoint{network("203.0.113.22/32"), 80}, Protocol: "tcp"}, "vip 203.0.113.22:80 and proto tcp"},
		{"vip [2001:db8::22]:53/UDP", Filter{VIP: Endpoint{network("2001:db8::22/128"), 53}, Protocol: "udp"}, "vip [2001:db8::22]:53 and proto udp"},
		{"vip 203.0.113.0/24", Filter{VIP: Endpoint{Network: network("203.0.113.0/24")}}, ""},
		{"vip :80/tcp", Filter{VIP: Endpoint{Port: 80}, Protocol: "tcp"}, "vip :80 and proto tcp"},
		{"server rs1", Filter{Server: "rs1"}, ""},
		{"server 2001:DB8::0:10", Filter{Server: "2001:db8::10"}, "server 2001:db8::10"},
		{"server [2001:DB8::0:10]:80", Filter{Server: "[2001:db8::10]:80"}, "server [2001:db8::10]:80"},
		{`server "2001:DB8::0:10"`, Filter{Server: "2001:DB8::0:10"}, ""},
		{"service 203.0.113.22:80/tcp", Filter{Service: "203.0.113.22:80/tcp"}, ""},
		{`service "my \"web\""`, Filter{Service: `my "web"`}, ""},
		{`service "drops"`, Filter{Service: "drops"}, ""},
		{"proto 17", Filter{Protocol: "udp"}, "proto udp"},
		{"proto 58", Filter{Protocol: "icmp"}, "proto icmp"},
		{"proto 047", Filter{Protocol: "47"}, "proto 47"},
		{"port tunlb0 and drops and drop no-server", Filter{Port: "tunlb0", Drops: true, Reason: "no-server"}, ""},
		{"\tdrops\n client 198.51.100.7 ", Filter{Drops: true, Client: Endpoint{Network: network("198.51.100.7/32")}}, "client 198.51.100.7 and drops"},
		{"", Filter{}, ""},
		{"  ", Filter{}, ""},
	} {
		got, err := ParseFilter(test.text)
		if err != nil || got != test.want {
			t.Errorf("%q: %+v, %v, want %+v", test.text, got, err, test.want)
		}
		back := test.back
		if back == "" {
			back = strings.TrimSpace(test.text)
		}
		if s := got.String(); s != back {
			t.Errorf("%q: is written back as %q, want %q", test.text, s, back)
		}
	}
}

// TestBadFilters: the place, what is wrong, and what to write instead.
func TestBadFilters(t *testing.T) {
	for text, want := range map[string]string{
		"clinet 198.51.100.7":         `filter:1:1: "clinet" is no keyword; write client`,
		"198.51.100.7":                `filter:1:1: "198.51.100.7" is an address, and no keyword says whose; write client 198.51.100.7, vip`,
		"hello":                       `filter:1:1: "hello" is no keyword; write client, vip, server, service, proto, port, drops, drop or and`,
		"drops client":                `filter:1:7: "client" stands alone; write after it an address or a network`,
		"client vip 203.0.113.22":     `filter:1:8: "vip" is a keyword, and "client" wants its value first; write an address`,
		"client 198.51.100.256":       `filter:1:8: client "198.51.100.256": "198.51.100.256" is no address; write an address or a network, and`,
		"client 198.51.100.0/33":      `"198.51.100.0/33" is no network`,
		"client 198.51.100.7:0":       `client "198.51.100.7:0": "0" is no port; write a number from 1 to 65535`,
		"client 198.51.100.7:http":    `"http" is no port`,
		"client 198.51.100.7:":        `"" is no port`,
		"client [2001:db8::7":         `has a bracket that is not closed; write [2001:db8::1]:80`,
		"client [2001:db8::7]80":      `has "80" behind the bracket, where a port should be; write [2001:db8::7]:80`,
		"client [198.51.100.7]:80":    `has no IPv6 address in its brackets`,
		"client fe80::1%eth0":         `packets have no zone; leave out "%eth0"`,
		"é client é":                  `filter:1:1: "é" is no keyword`,
		"service é client é":          `filter:1:18: client "é"`,
		"drops\nand prot tcp":         `filter:2:5: "prot" is no keyword; write proto`,
		"drops drops":                 "filter:1:7: drops is said twice",
		"client :1 client :2":         "filter:1:18: client is said twice",
		"vip :80/tcp proto udp":       "filter:1:19: proto is said twice",
		"vip /tcp":                    `"/tcp" has no address; write an address`,
		"proto sctp":                  `proto "sctp" is none; write tcp`,
		"proto ipx":                   `proto "ipx" is none; write tcp, udp, icmp or arp`,
		"proto icmpv6":                `ICMP is one word for both families; write proto icmp`,
		"proto 256":                   `proto "256" is none`,
		"drop noserver":               `filter:1:6: drop "noserver": nothing is dropped for that reason; write drop no-server`,
		"drop none":                   `drop "none": nothing is dropped for that reason`,
		"drop xyzzy":                  "write one that `tunlb status` lists",
		"and drops":                   `filter:1:1: "and" joins two conditions, and there is none before it; leave it out`,
		"drops and and proto tcp":     `filter:1:11: "and" joins two conditions, and there is none before it`,
		"drops and":                   `filter:1:7: "and" joins two conditions, and there is none behind it`,
		`"rs1"`:                       `filter:1:1: "rs1" is a value, and no keyword stands before it`,
		`service "web`:                `filter:1:9: the quotes are not closed`,
		`service "web"x`:              `filter:1:9: the name in quotes goes on behind them`,
		`service ""`:                  `filter:1:9: service is given nothing, which would mean all`,
		"server " + "x y":             `filter:1:10: "y" is no keyword`,
		strings.Repeat("x", 100):      `"` + strings.Repeat("x", 40) + `..." is no keyword`,
		"service and drops":           `filter:1:9: "and" is a keyword, and "service" wants its value first`,
		"client 2001:db8::7:40000:::": `is no address`,
	} {
		f, err := ParseFilter(text)
		var place *FilterError
		if !errors.As(err, &place) || !strings.Contains(err.Error(), want) || f != (Filter{}) {
			t.Errorf("%q: %+v, %v, want %s", text, f, err, want)
		}
	}
}

// TestSet: a condition of a command's option is that of the language, without its quotes.
func TestSet(t *testing.T) {
	var f Filter
	for _, c := range [][2]string{{"client", "198.51.100.7"}, {"vip", ":80/tcp"}, {"server", "and"}, {"service", "my web"}, {"port", "p"}, {"drops", ""}, {"drop", "land"}} {
		if err := f.Set(c[0], c[1]); err != nil {
			t.Error(c, err)
		}
		before := f
		if err := f.Set(c[0], c[1]); err == nil || !strings.Contains(err.Error(), "twice") || f != before {
			t.Errorf("%q again: %v", c, err)
		}
	}
	if again, err := ParseFilter(f.String()); err != nil || again != f || again.Server != "and" || again.Service != "my web" {
		t.Errorf("%s: %+v, %v, want %+v", f, again, err, f)
	}
	if err := f.Set("drops", ""); err == nil || err.Error() != "drops is said twice" {
		t.Errorf("drops again: %v", err) // the other would not contradict it
	}
	if err := f.Set("serv", "x"); err == nil || !strings.Contains(err.Error(), "write server") {
		t.Error(err)
	}
}

// TestFilterRoundTrip: whatever a filter says, its text says the same.
func TestFilterRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := anyFilter(t)
		text := f.String()
		got, err := ParseFilter(text)
		if err != nil || got != f {
			t.Fatalf("%+v is written %q, which is read as %+v, %v", f, text, got, err)
		}
	})
}

func anyFilter(t *rapid.T) (f Filter) {
	names := rapid.OneOf(rapid.String(), rapid.StringMatching(`[a-z0-9.:/"\[\] -]*`), rapid.SampledFrom(append(keywords(), "2001:DB8::1", "10.0.0.1:80", "\xff\x00")))
	f.Client, f.VIP = anyEndpoint(t, "client"), anyEndpoint(t, "vip")
	f.Server, f.Service, f.Port = names.Draw(t, "server"), names.Draw(t, "service"), names.Draw(t, "port")
	f.Protocol = rapid.SampledFrom([]string{"", "tcp", "udp", "icmp", "arp", "0", "47", "255"}).Draw(t, "protocol")
	f.Drops = rapid.Bool().Draw(t, "drops")
	if reasons := packet.Reasons(); rapid.Bool().Draw(t, "has reason") {
		f.Reason = rapid.SampledFrom(reasons).Draw(t, "reason").String()
	}
	return f
}

func anyEndpoint(t *rapid.T, name string) (e Endpoint) {
	if rapid.Bool().Draw(t, name+" has address") {
		bytes := rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, name)
		a := netip.AddrFrom16([16]byte(bytes))
		if rapid.Bool().Draw(t, name+" is 4") {
			a = netip.AddrFrom4([4]byte(bytes[:4]))
		}
		a = a.Unmap()
		e.Network = netip.PrefixFrom(a, rapid.IntRange(0, a.BitLen()).Draw(t, name+" bits")).Masked()
	}
	if rapid.Bool().Draw(t, name+" has port") {
		e.Port = rapid.Uint16().Draw(t, name+" port")
	}
	return e
}

// FuzzParseFilter: no text ends it, and what it takes it writes back the same.
func FuzzParseFilter(f *testing.F) {
	for _, text := range []string{
		"client 198.51.100.0/24:80 and vip [2001:db8::22]:53/udp server rs1 service \"my web\" port p0 drops drop no-server",
		"client [::ffff:1.2.3.4]:1 proto 47", "vip ::ffff:0.0.0.0/95", "\"\\x00", "drops\nand\xff", "server [::FFFF:1.2.3.4]:80",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		first, err := ParseFilter(text)
		if err != nil {
			var place *FilterError
			if !errors.As(err, &place) || place.Line < 1 || place.Column < 1 || strings.Contains(place.Message, "\n") {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		if second, err := ParseFilter(first.String()); err != nil || second != first {
			t.Fatalf("%q is %+v, written %q, read as %+v, %v", text, first, first.String(), second, err)
		}
	})
}
