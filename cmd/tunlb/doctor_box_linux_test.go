package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tunlb/tunlb/labnet"
	"github.com/tunlb/tunlb/tunlb/doctor"
)

// passes says whether a client gets an answer soon.
func (s *site) passes(node, vip string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 700*time.Millisecond)
	defer cancel()
	conn, err := s.lab.NS(node).DialContext(ctx, "tcp", vip)
	if err != nil {
		return false
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(700 * time.Millisecond)); err != nil {
		return false
	}
	fmt.Fprint(conn, "GET / HTTP/1.0\r\n\r\n")
	n, _ := conn.Read(make([]byte, 1))
	return n == 1
}

// nft changes lb's packet filter; the test is skipped where there is none.
func (s *site) nft(rules string) {
	s.t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		s.t.Skip(err)
	}
	s.run("lb", "nft", rules)
}

// TestDoctorNetfilter: filters that eat tunlb's packets are found, named, and mended by the command that comes with
// them; those that do not are no trouble.
func TestDoctorNetfilter(t *testing.T) {
	needLab(t)
	const (
		forward   = "add table inet t; add chain inet t c { type filter hook forward priority 0; policy drop; }; "
		accepting = "add table inet t; add chain inet t c { type filter hook forward priority 0; policy accept; }; "
		bothWays  = "nft 'insert rule inet t c iifname tunlb0 accept; insert rule inet t c oifname tunlb0 accept'"
	)
	for _, test := range []struct {
		name, rules string
		blocks      bool
		want        []doctor.Finding
	}{
		{"policy", forward, true, []doctor.Finding{{Severity: doctor.Fail, Check: "netfilter", Subject: "inet t c", Text: "its policy, and no rule accepts them", Fix: bothWays}}},
		{"policy, answers alone accepted", forward + "add rule inet t c ct state { established, related } accept", true,
			[]doctor.Finding{{Severity: doctor.Fail, Check: "netfilter", Subject: "inet t c", Text: "drops clients' requests from eth0 to tunlb0: its policy, and no rule accepts them", Fix: bothWays}}},
		{"policy, in a chain behind", forward + `add chain inet t d; add rule inet t c iifname != "lo" goto d; add rule inet t d oifname "docker*" accept`, true,
			[]doctor.Finding{{Severity: doctor.Fail, Check: "netfilter", Subject: "inet t c", Text: "its policy, and no rule accepts them", Fix: bothWays}}},
		{"a rule", accepting + `add chain inet t d; add rule inet t c jump d; add rule inet t d iifname { "eth0", "eth7" } counter reject`, true,
			[]doctor.Finding{{Severity: doctor.Fail, Check: "netfilter", Subject: "inet t d", Text: "drops clients' requests from eth0 to tunlb0: a rule of it does", Fix: strings.ReplaceAll(bothWays, " c ", " d ")}}},
		{"the way back", "add table inet t; add chain inet t p { type filter hook prerouting priority -150; }; add rule inet t p fib saddr . iif oif missing drop", true,
			[]doctor.Finding{{Severity: doctor.Fail, Check: "netfilter", Subject: "inet t p", Text: "a reverse path filter, since their sources are not behind tunlb0", Fix: "nft 'insert rule inet t p iifname tunlb0 accept'"}}},
		{"another family's", "add table ip6 t; add chain ip6 t c { type filter hook forward priority 0; policy drop; }; add rule ip6 t c meta oif tunlb0 accept; add rule ip6 t c meta iif tunlb0 accept", false, nil},
		{"all that is needed accepted", forward + `add rule inet t c ct state vmap { established : accept, related : accept, invalid : drop }; add rule inet t c iifname "eth0" oifname "tunlb*" accept; add rule inet t c iifname "tunlb0" accept`, false, nil},
		{"strays dropped", accepting + "add rule inet t c ct state invalid drop", false, nil},
		{"only who knows", forward + "add rule inet t c ip daddr { 203.0.113.22, 192.168.0.0/24 } accept; add rule inet t c ip saddr { 203.0.113.22, 192.168.0.0/24 } accept", false, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := openSite(t, labnet.StoryOptions{}, storyConfig)
			s.nft(test.rules)
			if got := s.passes("client", "203.0.113.22:80"); got == test.blocks {
				t.Fatalf("a request passes: %t; the test is not what it says", got)
			}
			list := s.findings()
			s.wantTroubles(slices.DeleteFunc(slices.Clone(list), func(f doctor.Finding) bool { return f.Check == "server" || f.Check == "gateway" }), test.want...)
			if len(test.want) == 0 {
				return
			}
			s.mend(slices.DeleteFunc(list, func(f doctor.Finding) bool { return f.Check != "netfilter" }))
			s.get("client", "http://203.0.113.22/")
			s.get("client", "http://[2001:db8:113::22]/")
			s.wantTroubles(s.findings())
		})
	}
}

