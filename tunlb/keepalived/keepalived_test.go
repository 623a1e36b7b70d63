package keepalived_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb/keepalived"
)

func read(t *testing.T, text string) keepalived.Services {
	t.Helper()
	services, err := keepalived.Import(keepalived.Source{Name: "k", Text: []byte(text)}, nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return services
}

// TestGrammar: these say the same.
func TestGrammar(t *testing.T) {
	const plain = "virtual_server 203.0.113.22 80 {\n lb_algo wrr\n alpha\n real_server 192.168.0.10 80 {\n weight 3\n TCP_CHECK {\n connect_timeout 2\n }\n }\n}\n"
	want := read(t, plain)
	if len(want.Specs) != 1 || len(want.Notes) != 0 || len(want.Specs[0].Servers) != 1 || want.Specs[0].Health.Timeout != 2*time.Second {
		t.Fatalf("%+v", want)
	}
	for name, text := range map[string]string{
		"in a line":              strings.ReplaceAll(plain, "\n", " "),
		"braces in their lines":  strings.ReplaceAll(plain, "{", "\n{\n"),
		"braces without space":   strings.NewReplacer(" {", "{", "\n }", "}").Replace(plain),
		"comments":               "! a\n# b {\n" + strings.ReplaceAll(plain, "\n", " ! } \n#}\n"),
		"Windows' lines":         strings.ReplaceAll(plain, "\n", "\r\n"),
		"quotes":                 strings.NewReplacer("wrr", `"wrr"`, "weight 3", `weight "3"`).Replace(plain),
		"variables":              "$ALGO = wrr\n$NET=192.168\n" + strings.NewReplacer("wrr", "$ALGO", "192.168", "${NET}").Replace(plain),
		"a variable of lines":    "$C=TCP_CHECK { \\\n connect_timeout 2 \\\n }\n" + strings.Replace(plain, "TCP_CHECK {\n connect_timeout 2\n }", "$C", 1),
		"new names of keywords":  strings.ReplaceAll(plain, "lb_algo", "lvs_sched"),
		"of the service's group": "virtual_server_group 203.0.113.22:80/tcp {\n203.0.113.22 80\n}\n" + strings.Replace(plain, "203.0.113.22 80", "group 203.0.113.22:80/tcp", 1),
		"timing of the service":  strings.NewReplacer("alpha", "alpha\nconnect_timeout 2", "TCP_CHECK {\n connect_timeout 2\n", "TCP_CHECK {\n").Replace(plain),
		"timing of the server":   strings.NewReplacer("weight", "connect_timeout 2\nweight", "TCP_CHECK {\n connect_timeout 2\n", "TCP_CHECK {\n").Replace(plain),
	} {
		got := read(t, text)
		if len(got.Specs) == 1 && got.Specs[0].Name != "" {
			got.Specs[0].Name = "" // the group's
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %+v\n%s", name, got, text)
		}
	}
}

func TestErrors(t *testing.T) {
	loop := func(from, pattern string) ([]keepalived.Source, error) {
		if pattern == "missing" {
			return nil, errors.New("permission denied")
		}
		return []keepalived.Source{{Name: pattern, Text: []byte("x 1\ninclude " + pattern)}}, nil
	}
	for text, want := range map[string]string{
		"a {\n b {\n }\n":            `k:1: block of "a" has no end`,
		"a\n}\n":                     "k:2: } without a block",
		"\n{\n}\n":                   "k:2: { without a keyword",
		"a {\n}\n{\n}\n":             "k:3: { without a keyword",
		"a \"b\nc\n":                 "k:1: text in quotes has no end",
		"include x":                  "x:2: include x: more than 16 files",
		"\ninclude missing\n":        "k:2: include missing: permission denied",
		strings.Repeat("a {\n", 100): "blocks within each other more than 64 deep",
		"$A=" + strings.Repeat("x", 1000) + "\n$B=" + strings.Repeat("$A", 50) + "\n$C=" + strings.Repeat("$B", 50) + "\n": "k:3: line grows over 65536 bytes",
	} {
		_, err := keepalived.Import(keepalived.Source{Name: "k", Text: []byte(text)}, loop)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", text, err, want)
		}
	}
}

