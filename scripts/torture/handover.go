//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

const (
	killTarget    = ">= 99.9 % of the transfers finish right, no reset, gap <= 1 s"
	upgradeTarget = "all transfers finish right, no reset, gap <= 50 ms"
)

// handoverBroken is how a negative control breaks these cases.
type handoverBroken struct {
	alone bool // no supervisor keeps anything: tunlb is killed and started again by hand
}

// handover is one way of a tunlb to its successor.
type handover struct {
	start []string                                             // arguments before "run -f FILE"
	again func(ctx context.Context, s *site, before int) error // puts an end to the process before
	times int
	gap   time.Duration
	whole float64 // percent of the transfers
	same  bool    // the process stays
	alone bool    // see handoverBroken
}

func kill9(ctx context.Context, o options, w way, broken handoverBroken) (*outcome, error) {
	h := handover{
		start: []string{"supervise", "--"},
		again: func(_ context.Context, _ *site, before int) error { return unix.Kill(before, unix.SIGKILL) },
		times: pick(o, 1, 3), gap: time.Second, whole: 99.9, alone: broken.alone,
	}
	if broken.alone {
		h.start, h.again = nil, killAndRestart
	}
	return h.run(ctx, o, w)
}

func upgrade(ctx context.Context, o options, w way, broken handoverBroken) (*outcome, error) {
	h := handover{
		again: func(ctx context.Context, s *site, _ int) error {
			if out, err := s.command(ctx, "upgrade").CombinedOutput(); err != nil {
				return fmt.Errorf("tunlb upgrade: %w: %s", err, out)
			}
			return nil
		},
		times: pick(o, 2, 5), gap: 50 * time.Millisecond, whole: 100, same: true, alone: broken.alone,
	}
	if broken.alone {
		h.again, h.same = killAndRestart, false
	}
	return h.run(ctx, o, w)
}

// killAndRestart is what an operator without a supervisor does.
func killAndRestart(ctx context.Context, s *site, _ int) error {
	s.proc.Kill()
	return s.start(ctx)
}

func (h handover) run(ctx context.Context, o options, w way) (_ *outcome, err error) {
	s, err := open(o, w)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.configure(w.service("web", webPort, "tcp", "") + w.service("echo", echoPort, "udp", "")); err != nil {
		return nil, err
	}
	if err := s.startBy(ctx, append(h.start, "run", "-f", s.file())...); err != nil {
		return nil, err
	}
	client := s.lab.NS("client")
	if err := s.until(ctx, "tunlb serves", func() error { _, err := request(ctx, client, "/", time.Second); return err }); err != nil {
		return nil, err
	}
	pause, stalled := pick(o, time.Second, 6*time.Second), stalledAfter
	if h.alone {
		stalled = 3 * time.Second // what nobody knows any more does not come back
	}
	n := pick(o, 100, 1000)
	t := startTransfers(ctx, client, n, 64<<10, pick[int64](o, 512<<10, 2<<20), time.Duration(h.times+1)*pause, stalled)
	if err := t.untilRunning(ctx); err != nil {
		return nil, errors.Join(err, t.wait().err())
	}
	p, err := startProber(ctx, client)
	if err != nil {
		return nil, errors.Join(err, t.wait().err())
	}
	defer func() { err = errors.Join(err, p.close()) }()
	out := o.outcome()
	worst, done, fewest, err := h.repeat(ctx, s, t, p, pause)
	result := t.wait().tally()
	if err != nil {
		return nil, errors.Join(err, result.first)
	}
	_, fresh := request(ctx, client, "/", patience)

	what := "kills that a new process followed"
	if h.same {
		what = "upgrades, the process stays the same"
	}
	out.prove(what, float64(done), float64(h.times), "")
	out.prove("transfers under way, each time", float64(fewest), 0.95*float64(n), "")
	out.prove("probes answered", float64(p.count()), 100, "")
	out.atLeast("transfers that finish with the right SHA-256", 100*float64(result.right)/float64(n), h.whole, "%")
	if result.first != nil {
		o.log("the first that does not: %v", result.first)
	}
	out.atMost("resets", float64(result.resets), 0, "")
	out.within("longest gap", worst, h.gap)
	o.log("longest gap without anything done: %s; probes refused: %d", rounded(p.calm), p.refused())
	out.holds("new connections succeed", fresh == nil, fmt.Sprint(fresh))
	return out, nil
}

// repeat does it as often as wanted, and gives the longest gap, how often a successor has come, and how many transfers were under
// way when fewest were.
func (h handover) repeat(ctx context.Context, s *site, t *transfers, p *prober, pause time.Duration) (worst time.Duration, done, fewest int, err error) {
	fewest = len(t.all)
	if err := sleep(ctx, pause/2); err != nil {
		return 0, 0, 0, err
	}
	p.calm = p.longest()
	for range h.times {
		before, err := s.status(ctx)
		if err != nil {
			return 0, 0, 0, err
		}
		fewest = min(fewest, t.underWay())
		p.forget()
		if err := h.again(ctx, s, before.Daemon.PID); err != nil {
			return 0, 0, 0, err
		}
		if err := s.until(ctx, "a successor answers", func() error {
			if err := s.proc.Alive(); err != nil {
				return final{err}
			}
			now, err := s.status(ctx)
			switch {
			case err != nil:
				return err
			case h.same && (now.Daemon.PID != before.Daemon.PID || now.Daemon.Started.Equal(before.Daemon.Started)),
				!h.same && now.Daemon.PID == before.Daemon.PID:
				return fmt.Errorf("process %d of %s is there", now.Daemon.PID, now.Daemon.Started)
			}
			return nil
		}); err != nil {
			return 0, 0, 0, err
		}
		done++
		answered := p.count()
		if err := s.until(ctx, "a probe is answered", func() error {
			if p.count() == answered {
				return fmt.Errorf("%d were before", answered)
			}
			return nil
		}); err != nil {
			return 0, 0, 0, err
		}
		if err := sleep(ctx, pause); err != nil {
			return 0, 0, 0, err
		}
		worst = max(worst, p.longest())
	}
	return worst, done, fewest, nil
}