// TestDoctorStrays: connection tracking does not see the answers of directly routed servers, and a filter that drops what
// it takes for strays ends their connections after the first packet.
func TestDoctorStrays(t *testing.T) {
	needLab(t)
	s := openDirector(t, false)
	s.write(`
services:
  - {name: web, listen: 203.0.113.22:80/tcp, mode: dr, scheduler: rr, servers: [203.0.113.10, 203.0.113.11]}
`)
	s.start()
	t.Cleanup(s.stop)
	s.get("remote", "http://203.0.113.22/")
	s.nft("add table inet t; add chain inet t c { type filter hook forward priority 0; }; add rule inet t c ct state invalid drop")
	if s.passes("remote", "203.0.113.22:80") {
		t.Fatal("a request passes; the test is not what it says")
	}
	list := s.findings()
	found := slices.DeleteFunc(troubles(list), func(f doctor.Finding) bool { return f.Check != "netfilter" })
	s.wantTroubles(found, doctor.Finding{
		Severity: doctor.Fail, Check: "netfilter", Subject: "inet t c", Text: "drops all but the first packet of directly routed connections",
		Fix: "nft 'insert rule inet t c iifname tunlb0 accept; insert rule inet t c oifname tunlb0 accept'",
	})
	s.mend(found)
	s.get("remote", "http://203.0.113.22/")
	s.wantTroubles(slices.DeleteFunc(s.findings(), func(f doctor.Finding) bool { return f.Check != "netfilter" }))
}

// TestDoctorAcceptLocal: the box pings its own VIP.
func TestDoctorAcceptLocal(t *testing.T) {
	needLab(t)
	s := openSite(t, labnet.StoryOptions{OwnVIP: true}, storyConfig)
	s.ping("lb", labnet.VIP)
	s.wantTroubles(s.findings())
	s.run("lb", "sysctl", "-w", "net.ipv4.conf.tunlb0.accept_local=0")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if s.lab.NS("lb").Command(ctx, "ping", "-c", "1", "-W", "1", labnet.VIP).Run() == nil {
		t.Error("the ping is answered; the test is not what it says")
	}
	s.get("client", "http://203.0.113.22/")
	list := s.findings()
	s.wantTroubles(list, doctor.Finding{Severity: doctor.Warn, Check: "accept_local", Subject: "tunlb0", Text: "own pings of 203.0.113.22", Fix: "sysctl -w net.ipv4.conf.tunlb0.accept_local=1"})
	s.mend(list)
	s.ping("lb", labnet.VIP)
	s.wantTroubles(s.findings())
}

// TestDoctorDeviceOffload: somebody takes super-packets away from tunlb's device.
func TestDoctorDeviceOffload(t *testing.T) {
	needLab(t)
	if _, err := exec.LookPath("ethtool"); err != nil {
		t.Skip(err)
	}
	s := openSite(t, labnet.StoryOptions{}, storyConfig)
	s.run("lb", "ethtool", "-K", "tunlb0", "tso", "off")
	list := s.findings()
	s.wantTroubles(list, doctor.Finding{Severity: doctor.Warn, Check: "offload", Subject: "tunlb0", Text: "takes no super-packets any more", Fix: "ethtool -K tunlb0 tx on tso on"})
	s.mend(list)
	s.wantTroubles(s.findings())
}

