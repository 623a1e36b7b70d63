package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tunlb/tunlb/labnet"
	"github.com/tunlb/tunlb/tunlb/doctor"
)

// findings runs doctor on lb and wants it to end in time, with the exit code that goes with what it found.
func (s *site) findings(args ...string) []doctor.Finding {
	s.t.Helper()
	began := time.Now()
	stdout, stderr, code := s.tunlb(append([]string{"doctor", "-o", "json"}, args...)...)
	if took := time.Since(began); took > doctor.Patience+time.Second { // a start under the race detector is slow
		s.t.Errorf("doctor took %v", took)
	}
	var r doctor.Report
	if err := json.Unmarshal([]byte(stdout), &r); err != nil {
		s.t.Fatalf("doctor: exit %d, %v\n%s%s", code, err, stdout, stderr)
	}
	if want := min(r.Count(doctor.Fail), 1) * exitFailed; code != want {
		s.t.Errorf("doctor: exit %d, want %d\n%s%s", code, want, stdout, stderr)
	}
	return r.Findings
}

// troubles are the findings that are worse than a note.
func troubles(list []doctor.Finding) []doctor.Finding {
	return slices.DeleteFunc(slices.Clone(list), func(f doctor.Finding) bool { return f.Severity == doctor.OK || f.Severity == doctor.Note })
}

// wantTroubles compares all that is worse than a note. Text may be a part of what it is.
func (s *site) wantTroubles(got []doctor.Finding, want ...doctor.Finding) {
	s.t.Helper()
	got = troubles(got)
	for i := range got {
		if i < len(want) && strings.Contains(got[i].Text, want[i].Text) {
			got[i].Text = want[i].Text
		}
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(doctor.Finding{})); diff != "" {
		s.t.Errorf("findings (-want +got):\n%s", diff)
	}
}

