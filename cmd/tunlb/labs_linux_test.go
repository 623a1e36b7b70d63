package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/labnet"
	"github.com/tunlb/tunlb/labnet/scenario"
)

// user runs tunlb as somebody whose labs are in a directory of the test's.
type user struct {
	t        *testing.T
	dir      string
	ordinary bool // without any capability, in a user namespace where the user is 1000
}

func newUser(t *testing.T, ordinary bool) *user {
	t.Helper()
	needLab(t)
	u := &user{t, t.TempDir(), ordinary}
	if _, errOut, code := u.tunlb(nil, "version"); ordinary && code != 0 {
		t.Skip("no user namespaces: ", errOut)
	}
	t.Cleanup(func() {
		if out, errOut, code := u.tunlb(nil, "lab", "down", "--all"); code != 0 {
			t.Errorf("down --all: %d, %s%s", code, out, errOut)
		}
		if left, err := filepath.Glob(filepath.Join(u.dir, "tunlb/labs/*")); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	})
	return u
}

// users runs a test as root and as an ordinary user.
func users(t *testing.T, test func(*testing.T, *user)) {
	for _, ordinary := range []bool{false, true} {
		t.Run(map[bool]string{false: "root", true: "ordinary"}[ordinary], func(t *testing.T) { test(t, newUser(t, ordinary)) })
	}
}

func (u *user) command(args ...string) *exec.Cmd {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	u.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Args[0] = "tunlb"
	cmd.Env = append(os.Environ(), asProgram+"=1", "XDG_RUNTIME_DIR="+u.dir, raceOptions)
	if u.ordinary {
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 1000, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 1000, HostID: os.Getgid(), Size: 1}},
		}
	}
	return cmd
}

