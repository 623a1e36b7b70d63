package main

import (
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/windows"
)

// bequeath gives a child the lock, which it need not know.
func bequeath(cmd *exec.Cmd, lock *os.File) {
	h := syscall.Handle(lock.Fd())
	_ = windows.SetHandleInformation(windows.Handle(h), windows.HANDLE_FLAG_INHERIT, windows.HANDLE_FLAG_INHERIT) // Start says it if it is not
	cmd.SysProcAttr = &syscall.SysProcAttr{AdditionalInheritedHandles: []syscall.Handle{h}}
}

func inherit() {}

// detachChild makes a child independent of our console.
func detachChild(cmd *exec.Cmd) {
	cmd.SysProcAttr.CreationFlags |= windows.CREATE_NEW_PROCESS_GROUP | windows.DETACHED_PROCESS
}

// terminate ends a process: it can't be asked.
func terminate(p *os.Process) { _ = p.Kill() }

// watchSize calls f once: nothing tells of changes.
func watchSize(f func()) (stop func()) {
	f()
	return func() {}
}