// mend runs the fixes as they are printed, each where its comment says.
func (s *site) mend(list []doctor.Finding) {
	s.t.Helper()
	fixed := false
	for _, f := range troubles(list) {
		node := "lb"
		if _, comment, ok := strings.Cut(f.Fix, "  # on "); ok {
			node = comment
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if out, err := s.lab.NS(node).Command(ctx, "sh", "-c", f.Fix).CombinedOutput(); err != nil {
			s.t.Errorf("on %s: %s: %v\n%s", node, f.Fix, err, out)
		}
		fixed = true
	}
	if !fixed {
		s.t.Error("there was nothing to mend")
	}
}

func (s *site) run(node string, args ...string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if out, err := s.lab.NS(node).Command(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
		s.t.Fatalf("on %s: %v: %v\n%s", node, args, err, out)
	}
}

// TestDoctorHealthy: nothing is wrong, before the start and later, and doctor changes nothing.
func TestDoctorHealthy(t *testing.T) {
	offloads(t, func(t *testing.T, off bool) {
		for _, own := range []bool{false, true} {
			t.Run(fmt.Sprintf("own-vip=%v", own), func(t *testing.T) {
				s := openLab(t, labnet.Story(labnet.StoryOptions{OwnVIP: own, NoOffload: off}), storyConfig)
				s.wantTroubles(s.findings("-f", s.config))
				s.wantTroubles(s.findings())
				s.unchanged()
				s.start()
				t.Cleanup(s.stop)
				for _, vip := range vips {
					s.sequence("client", "http://"+hostPort(vip, 80)+"/", 3)
				}
				before := s.network()
				list := s.findings()
				s.wantTroubles(list)
				if diff := cmp.Diff(before, s.network()); diff != "" {
					t.Errorf("doctor has changed (-before +after):\n%s", diff)
				}
				for _, check := range []string{"control", "file", "rules", "gateway", "neighbour"} {
					if !slices.ContainsFunc(list, func(f doctor.Finding) bool { return f.Check == check && f.Severity == doctor.OK }) {
						t.Errorf("%s was not looked at", check)
					}
				}
			})
		}
	})
}

// TestDoctorText: what people see: aligned, a fix below its finding, no escapes.
func TestDoctorText(t *testing.T) {
	needLab(t)
	s := openSite(t, labnet.StoryOptions{}, storyConfig)
	s.until("doctor finds it", func() error { // tunlb mends it itself when the box's addresses change, as they may after a start
		s.run("lb", "sysctl", "-w", "net.ipv4.conf.tunlb0.rp_filter=1")
		stdout, _, code := s.tunlb("doctor")
		if code != exitFailed || !strings.Contains(stdout, "\n      fix: sysctl -w net.ipv4.conf.tunlb0.rp_filter=2\n") ||
			!strings.Contains(stdout, "\nfail  rp_filter   tunlb0 ") || !strings.Contains(stdout, "\n1 failed, 0 warnings") || strings.Contains(stdout, "\x1b") {
			return fmt.Errorf("exit %d\n%s", code, stdout)
		}
		return nil
	})
}

// TestDoctorReversePath: strict filters, on tunlb's device and on one whose clients have their way back elsewhere.
func TestDoctorReversePath(t *testing.T) {
	needLab(t)
	s := openSite(t, labnet.StoryOptions{}, storyConfig)
	s.run("lb", "sysctl", "-w", "net.ipv4.conf.eth0.rp_filter=1") // by itself it does no harm
	s.get("client", "http://203.0.113.22/")
	s.wantTroubles(s.findings())

	s.run("lb", "sysctl", "-w", "net.ipv4.conf.tunlb0.rp_filter=1")
	list := s.findings()
	s.wantTroubles(list, doctor.Finding{
		Severity: doctor.Fail, Check: "rp_filter", Subject: "tunlb0", Text: "strict", Fix: "sysctl -w net.ipv4.conf.tunlb0.rp_filter=2",
	})
	s.mend(list)
	s.wantTroubles(s.findings())
	s.get("client", "http://203.0.113.22/")

	s.run("lb", "ip", "route", "add", "198.51.100.7", "dev", "eth1")
	conn, err := s.lab.NS("client").DialFrom(context.Background(), "udp", netip.AddrPortFrom(netip.IPv4Unspecified(), 0), netip.MustParseAddrPort("203.0.113.22:7"))
	s.must(err)
	defer conn.Close()
	s.until("the kernel drops it", func() error {
		if _, err := conn.Write([]byte("?")); err != nil {
			return err
		}
		if len(troubles(s.findings())) == 0 {
			return fmt.Errorf("no finding")
		}
		return nil
	})
	list = s.findings()
	s.wantTroubles(list, doctor.Finding{
		Severity: doctor.Warn, Check: "rp_filter", Subject: "eth0", Text: "rp_filter is strict, and has dropped", Fix: "sysctl -w net.ipv4.conf.eth0.rp_filter=2",
	})
	s.mend(list)
	s.wantTroubles(s.findings())
	s.run("lb", "ip", "route", "del", "198.51.100.7", "dev", "eth1") // back to what it was
}

// TestDoctorForwarding: before the start it is tunlb's to switch it on; later it must stay so.
func TestDoctorForwarding(t *testing.T) {
	needLab(t)
	topology := labnet.Story(labnet.StoryOptions{})
	for i := range topology.Nodes {
		topology.Nodes[i].Forward = topology.Nodes[i].Name != "lb" && topology.Nodes[i].Forward
	}
	s := openLab(t, topology, storyConfig)
	list := s.findings("-f", s.config)
	s.wantTroubles(list)
	if !slices.ContainsFunc(list, func(f doctor.Finding) bool {
		return f.Severity == doctor.Note && f.Subject == "net.ipv4.ip_forward" && strings.Contains(f.Text, "tunlb switches it on when it starts")
	}) {
		t.Errorf("no note about forwarding: %+v", list)
	}
	s.start()
	t.Cleanup(s.stop)
	s.wantTroubles(s.findings())
	s.run("lb", "sysctl", "-w", "net.ipv4.ip_forward=0")
	list = s.findings()
	s.wantTroubles(list, doctor.Finding{
		Severity: doctor.Fail, Check: "forwarding", Subject: "net.ipv4.ip_forward", Text: "is 0", Fix: "sysctl -w net.ipv4.ip_forward=1",
	})
	s.mend(list)
	s.wantTroubles(s.findings())
	s.run("lb", "sysctl", "-w", "net.ipv4.conf.eth1.forwarding=0")
	list = s.findings()
	s.wantTroubles(list, doctor.Finding{
		Severity: doctor.Fail, Check: "forwarding", Subject: "eth1", Text: "forwards nothing that comes in by it", Fix: "sysctl -w net.ipv4.conf.eth1.forwarding=1",
	})
	s.mend(list)
	s.wantTroubles(s.findings())
	s.get("client", "http://203.0.113.22/")
}

// TestDoctorGateway: a server whose default gateway is not the box gets requests and answers none.
func TestDoctorGateway(t *testing.T) {
	needLab(t)
	s := openSite(t, labnet.StoryOptions{}, storyConfig)
	for i, vip := range vips {
		ip := []string{"ip", "-6"}[:i+1]
		s.run("rs2", append(slices.Clone(ip), "route", "del", "default")...)
		var waiting []net.Conn
		for range 3 { // one of them for rs2: the second SYN tells that the first was not answered
			ctx, cancel := context.WithTimeout(context.Background(), 1500*time.Millisecond)
			conn, err := s.lab.NS("client").DialContext(ctx, "tcp", hostPort(vip, 80))
			cancel()
			if err == nil {
				waiting = append(waiting, conn)
			}
		}
		if len(waiting) != 2 {
			t.Errorf("%s: %d of 3 connections are answered, want 2", vip, len(waiting))
		}
		for _, conn := range waiting {
			conn.Close()
		}
		service, fix := []string{"web/rs2", "web6/rs2"}[i], []string{"ip route replace default via 192.168.0.100  # on rs2", "ip -6 route replace default via 2001:db8:c0::100  # on rs2"}[i]
		list := s.findings()
		s.wantTroubles(list, doctor.Finding{
			Severity: doctor.Fail, Check: "gateway", Subject: service, Text: "has got 2 packets and answered none: its default gateway is probably not this box", Fix: fix,
		})
		s.mend(list)
		s.sequence("client", "http://"+hostPort(vip, 80)+"/", 3)
		s.wantTroubles(s.findings())
	}
}

// TestDoctorServers: one that is off, and one that nothing listens on.
func TestDoctorServers(t *testing.T) {
	needLab(t)
	for _, running := range []bool{false, true} {
		s := openLab(t, labnet.Story(labnet.StoryOptions{}), `services:
  - {name: web, listen: "203.0.113.22:80/tcp", servers: [{name: rs1, address: "192.168.0.10:8080"}, {name: rs2, address: "192.168.0.11:8080"}]}
  - {name: web6, listen: "[2001:db8:113::22]:80/tcp", servers: [{name: rs3, address: "[2001:db8:c0::12]:99"}, {name: rs2, address: "[2001:db8:c0::11]:8080"}]}
`)
		if running {
			s.start()
			t.Cleanup(s.stop)
		}
		s.run("rs2", "ip", "addr", "del", "192.168.0.11/24", "dev", "eth0")
		s.run("rs2", "ip", "addr", "del", "2001:db8:c0::11/64", "dev", "eth0")
		s.wantTroubles(s.findings("-f", s.config),
			doctor.Finding{Severity: doctor.Fail, Check: "neighbour", Subject: "web/rs2", Text: "192.168.0.11 does not answer ARP on eth1 (incomplete)", Fix: "ip addr show to 192.168.0.11  # on rs2: its interface has to be up and have the address"},
			doctor.Finding{Severity: doctor.Fail, Check: "neighbour", Subject: "web6/rs2", Text: "2001:db8:c0::11 does not answer neighbour discovery on eth1 (incomplete)", Fix: "ip -6 addr show to 2001:db8:c0::11  # on rs2: its interface has to be up and have the address"},
			doctor.Finding{Severity: doctor.Warn, Check: "server", Subject: "web6/rs3", Text: "refuses connections to [2001:db8:c0::12]:99: nothing listens there", Fix: "ss -ltn 'sport = :99'  # on rs3"},
		)
		s.run("rs2", "ip", "addr", "add", "192.168.0.11/24", "dev", "eth0")
		s.run("rs2", "ip", "addr", "add", "2001:db8:c0::11/64", "dev", "eth0")
		l, err := s.lab.NS("rs3").Listen("tcp", "[2001:db8:c0::12]:99")
		s.must(err)
		defer l.Close()
		s.must(s.lab.NS("rs2").Settle())
		s.wantTroubles(s.findings("-f", s.config))
	}
}

// TestDoctorRules: a policy rule of somebody else in front, and tunlb's own gone.
func TestDoctorRules(t *testing.T) {
	needLab(t)
	for i, vip := range vips {
		s := openSite(t, labnet.StoryOptions{}, storyConfig)
		ip := []string{"ip", "-6"}[:i+1]
		name := strings.Join(ip, " ")
		s.run("lb", append(slices.Clone(ip), "rule", "add", "pref", "100", "to", vip, "lookup", "main")...)
		s.wantTroubles(s.findings()) // main has no route for it, so the rule takes nothing
		s.run("lb", append(slices.Clone(ip), "route", "add", vip, "dev", "eth1")...)
		list := s.findings()
		found := troubles(list)
		single := []string{"/32", "/128"}[i]
		fix := fmt.Sprintf("%s rule add pref 7500 to %s%s lookup 254 && %[1]s rule del pref 100 to %[2]s%[3]s lookup 254", name, vip, single)
		if len(found) != 1 || found[0].Check != "rules" || found[0].Fix != fix || !strings.Contains(found[0].Text, "the rule at preference 100 is in front of tunlb's") {
			t.Fatalf("want the fix %s, got %+v", fix, found)
		}
		s.mend(list)
		s.wantTroubles(s.findings())
		s.get("client", "http://"+hostPort(vip, 80)+"/")
		s.run("lb", append(slices.Clone(ip), "rule", "del", "pref", "7500")...)
		s.run("lb", append(slices.Clone(ip), "route", "del", vip, "dev", "eth1")...)
	}
}

// TestDoctorVIPOnLink: an address of the clients' network that no kernel has is asked for in vain.
func TestDoctorVIPOnLink(t *testing.T) {
	needLab(t)
	s := openSite(t, labnet.StoryOptions{}, `services:
  - {name: web, listen: "198.51.100.22:80/tcp", servers: [{name: rs1, address: "192.168.0.10:8080"}]}
  - {name: web6, listen: "[2001:db8:1::22]:80/tcp", servers: [{name: rs1, address: "[2001:db8:c0::10]:8080"}]}
`)
	list := s.findings()
	s.wantTroubles(list,
		doctor.Finding{Severity: doctor.Warn, Check: "vip", Subject: "198.51.100.22", Text: "nobody answers its neighbours", Fix: "ip addr add 198.51.100.22/32 dev eth0"},
		doctor.Finding{Severity: doctor.Warn, Check: "vip", Subject: "2001:db8:1::22", Text: "nobody answers its neighbours", Fix: "ip addr add 2001:db8:1::22/128 dev eth0"},
	)
	s.mend(list)
	s.must(s.lab.NS("lb").Settle())
	s.until("tunlb has noticed", func() error {
		for _, svc := range s.status().Services {
			if svc.Owner != "box" {
				return fmt.Errorf("%s is of %s", svc.Name, svc.Owner)
			}
		}
		return nil
	})
	s.wantTroubles(s.findings())
	for _, vip := range []string{"198.51.100.22", "2001:db8:1::22"} {
		s.get("client", "http://"+hostPort(vip, 80)+"/")
		s.run("lb", "ip", "addr", "del", netip.PrefixFrom(netip.MustParseAddr(vip), netip.MustParseAddr(vip).BitLen()).String(), "dev", "eth0")
	}
}

// TestDoctorMTU: a TUN smaller than the link behind it.
func TestDoctorMTU(t *testing.T) {
	needLab(t)
	s := openLab(t, labnet.Story(labnet.StoryOptions{}), "ports: [{name: tunlb0, addresses: [10.255.0.1/30, fd00:7474::1/126], mtu: 1400}]\n"+storyConfig)
	want := doctor.Finding{
		Severity: doctor.Warn, Check: "mtu", Subject: "tunlb0", Text: "has MTU 1400, but eth0 1500",
		Fix: fmt.Sprintf("write `mtu: 1500` for port tunlb0 into %s, then: tunlb check %[1]s", s.config),
	}
	s.wantTroubles(s.findings("-f", s.config), want)
	s.start()
	want.Fix = fmt.Sprintf("write `mtu: 1500` for port tunlb0 into %s, then start tunlb anew: tunlb check %[1]s && kill %d && tunlb run -f %[1]s", s.config, s.status().Daemon.PID)
	s.wantTroubles(s.findings(), want)
	s.stop()
	s.write("ports: [{name: tunlb0, addresses: [10.255.0.1/30, fd00:7474::1/126], mtu: 1500}]\n" + storyConfig)
	s.wantTroubles(s.findings("-f", s.config))
}

// TestDoctorNetNS: namespaces that are missing, or are none.
func TestDoctorNetNS(t *testing.T) {
	needLab(t)
	s := openLab(t, labnet.Story(labnet.StoryOptions{Servers: 1}), "")
	missing := filepath.Join(t.TempDir(), "inside")
	s.write(fmt.Sprintf("ports:\n  - {name: tun0, netns: %s, addresses: [10.1.0.1/24], router: [10.1.0.2]}\n  - {name: tun1, netns: %q, addresses: [10.2.0.1/24], router: [10.2.0.2]}\n", missing, s.lab.NS("rs1").Path()) +
		"services:\n  - {name: web, listen: \"203.0.113.22:80/tcp\", servers: [\"10.1.0.1:80\"]}\n")
	t.Cleanup(func() { syscall.Unmount(missing, syscall.MNT_DETACH) })
	fix := fmt.Sprintf("touch %s && unshare --net=%[1]s true", missing)
	list := s.findings("-f", s.config)
	s.wantTroubles(list, doctor.Finding{Severity: doctor.Fail, Check: "netns", Subject: missing, Text: "there is no such network namespace, but port tun0 is to be in it", Fix: fix})
	s.must(os.WriteFile(missing, nil, 0o600))
	s.wantTroubles(s.findings("-f", s.config), doctor.Finding{Severity: doctor.Fail, Check: "netns", Subject: missing, Text: "is not a network namespace", Fix: "rm " + missing + " && " + fix})
	s.mend(list)
	s.wantTroubles(s.findings("-f", s.config))
}

// TestDoctorNoTUN: without /dev/net/tun this machine cannot.
func TestDoctorNoTUN(t *testing.T) {
	needLab(t)
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Skip(err)
	}
	s := openLab(t, labnet.Story(labnet.StoryOptions{Servers: 1}), demoConfig)
	const fix = "mkdir -p /dev/net && mknod /dev/net/tun c 10 200 && chmod 0666 /dev/net/tun"
	in := func(then string) (list []doctor.Finding, code int) {
		cmd := s.command("doctor", "-o", "json", "-f", s.config)
		cmd.Args = append([]string{"unshare", "-m", "sh", "-c", "mount -t tmpfs none /dev/net && " + then + `exec "$0" "$@"`}, append([]string{cmd.Path}, cmd.Args[1:]...)...)
		cmd.Path = unshare
		out, err := cmd.Output()
		if cmd.ProcessState == nil {
			t.Fatal(err)
		}
		var r doctor.Report
		if err := json.Unmarshal(out, &r); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return slices.DeleteFunc(troubles(r.Findings), func(f doctor.Finding) bool { return f.Check != "tun" }), cmd.ProcessState.ExitCode()
	}
	list, code := in("")
	s.wantTroubles(list, doctor.Finding{Severity: doctor.Fail, Check: "tun", Subject: "/dev/net/tun", Text: "is missing, though the kernel has the driver", Fix: fix})
	if code != exitCannot {
		t.Errorf("exit %d, want %d", code, exitCannot)
	}
	if b, err := os.ReadFile("/proc/self/uid_map"); err != nil || !strings.Contains(string(b), "4294967295") {
		return // in a user namespace nobody makes devices
	}
	if list, code = in(fix + " && "); len(list) > 0 || code == exitCannot {
		t.Errorf("mended: exit %d, %+v", code, list)
	}
}

