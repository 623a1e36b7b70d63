//go:build unix

package main

import (
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// bequeath gives a child the lock as its first file behind the standard ones.
func bequeath(cmd *exec.Cmd, lock *os.File) { cmd.ExtraFiles = []*os.File{lock} }

// inherit keeps the lock from our own children.
func inherit() { unix.CloseOnExec(3) }

// detachChild makes a child independent of our terminal.
func detachChild(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }

// terminate asks a process to end.
func terminate(p *os.Process) { _ = p.Signal(unix.SIGTERM) } // it may have ended

// watchSize calls f at once and whenever the terminal changes its size, until stop.
func watchSize(f func()) (stop func()) {
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, unix.SIGWINCH)
	quit := make(chan struct{})
	var watching sync.WaitGroup
	f()
	watching.Go(func() {
		for {
			select {
			case <-changes:
				f()
			case <-quit:
				return
			}
		}
	})
	return func() {
		signal.Stop(changes)
		close(quit)
		watching.Wait()
	}
}
