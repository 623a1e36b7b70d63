package namespaces

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/labnet"
	"github.com/tunlb/tunlb/labnet/scenario"
)

// sh runs a script on rs1.
func sh(t *testing.T, l *lab, script string, in io.Reader) (code int, out, errOut string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), endurance)
	defer cancel()
	var o, e bytes.Buffer
	code, err := l.Exec(ctx, "rs1", []string{"sh", "-c", script}, scenario.Stdio{In: in, Out: &o, Err: &e})
	if err != nil {
		t.Fatalf("%s: %v", script, err)
	}
	return code, o.String(), e.String()
}

func TestExec(t *testing.T) {
	l := openTwo(t)
	for _, tt := range []struct {
		name, script, in string
		code             int
		out, err         string
	}{
		{"streams and code", "echo out; echo err >&2; exit 7", "", 7, "out\n", "err\n"},
		{"signal", "kill -9 $$", "", 137, "", ""},
		{"input to its end", "cat; echo end", "text\n", 0, "text\nend\n", ""},
		{"input that nobody reads", "exit 3", strings.Repeat("x", 1<<20), 3, "", ""},
		{"its own network", "grep -q 10.0.0.10 /proc/self/net/fib_trie && ! grep -q 10.0.0.7 /proc/self/net/fib_trie && echo own", "", 0, "own\n", ""},
		{"output held open by another", "sleep 1000 & echo here", "", 0, "here\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, out, errOut := sh(t, l, tt.script, strings.NewReader(tt.in))
			if code != tt.code || out != tt.out || errOut != tt.err {
				t.Errorf("%s: code %d, out %q, err %q; want %d, %q, %q", tt.script, code, out, errOut, tt.code, tt.out, tt.err)
			}
		})
	}
	if _, out, _ := sh(t, l, "cat", nil); out != "" {
		t.Errorf("no input is %q", out)
	}
	for _, tt := range []struct{ host, program, want string }{
		{"rs9", "true", `no host "rs9"`}, {"switch lan", "true", "no host"}, {"rs1", "no-such-program", "install it here"},
	} {
		if _, err := l.Exec(t.Context(), tt.host, []string{tt.program}, scenario.Stdio{}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s on %s: %v, want %q", tt.program, tt.host, err, tt.want)
		}
	}
}

// TestExecMuch: much that is binary comes through whole, at the pace of who takes it.
func TestExecMuch(t *testing.T) {
	l := openTwo(t)
	const much = 20 << 20
	want, got := sha256.New(), sha256.New()
	if _, err := io.Copy(want, labnet.Bytes(much)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*endurance)
	defer cancel()
	code, err := l.Exec(ctx, "rs1", []string{"cat"}, scenario.Stdio{In: labnet.Bytes(much), Out: got})
	if err != nil || code != 0 || !bytes.Equal(want.Sum(nil), got.Sum(nil)) {
		t.Errorf("code %d, %v, sums %x and %x", code, err, want.Sum(nil), got.Sum(nil))
	}
}

// TestExecInterrupt: the end of the context is ctrl-C for the whole group, and what does not listen is killed.
func TestExecInterrupt(t *testing.T) {
	l := openTwo(t)
	for _, tt := range []struct {
		script string
		code   int
	}{
		// Shells are deaf while they start a program: all run by the time that one of them is heard.
		{"{ echo ready; exec sleep 1000; } | cat; echo no", 130},
		{"trap 'exit 4' INT; echo ready; while :; do sleep 0.01; done", 4}, // a shell hears it between two commands
	} {
		ctx, cancel := context.WithCancel(context.Background())
		out := &waiter{until: "ready", then: cancel}
		code, err := l.Exec(ctx, "rs1", []string{"sh", "-c", tt.script}, scenario.Stdio{Out: out})
		cancel()
		if err != nil || code != tt.code || strings.Contains(out.String(), "no\n") {
			t.Errorf("%s: code %d, %v, %q; want %d", tt.script, code, err, out, tt.code)
		}
	}
}

// waiter calls then once it has been written until.
type waiter struct {
	mu    sync.Mutex
	b     strings.Builder
	until string
	then  func()
}

func (w *waiter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.b.Write(b)
	if w.until != "" && strings.Contains(w.b.String(), w.until) {
		w.until = ""
		w.then()
	}
	return len(b), nil
}

func (w *waiter) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

// TestExecTerminal: a shell has a terminal of its own, whose size follows, and whose ctrl-C reaches what runs there.
func TestExecTerminal(t *testing.T) {
	if _, err := exec.LookPath("stty"); err != nil {
		t.Skip(err)
	}
	l := openTwo(t)
	ctx, cancel := context.WithTimeout(context.Background(), endurance)
	defer cancel()
	in, keys := io.Pipe()
	sizes := make(chan scenario.Size, 1)
	sizes <- scenario.Size{Columns: 101, Rows: 33}
	out := &waiter{}
	type result struct {
		code int
		err  error
	}
	ended := make(chan result, 1)
	go func() {
		code, err := l.Exec(ctx, "rs1", []string{"sh"}, scenario.Stdio{In: in, Out: out, Terminal: true, Resize: sizes})
		ended <- result{code, err}
	}()
	say := func(keysPressed, until string) {
		t.Helper()
		heard := make(chan struct{})
		out.mu.Lock()
		out.until, out.then = until, func() { close(heard) }
		out.mu.Unlock()
		if _, err := io.WriteString(keys, keysPressed); err != nil {
			t.Fatal(err)
		}
		select {
		case <-heard:
		case r := <-ended:
			t.Fatalf("ended: %d, %v\n%s", r.code, r.err, out)
		case <-ctx.Done():
			t.Fatalf("no %q after %q:\n%s", until, keysPressed, out)
		}
	}
	say("tty\n", "/dev/pts/")
	say("stty size\n", "33 101")
	say("trap 'stty size' WINCH; echo set''up\n", "setup")
	sizes <- scenario.Size{Columns: 120, Rows: 44}
	for i := 0; !strings.Contains(out.String(), "44 120"); i++ { // the change takes its way
		say(fmt.Sprintf("echo as''ked%d\n", i), fmt.Sprintf("asked%d", i))
	}
	say("sh -c 'echo run\"\"ning; exec sleep 1000'\n", "running") // one process: none is missed
	say("\x03", "^C")
	say("echo code $?\n", "code 130")
	if _, err := io.WriteString(keys, "exit 9\n"); err != nil {
		t.Fatal(err)
	}
	if r := <-ended; r.err != nil || r.code != 9 {
		t.Errorf("code %d, %v, want 9", r.code, r.err)
	}
}

// TestExecLeash: what commands leave running ends with the lab, in whatever session it is.
func TestExecLeash(t *testing.T) {
	l := openTwo(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	// The pipe's end is held by what is left running, and by nobody else.
	cmd := exec.Command("sh", "-c", "setsid sleep 1000 <&3 >/dev/null 2>&1 & exit 0")
	cmd.ExtraFiles = []*os.File{w}
	ns, err := l.host("rs1")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.warden.start(ns, cmd); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	held := []unix.PollFd{{Fd: int32(r.Fd())}}
	if n, err := unix.Poll(held, 0); n != 0 || err != nil {
		t.Fatalf("nobody is left running: %d, %v", n, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := unix.Poll(held, int(endurance/time.Millisecond)); n != 1 || err != nil || held[0].Revents&unix.POLLHUP == 0 {
		t.Errorf("somebody still runs: %d, %v, %x", n, err, held[0].Revents)
	}
	if _, err := l.Exec(t.Context(), "rs1", []string{"true"}, scenario.Stdio{}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed lab: %v", err)
	}
}
