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
	// mostLife has a tick of the wheel, and what is looked at every some ms is seen late.
	mostLife = lifetime + 1500*time.Millisecond
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
	if err := s.configureLives(remembered); err != nil {
		return nil, err
	}
	since, offset, err := s.startMoved(ctx, unshare, broken.unmoved)
	if err != nil {
		return nil, err
	}
	out := o.outcome()
	out.prove("uptime that tunlb is told", (since+offset).Hours()/24/365, 10, "years")
	if broken.unmoved {
		return out, nil // what follows needs the other clock
	}
	lives, busy, err := s.watchLives(ctx, tickWraps-(since+offset)%tickWraps+4*time.Second)
	if err != nil {
		return nil, err
	}
	now, err := monotonic()
	if err != nil {
		return nil, err
	}
	passed := int((now+offset)/tickWraps - (since+offset)/tickWraps)
	out.prove("times the tick has begun anew meanwhile", float64(passed), 1, "")
	s.judgeLives(ctx, out, lives, busy)
	return out, nil
}

// startMoved starts tunlb so that its tick of 32 bits begins anew wrapLead later, or more where the machine is slow. It gives the machine's clock
// when tunlb was there, before the tick has, and by how much tunlb's is moved.
func (s *site) startMoved(ctx context.Context, unshare string, unmoved bool) (since, offset time.Duration, err error) {
	for lead := wrapLead; ; lead *= 2 {
		began, err := monotonic()
		if err != nil {
			return 0, 0, err
		}
		wraps := math.Ceil(float64(tenYears) / float64(tickWraps))
		shift := (time.Duration(wraps)*tickWraps - began - lead).Truncate(time.Second)
		if unmoved {
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
			return 0, 0, err
		}
		status, err := s.status(ctx)
		if err != nil {
			return 0, 0, err
		}
		if offset, err = offsetOf(status.Daemon.PID); err != nil {
			return 0, 0, err
		}
		if since, err = monotonic(); err != nil {
			return 0, 0, err
		}
		if unmoved || (since+offset)/tickWraps == (began+offset)/tickWraps || lead > time.Minute {
			return since, offset, nil
		}
		if err := s.stop(); err != nil {
			return 0, 0, err
		}
	}
}

// monotonic is this process's clock.
func monotonic() (time.Duration, error) {
	var now unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	return time.Duration(now.Nano()), err
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

// configureLives configures services that the lives of connections are watched on.
func (s *site) configureLives(remembered time.Duration) error {
	return s.configure(s.service("web", webPort, "tcp", "health: {type: tcp, interval: 200ms, timeout: 200ms, rise: 1}, ")+s.service("echo", echoPort, "tcp", ""),
		fmt.Sprintf("timeouts: {established: %s}", remembered))
}

// judgeLives holds what watchLives has seen against the time that was configured.
func (s *site) judgeLives(ctx context.Context, out *outcome, lives []life, busy error) {
	shortest, longest := never, time.Duration(0)
	for _, l := range lives {
		shortest, longest = min(shortest, l.most()), max(longest, l.least())
	}
	checked := s.until(ctx, "servers up", func() error {
		status, err := s.status(ctx)
		if err != nil {
			return err
		}
		for _, server := range status.Services[0].Servers {
			if server.Health != "up" {
				return fmt.Errorf("%s is %s", server.Name, server.Health)
			}
		}
		return nil
	})
	out.prove("connections left without packets", float64(len(lives)), 5, "")
	out.add(shortest >= lifetime, false, "the first of them is forgotten after", rounded(shortest), ">= "+rounded(lifetime))
	out.within("the last of them is forgotten after", longest, mostLife)
	out.holds("a connection with packets goes on", busy == nil, fmt.Sprint(busy))
	out.holds("health checks go on, all servers are up", checked == nil, fmt.Sprint(checked))
}

// life is that of a connection that is left without packets. Its last packet came between opened and quiet, and tunlb knew it at known and not at gone.
type life struct{ opened, quiet, known, gone time.Time }

// most and least are how long it was remembered, as far as can be told from outside, whatever else the machine was at.
func (l life) most() time.Duration  { return l.gone.Sub(l.opened) }
func (l life) least() time.Duration { return l.known.Sub(l.quiet) }

// watchLives opens connections one after the other for some time, leaves them without packets, and tells how long each was remembered; one
// that is for longer than mostLife is for ever. busy is why one that was spoken on all the time has ended.
func (s *site) watchLives(ctx context.Context, during time.Duration) (lives []life, busy, err error) {
	client, most := s.lab.NS("client"), s.opts.limit(mostLife)
	spoken, err := hold(ctx, client, 1)
	if err != nil {
		return nil, nil, err
	}
	defer func() { spoken.close() }()
	quiet := map[netip.AddrPort]life{}
	var idle held
	defer func() { idle.close() }()
	const every, look = 400 * time.Millisecond, 20 * time.Millisecond
	began, next, lastSpoken := time.Now(), time.Now(), time.Now()
	for time.Since(began) < during || len(quiet) > 0 {
		if time.Since(began) < during && !time.Now().Before(next) {
			next = next.Add(every)
			opened := time.Now()
			c, err := hold(ctx, client, 1)
			if err != nil {
				return nil, nil, err
			}
			idle = append(idle, c...)
			quiet[addressOf(c[0].LocalAddr())] = life{opened: opened, quiet: time.Now(), known: time.Now()}
		}
		if time.Since(lastSpoken) > lifetime*3/4 { // the machine was elsewhere: this one was without packets as well
			spoken.close()
			if spoken, err = hold(ctx, client, 1); err != nil {
				return nil, nil, err
			}
		}
		if busy == nil {
			busy = echo(spoken[0], patience)
		}
		lastSpoken = time.Now()
		asked, known := time.Now(), map[netip.AddrPort]bool{}
		if err := s.client().Conns(ctx, tunlb.ConnFilter{}, -1, func(c control.Conn) error { known[c.Client] = true; return nil }); err != nil {
			return nil, nil, err
		}
		for at, l := range quiet {
			if known[at] {
				l.known = asked
			} else {
				l.gone = time.Now()
			}
			switch quiet[at] = l; {
			case !known[at]:
				lives = append(lives, l)
				delete(quiet, at)
			case l.least() > most: // for ever, as far as we can see
				l.gone = time.Now()
				return append(lives, l), busy, nil
			}
		}
		if err := sleep(ctx, look); err != nil {
			return nil, nil, err
		}
	}
	return lives, busy, nil
}
