package fdstore

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The tests start this program again as a process of its own, which does what its standard input says, a command a line.
const actorVariable = "FDSTORE_TEST_ACTOR"

func TestMain(m *testing.M) {
	switch os.Getenv(actorVariable) {
	case "":
	case "stranger":
		os.Exit(beStranger())
	case "stripped":
		os.Exit(beStripped())
	default:
		os.Exit(act())
	}
	os.Exit(m.Run())
}

// reply is what an actor answers each command with.
type reply struct {
	PID       int
	Inherited bool
	Names     []string
	FD        int
	OK        bool
	Error     string
	Text      string
}

// act is the actor's main: read ONE byte at a time, so that a line is not lost with this program at exec.
func act() int {
	store := Open()
	fds := map[string]int{}
	for {
		line, err := readLine(os.Stdin)
		if err != nil {
			return 0
		}
		words := strings.Fields(line)
		r := reply{PID: os.Getpid(), FD: -1}
		fail := func(err error) {
			if err != nil {
				r.Error = err.Error()
			}
		}
		switch words[0] {
		case "hello":
			r.Text = os.Getenv("LISTEN_PID") + os.Getenv("LISTEN_FDS") + os.Getenv("LISTEN_FDNAMES") + os.Getenv(parentVariable)
		case "pipe": // and put something into it
			var p [2]int
			fail(syscall.Pipe2(p[:], syscall.O_CLOEXEC))
			_, err := syscall.Write(p[1], []byte(words[2]))
			fail(err)
			fds[words[1]] = p[0]
		case "put":
			fail(store.Put(words[1], fds[words[2]]))
		case "take":
			r.FD, r.OK = store.Take(words[1])
			fds[words[1]] = r.FD
		case "read":
			buf := make([]byte, 100)
			unix.SetNonblock(fds[words[1]], true)
			n, err := syscall.Read(fds[words[1]], buf)
			fail(err)
			r.Text = string(buf[:max(n, 0)])
		case "remove":
			fail(store.Remove(words[1]))
		case "discard":
			names, err := store.Discard()
			fail(err)
			r.Text = strings.Join(names, " ")
		case "open": // what the process has open beyond what Go opens for itself
			r.Text = strings.Join(openPipes(), " ")
		case "cut": // a Put that a crash cuts short: the new one is stored, the old one not removed
			e := store.entries[words[1]]
			fail(store.manager.store(wire(words[1], e.generation+1), fds[words[2]]))
		case "exec":
			fail(store.Exec(words[1], append([]string{os.Args[0]}, words[2:]...)))
		}
		r.Inherited, r.Names = store.Inherited(), store.Names()
		out, _ := json.Marshal(r)
		fmt.Println(string(out))
	}
}

func readLine(f io.Reader) (string, error) {
	var line []byte
	for b := make([]byte, 1); ; {
		if _, err := f.Read(b); err != nil {
			return "", err
		}
		if b[0] == '\n' {
			return string(line), nil
		}
		line = append(line, b[0])
	}
}

// openPipes are the pipes that the process has above its standard descriptors.
func openPipes() (pipes []string) {
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		to, _ := os.Readlink("/proc/self/fd/" + e.Name())
		if len(e.Name()) > 1 || e.Name() > "2" {
			if strings.HasPrefix(to, "pipe:") {
				pipes = append(pipes, to)
			}
		}
	}
	return pipes
}

type actor struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.Writer
	out *bufio.Scanner
}

// start starts an actor with what k keeps; without k it has no manager.
func start(t *testing.T, k *Keeper) *actor {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), actorVariable+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	release := func() {}
	if k != nil {
		if release, err = k.Equip(cmd); err != nil {
			t.Fatal(err)
		}
	}
	err = cmd.Start()
	release()
	if err != nil {
		t.Fatal(err)
	}
	if k != nil {
		k.Trust(cmd.Process.Pid)
	}
	a := &actor{t: t, cmd: cmd, in: in, out: bufio.NewScanner(out)}
	t.Cleanup(a.kill)
	return a
}

