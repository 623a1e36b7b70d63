package netns

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// helper is the environment variable that makes this test binary a program under test.
const helper = "NETNS_TEST_HELPER"

func TestMain(m *testing.M) {
	switch role := os.Getenv(helper); role {
	case "":
		os.Exit(Main(func() int {
			code := m.Run()
			if err := goleak.Find(); err != nil && code == 0 {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			return code
		}))
	default:
		code, ran, err := Enter()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(ExitUnsupported)
		}
		if !ran {
			code = play(role)
		}
		os.Exit(code)
	}
}

// play is the program under test, inside.
func play(role string) int {
	switch role {
	case "exit":
		return 42
	case "signal": // ends with the number of the signal that it gets
		signals := make(chan os.Signal, 1)
		signal.Notify(signals)
		fmt.Println("ready")
		return int((<-signals).(syscall.Signal))
	case "die":
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		select {}
	case "hold": // a lab that is never closed
		a, b, err := pair("a", "b")
		if err != nil {
			fmt.Println(err)
			return 1
		}
		cmd := a.Command(context.Background(), "sleep", "1000")
		cmd.Stdout = os.Stdout // whoever reads it sees its end when all of us have gone
		if err := cmd.Start(); err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Println("ready", os.Getpid(), cmd.Process.Pid, inode(a), inode(b))
		select {}
	}
	return 1
}

// need makes a namespace, or skips the test where there can't be one.
func need(t *testing.T, err error) {
	t.Helper()
	var u *Unsupported
	if errors.As(err, &u) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// pair makes two joined namespaces.
func pair(a, b string) (*NS, *NS, error) {
	x, err := New(a)
	if err != nil {
		return nil, nil, err
	}
	y, err := New(b)
	if err != nil {
		x.Close()
		return nil, nil, err
	}
	err = Connect(
		End{NS: x, Name: "eth0", Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")}},
		End{NS: y, Name: "eth0", Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("2001:db8::2/64")}},
	)
	return x, y, errors.Join(err, x.Settle(), y.Settle())
}

func newPair(t *testing.T) (*NS, *NS) {
	t.Helper()
	a, b, err := pair("a", "b")
	need(t, err)
	t.Cleanup(func() {
		if err := errors.Join(a.Close(), b.Close()); err != nil {
			t.Error(err)
		}
	})
	return a, b
}

func inode(ns *NS) uint64 {
	var st unix.Stat_t
	if unix.Stat(ns.Path(), &st) != nil {
		return 0
	}
	return st.Ino
}

func TestCheck(t *testing.T) {
	need(t, Check())
	if err := CheckTUN(); err != nil {
		t.Log(err) // as such machines are
	}
}

func TestEnteredNamespaceIsFresh(t *testing.T) {
	need(t, Check())
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	if len(links) != 1 || links[0].Name != "lo" || links[0].Flags&net.FlagUp == 0 {
		t.Errorf("interfaces %v, want lo alone, up", links)
	}
}

func TestDoIsInsideAndReturns(t *testing.T) {
	a, b := newPair(t)
	threadInode := func() uint64 {
		var st unix.Stat_t
		if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
			t.Fatal(err)
		}
		return st.Ino
	}
	home := threadInode()
	var inside uint64
	refusal := errors.New("refusal")
	if err := a.Do(func() error { inside = threadInode(); return refusal }); err != refusal {
		t.Errorf("Do gave %v, want what its function gave", err)
	}
	if inside != inode(a) || inside == inode(b) || inside == home {
		t.Errorf("inside %d, want %d; home %d", inside, inode(a), home)
	}
	if got := threadInode(); got != home {
		t.Errorf("afterwards in %d, want %d", got, home)
	}
}

