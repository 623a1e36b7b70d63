//go:build linux

package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/labnet/netns"
)

// process is a subject's program. A nil process is a subject in the kernel.
type process struct{ *netns.Process }

func startProcess(cmd *netns.Cmd, verbose bool) (*process, error) {
	var through io.Writer
	if verbose {
		through = os.Stderr
	}
	p, err := netns.StartProcess(cmd, through)
	if err != nil {
		return nil, err
	}
	return &process{p}, nil
}

// alive is an error once the process has ended.
func (p *process) alive() error {
	if p == nil {
		return nil
	}
	return p.Alive()
}

func (p *process) said() string {
	if p == nil {
		return ""
	}
	return p.Said()
}

// cannot tells that the process has ended since this machine cannot do what it is to do.
func (p *process) cannot() bool { return p.Cmd.ProcessState.ExitCode() == netns.ExitUnsupported }

// end lets the process end in its own way, which writes its profile.
func (p *process) end() error { return p.End(unix.SIGTERM, 10*time.Second) }

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
	self := p.Cmd.Process.Pid
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