// do has the actor do something and wants it to come off.
func (a *actor) do(command string, args ...any) reply {
	a.t.Helper()
	r := a.try(command, args...)
	if r.Error != "" {
		a.t.Fatalf("%s: %s", fmt.Sprintf(command, args...), r.Error)
	}
	return r
}

func (a *actor) try(command string, args ...any) (r reply) {
	a.t.Helper()
	fmt.Fprintf(a.in, command+"\n", args...)
	if !a.out.Scan() {
		a.t.Fatalf("%s: the actor is gone: %v", fmt.Sprintf(command, args...), a.out.Err())
	}
	if err := json.Unmarshal(a.out.Bytes(), &r); err != nil {
		a.t.Fatalf("%s: %v", a.out.Text(), err)
	}
	return r
}

// kill is the crash: nothing can be said any more.
func (a *actor) kill() {
	a.cmd.Process.Kill()
	a.cmd.Wait()
}

func newKeeper(t *testing.T) *Keeper {
	t.Helper()
	k, err := NewKeeper()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- k.Serve(func(string, string) {}) }()
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return k
}

func settled(t *testing.T, k *Keeper) []string {
	t.Helper()
	if err := k.Settle(); err != nil {
		t.Fatal(err)
	}
	return k.Names()
}

func TestCrash(t *testing.T) {
	k := newKeeper(t)
	a := start(t, k)
	if r := a.do("hello"); r.Inherited {
		t.Error("the first one has inherited something")
	}
	a.do("pipe p from-the-first")
	a.do("put state p")
	a.do("pipe q unwanted")
	a.do("put other q")
	a.kill()
	if got, want := settled(t, k), []string{"state@1", "other@1"}; !slices.Equal(got, want) {
		t.Fatalf("kept: %q, want %q", got, want)
	}

	b := start(t, k)
	r := b.do("hello")
	if !r.Inherited || !slices.Equal(r.Names, []string{"other", "state"}) {
		t.Errorf("the second one got %+v", r)
	}
	if r.Text != "" {
		t.Errorf("variables for its children: %q", r.Text)
	}
	if r := b.do("take nothing"); r.OK {
		t.Error("took what is not there")
	}
	if r := b.do("take state"); !r.OK {
		t.Fatal("state is not there")
	}
	if r := b.do("take state"); r.OK {
		t.Error("took it twice")
	}
	b.do("take state")
	if r := b.do("discard"); r.Text != "other" {
		t.Errorf("discarded %q, want other", r.Text)
	}
	if got := settled(t, k); !slices.Equal(got, []string{"state@1"}) {
		t.Errorf("after Discard: %q", got)
	}
	b.kill()
	c := start(t, k) // what was taken and not put again is there for the third as well
	c.do("take state")
	if r := c.do("read state"); r.Text != "from-the-first" {
		t.Errorf("read %q", r.Text)
	}
}

// TestPutReplaces: whatever the order in which the manager gives them, the newest counts.
func TestPutReplaces(t *testing.T) {
	t.Run("oldest first", func(t *testing.T) { putReplaces(t, false) })
	t.Run("newest first", func(t *testing.T) { putReplaces(t, true) })
}

func putReplaces(t *testing.T, reversed bool) {
	k := newKeeper(t)
	a := start(t, k)
	a.do("pipe old 1")
	a.do("pipe new 2")
	a.do("put state old")
	a.do("put state old") // the same changes nothing
	if got := settled(t, k); !slices.Equal(got, []string{"state@1"}) {
		t.Errorf("the same twice: %q", got)
	}
	a.do("put state new")
	if got := settled(t, k); !slices.Equal(got, []string{"state@2"}) {
		t.Errorf("after the new one: %q", got)
	}
	a.do("cut state old")
	a.kill()
	if got := settled(t, k); !slices.Equal(got, []string{"state@2", "state@3"}) {
		t.Fatalf("after the Put that was cut short: %q", got)
	}
	if reversed {
		k.mu.Lock()
		slices.Reverse(k.kept)
		k.mu.Unlock()
	}
	b := start(t, k)
	b.do("take state")
	if r := b.do("read state"); r.Text != "1" {
		t.Errorf("got %q, want what was put last", r.Text)
	}
	if got := settled(t, k); !slices.Equal(got, []string{"state@3"}) {
		t.Errorf("the older one is not tidied away: %q", got)
	}
	b.do("remove state")
	if got := k.Names(); len(got) != 0 { // without Settle: Remove has waited
		t.Errorf("after Remove: %q", got)
	}
}

