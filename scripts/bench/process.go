//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/labnet/netns"
)

// process is a subject's program. A nil process is a subject in the kernel.
type process struct {
	cmd    *netns.Cmd
	output tail
	ended  chan struct{} // closed when err is set
	err    error
}

func startProcess(cmd *netns.Cmd, verbose bool) (*process, error) {
	p := &process{cmd: cmd, ended: make(chan struct{})}
	p.output.through = verbose
	cmd.Stdout, cmd.Stderr = &p.output, &p.output
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go p.wait() // ends with the process
	return p, nil
}

func (p *process) wait() {
	p.err = p.cmd.Wait()
	close(p.ended)
}

// alive is an error once the process has ended.
func (p *process) alive() error {
	if p == nil {
		return nil
	}
	select {
	case <-p.ended:
		return fmt.Errorf("%s has ended: %w%s", p.cmd.Path, errors.Join(p.err), p.said())
	default:
		return nil
	}
}

func (p *process) said() string {
	if p == nil {
		return ""
	}
	return p.output.String()
}

// cannot tells that the process has ended since this machine cannot do what it is to do.
func (p *process) cannot() bool { return p.cmd.ProcessState.ExitCode() == netns.ExitUnsupported }

// end lets the process end in its own way, which writes its profile.
func (p *process) end() error {
	if err := p.alive(); err != nil {
		return err
	}
	if err := p.cmd.Process.Signal(unix.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.ended:
		return p.err
	case <-time.After(10 * time.Second):
		return fmt.Errorf("%s does not end%s", p.cmd.Path, p.said())
	}
}

func (p *process) stop() {
	_ = p.cmd.Process.Kill() // fails if it has ended
	<-p.ended
}

// cpu is the time that the process and its children have spent, in their own code and in the kernel.
func (p *process) cpu() (time.Duration, error) {
	parents := map[int]int{}
	times := map[int]time.Duration{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if parent, cpu, ok := readStat(pid); ok { // else it has ended meanwhile
			parents[pid], times[pid] = parent, cpu
		}
	}
	self := p.cmd.Process.Pid
	total, ok := times[self]
	if !ok {
		return 0, fmt.Errorf("process %d is gone", self)
	}
	for pid, parent := range parents {
		if parent == self {
			total += times[pid]
		}
	}
	return total, nil
}

// readStat reads parent and CPU time, of all threads, from /proc/PID/stat: see proc_pid_stat(5).
func readStat(pid int) (parent int, cpu time.Duration, ok bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, false
	}
	// The name in parentheses may contain anything.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	const ppid, utime, stime = 4 - 3, 14 - 3, 15 - 3 // the manual's numbers, less pid, name and 1
	if len(fields) <= stime {
		return 0, 0, false
	}
	parent, _ = strconv.Atoi(fields[ppid])
	user, _ := strconv.ParseInt(fields[utime], 10, 64)
	system, _ := strconv.ParseInt(fields[stime], 10, 64)
	const tick = time.Second / 100 // USER_HZ, the same on every system that Go runs on
	return parent, time.Duration(user+system) * tick, true
}

// tail keeps the end of what a process says. Safe for concurrent use.
type tail struct {
	through bool // to our standard error as well

	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(b []byte) (int, error) {
	if t.through {
		os.Stderr.Write(b)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	const most = 4 << 10
	t.b = append(t.b, b...)
	if over := len(t.b) - most; over > 0 {
		t.b = t.b[over:]
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.b) == 0 {
		return ""
	}
	return "; it said:\n" + strings.TrimSpace(string(t.b))
}
