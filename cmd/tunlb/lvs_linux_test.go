package main

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/tunlb/tunlb/labnet"
	"github.com/tunlb/tunlb/labnet/netns"
	"github.com/tunlb/tunlb/tunlb/control"
)

// openLVS opens a lab whose lb has nothing running: the first ipvsadm -A is to start what is needed.
func openLVS(t *testing.T, topology labnet.Topology) *site {
	t.Helper()
	s := openLab(t, topology, "")
	s.log = &syncBuffer{}
	t.Cleanup(s.endLVS)
	return s
}

// ipvsadm runs it on lb and wants it to succeed, and to say nothing but its output.
func (s *site) ipvsadm(args ...string) string {
	s.t.Helper()
	out, errOut, code := s.tunlb(append([]string{"ipvsadm"}, args...)...)
	if code != 0 || errOut != "" {
		s.t.Fatalf("ipvsadm %s: exit %d: %s%s", strings.Join(args, " "), code, out, errOut)
	}
	return out
}

// endLVS ends the daemon that ipvsadm has started, as systemd would, and wants nothing of it to be left.
func (s *site) endLVS() {
	s.t.Helper()
	status, err := s.client().Status(context.Background())
	if err != nil {
		return // ended by the test
	}
	if s.t.Failed() {
		s.t.Logf("drops: %v", status.Drops)
	}
	s.must(syscall.Kill(status.Daemon.PID, syscall.SIGTERM))
	s.until("the daemon is gone", func() error {
		if _, err := s.client().Status(context.Background()); err == nil {
			return fmt.Errorf("process %d still answers", status.Daemon.PID)
		}
		if _, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", status.Daemon.PID)); err == nil {
			return fmt.Errorf("process %d still lives", status.Daemon.PID)
		}
		return nil
	})
	s.unchanged()
}

// names is sequence without the servers' "rs".
func (s *site) names(node, url string, n int) string {
	s.t.Helper()
	return strings.ReplaceAll(s.sequence(node, url, n), "rs", "")
}

// TestLVSNAT: ipvsadm as if it spoke to the kernel, the VIP routed to the box or the box's own. The picks are
// the recorded ones.
func TestLVSNAT(t *testing.T) {
	offloads(t, func(t *testing.T, off bool) {
		for _, own := range []bool{false, true} {
			t.Run(map[bool]string{false: "routed VIP", true: "own VIP"}[own], func(t *testing.T) {
				s := openLVS(t, labnet.Story(labnet.StoryOptions{NoOffload: off, OwnVIP: own}))
				for _, f := range []struct{ vip, rs string }{{labnet.VIP, "192.168.0.%d"}, {"[" + labnet.VIP6 + "]", "[2001:db8:c0::%d]"}} {
					vip := f.vip + ":80"
					s.ipvsadm("-A", "-t", vip, "-s", "wrr")
					for i, weight := range []string{"5", "1", "1"} {
						s.ipvsadm("-a", "-t", vip, "-r", fmt.Sprintf(f.rs, 10+i)+":8080", "-m", "-w", weight)
					}
					if got, want := s.names("client", "http://"+vip+"/", 14), "3 2 1 1 1 1 1 3 2 1 1 1 1 1"; got != want {
						t.Errorf("%s: got %s, want %s", vip, got, want)
					}
					s.ipvsadm("-A", "-u", f.vip+":7", "-s", "rr", "-o")
					for i := range 2 {
						s.ipvsadm("-a", "-u", f.vip+":7", "-r", fmt.Sprintf(f.rs, 10+i)+":7", "-m")
					}
					conn := s.dial("client", "udp", f.vip+":7")
					for i := range 4 {
						if got, want := s.echo(conn, []byte("x")), []string{"rs2", "rs1"}[i%2]; got != want {
							t.Errorf("one-packet scheduling to %s: datagram %d came back from %s, want %s", f.vip, i, got, want)
						}
					}
				}
				listing := s.ipvsadm("-Ln", "-t", labnet.VIP+":80")
				for _, want := range []string{"TCP  203.0.113.22:80 wrr\n", "  -> 192.168.0.10:8080            Masq    5      0          10        \n"} {
					if !strings.Contains(listing, want) {
						t.Errorf("no %q in\n%s", want, listing)
					}
				}
				if got := s.ipvsadm("-Lnc"); strings.Count(got, "TIME_WAIT") != 28 {
					t.Errorf("connections:\n%s", got)
				}
				saved := s.ipvsadm("-S", "-n")
				s.ipvsadm("-C")
				if _, _, err := s.fetch("client", http.MethodGet, "http://"+labnet.VIP+"/", nil); err == nil {
					t.Error("a cleared table still balances")
				}
				cmd := s.command("ipvsadm", "-R")
				cmd.Stdin = strings.NewReader(saved)
				s.must(cmd.Run())
				if got := s.ipvsadm("-S", "-n"); got != saved {
					t.Errorf("restored:\n%s\nwant\n%s", got, saved)
				}
				s.get("client", "http://"+labnet.VIP+"/")
			})
		}
	})
}

