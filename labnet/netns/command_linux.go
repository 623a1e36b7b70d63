package netns

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Start is exec.Cmd's, inside the namespace.
func (c *Cmd) Start() error {
	s, err := c.ns.starter()
	if err != nil {
		return err
	}
	if c.SysProcAttr == nil {
		c.SysProcAttr = &syscall.SysProcAttr{}
	}
	c.SysProcAttr.Pdeathsig = unix.SIGKILL
	if err := s.do(c.Cmd); err != nil {
		return err
	}
	if !c.ns.own(c) { // closed meanwhile
		return errors.Join(net.ErrClosed, c.Close())
	}
	return nil
}

// starter is a thread inside the namespace from which all of its child processes are started:
// the kernel sends them their death signal when that very thread ends.
type starter struct {
	jobs chan job
	quit chan struct{} // closed by Close
	done chan struct{} // closed when the goroutine has ended
}

type job struct {
	cmd    *exec.Cmd
	result chan error
}

func (ns *NS) starter() (*starter, error) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if ns.closed {
		return nil, fmt.Errorf("namespace %s: %w", ns.name, net.ErrClosed)
	}
	if ns.start == nil {
		s := &starter{make(chan job), make(chan struct{}), make(chan struct{})}
		ready := make(chan error)
		go offMain(func() { s.run(ns, ready) }) // ends with Close
		if err := <-ready; err != nil {
			return nil, err
		}
		ns.start = s
		ns.owned[s] = struct{}{}
	}
	return ns.start, nil
}

func (s *starter) run(ns *NS, ready chan<- error) {
	defer close(s.done)
	runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
	err := unix.Setns(int(ns.file.Fd()), unix.CLONE_NEWNET)
	ready <- err
	for err == nil {
		select {
		case j := <-s.jobs:
			j.result <- j.cmd.Start()
		case <-s.quit:
			return
		}
	}
}

func (s *starter) do(cmd *exec.Cmd) error {
	j := job{cmd, make(chan error, 1)}
	select {
	case s.jobs <- j:
		return <-j.result
	case <-s.done:
		return net.ErrClosed
	}
}

// Close ends the thread, and the kernel with it the children.
func (s *starter) Close() error {
	close(s.quit)
	<-s.done
	return nil
}

// offMain calls f on a thread that is not the process's main one, which never ends.
func offMain(f func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if unix.Gettid() != os.Getpid() {
		f()
		return
	}
	done := make(chan struct{})
	go func() { defer close(done); f() }() // on another thread: we hold the main one
	<-done
}
