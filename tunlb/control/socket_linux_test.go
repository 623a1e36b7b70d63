package control

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestFullBacklog: a daemon that does not come to accept its clients is alive, and keeps its socket.
func TestFullBacklog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	for {
		conn, err := net.Dial("unix", path)
		if errors.Is(err, syscall.EAGAIN) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	if removed, err := removeStale(path); removed || !errors.Is(err, errLiving) || !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("removed: %v, %v; want that another tunlb is there, and why it was not reached", removed, err)
	}
	if _, err := Listen(path, 0o600, Allow{}); !errors.Is(err, errLiving) {
		t.Errorf("in its place: %v", err)
	}
	if _, err := RemoveStale(path); err != nil {
		t.Errorf("clean: %v", err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("its socket is gone: %v", err)
	}
}