// TestDoctorTranslation: a server that calls its own VIP, and who else is on its link, is seen by tunlb's address.
func TestDoctorTranslation(t *testing.T) {
	needLab(t)
	s := openSite(t, labnet.StoryOptions{}, echoConfig)
	about := func() (texts []string) {
		for _, f := range s.findings() {
			if f.Check == "translation" {
				texts = append(texts, f.Text)
			}
		}
		return texts
	}
	if got := about(); len(got) > 0 {
		t.Errorf("before anybody has asked: %q", got)
	}
	s.echo(s.dial("rs1", "tcp", "203.0.113.22:7"), []byte("x"))
	if got := about(); len(got) != 2 || !strings.Contains(got[0], "clients on eth1 are on the servers' own link") || !strings.Contains(got[1], "1 connection now with a translated source") {
		t.Errorf("a server is a client: %q", got)
	}
}

// TestDoctorLocalPorts: the gateway's ports are none of the box's own.
func TestDoctorLocalPorts(t *testing.T) {
	needLab(t)
	s := openSite(t, labnet.StoryOptions{}, storyConfig+"gateway:\n  - {inside: 192.168.0.0/24, masquerade: 198.51.100.1, ports: 61000-65534}\n")
	s.run("lb", "sysctl", "-w", "net.ipv4.ip_local_port_range=32768 60999")
	s.wantTroubles(s.findings())
	s.run("lb", "sysctl", "-w", "net.ipv4.ip_local_port_range=32768 62000")
	list := s.findings()
	s.wantTroubles(list, doctor.Finding{
		Severity: doctor.Warn, Check: "local_ports", Subject: "198.51.100.1", Text: "the gateway has its ports 61000-65534", Fix: "sysctl -w net.ipv4.ip_local_port_range='32768 60999'",
	})
	s.mend(list)
	s.wantTroubles(s.findings())
}

// TestDoctorMetrics: the endpoint's address is taken before the start, and the endpoint gone later.
func TestDoctorMetrics(t *testing.T) {
	needLab(t)
	s := openLab(t, labnet.Story(labnet.StoryOptions{}), metricsAt(metricsAddress)+storyConfig)
	taken, err := s.lab.NS("lb").Listen("tcp", metricsAddress)
	s.must(err)
	s.wantTroubles(s.findings("-f", s.config), doctor.Finding{
		Severity: doctor.Fail, Check: "metrics", Subject: metricsAddress, Text: "is taken by another program", Fix: "ss -ltnp 'sport = :9474'  # shows the program to stop",
	})
	taken.Close()
	s.wantTroubles(s.findings("-f", s.config))
	s.start()
	t.Cleanup(s.stop)
	s.wantTroubles(s.findings())
	s.write(metricsAt("[::1]:9475") + storyConfig)
	list := s.findings()
	s.wantTroubles(list, doctor.Finding{Severity: doctor.Warn, Check: "metrics", Subject: "[::1]:9475", Text: "are not to be had here", Fix: "tunlb reload"})
	s.done("reload")
	s.wantTroubles(s.findings())
}

// TestDoctorUserNamespaces: in a user namespace that allows no further ones, and after its own word has been heeded.
func TestDoctorUserNamespaces(t *testing.T) {
	needLab(t)
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Skip(err)
	}
	s := openLab(t, labnet.Story(labnet.StoryOptions{Servers: 1}), demoConfig)
	in := func(first string) (found []doctor.Finding) {
		cmd := s.command("doctor", "-o", "json", "-f", s.config)
		cmd.Args = append([]string{"unshare", "-Ur", "sh", "-c", first + ` && exec "$0" "$@"`}, append([]string{cmd.Path}, cmd.Args[1:]...)...)
		cmd.Path = unshare
		out, err := cmd.Output()
		if cmd.ProcessState == nil {
			t.Fatal(err)
		}
		var r doctor.Report
		if err := json.Unmarshal(out, &r); err != nil {
			t.Skipf("no user namespaces here: %v", err)
		}
		return slices.DeleteFunc(r.Findings, func(f doctor.Finding) bool { return f.Check != "userns" })
	}
	want := doctor.Finding{Severity: doctor.Warn, Check: "userns", Subject: "user namespaces", Text: "user.max_user_namespaces is 0", Fix: "sysctl -w user.max_user_namespaces=15000"}
	s.wantTroubles(in("sysctl -q -w user.max_user_namespaces=0"), want)
	s.wantTroubles(in("sysctl -q -w user.max_user_namespaces=0 && " + want.Fix + " >/dev/null"))
}
