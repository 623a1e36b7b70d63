package main

import (
	"bufio"
	"bytes"
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

// echoConfig has the TCP echo of both families.
const echoConfig = storyConfig + `
  - name: tcpecho6
    listen: "[2001:db8:113::22]:7/tcp"
    scheduler: rr
    servers: ["2001:db8:c0::10", "2001:db8:c0::11", "2001:db8:c0::12"]
`

// done wants a command to succeed and returns its output.
func (s *site) done(args ...string) string {
	s.t.Helper()
	stdout, stderr, code := s.tunlb(args...)
	if code != 0 {
		s.t.Fatalf("tunlb %s: exit %d: %s%s", strings.Join(args, " "), code, stdout, stderr)
	}
	return stdout
}

// TestDrainWait: a drained server keeps what it has and gets nothing new; waiting ends with its last connection.
func TestDrainWait(t *testing.T) {
	needLab(t)
	s := openSite(t, labnet.StoryOptions{}, echoConfig)
	for _, f := range []struct{ vip, rs, service, other string }{
		{labnet.VIP, "192.168.0.10", "tcpecho", "192.168.0.10"}, {labnet.VIP6, "2001:db8:c0::10", "tcpecho6", "2001:db8:c0:0::10"},
	} {
		held := s.dial("client", "tcp", hostPort(f.vip, 7)) // rr: the first one's
		s.echo(held, []byte("before"))
		if got := s.done("drain", f.rs, "--service", f.service); !strings.Contains(got, "drained") {
			t.Errorf("drain: %s", got)
		}
		var others []net.Conn
		for range 6 {
			c := s.dial("client", "tcp", hostPort(f.vip, 7))
			s.echo(c, []byte("meanwhile"))
			others = append(others, c)
		}
		s.echo(held, []byte("after"))
		if n := s.conns(f.service, f.rs); n != 1 {
			t.Errorf("%s has %d connections, want the one that it had", f.rs, n)
		}
		if _, stderr, code := s.tunlb("drain", f.service+"/"+f.rs, "--wait", "--timeout", "300ms"); code != exitFailed || !strings.Contains(stderr, "1 connection after") {
			t.Errorf("waiting in vain: exit %d, %s", code, stderr)
		}
		// A place means the service, and another spelling the address: the connection is as open.
		place := hostPort(f.vip, 7) + "/tcp"
		if _, stderr, code := s.tunlb("drain", f.other, "--service", place, "--wait", "--timeout", "300ms"); code != exitFailed || !strings.Contains(stderr, "1 connection after") {
			t.Errorf("waiting for a place in vain: exit %d, %s", code, stderr)
		}
		if got := s.done("conns", "--service", place, "--server", f.other); strings.Count(got, "ESTABLISHED") != 1 {
			t.Errorf("conns of a place:\n%s", got)
		}
		s.interrupted(f.service + "/" + f.rs)
		// It waits, and ends when the connection does: TIME_WAIT is no connection any more.
		cmd := s.command("drain", f.rs, "--service", f.service, "--wait")
		s.must(cmd.Start())
		s.must(held.Close())
		if err := cmd.Wait(); err != nil {
			t.Errorf("waiting: %v", err)
		}
		if got := s.done("status"); !strings.Contains(got, "drained") {
			t.Errorf("status:\n%s", got)
		}
		s.done("undrain", f.rs, "--service", f.service)
		for range 3 {
			c := s.dial("client", "tcp", hostPort(f.vip, 7))
			s.echo(c, []byte("again"))
			others = append(others, c)
		}
		if n := s.conns(f.service, f.rs); n == 0 {
			t.Errorf("%s gets nothing after undrain", f.rs)
		}
		for _, c := range others {
			s.must(c.Close())
		}
	}
	events := s.done("events", "-o", "json")
	var kinds []string
	for lines := bufio.NewScanner(strings.NewReader(events)); lines.Scan(); {
		var ev tunlb.Event
		s.must(json.Unmarshal(lines.Bytes(), &ev))
		kinds = append(kinds, ev.Kind)
	}
	if got := strings.Join(kinds, " "); got != "drained undrained drained undrained" {
		t.Errorf("events: %s", got)
	}
}

// interrupted wants who waits to be told what is left when they give up.
func (s *site) interrupted(server string) {
	s.t.Helper()
	cmd := s.command("drain", server, "--wait")
	out, err := cmd.StdoutPipe()
	s.must(err)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	s.must(cmd.Start())
	if !bufio.NewScanner(out).Scan() { // it has been drained
		s.t.Error("it says nothing")
	}
	s.must(cmd.Process.Signal(os.Interrupt))
	err = cmd.Wait()
	if err == nil || !strings.Contains(stderr.String(), "is still drained") || strings.Contains(stderr.String(), "context canceled") {
		s.t.Errorf("interrupted: %v, %s", err, &stderr)
	}
}

// TestUnknown: a listing of what there is none of is no empty listing.
func TestUnknown(t *testing.T) {
	needLab(t)
	s := openSite(t, labnet.StoryOptions{}, echoConfig)
	for _, command := range []string{"conns", "kill"} {
		for option, there := range map[string]string{"--service": "tcpecho6", "--server": "192.168.0.10"} {
			if stdout, stderr, code := s.tunlb(command, option, "nosuch"); code != exitFailed || stdout != "" || !strings.Contains(stderr, there) {
				t.Errorf("%s %s nosuch: exit %d, %s%s", command, option, code, stdout, stderr)
			}
		}
	}
	s.done("conns", "--service", "tcpecho")
}

// conns counts a server's connections that are open.
func (s *site) conns(service, server string) (n int) {
	s.t.Helper()
	s.must(s.client().Conns(s.t.Context(), tunlb.ConnFilter{Service: service, Server: server}, -1, func(c control.Conn) error {
		if c.State == "ESTABLISHED" {
			n++
		}
		return nil
	}))
	return n
}

// TestKill: a connection is ended by the ID that the listing has, and others go on.
func TestKill(t *testing.T) {
	needLab(t)
	s := openSite(t, labnet.StoryOptions{}, echoConfig)
	for _, f := range []struct{ vip, clients, service string }{
		{labnet.VIP, "198.51.100.0/24", "tcpecho"}, {labnet.VIP6, "2001:db8:1::/64", "tcpecho6"},
	} {
		vip := hostPort(f.vip, 7)
		a, b := s.dial("client", "tcp", vip), s.dial("client", "tcp", vip)
		s.echo(a, []byte("a"))
		s.echo(b, []byte("b"))
		id := fmt.Sprintf("tcp/%s/%s", a.LocalAddr(), vip)
		if got := s.done("conns", "-o", "wide"); !strings.Contains(got, id) {
			t.Errorf("no %s in\n%s", id, got)
		}
		if got := s.done("kill", id); got != "killed 1 connection\n" {
			t.Errorf("kill: %s", got)
		}
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the client of a killed connection: %v, want a reset", err)
		}
		s.echo(b, []byte("still"))
		if _, stderr, code := s.tunlb("kill", id); code != exitFailed || !strings.Contains(stderr, "no such connection") {
			t.Errorf("kill it again: exit %d, %s", code, stderr)
		}
		if got := s.done("kill", "--client", f.clients, "--service", f.service); got != "killed 1 connection\n" {
			t.Errorf("kill all of the client's: %s", got)
		}
		if _, err := b.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the other one: %v, want a reset", err)
		}
	}
}