// TestNotes: what cannot be had leaves a note with its place, and the rest goes on.
func TestNotes(t *testing.T) {
	service := func(more string) string {
		return "virtual_server 203.0.113.22 80 {\nalpha\ninhibit_on_failure\nreal_server 192.168.0.10 80 {\n" + more + "\n}\n}\n"
	}
	for text, want := range map[string]string{
		"whatever 1":                                               "k:1: whatever 1: tunlb has no such thing",
		"global_defs {\nlvs_timeouts udp x\n}":                     `k:2: lvs_timeouts udp x: "x" is no number of seconds from 1 to 1728000`,
		"global_defs {\nlvs_timeouts tcp 0\n}":                     `"0" is no number of seconds`,
		"global_defs {\nlvs_timeouts tcp 1728001\n}":               `"1728001" is no number of seconds`,
		"global_defs {\nlvs_timeouts sctp 9\n}":                    `"sctp" is no timeout`,
		"global_defs {\nlvs_timeouts\n}":                           "it has no timeout",
		"global_defs {\nlvs_timeouts udp\n}":                       `"" is no number of seconds`,
		"global_defs {\n}":                                         "it is about keepalived itself",
		"include *.conf":                                           "k:1: include *.conf: other files",
		"virtual_server {\n}":                                      "k:1: virtual_server: it has no address",
		"virtual_server x 80 {\n}":                                 `"x" is no address`,
		"virtual_server 1.2.3.4 x {\n}":                            `"x" is no port`,
		"virtual_server 1.2.3.4-1 80 {\n}":                         `"1.2.3.4-1" is no range`,
		"virtual_server fe80::1%lo 80 {\n}":                        "is no address",
		"virtual_server 1.2.3.4 80-79 {\n}":                        "is no port",
		"virtual_server fd00::-ffff 80 {\n}":                       "more than 256 addresses",
		"virtual_server 1.2.3.4 0-79 {\n}":                         "is no port",
		"virtual_server group g {\n}":                              "there is no such virtual_server_group",
		"virtual_server_group g {\n}\nvirtual_server group g {\n}": "its group has no address",
		"virtual_server 1.2.3.4 80 {\nreal_server\n}":              "k:2: real_server: it has no address",
		"virtual_server 1.2.3.4 80 {\nsh-port\n}":                  "has no such flag",
		"virtual_server 1.2.3.4 80 {\nquorum x\n}":                 `k:2: quorum x: "x" is no number`,
		"virtual_server 1.2.3.4 80 {\nquorum 3\n}":                 "all servers together weigh 0",
		"virtual_server 1.2.3.4 80 {\ndelay_loop -1\n}":            "is no number of seconds",
		"virtual_server 1.2.3.4 80 {\ndelay_loop NaN\n}":           "is no number of seconds",
		"virtual_server 1.2.3.4 80 {\npersistence_granularity 255.0.255.0\npersistence_timeout 5\n}": "is no netmask",
		"virtual_server 1.2.3.4 80 {\npersistence_granularity 255.0.0.0\n}":                          "there is no persistence_timeout",
		"virtual_server 1.2.3.4 80 {\nsorry_server 1.1.1.1 80\nsorry_server 1.1.1.2 80\n}":           "k:3: sorry_server 1.1.1.2 80: there is one already",
		service("HTTP_GET { url { regex \"(?!x)\" } }"):                                              "body is RE2",
		service("HTTP_GET { url { status_code 999 } }"):                                              `"999" is no status`,
		service("MISC_CHECK { }"):                             "it has no misc_path",
		service("UDP_CHECK { payload xx }"):                   "it is not hexadecimal",
		service("UDP_CHECK { payload 00 }"):                   "payload without require_reply",
		service("UDP_CHECK { require_reply 00ff }"):           "it is no ASCII text",
		service("DNS_CHECK { type MX }"):                      "there is no such type of records",
		service("TCP_CHECK { connect_ip 1.1.1.1 }"):           "k:5: connect_ip 1.1.1.1: checks go to the server's own address",
		strings.Replace(service("TCP_CHECK"), "alpha", "", 1): "no alpha",
		service("lvs_method TUN"):                             "tunnels are not served yet",
	} {
		got := read(t, text)
		if n := slices.IndexFunc(got.Notes, func(s string) bool { return strings.Contains(s, want) }); n < 0 || len(got.Notes) != 1 {
			t.Errorf("%q: notes %q, want %q", text, got.Notes, want)
		}
	}
}

