package control

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
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

// TestListenTogether: each socket has its mode, and what else is made meanwhile has its own.
func TestListenTogether(t *testing.T) {
	dir := t.TempDir()
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			path := filepath.Join(dir, strconv.Itoa(i))
			l, err := listenUnix(path, 0o660)
			if err != nil {
				t.Error(err)
				return
			}
			defer l.Close()
			program := path + ".sh"
			if err := os.WriteFile(program, nil, 0o700); err != nil {
				t.Error(err)
			}
			for path, want := range map[string]os.FileMode{path: 0o660, program: 0o700} {
				if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
					t.Errorf("%s: %v, %v, want %v", path, info.Mode(), err, want)
				}
			}
		})
	}
	all.Wait()
}