// openDirector opens the network of LVS-DR: lb has one plain interface, the VIP, and nothing running.
func openDirector(t *testing.T, off bool) *site {
	t.Helper()
	s := openLVS(t, labnet.DR(labnet.DROptions{Packet: true, Remote: true, Quiet: true, NoOffload: off}))
	lb := s.lab.NS("lb")
	for _, a := range []string{"203.0.113.2/24", "2001:db8:113::2/64"} {
		s.must(lb.AddAddress("eth0", netip.MustParsePrefix(a)))
	}
	s.must(lb.AddAddress("lo", netip.MustParsePrefix(labnet.VIP+"/32")))
	s.must(lb.AddAddress("eth0", netip.MustParsePrefix(labnet.VIP6+"/128"))) // IPv6 answers for nothing on lo
	for _, r := range []netns.Route{{To: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("203.0.113.1")}, {To: netip.MustParsePrefix("::/0"), Via: netip.MustParseAddr("2001:db8:113::1")}} {
		s.must(lb.AddRoute(r))
	}
	s.must(lb.Settle())
	s.before = s.network()
	return s
}

// TestLVSDR: a director with one plain interface, as LVS-DR is set up: the VIP its own and on the servers' lo,
// the client in another subnet. Requests leave by the interface, answers do not come by.
func TestLVSDR(t *testing.T) {
	offloads(t, func(t *testing.T, off bool) {
		s := openDirector(t, off)
		for _, f := range []struct{ vip, rs string }{{labnet.VIP, "203.0.113.%d"}, {"[" + labnet.VIP6 + "]", "[2001:db8:113::%d]"}} {
			s.ipvsadm("-A", "-t", f.vip+":80", "-s", "rr")
			for i := range 3 {
				s.ipvsadm("-a", "-t", f.vip+":80", "-r", fmt.Sprintf(f.rs, 10+i)+":80", "-g")
			}
			if got, want := s.names("remote", "http://"+f.vip+"/", 6), "3 2 1 3 2 1"; got != want {
				t.Errorf("%s: got %s, want %s", f.vip, got, want)
			}
			// Bulk in both directions: super-packets, partial checksums.
			s.transfer("remote", strings.Trim(f.vip, "[]"))
		}
		stats := s.ipvsadm("-Ln", "--stats", "--exact")
		for _, line := range strings.Split(stats, "\n") {
			if fields := strings.Fields(line); len(fields) == 7 && fields[0] == "->" && fields[4] != "0" {
				t.Errorf("answers have passed the director: %s", line)
			}
		}
	})
}

// TestDirectByBox: the same from a file, from the first connection on.
func TestDirectByBox(t *testing.T) {
	offloads(t, func(t *testing.T, off bool) {
		s := openDirector(t, off)
		s.write(`
services:
  - {name: web, listen: 203.0.113.22:80/tcp, mode: dr, scheduler: rr, health: {type: tcp, interval: 200ms, timeout: 200ms}, servers: [203.0.113.10, 203.0.113.11]}
  - {name: web6, listen: "[2001:db8:113::22]:80/tcp", mode: dr, scheduler: rr, servers: ["2001:db8:113::10", "2001:db8:113::11"]}
`)
		s.start()
		t.Cleanup(s.stop)
		s.healthy("web", "rs1", "up")
		s.only("remote", "http://203.0.113.22/", "rs1", "rs2")
		if got := s.names("remote", "http://["+labnet.VIP6+"]/", 4); got != "1 2 1 2" {
			t.Errorf("over IPv6: %s", got)
		}
	})
}

// TestLVSStart: what changes nothing starts nothing; two at once start one; it ends with SIGTERM.
func TestLVSStart(t *testing.T) {
	needLab(t)
	s := openLVS(t, labnet.Story(labnet.StoryOptions{Servers: 1}))
	for _, c := range []struct {
		args string
		code int
	}{
		{"-Ln", 0}, {"-L --timeout", 0}, {"-C", 0}, {"-Z", 0}, {"-S -n", 0}, {"-D -t 203.0.113.22:80", 255},
		{"-a -t 203.0.113.22:80 -r 192.168.0.10 -m", 255}, {"-A -t 203.0.113.22:80 -s nosuch", 255}, {"-A", 2}, {"-Ln -t 203.0.113.22:80", 1},
	} {
		if out, errOut, code := s.tunlb(append([]string{"ipvsadm"}, strings.Fields(c.args)...)...); code != c.code {
			t.Errorf("ipvsadm %s: exit %d, want %d: %s%s", c.args, code, c.code, out, errOut)
		}
		if _, err := s.client().Status(context.Background()); err == nil {
			t.Fatalf("ipvsadm %s has started a daemon", c.args)
		}
	}
	done := make(chan control.Info, 2)
	for i := range 2 {
		go func() {
			s.tunlb("ipvsadm", "-A", "-t", fmt.Sprintf("203.0.113.22:%d", 80+i), "-s", "rr")
			status, _ := s.client().Status(context.Background())
			done <- status.Daemon
		}()
	}
	if a, b := <-done, <-done; a.PID == 0 || a.PID != b.PID {
		t.Errorf("daemons %d and %d, want one", a.PID, b.PID)
	}
	if got := s.ipvsadm("-Ln"); !strings.Contains(got, "203.0.113.22:80 rr") || !strings.Contains(got, "203.0.113.22:81 rr") {
		t.Errorf("two at once:\n%s", got)
	}
}
