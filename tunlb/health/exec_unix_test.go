//go:build unix

package health

import (
	"bufio"
	"context"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tunlb/tunlb/policy"
)

func shell(script string) policy.Health {
	return policy.Health{Type: "exec", Command: []string{"/bin/sh", "-c", script}}
}

func TestExec(t *testing.T) {
	mute := shell("echo stuck; exec sleep 1000")
	mute.Timeout = 500 * time.Millisecond // for the shell to get to speak
	for _, test := range []struct {
		name   string
		health policy.Health
		want   string
	}{
		{"success", shell("echo fine"), ""},
		{"failure", shell("exit 3"), "exit status 3"},
		{"failure with output", shell("echo; echo '  disk full'; echo more; exit 1"), "exit status 1: disk full"},
		{"failure with errors", shell("echo 'disk full' >&2; exit 1"), "exit status 1: disk full"},
		{"much output", shell("yes no | head -c 1000000; exit 1"), "exit status 1: no"},
		{"escapes", shell(`printf '\033[31mred\a\377'; exit 1`), "exit status 1:  [31mred ?"},
		{"signal", shell("kill -TERM $$"), "signal: terminated"},
		{"mute", mute, "no answer in 500ms: stuck"},
		{"no such file", policy.Health{Type: "exec", Command: []string{"/no/such"}}, "start /no/such: no such file or directory"},
		{"no such program", policy.Health{Type: "exec", Command: []string{"no-such"}}, "start no-such: executable file not found in $PATH"},
		{"no program", policy.Health{Type: "exec", Command: []string{"/"}}, "start /: is a directory"},
		{"none", policy.Health{Type: "exec"}, "no command to run"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := once(netip.AddrPort{}, test.health); got != test.want {
				t.Errorf("cause: got %q, want %q", got, test.want)
			}
		})
	}
}

func TestExecEnvironment(t *testing.T) {
	for _, test := range []struct{ address, vip, want string }{
		{"192.0.2.10:8080", "203.0.113.22:80", "web rs1 192.0.2.10 8080 203.0.113.22 80"},
		{"[2001:db8::10]:0", "[2001:db8::22]:80", "web rs1 2001:db8::10 - 2001:db8::22 80"},
		{"192.0.2.10:80", "", "web rs1 192.0.2.10 80 - -"},
	} {
		vip, _ := netip.ParseAddrPort(test.vip)
		target := Target{
			Key: Key{Service: "web"}, Name: "rs1", Address: netip.MustParseAddrPort(test.address), VIP: vip,
			Health: shell(`echo $TUNLB_SERVICE $TUNLB_SERVER $TUNLB_ADDRESS ${TUNLB_PORT:--} ${TUNLB_VIP:--} ${TUNLB_VPORT:--}; exit 1`),
		}
		target.Health.Timeout = patient
		if got, want := newProbe(&target).run(context.Background()), "exit status 1: "+test.want; got != want {
			t.Errorf("%s: got %q, want %q", test.address, got, want)
		}
	}
}

// TestExecChildren: a program's children are gone when its probe has ended, in whatever way. Each of them
// holds a pipe open.
func TestExecChildren(t *testing.T) {
	for _, test := range []struct {
		name, script string
		cancel       bool
		want         string
	}{
		{"cancelled", "sleep 1000 & (sleep 1000; true) & echo ready >&3; wait", true, "context canceled"},
		{"left behind", "sleep 1000 & echo ready >&3", false, ""},
		{"left behind after a failure", "echo oops; sleep 1000 & echo ready >&3; exit 1", false, "exit status 1: oops"},
	} {
		t.Run(test.name, func(t *testing.T) {
			fifo := filepath.Join(t.TempDir(), "fifo")
			if err := syscall.Mkfifo(fifo, 0o600); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			target := Target{Health: shell("exec 3>" + fifo + "; " + test.script)}
			target.Health.Timeout = patient
			got := make(chan string, 1)
			go func() { got <- newProbe(&target).run(ctx) }()
			r, err := os.Open(fifo) // waits for the program
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if err := r.SetReadDeadline(time.Now().Add(patient / 2)); err != nil {
				t.Fatal(err)
			}
			out := bufio.NewReader(r)
			if line, err := out.ReadString('\n'); line != "ready\n" {
				t.Fatalf("got %q, %v", line, err)
			}
			if test.cancel {
				cancel()
			}
			if got := <-got; got != test.want {
				t.Errorf("cause: got %q, want %q", got, test.want)
			}
			if _, err := io.Copy(io.Discard, out); err != nil {
				t.Errorf("somebody still holds the pipe: %v", err)
			}
		})
	}
}

// TestExecDaemon: who leaves the group with the output open does not hold up the probe.
func TestExecDaemon(t *testing.T) {
	if _, err := os.Stat("/usr/bin/setsid"); err != nil {
		t.Skip("no setsid here")
	}
	pid := filepath.Join(t.TempDir(), "pid")
	h := shell("setsid sh -c 'echo $$ >" + pid + "; exec sleep 1000' & until [ -s " + pid + " ]; do :; done; echo oops; exit 1")
	if got, want := once(netip.AddrPort{}, h), "exit status 1: oops"; got != want {
		t.Errorf("cause: got %q, want %q", got, want)
	}
	b, err := os.ReadFile(pid)
	if err != nil {
		t.Fatal(err)
	}
	kill(t, strings.TrimSpace(string(b)))
}

func kill(t *testing.T, pid string) {
	n, err := strconv.Atoi(pid)
	if err == nil {
		err = syscall.Kill(n, syscall.SIGKILL)
	}
	if err != nil {
		t.Errorf("kill %s: %v", pid, err)
	}
}

// TestExecSpeaksForItself: what a service manager has told tunlb is not for the commands that it runs.
func TestExecSpeaksForItself(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "/run/somewhere")
	t.Setenv("WATCHDOG_USEC", "1000000")
	t.Setenv("TUNLB_SUPERVISOR", "1")
	t.Setenv("TUNLB_TEST_OTHER", "stays")
	got := once(netip.AddrPort{}, shell(`echo "$NOTIFY_SOCKET$WATCHDOG_USEC$TUNLB_SUPERVISOR:$TUNLB_TEST_OTHER"; exit 1`))
	if want := "exit status 1: :stays"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
