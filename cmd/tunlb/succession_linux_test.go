package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/tunlb/tunlb/labnet"
)

// sites are those beside the box with a TUN, with tunlb's devices in other places.
var sites = []struct {
	name string
	open func(t *testing.T) *line
}{
	{"tap", func(t *testing.T) *line { return openDRLine(t, labnet.DROptions{Shape: labnet.OneArm, Quiet: true}) }},
	{"taps", func(t *testing.T) *line { return openDRLine(t, labnet.DROptions{Shape: labnet.Inline}) }},
	{"segment", func(t *testing.T) *line { return openDRLine(t, labnet.DROptions{Shape: labnet.Inline, Packet: true}) }},
	{"namespaces", func(t *testing.T) *line {
		l := openLine(t, routerTopology(), "")
		l.write(routerPorts(l.site) + `services:
  - {name: web, listen: 203.0.113.22:80/tcp, scheduler: rr, servers: [192.168.0.10:8080, 192.168.1.10:8080]}
  - {name: web6, listen: "[2001:db8:113::22]:80/tcp", scheduler: rr, servers: ["[2001:db8:c0::10]:8080", "[2001:db8:c1::10]:8080"]}
`)
		return l
	}},
}

func openDRLine(t *testing.T, o labnet.DROptions) *line {
	return openLine(t, labnet.DR(o), drConfig(o))
}

// surfer has a connection on which it asks again and again.
type surfer struct {
	*line
	conn   net.Conn
	answer *bufio.Reader
}

func (l *line) surf(vip string) *surfer {
	l.t.Helper()
	conn := l.dial("client", "tcp", hostPort(vip, 80))
	return &surfer{l, conn, bufio.NewReader(conn)}
}

func (s *surfer) ask() {
	s.t.Helper()
	_, err := s.conn.Write([]byte("GET / HTTP/1.1\r\nHost: web\r\n\r\n"))
	s.must(err)
}

func (s *surfer) hear() {
	s.t.Helper()
	s.must(s.conn.SetDeadline(time.Now().Add(patience)))
	resp, err := http.ReadResponse(s.answer, nil)
	if err != nil {
		s.t.Fatalf("%s: %v\n%s", s.conn.RemoteAddr(), err, s.log)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		s.t.Fatalf("%s: %s", s.conn.RemoteAddr(), resp.Status)
	}
}

// devices are the links of every node, with their numbers, of which none is given twice.
func (l *line) devices() (list []string) {
	l.t.Helper()
	for _, node := range l.lab.Topology().Nodes {
		handle := l.lab.NS(node.Name).Handle()
		links, err := handle.LinkList()
		l.must(err)
		for _, link := range links {
			addrs, err := handle.AddrList(link, netlink.FAMILY_V4)
			l.must(err)
			list = append(list, fmt.Sprintf("%s: %d %s %d %v", node.Name, link.Attrs().Index, link.Attrs().Name, link.Attrs().MasterIndex, addrs))
		}
	}
	return list
}

// TestSuccessionElsewhere: devices on segments and in other network namespaces stay what they are, and connections go on.
func TestSuccessionElsewhere(t *testing.T) {
	needLab(t)
	for _, site := range sites {
		t.Run(site.name, func(t *testing.T) {
			l := site.open(t)
			before := l.devices()
			l.start()
			if site.name != "namespaces" {
				l.untilUp()
			}
			own := l.devices()
			if (site.name != "segment") == slices.Equal(before, own) {
				t.Errorf("devices before and after: %q, %q", before, own)
			}
			var surfers []*surfer
			for _, vip := range vips {
				s := l.surf(vip)
				s.ask()
				s.hear()
				surfers = append(surfers, s)
			}
			goOn := func(what string, change func()) {
				t.Helper()
				change()
				for _, s := range surfers {
					s.hear()
				}
				if after := l.devices(); !slices.Equal(after, own) {
					t.Errorf("%s: devices %q, before %q", what, after, own)
				}
			}
			ask := func() {
				for _, s := range surfers {
					s.ask()
				}
			}
			goOn("killed", func() {
				l.die()
				ask()
				l.start()
			})
			goOn("upgraded", func() {
				ask()
				l.upgrade()
			})
			l.stop()
			if names, after := l.keeper.Names(), l.devices(); len(names) > 0 || !slices.Equal(after, before) {
				t.Errorf("kept: %q; devices %q, before %q", names, after, before)
			}
		})
	}
}

// startSupervised starts the command line's supervisor with tunlb below it.
func (l *line) startSupervised() {
	l.t.Helper()
	l.cmd, l.log, l.ended = l.command("supervise", "--", "run", "-f", l.config), &syncBuffer{}, make(chan error, 1)
	l.cmd.Stderr = l.log
	l.must(l.cmd.Start())
	go func() { l.ended <- l.cmd.Wait() }()
	l.untilChild(0)
}

// untilChild waits for a daemon that is another process, and returns its pid.
func (l *line) untilChild(before int) (pid int) {
	l.t.Helper()
	l.until("a tunlb answers", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		status, err := l.client().Status(ctx)
		if err == nil && status.Daemon.PID == before {
			err = errors.New("it is the old one")
		}
		pid = status.Daemon.PID
		return err
	})
	return pid
}

