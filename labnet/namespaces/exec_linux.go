package namespaces

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/labnet/netns"
)

// patience is how long an interrupted command may take to end.
const patience = 5 * time.Second

// InitArgs are the arguments with which a lab runs this program as the first process of its hosts: it is then to call
// Init, and nothing else.
func InitArgs() []string { return []string{"lab", "init"} }

// Init is the whole life of the first process of a lab's hosts: it buries what others have left, and is killed in the
// end. With it the kernel kills all commands of the lab, and what they have started.
func Init() {
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	for ; ; <-children {
		for {
			if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
}

// warden holds the commands of a lab in a PID namespace, whose first process dies with this one or by Close. That
// comes with the first command. The zero value is useful. Safe for concurrent use; whoever has it closes it.
type warden struct {
	mu     sync.Mutex
	closed bool
	first  *exec.Cmd
	space  *os.File
	ended  chan struct{} // closed when first has
}

// start starts a command on a host.
func (w *warden) start(ns *netns.NS, cmd *exec.Cmd) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return net.ErrClosed
	}
	if w.first == nil {
		if err := w.begin(); err != nil {
			return fmt.Errorf("make a process namespace: %w", err)
		}
	}
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread's children are born elsewhere, so it ends here
		result <- ns.Do(func() error {
			if err := unix.Setns(int(w.space.Fd()), unix.CLONE_NEWPID); err != nil {
				return fmt.Errorf("enter the process namespace: %w", err)
			}
			return cmd.Start()
		})
	}()
	return <-result
}

func (w *warden) begin() error {
	cmd := &exec.Cmd{
		Path: self, Args: append([]string{"tunlb"}, InitArgs()...),
		SysProcAttr: &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID, Pdeathsig: unix.SIGKILL},
	}
	started, ended := make(chan error), make(chan struct{})
	go func() { // ends with the process
		defer close(ended)
		runtime.LockOSThread() // the death signal is sent when this very thread ends
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // it is killed
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	space, err := os.Open(fmt.Sprintf("/proc/%d/ns/pid", cmd.Process.Pid))
	if err != nil {
		return errors.Join(err, cmd.Process.Kill())
	}
	w.first, w.space, w.ended = cmd, space, ended
	return nil
}

// Close kills all commands.
func (w *warden) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	if w.first == nil {
		return nil
	}
	err := w.first.Process.Kill()
	<-w.ended
	err = errors.Join(err, w.space.Close())
	w.first = nil
	return err
}

// groupAttr gives a command a process group, to be interrupted as a whole.
func groupAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// sessionAttr makes a command's standard input its terminal.
func sessionAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true, Setctty: true} }

// interrupt ends a command and its group as ctrl-C does, or as a terminal that hangs up, and then for good.
func interrupt(cmd *exec.Cmd, over <-chan struct{}, terminal bool) {
	sig := unix.SIGINT
	if terminal {
		sig = unix.SIGHUP
	}
	_ = unix.Kill(-cmd.Process.Pid, sig) // fails if it has ended
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-over:
	case <-timer.C:
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
	}
}

// exitCode is the shell's: 128 and the signal for a process that one has ended.
func exitCode(state *os.ProcessState) int {
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return state.ExitCode()
}