func TestSockets(t *testing.T) {
	a, b := newPair(t)
	for _, c := range []struct{ local, remote string }{
		{"192.0.2.1:4321", "192.0.2.2:80"},
		{"[2001:db8::1]:4321", "[2001:db8::2]:80"},
	} {
		t.Run("tcp "+c.remote, func(t *testing.T) {
			l, err := b.Listen("tcp", ":80") // one for both families
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			conn, err := a.DialFrom(t.Context(), "tcp", netip.MustParseAddrPort(c.local), netip.MustParseAddrPort(c.remote))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			peer, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer peer.Close()
			if got := peer.RemoteAddr().String(); got != c.local {
				t.Errorf("server sees %s, want %s", got, c.local)
			}
		})
		t.Run("udp "+c.remote, func(t *testing.T) {
			server, err := b.ListenPacket("udp", c.remote)
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			conn, err := a.DialFrom(t.Context(), "udp", netip.MustParseAddrPort(c.local), netip.MustParseAddrPort(c.remote))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 16)
			n, from, err := server.ReadFrom(buf)
			if err != nil || string(buf[:n]) != "hello" || from.String() != c.local {
				t.Errorf("got %q from %v, %v", buf[:n], from, err)
			}
		})
	}
	if _, err := a.DialContext(t.Context(), "tcp", "localhost:80"); err == nil || !strings.Contains(err.Error(), "literal") {
		t.Errorf("dialling a name: %v", err)
	}
}

func TestCommand(t *testing.T) {
	a, b := newPair(t)
	out, err := a.Command(t.Context(), "cat", "/proc/net/if_inet6").Output()
	if err != nil || !strings.Contains(string(out), "20010db8000000000000000000000001") {
		t.Errorf("child sees %q, %v", out, err)
	}
	// Another process reaches a namespace by its path.
	path, err := b.Command(t.Context(), "stat", "-L", "-c", "%i", a.Path()).Output()
	if want := fmt.Sprintln(inode(a)); string(path) != want {
		t.Errorf("child finds inode %s at %s, want %s (%v)", path, a.Path(), want, err)
	}
	var exit *exec.ExitError
	if _, err := a.Command(t.Context(), "cat", "/nowhere").Output(); !errors.As(err, &exit) || len(exit.Stderr) == 0 {
		t.Errorf("failing child: %v", err)
	}
}

func TestCloseEndsChildren(t *testing.T) {
	a, _ := newPair(t)
	cmd := a.Command(t.Context(), "sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
		t.Errorf("child ended with %v, want to be killed", err)
	}
	if err := a.Command(t.Context(), "true").Run(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("start after Close: %v", err)
	}
	if err := a.Do(func() error { return nil }); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Do after Close: %v", err)
	}
}

func TestOffload(t *testing.T) {
	a, _ := newPair(t)
	for _, want := range []bool{true, false, true} {
		if err := a.SetOffload("eth0", want); err != nil {
			t.Fatal(err)
		}
		checksum, segmentation, err := a.Offload("eth0")
		if err != nil || checksum != want || segmentation != want {
			t.Errorf("set to %v: checksum %v, segmentation %v, %v", want, checksum, segmentation, err)
		}
		features(t, a, want)
	}
	if err := a.SetOffload("eth1", false); !errors.Is(err, unix.ENODEV) {
		t.Errorf("no such interface: %v", err)
	}
}

// features asks ethtool, where there is one.
func features(t *testing.T, ns *NS, on bool) {
	t.Helper()
	if _, err := exec.LookPath("ethtool"); err != nil {
		return
	}
	out, err := ns.Command(t.Context(), "ethtool", "-k", "eth0").CombinedOutput()
	want := map[bool]string{true: "on", false: "off"}[on]
	for _, f := range []string{"tx-checksum-ip-generic", "tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-udp-segmentation"} {
		if err != nil || !strings.Contains(string(out), f+": "+want) {
			t.Errorf("ethtool: want %s %s, got %v\n%s", f, want, err, out)
		}
	}
}