func TestTimeouts(t *testing.T) {
	for text, want := range map[string]policy.Timeouts{
		"tcp 7200 tcpfin 90 udp 240": {Established: 2 * time.Hour, FinWait: 90 * time.Second, UDP: 4 * time.Minute},
		"udp 1728000":                {UDP: 480 * time.Hour},
	} {
		if got := read(t, "global_defs {\nlvs_timeouts "+text+"\n}\n"); got.Timeouts != want || len(got.Notes) != 0 {
			t.Errorf("%s: %+v", text, got)
		}
	}
	got := read(t, "global_defs {\nrouter_id x\nlvs_timeouts tcp 9\n}\n")
	if got.Timeouts.Established != 9*time.Second || len(got.Notes) != 1 {
		t.Errorf("beside what is keepalived's: %+v", got)
	}
}

// TestWarning: servers that get another one's check are counted and named, those that have the same one are not.
func TestWarning(t *testing.T) {
	for _, family := range [][3]string{{"203.0.113.22", "192.168.0.10", "192.168.0.11"}, {"2001:db8::22", "2001:db8::10", "2001:db8::11"}} {
		server := func(i int, check string) string {
			return "real_server " + family[i] + " 80 {\n" + check + "\n}\n"
		}
		for _, c := range []struct{ servers, want string }{
			{server(1, "TCP_CHECK") + server(2, "TCP_CHECK"), ""},
			{server(1, "") + server(2, ""), ""},
			{server(1, "TCP_CHECK") + server(2, "PING_CHECK"), "1 server is not checked as in keepalived, but by the first check of the service: " + family[2] + " 80 (k:5)"},
			{server(1, "SMTP_CHECK") + server(2, "TCP_CHECK") + server(2, "PING_CHECK"),
				"2 servers are not checked as in keepalived, but by the first check of the service: " + family[2] + " 80 (k:8), " + family[1] + " 80 (k:2)"},
		} {
			if got := read(t, "virtual_server "+family[0]+" 80 {\n"+c.servers+"}\n"); got.Warning != c.want {
				t.Errorf("%q: got %q, want %q", c.servers, got.Warning, c.want)
			}
		}
	}
}

