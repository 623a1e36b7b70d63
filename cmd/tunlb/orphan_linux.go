package main

import (
	"context"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/tunlb/fdstore"
)

// followSupervisor cancels, in good order, when the process that supervises this one has died: whoever is started in its place starts a
// tunlb of its own. PR_SET_PDEATHSIG would be lost with an upgrade, for it belongs to a thread, and comes too early when the
// thread that made the child ends before its process.
func followSupervisor(ctx context.Context, cancel context.CancelCauseFunc) error {
	want := os.Getenv(fdstore.SupervisorVariable)
	if want == "" {
		return nil
	}
	parent := os.Getppid()
	if strconv.Itoa(parent) != want {
		return fmt.Errorf("%w: this process was started by %s, and its parent is %d", errNoSupervisor, want, parent)
	}
	fd, err := unix.PidfdOpen(parent, unix.PIDFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("follow the supervisor: %w", os.NewSyscallError("pidfd_open", err))
	}
	f := os.NewFile(uintptr(fd), "supervisor")
	if os.Getppid() != parent { // it has died between the two
		f.Close()
		return errNoSupervisor
	}
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return fmt.Errorf("follow the supervisor: %w", err)
	}
	context.AfterFunc(ctx, func() { f.Close() })
	go func() { // ends with the supervisor, or when ctx does
		ended := raw.Read(func(fd uintptr) bool {
			n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			return n > 0
		})
		if ended == nil {
			cancel(errNoSupervisor)
		}
	}()
	return nil
}