func TestSniff(t *testing.T) {
	for _, offload := range []bool{true, false} {
		t.Run(fmt.Sprintf("offload=%v", offload), func(t *testing.T) {
			a, b := newPair(t)
			if err := a.SetOffload("eth0", offload); err != nil {
				t.Fatal(err)
			}
			sa, err := a.Sniff("eth0")
			if err != nil {
				t.Fatal(err)
			}
			sb, err := b.Sniff("eth0")
			if err != nil {
				t.Fatal(err)
			}
			server, err := b.ListenPacket("udp", "192.0.2.2:9")
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			conn, err := a.DialContext(t.Context(), "udp", "192.0.2.2:9")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			const count = 50
			buf := make([]byte, 64)
			for i := range count {
				if _, err := fmt.Fprintf(conn, "marked %d", i); err != nil {
					t.Fatal(err)
				}
				if _, _, err := server.ReadFrom(buf); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			if _, err := sa.Wait(ctx, marked7); err != nil {
				t.Error(err)
			}
			for _, s := range []*Sniffer{sa, sb} {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
				got := slices.DeleteFunc(s.Packets(), func(p Packet) bool { return !strings.Contains(string(p.Data), "marked") })
				if len(got) != count {
					t.Errorf("%s: captured %d packets, want %d", s.ns.Name(), len(got), count)
				}
				for _, p := range got {
					if p.Out != (s == sa) || !p.Ethernet || p.Partial != offload || time.Since(p.Time) > time.Minute {
						t.Fatalf("%s: packet %+v", s.ns.Name(), p)
					}
				}
			}
		})
	}
}

func marked7(p Packet) bool { return strings.HasSuffix(string(p.Data), "marked 7") }

func TestNoDescriptorLeft(t *testing.T) {
	use := func() {
		a, b, err := pair("a", "b")
		need(t, err)
		s, err := a.Sniff("eth0")
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(a.Command(t.Context(), "true").Run(), a.Close(), b.Close(), s.Close(), a.Close()); err != nil {
			t.Fatal(err)
		}
	}
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	use()
	before := count()
	for range 3 {
		use()
	}
	if after := count(); after > before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

// program prepares this binary as a program under test, as the user uid.
func program(t *testing.T, uid int, env string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, args...)
	if uid != os.Getuid() {
		// The go command builds where other users may not look.
		dir, err := os.MkdirTemp("", "netns")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		cmd.Path, cmd.Dir = filepath.Join(dir, "program"), dir
		binary, err := os.ReadFile(self)
		err = errors.Join(err, os.Chmod(dir, 0o755), os.WriteFile(cmd.Path, binary, 0o755))
		if err != nil {
			t.Fatal(err)
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	}
	cmd.Env = append(os.Environ(), env)
	cmd.Stderr = os.Stderr
	return cmd
}

// users are root, if that is what we are, and an ordinary one.
func users() []int {
	if os.Getuid() != 0 {
		return []int{os.Getuid()}
	}
	return []int{0, 65534}
}

func TestEnterPassesOn(t *testing.T) {
	need(t, Check())
	for _, uid := range users() {
		for _, c := range []struct {
			role   string
			signal os.Signal
			code   int
		}{
			{"exit", nil, 42},
			{"signal", unix.SIGTERM, int(unix.SIGTERM)},
			{"signal", unix.SIGUSR1, int(unix.SIGUSR1)},
			{"die", nil, 128 + int(unix.SIGKILL)},
		} {
			t.Run(fmt.Sprintf("uid=%d %s %v", uid, c.role, c.signal), func(t *testing.T) {
				cmd := program(t, uid, helper+"="+c.role)
				out, err := cmd.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				if c.signal != nil {
					if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
						t.Fatal(line, err)
					}
					if err := cmd.Process.Signal(c.signal); err != nil {
						t.Fatal(err)
					}
				}
				_ = cmd.Wait()
				if got := cmd.ProcessState.ExitCode(); got != c.code {
					t.Errorf("exit code %d, want %d", got, c.code)
				}
			})
		}
	}
}

// TestFileCapabilities: setcap on the program, which an exec prefers to ambient capabilities.
func TestFileCapabilities(t *testing.T) {
	need(t, Check())
	if os.Getuid() != 0 {
		t.Skip("only root sets capabilities on files")
	}
	cmd := program(t, 65534, helper+"=exit")
	// struct vfs_cap_data: revision 2 and the effective flag, then permitted and inheritable.
	capNetAdmin := []byte{1, 0, 0, 2, 0, 1 << (unix.CAP_NET_ADMIN - 8), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	if err := unix.Setxattr(cmd.Path, "security.capability", capNetAdmin, 0); err != nil {
		t.Skip("the file system has none:", err)
	}
	if err := cmd.Run(); cmd.ProcessState.ExitCode() != 42 {
		t.Errorf("%v, want exit code 42", err)
	}
}

func TestUnsupportedSaysWhatToDo(t *testing.T) {
	for _, errno := range []error{unix.EPERM, unix.EACCES, unix.ENOSPC, unix.EINVAL} {
		err := fmt.Errorf("start: %w", &os.PathError{Op: "fork/exec", Path: "/proc/self/exe", Err: errno})
		var u *Unsupported
		if !errors.As(refused(err), &u) || u.How == "" || !errors.Is(u, errno) || strings.Contains(u.Error(), "/exe") {
			t.Errorf("%v became %v", err, u)
		}
	}
	if err := refused(nil); err != nil {
		t.Error(err)
	}
	if err := refused(io.EOF); err != io.EOF {
		t.Error(err)
	}
}

func TestSIGKILLLeavesNothing(t *testing.T) {
	need(t, Check())
	for _, uid := range users() {
		t.Run(fmt.Sprintf("uid=%d", uid), func(t *testing.T) {
			before := surroundings(t)
			cmd := program(t, uid, helper+"=hold")
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewReader(out)
			var inner, child int
			var a, b uint64
			line, err := lines.ReadString('\n')
			if _, scan := fmt.Sscanf(line, "ready %d %d %d %d", &inner, &child, &a, &b); err != nil || scan != nil {
				t.Fatal(line, err, scan)
			}
			gone := []func() bool{watch(t, inner), watch(t, child)}
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			// Ends when the last process that holds the pipe has ended: no need to guess when.
			if rest, err := io.ReadAll(lines); err != nil || len(rest) > 0 {
				t.Fatalf("%q %v", rest, err)
			}
			_ = cmd.Wait()
			for i, gone := range gone {
				if !gone() {
					t.Errorf("process %d is still there", []int{inner, child}[i])
				}
			}
			if after := surroundings(t); after != before {
				t.Errorf("around us\n%s\nbefore\n%s", after, before)
			}
			links, err := filepath.Glob("/proc/[0-9]*/ns/net")
			if err != nil {
				t.Fatal(err)
			}
			for _, link := range links {
				target, _ := os.Readlink(link)
				if target == fmt.Sprintf("net:[%d]", a) || target == fmt.Sprintf("net:[%d]", b) {
					t.Errorf("%s is a namespace of the lab", link)
				}
			}
		})
	}
}

// watch gives a function that waits for a process to end.
func watch(t *testing.T, pid int) func() bool {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return func() bool {
		for {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 5000)
			if err != unix.EINTR {
				return n == 1
			}
		}
	}
}

// surroundings is what a lab must not change: interfaces around it, and names of namespaces.
func surroundings(t *testing.T) string {
	t.Helper()
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	names, _ := filepath.Glob("/run/netns/*")
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintln(links, names, string(mounts))
}

// TestAsOrdinaryUser runs this package's tests without root's privileges.
func TestAsOrdinaryUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("that is what the other tests do now")
	}
	const nobody = 65534
	cmd := program(t, nobody, "HOME=/", "-test.v", "-test.count=1", "-test.skip=AsOrdinaryUser|SIGKILL|EnterPassesOn|FileCapabilities")
	cmd.Stderr = nil
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), "SKIP") {
		t.Skipf("%s", out)
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestUnmarked: the first process of a container has the parent 0, and is no second run for it.
func TestUnmarked(t *testing.T) {
	t.Setenv(marker, "")
	if parent, check := marked(); parent >= 0 || check {
		t.Errorf("a program without the marker is taken for a child of process %d (check: %v)", parent, check)
	}
}