func TestStrangers(t *testing.T) {
	k := newKeeper(t)
	a := start(t, k)
	a.do("pipe p 1")
	a.do("put state p")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	m := manager{address: k.Address()} // this process is not the one that is trusted
	if err := m.store("evil", int(w.Fd())); err != nil {
		t.Fatal(err)
	}
	if err := m.forget("state@1"); err != nil {
		t.Fatal(err)
	}
	if got := settled(t, k); !slices.Equal(got, []string{"state@1"}) {
		t.Errorf("kept: %q", got)
	}
	if got := k.Refused(); got != 2 {
		t.Errorf("%d messages refused, want 2", got)
	}
	w.Close()
	r.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := r.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the stranger's descriptor is still open: %v", err)
	}
}

func TestExec(t *testing.T) {
	for _, managed := range []bool{true, false} {
		t.Run(fmt.Sprintf("managed=%v", managed), func(t *testing.T) {
			var k *Keeper
			if managed {
				k = newKeeper(t)
			}
			a := start(t, k)
			for i := range 20 { // so that some are where others are to go
				a.do("pipe p%d text%d", i, i)
				a.do("put n%d p%d", i, i)
			}
			before := a.do("open")
			failing := filepath.Join(t.TempDir(), "not-a-program")
			if err := os.WriteFile(failing, []byte("no program"), 0o755); err != nil {
				t.Fatal(err)
			}
			for _, binary := range []string{"/nonexistent", failing, "/proc/self/exe/x"} {
				if r := a.try("exec %s", binary); r.Error == "" {
					t.Fatalf("exec %s came off", binary)
				}
			}
			if after := a.do("open"); after.Text != before.Text {
				t.Errorf("a failed Exec has changed what is open:\n before %s\n after  %s", before.Text, after.Text)
			}
			a.do("remove n19") // it goes on working, with the manager as well

			fmt.Fprintln(a.in, "exec /proc/self/exe")
			r := a.do("hello") // of the new program, by the same pipes
			if r.PID != before.PID || !r.Inherited || len(r.Names) != 19 {
				t.Errorf("after Exec %+v, before pid %d", r, before.PID)
			}
			for i := range 19 {
				if r := a.do("take n%d", i); !r.OK {
					t.Fatalf("n%d is not there", i)
				}
				if r := a.do("read n%d", i); r.Text != fmt.Sprintf("text%d", i) {
					t.Errorf("n%d has %q", i, r.Text)
				}
			}
			if managed {
				a.do("pipe p x")
				a.do("put n0 p")
				if got := settled(t, k); !slices.Contains(got, "n0@2") || slices.Contains(got, "n0@1") {
					t.Errorf("the manager has %q", got)
				}
			}
		})
	}
}

// TestManagerByPath is as systemd has it: the socket is a path, and everything is one message.
func TestManagerByPath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	s := Open()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if err := s.Put("tun.tl0", int(r.Fd())); err != nil {
		t.Fatal(err)
	}
	buf, control := make([]byte, 1000), make([]byte, 1000)
	n, cn, _, _, err := l.ReadMsgUnix(buf, control)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(buf[:n]), "FDSTORE=1\nFDNAME=tun.tl0@1\nFDPOLL=0"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	_, fds := passed(control[:cn])
	if len(fds) != 1 || same(fds[0], int(r.Fd())) != isSame {
		t.Errorf("passed %v, which should be the pipe", fds)
	}
	for _, fd := range fds {
		closeFD(fd)
	}
	if err := s.Put("a:b", int(r.Fd())); err == nil {
		t.Error("a name with a colon was sent")
	}
}