func (u *user) tunlb(in io.Reader, args ...string) (stdout, stderr string, code int) {
	u.t.Helper()
	cmd := u.command(args...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, &out, &errOut
	if err := cmd.Run(); cmd.ProcessState == nil {
		return "", err.Error(), -1
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// do is a command that has to succeed.
func (u *user) do(args ...string) string {
	u.t.Helper()
	out, errOut, code := u.tunlb(nil, args...)
	if code != 0 {
		u.t.Fatalf("tunlb %s: exit %d\n%s%s", strings.Join(args, " "), code, out, errOut)
	}
	return out
}

// downAllIn takes down what a script has left, if it failed.
func downAllIn(t *testing.T, dir string) {
	u := &user{t: t, dir: dir}
	if _, errOut, code := u.tunlb(nil, "lab", "down", "--all"); code != 0 {
		t.Errorf("lab down --all: %s", errOut)
	}
}

// TestLab: a lab of namespaces comes up, is used by other processes, and goes.
func TestLab(t *testing.T) {
	before := processes(t)
	users(t, func(t *testing.T, u *user) {
		out := u.do("lab", "up", "nat", "--driver", "netns", "--publish", "0:203.0.113.22:80")
		at := regexp.MustCompile(`http://(127\.0\.0\.1:\d+)/`).FindStringSubmatch(out)
		if at == nil {
			t.Fatalf("no published port in %s", out)
		}
		if ls := u.do("lab", "ls"); !strings.Contains(ls, "nat   up     netns") {
			t.Error(ls)
		}
		u.commands(t)
		browser := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
		ask := func() error {
			resp, err := browser.Get("http://" + at[1] + "/")
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if err == nil && !strings.Contains(string(b), "from 198.51.100.7:") {
				err = fmt.Errorf("the answer is %q", b)
			}
			return err
		}
		for range 3 {
			if err := ask(); err != nil {
				t.Error(err)
			}
		}
		u.do("lab", "impair", "client", "outside", "--loss", "100%")
		browser.Timeout = 200 * time.Millisecond
		if err := ask(); !os.IsTimeout(err) {
			t.Errorf("a link that loses all: %v", err)
		}
		u.do("lab", "impair", "client", "outside", "--none")
		browser.Timeout = patience
		if err := ask(); err != nil {
			t.Errorf("a link that was mended: %v", err)
		}
		if out := u.do("lab", "down", "nat"); out != "lab nat is down\n" {
			t.Error(out)
		}
		if out := u.do("lab", "down", "nat"); out != "lab nat is down already\n" {
			t.Error(out)
		}
		if conn, err := net.Dial("tcp", at[1]); err == nil {
			conn.Close()
			t.Error("the published port outlives the lab")
		}
	})
	leftOver(t, before)
}

// commands tries exec.
func (u *user) commands(t *testing.T) {
	for _, tt := range []struct {
		in   string
		args []string
		code int
		out  string
	}{
		{"", []string{"rs1", "--", "sh", "-c", "echo out; exit 7"}, 7, "out\n"},
		{"some text", []string{"rs2", "--", "cat"}, 0, "some text"},
		{"", []string{"rs1", "--", "cat"}, 0, ""},
		{"", []string{"rs1", "--", "no-such-program"}, 127, ""},
		{"", []string{"nobody", "--", "true"}, 127, ""},
		{"", []string{"lb", "--lab", "nat", "--", "tunlb", "drain", "rs9"}, 1, ""},
		{"", []string{"rs1", "--", "sh", "-c", "kill -15 $$"}, 143, ""},
	} {
		if out, errOut, code := u.tunlb(strings.NewReader(tt.in), append([]string{"lab", "exec"}, tt.args...)...); code != tt.code || out != tt.out {
			t.Errorf("exec %v: exit %d, %q, %q; want %d, %q", tt.args, code, out, errOut, tt.code, tt.out)
		}
	}
	if out := u.do("lab", "exec", "lb", "--", "tunlb", "status"); !strings.Contains(out, "203.0.113.22:80/tcp") {
		t.Error(out)
	}
	const much = 100 << 20
	want := sha256.New()
	if _, err := io.Copy(want, labnet.Bytes(much)); err != nil {
		t.Fatal(err)
	}
	got := sha256.New()
	cmd := u.command("lab", "exec", "rs1", "--", "cat")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = labnet.Bytes(much), got, os.Stderr
	if err := cmd.Run(); err != nil || !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		t.Errorf("much: %v, %x, want %x", err, got.Sum(nil), want.Sum(nil))
	}
}

// leftOver wants no more processes of ours than before, soon.
func leftOver(t *testing.T, before []string) {
	t.Helper()
	var left []string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		left = slices.DeleteFunc(processes(t), func(p string) bool { return slices.Contains(before, p) })
		if len(left) == 0 {
			return
		}
	}
	for _, p := range left {
		b, _ := os.ReadFile("/proc/" + p + "/cmdline")
		t.Errorf("process %s is left: %q", p, b)
	}
}

// TestLabInterrupt: ctrl-C where there is no terminal ends the command, and not the lab.
func TestLabInterrupt(t *testing.T) {
	u := newUser(t, false)
	u.do("lab", "up", "nat", "--driver", "netns")
	cmd := u.command("lab", "exec", "rs1", "--", "sh", "-c", "{ echo ready; exec sleep 1000; } | cat; echo no")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	if _, err := lines.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(lines)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 130 || len(rest) > 0 {
		t.Errorf("%v, %q, want exit 130", err, rest)
	}
	u.do("lab", "exec", "rs1", "--", "true")
}

// TestLabDoctor: the director's tunlb has a file, which doctor reads as well.
func TestLabDoctor(t *testing.T) {
	users(t, func(t *testing.T, u *user) {
		u.do("lab", "up", "nat", "--driver", "netns")
		out, errOut, _ := u.tunlb(nil, "lab", "exec", "lb", "--", "tunlb", "doctor")
		if strings.Contains(out+errOut, "stdin") || !strings.Contains(out, " 0 failed") && !strings.Contains(out, "\n0 failed") {
			t.Errorf("doctor: %s%s", out, errOut)
		}
		if out := u.do("lab", "exec", "lb", "--", "tunlb", "status"); !strings.Contains(out, "/labs/nat/nat.yaml") {
			t.Error(out)
		}
	})
}

// TestLabEnvironment: what is set where a command is asked for goes along, and not what was set where the lab came up.
func TestLabEnvironment(t *testing.T) {
	u := newUser(t, false)
	t.Setenv("LC_TIME", "C")
	u.do("lab", "up", "nat", "--driver", "netns")
	os.Unsetenv("LC_TIME")
	t.Setenv("NO_COLOR", "yes")
	t.Setenv("SECRET", "no")
	out := u.do("lab", "exec", "rs1", "--", "env")
	if !strings.Contains(out, "NO_COLOR=yes\n") || strings.Contains(out, "LC_TIME") || strings.Contains(out, "SECRET") {
		t.Error(out)
	}
}

// TestLabBroken: a lab whose director has died says so, and goes like any other.
func TestLabBroken(t *testing.T) {
	u := newUser(t, false)
	u.do("lab", "up", "nat", "--driver", "netns")
	at := regexp.MustCompile(`"pid": ?(\d+)`).FindStringSubmatch(u.do("lab", "exec", "lb", "--", "tunlb", "status", "-o", "json"))
	if at == nil {
		t.Fatal("no process")
	}
	pid, err := strconv.Atoi(at[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	const cause = "the director's tunlb ended: signal: killed"
	var ls string
	for end := time.Now().Add(patience); time.Now().Before(end) && !strings.Contains(ls, "broken"); {
		ls = u.do("lab", "ls")
	}
	if !strings.Contains(ls, "nat   broken") || !strings.Contains(ls, cause) {
		t.Error(ls)
	}
	out, errOut, code := u.tunlb(nil, "lab", "down", "nat")
	if code != 0 || out != "lab nat is down\n" || !strings.Contains(errOut, "lab nat was broken: "+cause) {
		t.Errorf("down: %d, %q, %q", code, out, errOut)
	}
}

// TestLabTerminal: in a terminal the command has one, whose size follows ours.
func TestLabTerminal(t *testing.T) {
	u := newUser(t, false)
	u.do("lab", "up", "nat", "--driver", "netns")
	cmd := u.command("lab", "exec", "rs1", "--", "sh")
	screen, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 33, Cols: 101})
	if err != nil {
		t.Fatal(err)
	}
	defer screen.Close()
	var seen strings.Builder
	say := func(keys, until string) {
		t.Helper()
		if _, err := io.WriteString(screen, keys); err != nil {
			t.Fatal(err)
		}
		from := seen.Len()
		for buf := make([]byte, 4096); !strings.Contains(seen.String()[from:], until); {
			n, err := screen.Read(buf)
			seen.Write(buf[:n])
			if err != nil {
				t.Fatalf("no %q after %q: %v\n%s", until, keys, err, seen.String())
			}
		}
	}
	say("tty\n", "/dev/pts/")
	say("stty size\n", "33 101")
	say("trap 'stty size' WINCH; echo set''up\n", "setup")
	if err := pty.Setsize(screen, &pty.Winsize{Rows: 44, Cols: 120}); err != nil {
		t.Fatal(err)
	}
	for !strings.Contains(seen.String(), "44 120") { // the change takes its way
		say("echo as''ked\n", "asked")
	}
	say("sh -c 'echo run\"\"ning; exec sleep 1000'\n", "running") // one process: none is missed
	say("\x03", "^C")
	say("echo code $?\n", "code 130")
	if _, err := io.WriteString(screen, "exit 9\n"); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, screen) // ends with an error, as terminals do
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 9 {
		t.Errorf("%v, want exit 9", err)
	}
}

