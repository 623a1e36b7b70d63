//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/labnet/netns"
	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/control"
)

const uptimeTarget = "a connection without packets is forgotten when its time is over, not sooner and not later; one with packets never"

// uptimeBroken is how a negative control breaks the case.
type uptimeBroken struct {
	unmoved bool // the clock is as it is
	late    bool // tunlb remembers connections for longer than the case expects
}

// Times of the case uptime. wrapLead is how long after the start the tick of 32 bits begins anew.
const (
	tenYears  = 10 * 365 * 24 * time.Hour
	tickWraps = (1 << 32) * time.Millisecond
	wrapLead  = 4 * time.Second
	lifetime  = 2 * time.Second
)

// uptime moves the monotonic clock of tunlb's process, by a time namespace. The machine's clocks are left alone.
func uptime(ctx context.Context, o options, w way, broken uptimeBroken) (_ *outcome, err error) {
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		return nil, &netns.Unsupported{What: "unshare", How: "install util-linux", Err: err}
	}
	if _, err := os.Stat("/proc/self/timens_offsets"); err != nil {
		return nil, &netns.Unsupported{What: "time namespaces", How: "Linux 5.6 with CONFIG_TIME_NS", Err: err}
	}
	s, err := open(o, w)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	remembered := lifetime
	if broken.late {
		remembered = 3 * lifetime
	}
	if err := s.configure(w.service("web", webPort, "tcp", "health: {type: tcp, interval: 200ms, timeout: 200ms, rise: 1}, ")+w.service("echo", echoPort, "tcp", ""),
		fmt.Sprintf("timeouts: {established: %s}", remembered)); err != nil {
		return nil, err
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return nil, err
	}
	since := time.Duration(now.Nano())
	wraps := math.Ceil(float64(tenYears) / float64(tickWraps))
	shift := (time.Duration(wraps)*tickWraps - since - wrapLead).Truncate(time.Second)
	if broken.unmoved {
		shift = 0
	}
	seconds := fmt.Sprint(int64(shift / time.Second))
	run := s.command(context.WithoutCancel(ctx), "run", "-f", s.file())
	moved := s.lab.NS("lb").Command(context.WithoutCancel(ctx), unshare, append([]string{"-T", "--monotonic", seconds, "--boottime", seconds}, run.Args...)...)
	moved.Env = run.Env
	if err := s.startCommand(ctx, moved); err != nil {
		if strings.Contains(err.Error(), "ermitted") {
			err = &netns.Unsupported{What: "time namespaces", How: "run as root", Err: err}
		}
		return nil, err
	}
	status, err := s.status(ctx)
	if err != nil {
		return nil, err
	}
	offset, err := offsetOf(status.Daemon.PID)
	if err != nil {
		return nil, err
	}
	lives, busy, err := s.watchLives(ctx, wrapLead+3*time.Second)
	if err != nil {
		return nil, err
	}
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return nil, err
	}
	passed := int((time.Duration(now.Nano())+offset)/tickWraps - (since+offset)/tickWraps)
	shortest, longest := time.Duration(math.MaxInt64), time.Duration(0)
	for _, life := range lives {
		shortest, longest = min(shortest, life), max(longest, life)
	}
	if status, err = s.status(ctx); err != nil {
		return nil, err
	}
	up := 0
	for _, server := range status.Services[0].Servers {
		if server.Health == "up" {
			up++
		}
	}
	out := o.outcome()
	out.prove("uptime that tunlb is told", (since+offset).Hours()/24/365, 10, "years")
	out.prove("times the tick has begun anew meanwhile", float64(passed), 1, "")
	out.prove("connections left without packets", float64(len(lives)), 10, "")
	// A tick of the wheel early is none; what is looked at every some ms is seen late.
	out.add(shortest >= lifetime-50*time.Millisecond, false, "the first of them is forgotten after", rounded(shortest), ">= "+rounded(lifetime))
	out.within("the last of them is forgotten after", longest, lifetime+1500*time.Millisecond)
	out.holds("a connection with packets goes on", busy == nil, fmt.Sprint(busy))
	out.add(up == 3, false, "servers up by health checks", fmt.Sprint(up), "3")
	return out, nil
}

// offsetOf is by how much a process's monotonic clock is moved.
func offsetOf(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/timens_offsets", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		var name string
		var seconds, ns int64
		if n, _ := fmt.Sscan(line, &name, &seconds, &ns); n == 3 && name == "monotonic" {
			return time.Duration(seconds)*time.Second + time.Duration(ns), nil
		}
	}
	return 0, fmt.Errorf("/proc/%d/timens_offsets: %q", pid, b)
}

// watchLives opens connections one after the other for some time, leaves them without packets, and gives how long each was remembered.
// busy is why one that was spoken on all the time has ended.
func (s *site) watchLives(ctx context.Context, during time.Duration) (lives map[netip.AddrPort]time.Duration, busy, err error) {
	client := s.lab.NS("client")
	spoken, err := hold(ctx, client, 1)
	if err != nil {
		return nil, nil, err
	}
	defer spoken.close()
	lives, quiet := map[netip.AddrPort]time.Duration{}, map[netip.AddrPort]time.Time{}
	var idle held
	defer func() { idle.close() }()
	const every, look = 400 * time.Millisecond, 20 * time.Millisecond
	began, next := time.Now(), time.Now()
	for time.Since(began) < during || len(quiet) > 0 && time.Since(began) < during+4*lifetime {
		if time.Since(began) < during && !time.Now().Before(next) {
			next = next.Add(every)
			c, err := hold(ctx, client, 1)
			if err != nil {
				return nil, nil, err
			}
			idle = append(idle, c...)
			quiet[addressOf(c[0].LocalAddr())] = time.Now()
		}
		if busy == nil {
			busy = echo(spoken[0], patience)
		}
		known := map[netip.AddrPort]bool{}
		if err := s.client().Conns(ctx, tunlb.ConnFilter{}, -1, func(c control.Conn) error { known[c.Client] = true; return nil }); err != nil {
			return nil, nil, err
		}
		for at, since := range quiet {
			if !known[at] {
				lives[at] = time.Since(since)
				delete(quiet, at)
			}
		}
		if err := sleep(ctx, look); err != nil {
			return nil, nil, err
		}
	}
	for at, since := range quiet { // for ever, as far as we can see
		lives[at] = time.Since(since)
	}
	return lives, busy, nil
}
