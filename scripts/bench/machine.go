//go:build linux

package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// machine is where and when.
type machine struct {
	CPU     string  `json:"cpu"`
	Cores   int     `json:"cores"`
	Memory  string  `json:"memory"`
	Kernel  string  `json:"kernel"`
	TCP     string  `json:"tcp"` // its congestion control
	Go      string  `json:"go"`
	Date    string  `json:"date"`
	Command string  `json:"command"`
	Busy    float64 `json:"busy_before"` // share of all CPU time that others took before we began
}

// describeMachine takes the congestion control that the subjects' TCP gets instead of the machine's.
func describeMachine(congestion string) machine {
	m := machine{
		CPU:     strings.TrimSpace(procField("/proc/cpuinfo", "model name")),
		Cores:   runtime.NumCPU(),
		TCP:     congestion,
		Go:      runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH,
		Date:    time.Now().UTC().Format("2006-01-02 15:04 MST"),
		Command: strings.Join(append([]string{"go run ./scripts/bench"}, os.Args[1:]...), " "),
	}
	if m.TCP == "" {
		b, _ := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control") // namespaces begin with it
		m.TCP = strings.TrimSpace(string(b))
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
	}
	if kib, err := strconv.Atoi(strings.TrimSuffix(procField("/proc/meminfo", "MemTotal"), " kB")); err == nil {
		m.Memory = fmt.Sprintf("%.1f GiB", float64(kib)/(1<<20))
	}
	busy, all := cpuTicks()
	time.Sleep(time.Second)
	busyAfter, allAfter := cpuTicks()
	if allAfter > all {
		m.Busy = (busyAfter - busy) / (allAfter - all)
	}
	return m
}

func procField(path, name string) string {
	b, _ := os.ReadFile(path)
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// cpuTicks reads the first line of /proc/stat: see proc_stat(5).
func cpuTicks() (busy, all float64) {
	b, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(b), "\n")
	for i, field := range strings.Fields(line) {
		const idle, iowait, guest = 4, 5, 9 // guests' time is in user and nice already
		n, err := strconv.ParseFloat(field, 64)
		if err != nil || i >= guest {
			continue
		}
		all += n
		if i != idle && i != iowait {
			busy += n
		}
	}
	return busy, all
}
