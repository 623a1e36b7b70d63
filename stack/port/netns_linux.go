package port

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// inNetNS runs f in the network namespace at path, or right here if path is
// empty. What f opens belongs to that namespace for good, whichever thread
// uses it later. f must not start goroutines that expect the namespace.
func inNetNS(path string, f func() error) error {
	if path == "" {
		return f()
	}
	result := make(chan error)
	go visitNetNS(path, f, result) // ends with f
	return <-result
}

// visitNetNS gives its thread back only when it is home again. Otherwise the
// goroutine ends locked, and the runtime ends the thread with it.
func visitNetNS(path string, f func() error, result chan<- error) {
	runtime.LockOSThread()
	home, err := openNetNS("/proc/thread-self/ns/net")
	if err != nil {
		result <- err
		return
	}
	defer unix.Close(home)
	there, err := openNetNS(path)
	if err == nil {
		defer unix.Close(there)
		if err = unix.Setns(there, unix.CLONE_NEWNET); err != nil {
			err = fmt.Errorf("enter network namespace %s: %w", path, err)
		} else {
			err = f()
		}
	}
	if unix.Setns(home, unix.CLONE_NEWNET) == nil {
		runtime.UnlockOSThread()
	}
	result <- err
}

func openNetNS(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	return fd, nil
}

// sameNetNS says whether two sockets are in one network namespace. Before Linux 5.14 nothing tells, and it takes them to be.
func sameNetNS(a, b int) bool {
	in, err := unix.GetsockoptUint64(a, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return true
	}
	other, _ := unix.GetsockoptUint64(b, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	return in == other
}