// TestSupervisedElsewhere: the same below `tunlb supervise`, by its own command line.
func TestSupervisedElsewhere(t *testing.T) {
	needLab(t)
	for _, site := range sites {
		t.Run(site.name, func(t *testing.T) {
			l := site.open(t)
			l.startSupervised()
			if site.name != "namespaces" {
				l.untilUp()
			}
			devices, child := l.devices(), l.status().Daemon.PID
			var surfers []*surfer
			for _, vip := range vips {
				s := l.surf(vip)
				s.ask()
				s.hear()
				surfers = append(surfers, s)
			}
			l.must(syscall.Kill(child, syscall.SIGKILL))
			for _, s := range surfers {
				s.ask()
			}
			l.untilChild(child)
			for _, s := range surfers {
				s.hear()
			}
			if after := l.devices(); !slices.Equal(after, devices) {
				t.Errorf("devices %q, before %q", after, devices)
			}
			l.stop()
		})
	}
}

// TestSupervisorKilled: the child of a supervisor that is killed ends in good order: there are never two.
func TestSupervisorKilled(t *testing.T) {
	needLab(t)
	l := openLine(t, labnet.Story(labnet.StoryOptions{}), echoConfig)
	l.startSupervised()
	child := l.status().Daemon.PID
	l.kill()
	l.until("the child has ended", func() error {
		if err := syscall.Kill(child, 0); err != syscall.ESRCH {
			return fmt.Errorf("process %d: %v", child, err)
		}
		return nil
	})
	l.unchanged()
}

// TestUpgradeRefused: what can't take over is refused by the running daemon, with the cause, and nothing has changed.
func TestUpgradeRefused(t *testing.T) {
	needLab(t)
	s := openSite(t, labnet.StoryOptions{}, echoConfig)
	conn := s.dial("client", "tcp", hostPort(labnet.VIP, 7))
	s.echo(conn, []byte("before"))
	started := s.status().Daemon.Started
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(t.TempDir(), name)
		s.must(os.WriteFile(path, []byte(text), mode))
		return path
	}
	foreign := "\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 9) + "\x02\x00\xf3\x00" + strings.Repeat("\x00", 100) // of RISC-V, or too short for it
	for _, c := range []struct{ name, binary, want string }{
		{"another architecture", write("tunlb", foreign, 0o755), "exec format error"},
		{"nothing executable", write("tunlb", "text", 0o644), "permission denied"},
		{"empty", write("tunlb", "", 0o755), "exec format error"},
		{"a directory", t.TempDir(), "is a directory"},
		{"no tunlb", "/bin/true", "is no tunlb"},
		{"does not take the file", script(t, `[ "$1" = version ] && echo tunlb v9 && exit 0; echo "$2:1:1: unknown key"; exit 3`), s.config + ":1:1: unknown key"},
		{"changes while it is tried", script(t, `[ "$1" = version ] && echo tunlb v9 && exit 0; echo '#!/bin/false' > "$0.new"; chmod 755 "$0.new"; mv "$0.new" "$0"`), "has changed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, stderr, code := s.tunlb("upgrade", c.binary)
			if code != exitFailed || !strings.Contains(stderr, c.want) {
				t.Errorf("exit %d: %s; want %s", code, stderr, c.want)
			}
		})
	}
	s.write(echoConfig + "wrong: key\n")
	if _, stderr, code := s.tunlb("upgrade"); code != exitFailed || !strings.Contains(stderr, "unknown key") {
		t.Errorf("with a file that is wrong: exit %d: %s", code, stderr)
	}
	s.write(echoConfig)
	s.echo(conn, []byte("after"))
	if now := s.status().Daemon.Started; !now.Equal(started) {
		t.Errorf("the daemon of %v has become one of %v", started, now)
	}
}

// TestUpgradeByOthers: who may only use the socket may have the daemon replaced by the binary that is there, and name no other.
func TestUpgradeByOthers(t *testing.T) {
	needLab(t)
	if os.Geteuid() != 0 {
		t.Skip("only root can be somebody else")
	}
	const uid = 61234
	s := openSite(t, labnet.StoryOptions{}, fmt.Sprintf("control: {users: [%d]}\n", uid)+echoConfig)
	dir, err := os.MkdirTemp("/tmp", "tunlb") // in which others may look
	s.must(err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	self, err := os.ReadFile("/proc/self/exe")
	s.must(err)
	exe := filepath.Join(dir, "tunlb")
	s.must(errors.Join(os.Chmod(dir, 0o755), os.WriteFile(exe, self, 0o755)))
	as := func(args ...string) (string, int) {
		cmd := s.command(args...)
		cmd.Path = exe
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return string(out), cmd.ProcessState.ExitCode()
	}
	before := s.status().Daemon.Started
	if out, code := as("upgrade", exe); code != exitFailed || !strings.Contains(out, "only root and the daemon's own user may say which binary") {
		t.Errorf("with a binary: exit %d: %s", code, out)
	}
	if now := s.status().Daemon.Started; !now.Equal(before) {
		t.Error("refused, and done all the same")
	}
	if out, code := as("upgrade"); code != 0 {
		t.Errorf("without: exit %d: %s", code, out)
	}
	if now := s.status().Daemon.Started; now.Equal(before) {
		t.Error("not done")
	}
}