// TestLabKilled: of a lab whose keeper is killed nothing is left, whichever of its processes it is, and its place is free again.
func TestLabKilled(t *testing.T) {
	before := processes(t)
	users(t, func(t *testing.T, u *user) {
		for _, victim := range []string{"outer", "inner"} {
			u.do("lab", "up", "nat", "--driver", "netns")
			u.do("lab", "impair", "client", "outside", "--delay", "1ms")
			// A pipe whose end is held by what runs on a host, in a session of its own.
			fifo := filepath.Join(u.dir, "fifo-"+victim)
			if err := unix.Mkfifo(fifo, 0o600); err != nil {
				t.Fatal(err)
			}
			u.do("lab", "exec", "rs1", "--", "sh", "-c", "setsid sleep 1000 <>"+fifo+" >/dev/null 2>&1 & exit 0")
			held, err := os.OpenFile(fifo, os.O_WRONLY|unix.O_NONBLOCK, 0) // fails if nobody reads
			if err != nil {
				t.Fatal(err)
			}
			defer held.Close()
			b, err := os.ReadFile(filepath.Join(u.dir, "tunlb/labs/nat/pid"))
			if err != nil {
				t.Fatal(err)
			}
			pid, err := strconv.Atoi(string(b))
			if err != nil {
				t.Fatal(err)
			}
			if victim == "inner" {
				pid = childOf(t, pid)
			}
			if err := unix.Kill(pid, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			leftOver(t, before)
			broken := []unix.PollFd{{Fd: int32(held.Fd())}}
			if n, err := unix.Poll(broken, int(patience/time.Millisecond)); n != 1 || err != nil || broken[0].Revents&unix.POLLERR == 0 {
				t.Errorf("%s killed: a command's child runs on: %d, %v, %x", victim, n, err, broken[0].Revents)
			}
			if ls := u.do("lab", "ls"); ls != "no lab is up\n" {
				t.Errorf("%s killed: %s", victim, ls)
			}
		}
		u.do("lab", "up", "nat", "--driver", "netns")
	})
	leftOver(t, before)
}

func childOf(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))
	if err != nil {
		t.Skip(err) // a kernel without CONFIG_PROC_CHILDREN
	}
	// The thread that has started it may be another one.
	for _, task := range []string{fmt.Sprintf("/proc/%d/task/*/children", pid)} {
		files, err := filepath.Glob(task)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			more, _ := os.ReadFile(f)
			b = append(b, more...)
		}
	}
	children := strings.Fields(string(b))
	if len(children) == 0 {
		t.Fatalf("process %d has no child", pid)
	}
	child, err := strconv.Atoi(children[0])
	if err != nil {
		t.Fatal(err)
	}
	return child
}

