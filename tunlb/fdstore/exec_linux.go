package fdstore

import (
	"fmt"
	"math"
	"runtime"
	"runtime/debug"
	"syscall"

	"golang.org/x/sys/unix"
)

// execWith executes binary with fds as its descriptors from firstInherited on. These numbers are in use here, by the runtime's epoll among others,
// which must not notice if it comes to nothing. So one thread gets a descriptor table of its own, in which it puts them in their
// places. The new program gets the table of the thread that executes it.
func execWith(binary string, args, env []string, fds []int) error {
	// A collection begun by that thread would have it poll the network, by descriptors that are something else there.
	percent, limit := debug.SetGCPercent(-1), debug.SetMemoryLimit(math.MaxInt64)
	defer func() {
		debug.SetGCPercent(percent)
		debug.SetMemoryLimit(limit)
	}()
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with its goroutine, and its table with it
		if unix.Gettid() != unix.Getpid() {
			failed <- execOnThread(binary, args, env, fds)
			return
		}
		// Go does not end the first thread, and /proc shows its table as the process's. While it is held here, the other goroutine has another.
		other := make(chan error)
		go func() {
			runtime.LockOSThread()
			other <- execOnThread(binary, args, env, fds)
		}()
		err := <-other
		runtime.UnlockOSThread()
		failed <- err
	}()
	return <-failed
}

// execOnThread leaves the thread with a table that is good for nothing else.
func execOnThread(binary string, args, env []string, fds []int) error {
	if err := unix.Unshare(unix.CLONE_FILES); err != nil {
		return fmt.Errorf("a descriptor table of its own: %w", err)
	}
	if err := place(fds); err != nil {
		return err
	}
	return syscall.Exec(binary, args, env)
}

// place moves fds to firstInherited and up, open on exec. None of them may be overwritten before it has moved.
func place(fds []int) error {
	above := firstInherited + len(fds)
	moved := make([]int, len(fds))
	for i, fd := range fds {
		m, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, above)
		if err != nil {
			return err
		}
		moved[i] = m
	}
	for i, fd := range moved {
		if err := unix.Dup3(fd, firstInherited+i, 0); err != nil {
			return err
		}
	}
	return nil
}
