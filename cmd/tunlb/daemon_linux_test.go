package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/tunlb/tunlb/labnet"
	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/control"
)

// TestReload: connections go on while services come and go; a bad file changes nothing.
func TestReload(t *testing.T) {
	offloads(t, func(t *testing.T, off bool) {
		s := openSite(t, labnet.StoryOptions{NoOffload: off}, storyConfig)
		var kept []net.Conn
		for range 3 {
			kept = append(kept, s.dial("client", "tcp", hostPort(labnet.VIP, 7)))
		}
		goOn := func(when string) {
			t.Helper()
			for _, c := range kept {
				s.echo(c, []byte(when))
			}
		}
		goOn("before")

		s.write(strings.Replace(storyConfig, "name: rs1, address: 192.168.0.10:8080", "name: rs1, adress: 192.168.0.10:8080", 1))
		_, stderr, code := s.tunlb("reload")
		if code != exitConfig || !strings.Contains(stderr, `unknown key "adress"`) || !strings.Contains(stderr, "nothing was changed") {
			t.Errorf("reload of a bad file: exit %d, %s", code, stderr)
		}
		goOn("after a bad file")
		if got := s.sequence("client", "http://203.0.113.22/", 3); got != "rs1 rs2 rs3" {
			t.Errorf("after a bad file: %s", got)
		}

		s.write(strings.Replace(storyConfig, "      - {name: rs3, address: 192.168.0.12:8080}\n", "", 1) + `
  - name: new
    listen: 203.0.113.22:82/tcp
    servers: [192.168.0.11:8080]
`)
		stdout, stderr, code := s.tunlb("reload")
		if code != 0 || !strings.Contains(stdout, "- server web/rs3") || !strings.Contains(stdout, "+ service new") {
			t.Errorf("reload: exit %d, %s%s", code, stdout, stderr)
		}
		goOn("after a reload")
		if got := s.sequence("client", "http://203.0.113.22/", 4); strings.Contains(got, "rs3") {
			t.Errorf("after rs3 is gone: %s", got)
		}
		if _, server := s.get("client", "http://203.0.113.22:82/"); server != "rs2" {
			t.Errorf("the new service is answered by %s", server)
		}

		s.write(strings.Replace(storyConfig, "name: tcpecho", "name: other", 1) + "flows: {max: 10}\n")
		if _, stderr, code := s.tunlb("reload"); code != exitFailed || !strings.Contains(stderr, "restart") {
			t.Errorf("reload that needs a restart: exit %d, %s", code, stderr)
		}
		s.write(storyConfig)
		if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		s.until("SIGHUP brings rs3 back", func() error {
			if n := len(s.status().Services[0].Servers); n != 3 {
				return fmt.Errorf("%d servers", n)
			}
			return nil
		})
		goOn("at the end")
	})
}

// TestDeletedServer: a connection to a server that is taken away is reset, not left hanging.
func TestDeletedServer(t *testing.T) {
	offloads(t, func(t *testing.T, off bool) {
		for _, own := range []bool{false, true} {
			s := openSite(t, labnet.StoryOptions{OwnVIP: own, NoOffload: off}, storyConfig)
			conn := s.dial("client", "tcp", hostPort(labnet.VIP, 7))
			s.echo(conn, []byte("hello"))
			s.write(strings.Replace(storyConfig, "servers: [192.168.0.10, 192.168.0.11, 192.168.0.12]\n  - name: drained\n", "servers: [192.168.0.11]\n  - name: drained\n", 1))
			if _, stderr, code := s.tunlb("reload"); code != 0 {
				t.Fatal(stderr)
			}
			s.until("own="+fmt.Sprint(own)+" reset", func() error {
				if _, err := conn.Write([]byte("anybody there?")); errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
					return nil
				}
				return errors.New("not reset yet")
			})
		}
	})
}

