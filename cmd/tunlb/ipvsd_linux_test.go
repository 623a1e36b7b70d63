package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/labnet/netns"
	"github.com/tunlb/tunlb/tunlb/control"
)

// raceOptions keep the race detector's end from taking a second in each of many short processes.
const raceOptions = "GORACE=halt_on_error=1 atexit_sleep_ms=0"

// TestHolders: a name, a thread or an open file of somebody else has the namespace; nothing of our own does.
func TestHolders(t *testing.T) {
	const ours, other = "net:[77]", "net:[78]"
	for name, test := range map[string]struct {
		links  map[string]string // below /proc
		mounts string
		want   bool
	}{
		"nobody":           {map[string]string{"1/ns/net": other, "1/task/1/ns/net": other, "1/fd/3": "/dev/null"}, "", false},
		"ourselves":        {map[string]string{"1/ns/net": other, "42/task/43/ns/net": ours, "42/fd/9": ours}, "", false},
		"process 1":        {map[string]string{"1/ns/net": ours}, "", true},
		"a thread":         {map[string]string{"1/ns/net": other, "50/ns/net": other, "50/task/50/ns/net": other, "50/task/51/ns/net": ours}, "", true},
		"an open file":     {map[string]string{"1/ns/net": other, "50/task/50/ns/net": other, "50/fd/3": other, "50/fd/7": ours}, "", true},
		"a name":           {map[string]string{"1/ns/net": other}, "30 22 0:4 net:[77] /run/netns/blue rw shared:1 - nsfs nsfs rw", true},
		"another's name":   {map[string]string{"1/ns/net": other}, "30 22 0:4 net:[78] /run/netns/net:[77] rw shared:1 - nsfs nsfs rw", false},
		"no /proc/1":       {nil, "", false},
		"nobody may look":  {map[string]string{"1/ns/net": other, "50/comm": ours}, "", false},
		"not a process":    {map[string]string{"1/ns/net": other, "self/task/1/ns/net": ours, "sys/fd/1": ours}, "", false},
		"a longer number":  {map[string]string{"1/ns/net": "net:[777]", "50/fd/7": "net:[777]"}, "30 22 0:4 net:[777] /run/x rw - nsfs nsfs rw", false},
		"a name elsewhere": {map[string]string{"1/ns/net": other}, "30 22 0:4 / / rw - ext4 /dev/sda rw\n31 30 0:4 net:[77] /x rw - nsfs nsfs rw", true},
	} {
		t.Run(name, func(t *testing.T) {
			proc := t.TempDir()
			links := map[string]string{"42/ns/net": ours}
			for at, to := range test.links {
				links[at] = to
			}
			for at, to := range links {
				at = filepath.Join(proc, at)
				if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.Symlink(to, at)); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(filepath.Join(proc, "42/mountinfo"), []byte(test.mounts+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			h := holders{proc: proc, self: 42}
			for _, look := range []string{"first", "second"} {
				if got, err := h.any(); err != nil || got != test.want {
					t.Errorf("%s look: %v, %v, want %v", look, got, err, test.want)
				}
			}
			if h.last != "" { // where it was seen is not believed for ever
				if err := os.Remove(h.last); err != nil {
					t.Fatal(err)
				}
				if got, err := h.any(); err != nil || got {
					t.Errorf("after its end: %v, %v", got, err)
				}
			}
		})
	}
	if _, err := (&holders{proc: t.TempDir(), self: 42}).any(); err == nil {
		t.Error("without /proc: no error")
	}
}

// lvs is a network namespace with nothing in it, for ipvsadm to start a daemon in.
type lvs struct {
	t      *testing.T
	ns     *netns.NS
	socket string
}

func newLVS(t *testing.T) *lvs {
	t.Helper()
	needLab(t)
	ns, err := netns.New("lvs")
	if err != nil {
		t.Fatal(err)
	}
	l := &lvs{t, ns, filepath.Join(t.TempDir(), "c.sock")}
	t.Cleanup(func() {
		ns.Close()
		l.until("the daemon ends with its namespace", l.ended)
	})
	return l
}

func (l *lvs) client() *control.Client { return control.NewClient(l.socket) }

// pid is the daemon's; 0 if there is none.
func (l *lvs) pid() int {
	status, err := l.client().Status(context.Background())
	if err != nil {
		return 0
	}
	return status.Daemon.PID
}

func (l *lvs) ended() error {
	if _, err := l.client().Status(context.Background()); !errors.Is(err, control.ErrNoDaemon) {
		return fmt.Errorf("it still answers: %v", err)
	}
	if _, err := os.Stat(l.socket); err == nil {
		return errors.New("its socket is still there")
	}
	if _, err := os.Stat(logOf(l.socket)); err == nil {
		return errors.New("its log is still there")
	}
	return nil
}

func (l *lvs) until(what string, try func() error) {
	l.t.Helper()
	s := site{t: l.t, log: &syncBuffer{}}
	s.until(what, try)
}

func (l *lvs) command(args ...string) *netns.Cmd {
	l.t.Helper()
	self, err := os.Executable()
	if err != nil {
		l.t.Fatal(err)
	}
	cmd := l.ns.Command(l.t.Context(), self, args...)
	cmd.Args[0] = progIPVSADM
	cmd.Env = append(os.Environ(), asProgram+"=1", "TUNLB_SOCKET="+l.socket, raceOptions)
	return cmd
}

// ipvsadm wants it to succeed.
func (l *lvs) ipvsadm(args ...string) string {
	l.t.Helper()
	out, err := l.command(args...).CombinedOutput()
	if err != nil {
		l.t.Fatalf("ipvsadm %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// TestNamespaceGone: the daemon that ipvsadm has started outlives it, stays for a name alone, and goes when
// that goes.
func TestNamespaceGone(t *testing.T) {
	l := newLVS(t)
	l.ipvsadm("-A", "-t", "203.0.113.22:80", "-s", "rr")
	pid := l.pid()
	if pid == 0 {
		t.Fatal("no daemon")
	}
	name := filepath.Join(t.TempDir(), "name")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(l.ns.Path(), name, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	unmount := sync.OnceValue(func() error { return unix.Unmount(name, unix.MNT_DETACH) })
	defer unmount()
	if err := l.ns.Close(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2*namespacePoll + secondLook) // it would have ended by now
	if l.pid() != pid {
		t.Fatal("it has ended although its namespace has a name")
	}
	if err := unmount(); err != nil {
		t.Fatal(err)
	}
	l.until("it ends", l.ended)
	l.until("its process is gone", func() error {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && !bytes.Contains(b, []byte(") Z ")) {
			return errors.New("it is still there")
		}
		return nil
	})
}

// TestStartAlone: the daemon holds nothing of its caller's, and its caller's end is not its own.
func TestStartAlone(t *testing.T) {
	l := newLVS(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := l.command("-A", "-t", "203.0.113.22:80")
	cmd.ExtraFiles = []*os.File{w} // such as a script's lock
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	w.Close()
	if err := r.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the caller's file is still open: %v", err)
	}
	pid := l.pid()
	if sid, err := unix.Getsid(pid); err != nil || sid != pid {
		t.Errorf("session %d, %v, want its own, %d", sid, err, pid)
	}
	if dir, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err != nil || dir != "/" {
		t.Errorf("it is in %s, %v", dir, err)
	}
	if in, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/0", pid)); err != nil || in != "/dev/null" {
		t.Errorf("its input is %s, %v", in, err)
	}
	if got := l.ipvsadm("-Ln"); !strings.Contains(got, "203.0.113.22:80 wlc") {
		t.Errorf("another process sees\n%s", got)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	l.until("it ends by SIGTERM", l.ended)
	if got := l.ipvsadm("-S", "-n"); got != "" {
		t.Errorf("after its end there is\n%s", got)
	}
}

// TestStartAfterKill: the first command after the daemon's sudden end has another one started.
func TestStartAfterKill(t *testing.T) {
	l := newLVS(t)
	for i := range 5 {
		l.ipvsadm("-A", "-t", "203.0.113.22:80")
		if err := syscall.Kill(l.pid(), syscall.SIGKILL); err != nil {
			t.Fatal(i, err)
		}
	}
	l.ipvsadm("-A", "-t", "203.0.113.22:80")
}

// TestStartTogether: of many at once one starts a daemon, and all of them reach it.
func TestStartTogether(t *testing.T) {
	l := newLVS(t)
	const n = 6
	var wg sync.WaitGroup
	for i := range n {
		cmd := l.command("-A", "-t", fmt.Sprintf("203.0.113.22:%d", 80+i))
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		wg.Go(func() {
			if err := cmd.Run(); err != nil {
				t.Errorf("%v\n%s", err, &out)
			}
		})
	}
	wg.Wait()
	if got := strings.Count(l.ipvsadm("-S", "-n"), "\n"); got != n {
		t.Errorf("%d services, want %d: more than one daemon?", got, n)
	}
	// A second one would have refused to be beside the first, and have said so. Each change is in the log, with who made it.
	log, err := os.ReadFile(logOf(l.socket))
	if starts, said := strings.Count(string(log), "balancing 0 services"), strings.Contains(string(log), "another tunlb"); err != nil || starts != 1 || said {
		t.Errorf("%v, the log of one start has %d:\n%s", err, starts, log)
	}
	if changes := strings.Count(string(log), "verb=add-service"); changes != n {
		t.Errorf("%d of %d changes are in the log:\n%s", changes, n, log)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(l.socket), "*"))
	if err != nil || len(left) != 2 { // socket and log
		t.Errorf("files: %q, %v", left, err)
	}
}

// TestStartRefused: a daemon that cannot be is an error with its words, at once.
func TestStartRefused(t *testing.T) {
	needLab(t)
	if os.Geteuid() != 0 {
		t.Skip("only root can be somebody else")
	}
	dir, err := os.MkdirTemp("/tmp", "tunlb")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join(dir, "tunlb")
	if err := errors.Join(os.Chmod(dir, 0o777), os.WriteFile(exe, self, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "ipvsadm", "-A", "-t", "203.0.113.22:80")
	cmd.Env = append(os.Environ(), asProgram+"=1", "TUNLB_SOCKET="+filepath.Join(dir, "c.sock"), raceOptions)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 61234, Gid: 61234}}
	out, _ := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != exitNoIPVS || strings.Contains(string(out), "/dev/net/tun") ||
		!strings.HasPrefix(string(out), "Can't initialize ipvs: Permission denied (you must be root)\n") {
		t.Errorf("exit %d\n%s", code, out)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "c.*")); len(left) > 0 {
		t.Errorf("it has left %q", left)
	}
	// Without a socket that is named, folders are made for it, and for nothing.
	cmd = exec.CommandContext(t.Context(), exe, "ipvsadm", "-A", "-t", "203.0.113.22:80")
	cmd.Env = append(os.Environ(), asProgram+"=1", "TUNLB_SOCKET=", "TMPDIR="+dir, "XDG_RUNTIME_DIR=", raceOptions)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 61234, Gid: 61234}}
	out, _ = cmd.CombinedOutput()
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); cmd.ProcessState.ExitCode() != exitNoIPVS || len(left) != 1 {
		t.Errorf("exit %d, there is %q\n%s", cmd.ProcessState.ExitCode(), left, out)
	}
}

// TestBoundLog: the log starts over, and what is written next is at its beginning.
func TestBoundLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, n := range []int{logLimit, 1, 1} {
		if _, err := f.Write(bytes.Repeat([]byte("x"), n)); err != nil {
			t.Fatal(err)
		}
		before, _ := f.Stat()
		boundLog(f)
		if after, _ := f.Stat(); after.Size() > logLimit || before.Size() <= logLimit && after.Size() != before.Size() {
			t.Errorf("%d bytes became %d", before.Size(), after.Size())
		}
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "x" {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}