// TestLabForeground: it shows what is logged, and goes by ctrl-C, by the end of its process, and when that is killed.
func TestLabForeground(t *testing.T) {
	for _, driver := range []string{driverNetNS, driverSim} {
		for _, sig := range []os.Signal{os.Interrupt, unix.SIGTERM, unix.SIGKILL} {
			t.Run(fmt.Sprint(driver, " ", sig), func(t *testing.T) {
				before := processes(t)
				u := newUser(t, false)
				cmd := u.command("lab", "up", "nat", "--driver", driver, "--foreground")
				out, err := cmd.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				lines := bufio.NewScanner(out)
				for up := false; !up; up = strings.HasPrefix(lines.Text(), "lab nat is up") {
					if !lines.Scan() {
						t.Fatalf("it does not come up: %v", cmd.Wait())
					}
				}
				if err := cmd.Process.Signal(sig); err != nil {
					t.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, out); err != nil && !errors.Is(err, os.ErrClosed) {
					t.Error(err)
				}
				if err := cmd.Wait(); sig != unix.SIGKILL && err != nil {
					t.Error(err)
				}
				leftOver(t, before)
				if ls := u.do("lab", "ls"); ls != "no lab is up\n" {
					t.Error(ls)
				}
			})
		}
	}
}

// TestLabFails: a lab that does not come up says why, with the code of it, and leaves nothing.
func TestLabFails(t *testing.T) {
	before := processes(t)
	u := newUser(t, false)
	blocked := hideTUN(t, u.command("lab", "up", "nat", "--driver", "netns"))
	var errOut bytes.Buffer
	blocked.Stderr = &errOut
	if err := blocked.Run(); blocked.ProcessState == nil || blocked.ProcessState.ExitCode() != exitCannot || !strings.Contains(errOut.String(), "/dev/net/tun: no such file or directory") {
		t.Errorf("without TUN: %v, %s", err, &errOut)
	}
	leftOver(t, before)
}

