package fdstore

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestKeeperIsNobodyElses: an ordinary user can't send to root's keeper, whoever they say they are.
func TestKeeperIsNobodyElses(t *testing.T) {
	k := newKeeper(t)
	info, err := os.Stat(filepath.Dir(k.Address()))
	if err != nil || info.Mode() != os.ModeDir|0o700 {
		t.Fatalf("the folder is %v, %v; want 0700", info.Mode(), err)
	}
	if names, err := os.ReadFile("/proc/net/unix"); err != nil || strings.Contains(string(names), "@tunlb-supervisor") {
		t.Errorf("a name that everybody can send to: %v", err)
	}
	if os.Getuid() != 0 {
		t.Skip("it takes root to be somebody else")
	}
	stranger := exec.Command("/proc/self/exe")
	stranger.Env = append(os.Environ(), actorVariable+"=stranger", "NOTIFY_SOCKET="+k.Address())
	stranger.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := stranger.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "permission denied") {
		t.Errorf("a stranger's message: %v: %s", err, out)
	}
	k.Trust(os.Getpid())
	if err := (manager{address: k.Address()}).send("READY=1"); err != nil || k.Refused() != 0 {
		t.Errorf("our own: %v, %d refused", err, k.Refused())
	}
}

// beStranger sends a message to the manager, without any right, and says what has come of it.
func beStranger() int {
	if err := (manager{address: os.Getenv("NOTIFY_SOCKET")}).send("READY=1"); err != nil {
		os.Stdout.WriteString(err.Error())
	}
	return 0
}

// TestWithoutCapabilities: root with none of its rights is still the folder's owner.
func TestWithoutCapabilities(t *testing.T) {
	k := newKeeper(t)
	child := exec.Command("/proc/self/exe")
	child.Env = append(os.Environ(), actorVariable+"=stripped", "NOTIFY_SOCKET="+k.Address())
	if out, err := child.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("a child without capabilities: %v: %s", err, out)
	}
	if err := k.Settle(); err != nil || k.Refused() != 1 {
		t.Errorf("%d messages came, want 1: %v", k.Refused(), err)
	}
}

func beStripped() int {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	runtime.LockOSThread() // they are the thread's own
	if err := unix.Capset(&header, &none[0]); err != nil {
		os.Stdout.WriteString(err.Error())
	}
	return beStranger()
}

func TestKeeperLeavesNothing(t *testing.T) {
	place := t.TempDir() // belongs to us alone
	if err := os.Chmod(place, 0o700); err != nil {
		t.Fatal(err)
	}
	living, err := listenIn(place)
	if err != nil {
		t.Fatal(err)
	}
	defer living.Close()
	killed, err := listenIn(place)
	if err != nil {
		t.Fatal(err)
	}
	killed.Close() // which leaves the file, as kill -9 does
	other := filepath.Join(place, "tunlb-supervisor-other")
	if err := os.Mkdir(other, 0o700); err != nil { // one that is just being made
		t.Fatal(err)
	}
	next, err := listenIn(place)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	for path, want := range map[string]bool{
		living.LocalAddr().String(): true, next.LocalAddr().String(): true, other: true, filepath.Dir(killed.LocalAddr().String()): false,
	} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s is there: %v, want %v", path, err == nil, want)
		}
	}
	k, err := NewKeeper()
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Dir(k.address)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder stays: %v", err)
	}
}

func TestSafePlace(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("it takes root to make others' folders")
	}
	for _, c := range []struct {
		name string
		uid  int
		mode os.FileMode
		safe bool
	}{
		{"ours", 0, 0o755, true},
		{"ours, open to all", 0, 0o777, false},
		{"ours, open to its group", 0, 0o775, false},
		{"as /tmp is", 0, 0o777 | os.ModeSticky, true},
		{"somebody else's", 1000, 0o700, false}, // XDG_RUNTIME_DIR below sudo
	} {
		place := t.TempDir()
		if err := errors.Join(os.Chmod(place, c.mode), os.Chown(place, c.uid, 0)); err != nil {
			t.Fatal(err)
		}
		if err := safe(place); (err == nil) != c.safe {
			t.Errorf("%s: %v, want safe: %v", c.name, err, c.safe)
		}
		if conn, err := listenIn(place); (err == nil) != c.safe {
			t.Errorf("%s: a socket there: %v, want %v", c.name, err, c.safe)
		} else if err == nil {
			conn.Close()
		}
	}
	long := filepath.Join(t.TempDir(), strings.Repeat("long", 25))
	if err := os.Mkdir(long, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := listenIn(long); err == nil {
		t.Error("a path that is too long for a socket")
	} else if left, _ := os.ReadDir(long); len(left) > 0 {
		t.Errorf("what failed leaves %v", left)
	}
}

// TestNobodyIsTrusted: between two children, when the dead one's pid is free to become anybody's.
func TestNobodyIsTrusted(t *testing.T) {
	k := newKeeper(t)
	m := manager{address: k.Address()}
	for i, trusted := range []int{0, os.Getpid(), 0} {
		k.Trust(trusted)
		before := k.Refused()
		if err := m.send("READY=1"); err != nil {
			t.Fatal(err)
		}
		settled(t, k)
		if got := k.Refused() - before; got == 0 != (trusted != 0) {
			t.Errorf("message %d, with %d trusted: %d refused", i, trusted, got)
		}
	}
}

func TestUnmanaged(t *testing.T) {
	env := []string{"HOME=/", "NOTIFY_SOCKET=/run/x", "LISTEN_FDS=3", "LISTEN_PID=1", "WATCHDOG_USEC=1", "FDSTORE=5", SupervisorVariable + "=7", "NOTIFY_SOCKETS=mine", "PATH=/bin"}
	before := strings.Join(env, " ")
	if got := strings.Join(Unmanaged(env), " "); got != "HOME=/ NOTIFY_SOCKETS=mine PATH=/bin" {
		t.Errorf("left: %s", got)
	}
	if strings.Join(env, " ") != before {
		t.Errorf("the caller's own has changed: %s", env)
	}
}