// TestDryRun: the difference is printed, and nothing else happens.
func TestDryRun(t *testing.T) {
	needLab(t)
	s := openSite(t, labnet.StoryOptions{}, storyConfig)
	s.write(strings.Replace(storyConfig, "      - {name: rs3, address: 192.168.0.12:8080}\n", "", 1))
	for range 2 {
		if got := s.done("reload", "--dry-run"); !strings.Contains(got, "- server web/rs3") {
			t.Errorf("reload --dry-run: %s", got)
		}
	}
	if n := len(s.status().Services[0].Servers); n != 3 {
		t.Errorf("%d servers after a dry run", n)
	}
	s.write(storyConfig + "flows: {max: 10}\n")
	if _, stderr, code := s.tunlb("reload", "--dry-run"); code != exitFailed || !strings.Contains(stderr, "restart") {
		t.Errorf("what needs a restart: exit %d, %s", code, stderr)
	}
	s.must(os.WriteFile(s.config, []byte("nonsense"), 0o600))
	if _, stderr, code := s.tunlb("reload", "--dry-run"); code != exitConfig {
		t.Errorf("a bad file: exit %d, %s", code, stderr)
	}
}

// TestFollow: an event is shown when it happens.
func TestFollow(t *testing.T) {
	needLab(t)
	s := openSite(t, labnet.StoryOptions{}, storyConfig)
	cmd := s.command("events", "-f", "-o", "json")
	out, err := cmd.StdoutPipe()
	s.must(err)
	s.must(cmd.Start())
	lines := bufio.NewScanner(out)
	for _, weight := range []string{"7", "0"} {
		s.done("weight", "web/rs1", weight)
		var ev tunlb.Event
		if !lines.Scan() || json.Unmarshal(lines.Bytes(), &ev) != nil || ev.Kind != "weight" || ev.Server != "rs1" || !strings.Contains(ev.Cause, weight) {
			t.Errorf("weight %s: %s", weight, lines.Bytes())
		}
	}
	s.must(cmd.Process.Signal(os.Interrupt))
	if err := cmd.Wait(); err != nil {
		t.Errorf("interrupted: %v", err)
	}
}