// behind has a command run in namespaces of its own, after a script.
func behind(t *testing.T, cmd *exec.Cmd, script string, attr *syscall.SysProcAttr) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	wrapped := exec.Command("sh", append([]string{"-c", script + ` && exec "$@"`, "sh", self}, cmd.Args[1:]...)...)
	wrapped.Env, wrapped.SysProcAttr = cmd.Env, attr
	return wrapped
}

// hideTUN has a command run where /dev/net is empty.
func hideTUN(t *testing.T, cmd *exec.Cmd) *exec.Cmd {
	return behind(t, cmd, "mount -t tmpfs none /dev/net", &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS})
}

// TestLabAuto: without TUN a lab is simulated, and it is said why; both drivers are not to be had then.
func TestLabAuto(t *testing.T) {
	u := newUser(t, false)
	run := func(args ...string) (out, errOut string, code int) {
		t.Helper()
		cmd := hideTUN(t, u.command(args...))
		var o, e bytes.Buffer
		cmd.Stdout, cmd.Stderr = &o, &e
		if err := cmd.Run(); cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return o.String(), e.String(), cmd.ProcessState.ExitCode()
	}
	const why = "/dev/net/tun: no such file or directory"
	if _, errOut, code := run("lab", "up", "nat"); code != 0 || !strings.Contains(errOut, "driver sim: ") || !strings.Contains(errOut, why) {
		t.Errorf("up: exit %d, %s", code, errOut)
	}
	u.do("lab", "down", "nat")
	out, errOut, code := run("lab", "run", "nat", "--driver", "both")
	if code != exitCannot || !strings.Contains(out, "nat, sim: ") || strings.Contains(out, "FAIL") || !strings.Contains(errOut, "netns was left out") {
		t.Errorf("run: exit %d, %s%s", code, out, errOut)
	}
	for demo, lab := range map[string]string{"nat": "nat", "dr": "dr-inline"} {
		out, errOut, code := run("demo", demo)
		if code != 0 || !strings.HasPrefix(out, "Simulated, since this machine refuses") || !strings.Contains(out, why) || strings.Contains(out, "FAIL") ||
			!strings.Contains(out, "`tunlb lab run "+lab+" --driver sim`") || !strings.Contains(out, "\nok    1  ") || !strings.Contains(out, "SERVICE") {
			t.Errorf("demo %s: exit %d, %s\n%s", demo, code, errOut, out)
		}
	}
}

// TestDemoWithoutNamespaces: an ordinary user who may make none gets the simulation as well.
func TestDemoWithoutNamespaces(t *testing.T) {
	u := newUser(t, true)
	// A user namespace whose owner allows no network namespace in it.
	limited := behind(t, u.command("demo", "nat"), "echo 0 >/proc/sys/user/max_net_namespaces", &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	})
	out, err := limited.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "Simulated, since this machine refuses what the real thing needs: network namespaces: no space left on device") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestLabRun: an ordinary user can have what comes with tunlb by both drivers.
func TestLabRun(t *testing.T) {
	u := newUser(t, true)
	args := append([]string{"lab", "run", "--driver", "both", "--keep-going"}, scenario.Shipped()...)
	out, errOut, code := u.tunlb(nil, args...)
	if code != 0 {
		t.Errorf("exit %d\n%s%s", code, out, errOut)
	}
	for _, name := range scenario.Shipped() {
		for _, driver := range []string{driverNetNS, driverSim} {
			if !regexp.MustCompile(fmt.Sprintf(`(?m)^%s, %s: [1-9]\d* passed, 0 failed`, name, driver)).MatchString(out) {
				t.Errorf("%s by %s has not passed:\n%s", name, driver, out)
			}
		}
	}
}
