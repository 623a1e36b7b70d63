//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// runAwakeChild keeps the processors from halting until its input ends. A virtual machine's processor that halts is
// woken by the host, when the host finds the time: a request's way has four such waits, each of them longer than what any
// subject does. A thread for each processor runs at the lowest priority there is (SCHED_IDLE), to which the scheduler prefers
// everything else at once.
func runAwakeChild([]string) error {
	var allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return err
	}
	runtime.GOMAXPROCS(allowed.Count() + 2)
	ended := make(chan error, 1)
	for cpu := range len(allowed) * 64 {
		if allowed.IsSet(cpu) {
			go func() { ended <- stayAwake(cpu) }() // ends with the process
		}
	}
	go func() {
		_, err := io.Copy(io.Discard, os.Stdin)
		ended <- err
	}()
	return <-ended
}

func stayAwake(cpu int) error {
	runtime.LockOSThread()
	var only unix.CPUSet
	only.Set(cpu)
	if err := errors.Join(
		unix.SchedSetaffinity(0, &only),
		unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0),
	); err != nil {
		return fmt.Errorf("stay awake on CPU %d: %w", cpu, err)
	}
	for {
		// Into the kernel and back: kernels that do not preempt look there who else is to run.
		unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
	}
}

// keepAwake keeps the processors from halting until release is called.
func keepAwake() (release func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, childAwake)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() {
		in.Close()
		_ = cmd.Wait()
	}, nil
}
