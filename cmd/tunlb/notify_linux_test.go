package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/tunlb/tunlb/labnet"
)

// TestKeepAlive: the watchdog is told as long as the engine answers, and no longer.
func TestKeepAlive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "60000")
	stuck, asked := make(chan struct{}), make(chan struct{}, 100)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	n := 0
	go func() {
		defer close(ended)
		manager{zerolog.Nop()}.keepAlive(ctx, func() int {
			if n++; n > 3 {
				asked <- struct{}{}
				<-stuck
			}
			return 0
		})
	}()
	buf := make([]byte, 100)
	for i := range 3 {
		l.SetReadDeadline(time.Now().Add(patience))
		n, err := l.Read(buf)
		if err != nil || string(buf[:n]) != "WATCHDOG=1" {
			t.Fatalf("sign of life %d: %q, %v", i+1, buf[:n], err)
		}
	}
	<-asked
	l.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if n, err := l.Read(buf); err == nil {
		t.Errorf("with the engine stuck: %q", buf[:n])
	}
	close(stuck)
	cancel()
	<-ended
}

// script writes a program that is run by the shell.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tunlb")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSuccessorIsTried(t *testing.T) {
	for _, c := range []struct{ name, binary, want string }{
		{"good", script(t, `[ "$1" = version ] && echo tunlb v9 go1 linux/amd64; exit 0`), ""},
		{"not there", "/nonexistent/tunlb", "no such file"},
		{"no tunlb", "/bin/true", "is no tunlb"},
		{"fails", script(t, "echo broken; exit 1"), "broken"},
		{"does not take the file", script(t, `[ "$1" = version ] && echo tunlb v9 && exit 0; echo "$2:1:1: unknown key"; exit 3`), "/some/file:1:1: unknown key"},
		{"says a lot", script(t, "head -c 10000000 /dev/zero; exit 1"), "exit status 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, end := context.WithCancelCause(t.Context())
			s := &succession{self: c.binary, end: end}
			next, err := s.begin(t.Context(), "", "/some/file")
			switch {
			case c.want == "" && (err != nil || next.version != "v9"):
				t.Errorf("refused: %v", err)
			case c.want == "" && context.Cause(ctx) != error(next):
				t.Errorf("the daemon's work ends for %v", context.Cause(ctx))
			case c.want == "":
				if _, err := s.begin(t.Context(), "", ""); err != errUnderWay {
					t.Errorf("a second one beside it: %v", err)
				}
			case err == nil || !strings.Contains(err.Error(), c.want) || len(err.Error()) > 2*trialOutput:
				t.Errorf("got %.200v, want %s", err, c.want)
			case ctx.Err() != nil:
				t.Errorf("refused, and yet the daemon's work has ended: %v", context.Cause(ctx))
			}
		})
	}
}

// TestGivenUp: a daemon that is built as releases are has two capabilities left in all threads, and so has its successor. What checks a
// server has none.
func TestGivenUp(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the program")
	}
	needLab(t)
	binary := filepath.Join(t.TempDir(), "tunlb")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	checked := filepath.Join(t.TempDir(), "checked")
	s := openLab(t, labnet.Story(labnet.StoryOptions{}), storyConfig+fmt.Sprintf(`
  - name: checked
    listen: 203.0.113.22:99/tcp
    scheduler: rr
    servers: [192.168.0.10:8080]
    health: {type: exec, command: [/bin/sh, -c, "cat /proc/self/status > %[1]s.new && mv %[1]s.new %[1]s"], interval: 100ms}
`, checked))
	s.startAs(binary)
	t.Cleanup(s.stop)
	for _, when := range []string{"after the start", "after an upgrade"} {
		if when == "after an upgrade" {
			if _, stderr, code := s.tunlb("upgrade"); code != 0 {
				t.Fatalf("upgrade: exit %d: %s\n%s", code, stderr, s.log)
			}
		}
		os.Remove(checked) // one that was begun before may come: it has nothing either
		s.until("the server is checked", func() error {
			status, err := os.ReadFile(checked)
			if err != nil {
				return err
			}
			for _, none := range []string{"CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapAmb:\t0000000000000000"} {
				if !bytes.Contains(status, []byte(none)) {
					t.Fatalf("%s, a health check by command has capabilities, want %s:\n%s", when, none, status)
				}
			}
			return nil
		})
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", s.cmd.Process.Pid))
		if err != nil || len(tasks) < runtime.NumCPU() {
			t.Fatalf("%d threads, %v", len(tasks), err)
		}
		for _, task := range tasks {
			status, err := os.ReadFile(task)
			if err != nil {
				continue // it has ended
			}
			for _, want := range []string{"CapPrm:\t0000000000003000", "CapEff:\t0000000000003000", "CapBnd:\t0000000000003000", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1"} {
				if !bytes.Contains(status, []byte(want)) {
					t.Errorf("%s, %s: want %s in\n%s", when, task, want, status)
				}
			}
		}
	}
}