// TestStatus: what the commands say, for people and for programs, and their exit codes.
func TestStatus(t *testing.T) {
	needLab(t)
	s := openSite(t, labnet.StoryOptions{}, storyConfig)
	conn := s.dial("client", "tcp", hostPort(labnet.VIP, 7))
	s.echo(conn, []byte("hello"))

	stdout, stderr, code := s.tunlb("status", "-o", "json")
	var status control.Status
	if err := json.Unmarshal([]byte(stdout), &status); code != 0 || err != nil {
		t.Fatalf("status -o json: exit %d, %v, %s", code, err, stderr)
	}
	if status.Flows.Count != 1 || status.Services[5].Name != "tcpecho" || status.Services[5].Servers[0].Active != 1 || status.Daemon.PID != s.cmd.Process.Pid {
		t.Errorf("status: %s", stdout)
	}
	if stdout, _, _ := s.tunlb("status"); !strings.Contains(stdout, "tcpecho") || !strings.Contains(stdout, "192.168.0.10:7") {
		t.Errorf("status: %s", stdout)
	}
	stdout, _, code = s.tunlb("conns", "-o", "json")
	var c tunlb.Conn
	if err := json.Unmarshal([]byte(stdout), &c); code != 0 || err != nil {
		t.Fatalf("conns -o json: exit %d, %v, %s", code, err, stdout)
	}
	if want := conn.LocalAddr().String(); c.Client.String() != want || c.State != "ESTABLISHED" || c.Server.String() != "192.168.0.10:7" || c.InBytes == 0 || c.OutBytes == 0 {
		t.Errorf("conns: %s, want client %s", stdout, want)
	}
	if stdout, _, _ := s.tunlb("conns"); !strings.Contains(stdout, "ESTABLISHED") {
		t.Errorf("conns: %s", stdout)
	}
	for args, want := range map[string]int{
		"status --socket @nobody": exitNoDaemon, "status -o yaml": exitUsage, "status --colour": exitUsage,
		"frobnicate": exitUsage, "status extra": exitUsage, "clean": exitFailed, "version": 0, "help": 0, "demo": exitUsage,
		"run -f " + s.config: exitFailed, // another one is at work
		// ... even if it is not found by its socket.
		"clean --socket @nobody":             exitFailed,
		"run --socket @other -f " + s.config: exitFailed,
		"check /nowhere":                     exitFailed,
	} {
		if stdout, stderr, code := s.tunlb(strings.Fields(args)...); code != want {
			t.Errorf("tunlb %s: exit %d, want %d\n%s%s", args, code, want, stdout, stderr)
		}
	}
}

// TestCheck: every error of a file at once, where it is.
func TestCheck(t *testing.T) {
	needLab(t)
	s := openLab(t, labnet.Story(labnet.StoryOptions{Servers: 1}), strings.NewReplacer("scheduler: rr", "sheduler: rr", "192.168.0.11:8080", "2001:db8::1").Replace(demoConfig))
	_, stderr, code := s.tunlb("check", s.config)
	if code != exitConfig || !strings.Contains(stderr, s.config+":4:5: unknown key") || strings.Count(stderr, "\n") < 4 {
		t.Errorf("exit %d\n%s", code, stderr)
	}
	s.write(demoConfig)
	if stdout, stderr, code := s.tunlb("check", s.config); code != 0 || !strings.Contains(stdout, "ok") {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}
	if info, err := os.Stat(s.config); err != nil || info.Size() == 0 {
		t.Error("check changed the file")
	}
}

// TestKilled: what a kill -9 leaves is found and removed by the next start, or by clean.
func TestKilled(t *testing.T) {
	needLab(t)
	for _, own := range []bool{false, true} {
		s := openLab(t, labnet.Story(labnet.StoryOptions{OwnVIP: own}), storyConfig)
		s.start()
		s.get("client", "http://203.0.113.22/")
		s.kill()
		if len(s.network()) == len(s.before) {
			t.Fatal("nothing was left, so nothing is tested")
		}
		s.start()
		s.get("client", "http://203.0.113.22/")
		s.kill()
		stdout, stderr, code := s.tunlb("clean")
		if code != 0 || !strings.Contains(stdout, "ip rule del") {
			t.Errorf("clean: exit %d\n%s%s", code, stdout, stderr)
		}
		s.unchanged()
		if stdout, _, code := s.tunlb("clean"); code != 0 || !strings.Contains(stdout, "nothing to clean") {
			t.Errorf("clean again: exit %d, %s", code, stdout)
		}
	}
}

// TestDeviceGone: somebody deletes the TUN: an error that says so, and nothing is left.
func TestDeviceGone(t *testing.T) {
	needLab(t)
	s := openLab(t, labnet.Story(labnet.StoryOptions{}), storyConfig)
	s.start()
	link, err := s.lab.NS("lb").Handle().LinkByName("tunlb0")
	s.must(err)
	s.must(s.lab.NS("lb").Handle().LinkDel(link))
	err = <-s.ended
	if code := s.cmd.ProcessState.ExitCode(); code != exitFailed || !strings.Contains(s.log.String(), "the device is gone") {
		t.Errorf("%v, exit %d\n%s", err, code, s.log)
	}
	s.unchanged()
}

// TestNameTaken: a TUN that cannot be made leaves nothing behind.
func TestNameTaken(t *testing.T) {
	needLab(t)
	s := openLab(t, labnet.Story(labnet.StoryOptions{}), "ports: [{name: eth0, addresses: [10.255.0.1/30], router: [10.255.0.2]}]\n"+storyConfig)
	_, stderr, code := s.tunlb("run", "-f", s.config)
	if code != exitFailed || !strings.Contains(stderr, "eth0") {
		t.Errorf("exit %d, %s", code, stderr)
	}
	s.unchanged()
	if _, err := s.client().Status(context.Background()); !errors.Is(err, control.ErrNoDaemon) {
		t.Errorf("the control socket is still there: %v", err)
	}
}
