//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// usage is what a process holds of the machine.
type usage struct {
	rss         int64         // bytes
	cpu         time.Duration // of all its threads so far, in its own code and in the kernel
	threads     int
	descriptors int
}

// usageOf reads /proc; see proc_pid_stat(5).
func usageOf(pid int) (u usage, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u, err
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:])) // the name in parentheses may contain anything
	const utime, stime, threads, rss = 14 - 3, 15 - 3, 20 - 3, 24 - 3   // the manual's numbers, less pid, name and 1
	if len(fields) <= rss {
		return u, fmt.Errorf("/proc/%d/stat: %d fields", pid, len(fields))
	}
	number := func(i int) int64 {
		n, _ := strconv.ParseInt(fields[i], 10, 64)
		return n
	}
	const tick = time.Second / 100 // USER_HZ, the same on every system that Go runs on
	u.cpu = time.Duration(number(utime)+number(stime)) * tick
	u.threads, u.rss = int(number(threads)), number(rss)*int64(os.Getpagesize())
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	u.descriptors = len(list)
	return u, err
}