// TestDoctorFile: the daemon's file is not the one in force, or is named wrongly.
func TestDoctorFile(t *testing.T) {
	needLab(t)
	s := openSite(t, labnet.StoryOptions{}, storyConfig)
	s.write(strings.Replace(storyConfig, "weight: 3", "weight: 4", 1))
	list := s.findings()
	s.wantTroubles(list, doctor.Finding{Severity: doctor.Warn, Check: "file", Subject: s.config, Text: "the services in it are not those in force", Fix: "tunlb reload"})
	if _, stderr, code := s.tunlb("reload"); code != 0 {
		t.Fatal(stderr)
	}
	s.wantTroubles(s.findings())
	s.write("services: nonsense\n")
	s.wantTroubles(s.findings(), doctor.Finding{Severity: doctor.Warn, Check: "file", Subject: s.config, Text: "what depends on it goes unchecked", Fix: "tunlb check " + s.config})
	if _, stderr, code := s.tunlb("doctor", "-f", s.config); code != exitConfig || !strings.Contains(stderr, s.config+":1:") {
		t.Errorf("doctor -f of a bad file: exit %d, %s", code, stderr)
	}
	s.write(storyConfig)
	s.wantTroubles(s.findings("--socket", "@nobody"), doctor.Finding{
		Severity: doctor.Warn, Check: "control", Subject: "control socket", Text: "a tunlb is at work here with device tunlb0", Fix: "tunlb doctor --socket PATH",
	})
	for args, want := range map[string]int{"doctor extra": exitUsage, "doctor -o yaml": exitUsage, "doctor -f /nowhere": exitFailed} {
		if _, stderr, code := s.tunlb(strings.Fields(args)...); code != want {
			t.Errorf("tunlb %s: exit %d, want %d\n%s", args, code, want, stderr)
		}
	}
}

// TestDoctorPorts: names that are taken, and leftovers of a killed daemon.
func TestDoctorPorts(t *testing.T) {
	needLab(t)
	s := openLab(t, labnet.Story(labnet.StoryOptions{}), "ports: [{name: eth0, addresses: [10.255.0.1/30, fd00:7474::1/126]}]\n"+storyConfig)
	s.wantTroubles(s.findings("-f", s.config), doctor.Finding{
		Severity: doctor.Fail, Check: "port", Subject: "eth0", Text: "the name is taken by an interface of another kind",
		Fix: fmt.Sprintf("write another name, such as `name: tunlb0`, for port eth0 into %s, then: tunlb check %[1]s", s.config),
	})
	s.write(storyConfig)
	s.wantTroubles(s.findings("-f", s.config))
	s.start()
	s.kill()
	list := s.findings("-f", s.config)
	s.wantTroubles(list)
	if list[0].Check != "control" || list[0].Fix != "tunlb clean" {
		t.Errorf("leftovers: %+v", list[0])
	}
	if _, stderr, code := s.tunlb("clean"); code != 0 {
		t.Error(stderr)
	}
	s.unchanged()
}