// TestChecks: IPv4 and IPv6 alike.
func TestChecks(t *testing.T) {
	base := policy.Health{Interval: time.Minute, Timeout: 5 * time.Second, Rise: 1, Fall: 2}
	with := func(change func(*policy.Health)) policy.Health {
		h := base
		change(&h)
		return h
	}
	ok := []policy.StatusRange{{First: 200, Last: 299}}
	for text, want := range map[string]policy.Health{
		"TCP_CHECK":                     with(func(h *policy.Health) { h.Type = "tcp" }),
		"PING_CHECK { retry 0 }":        with(func(h *policy.Health) { h.Type, h.Fall = "icmp", 1 }),
		"TCP_CHECK { connect_port 80 }": with(func(h *policy.Health) { h.Type = "tcp" }), // the server's
		"delay_loop 2\nTCP_CHECK { connect_port 81\nconnect_timeout 1 }": with(func(h *policy.Health) { h.Type, h.Port, h.Interval, h.Timeout = "tcp", 81, 2*time.Second, time.Second }),
		"virtualhost a\nHTTP_GET { url { path /x } }":                    with(func(h *policy.Health) { h.Type, h.Host, h.Path, h.Statuses = "http", "a", "/x", ok }),
		"SSL_GET { virtualhost b\nurl { virtualhost c\nstatus_code 404 } }": with(func(h *policy.Health) {
			h.Type, h.Host, h.Path, h.Insecure, h.Statuses = "https", "c", "/", true, []policy.StatusRange{{First: 404, Last: 404}}
		}),
		"MISC_CHECK { misc_path \"/bin/a 'b c' \\\"d\\\" ''\" }": with(func(h *policy.Health) {
			h.Type, h.Timeout, h.Command = "exec", time.Minute, []string{"/bin/a", "b c", "d", ""}
		}),
		"DNS_CHECK":            with(func(h *policy.Health) { h.Type, h.Record = "dns", "SOA" }),
		"DNS_CHECK { name . }": with(func(h *policy.Health) { h.Type, h.Record = "dns", "SOA" }),
		"UDP_CHECK":            with(func(h *policy.Health) { h.Type = "udp" }),
		"UDP_CHECK { payload \"41 0\" 0\nrequire_reply 2b 41 }": with(func(h *policy.Health) { h.Type, h.Send, h.Reply = "udp", "A\x00", `^\+A` }),
	} {
		for _, family := range [][2]string{{"203.0.113.22", "192.168.0.10"}, {"2001:db8::22", "2001:db8::10"}} {
			got := read(t, "virtual_server "+family[0]+" 80 {\nalpha\ninhibit_on_failure\nreal_server "+family[1]+" 80 {\n"+text+"\n}\n}\n")
			if len(got.Specs) != 1 || fmt.Sprintf("%+v", got.Specs[0].Health) != fmt.Sprintf("%+v", want) {
				t.Errorf("%q: %+v\nwant %+v", text, got.Specs, want)
				continue
			}
			if len(got.Notes) != 0 {
				t.Errorf("%q: notes %q", text, got.Notes)
			}
			if at := got.Specs[0].Servers[0].Address; at != netip.AddrPortFrom(netip.MustParseAddr(family[1]), 80) {
				t.Errorf("%q: server %v", text, at)
			}
		}
	}
}

// FuzzImport: nothing panics or runs away, and what comes of it are specs that a table takes, each by itself.
func FuzzImport(f *testing.F) {
	f.Add("$A=1\nvirtual_server 203.0.113.22-23 80 {\nlb_kind DR\nreal_server 192.168.0.10 $A {\nHTTP_GET { url { path / status_code 200-299 301 } }\n}\nsorry_server 1.1.1.1 80\n}\n")
	f.Add("virtual_server_group g {\nfd00::1-f 1-9\n1.1.1.1 5\n}\nvirtual_server group g { protocol UDP ops lb_algo mh mh-port persistence_timeout 5 persistence_granularity 64 }")
	f.Add("a \"b\\\"\" { } @x y {\n}\ninclude z\n")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := keepalived.Import(keepalived.Source{Name: "k", Text: []byte(text)}, nil)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "k:") {
				t.Fatalf("an error without a place: %v", err)
			}
			return
		}
		for _, spec := range got.Specs {
			if len(spec.Listen) == 0 {
				t.Fatalf("%+v listens nowhere", spec)
			}
			_, err := policy.Normalize([]policy.Spec{spec})
			if err != nil && !errors.Is(err, policy.ErrDuplicateServer) && !errors.Is(err, policy.ErrDuplicateService) && !errors.Is(err, policy.ErrOnePacket) {
				t.Fatalf("%v: %+v", err, spec)
			}
		}
	})
}
