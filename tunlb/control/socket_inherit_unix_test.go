//go:build unix

package control

import (
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// outlived is a listener that is closed, with a duplicate of its socket.
func outlived(t *testing.T, l net.Listener) (fd int) {
	t.Helper()
	Keep(l)
	if err := WithDescriptor(l, func(own int) (err error) {
		fd, err = syscall.Dup(own)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return fd
}

// TestAdopt: who comes while nobody listens is served by the successor, at a path that was there all the time.
func TestAdopt(t *testing.T) {
	for _, path := range []string{filepath.Join(t.TempDir(), "s"), "@tunlb-test-" + filepath.Base(t.TempDir())} {
		if abstract(path) && !checksPeers { // as good a sign of Linux as any
			continue
		}
		l, err := Listen(path, 0o600, Allow{})
		if err != nil {
			t.Fatal(err)
		}
		fd := outlived(t, l)
		client, err := net.Dial("unix", path)
		if err != nil {
			t.Fatalf("%s, in between: %v", path, err)
		}
		defer client.Close()
		next, err := Adopt(fd, path, 0o640, Allow{})
		if err != nil {
			t.Fatal(err)
		}
		conn, err := next.Accept()
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if info, err := os.Stat(path); !abstract(path) && (err != nil || info.Mode().Perm() != 0o640) {
			t.Errorf("permissions %v, %v, want those of the successor", info.Mode(), err)
		}
		if err := next.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(path); err == nil {
			t.Error("the last one has left the path")
		}
	}
}

// TestAdoptRefuses: what is no such socket is closed, and said.
func TestAdoptRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	listening := func(t *testing.T, at string) int {
		l, err := Listen(at, 0o600, Allow{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { Remove(l) })
		return outlived(t, l)
	}
	for name, tt := range map[string]struct {
		fd   func(t *testing.T) int
		says string
	}{
		"another path": {func(t *testing.T) int { return listening(t, path+"2") }, "it is at"},
		"path is gone": {func(t *testing.T) int {
			fd := listening(t, path)
			os.Remove(path)
			return fd
		}, "no such file"},
		"something else there": {func(t *testing.T) int {
			fd := listening(t, path)
			os.Remove(path)
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return fd
		}, errNoSocket.Error()},
		"does not listen": {func(t *testing.T) int {
			fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
			if err != nil {
				t.Fatal(err)
			}
			return fd
		}, "does not listen"},
		"TCP": {func(t *testing.T) int {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			raw, _ := l.(*net.TCPListener).SyscallConn()
			fd := -1
			raw.Control(func(own uintptr) { fd, err = syscall.Dup(int(own)) })
			if err != nil {
				t.Fatal(err)
			}
			return fd
		}, "socket of tcp"},
	} {
		t.Run(name, func(t *testing.T) {
			fd := tt.fd(t)
			if _, err := Adopt(fd, path, fs.FileMode(0o600), Allow{}); err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%v, want %q", err, tt.says)
			}
			var st syscall.Stat_t
			if err := syscall.Fstat(fd, &st); err == nil {
				t.Error("the descriptor is still open")
			}
		})
	}
}
