//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/scripts/torture/wallclock"
	"github.com/tunlb/tunlb/tunlb"
)

const stepTarget = "connections are forgotten when their time is over, not sooner and not later; one with packets never; servers stay up"

// stepBroken is how a negative control breaks the case.
type stepBroken struct{ unmoved bool } // the clock is as it is

// steps are by how much tunlb's wall clock is ahead of the machine's, one after the other.
var steps = []time.Duration{24 * time.Hour, 0, tenYears, -tenYears, -24 * time.Hour, 0}

// step sets the wall clock of tunlb's process. The machine's is left alone.
func step(ctx context.Context, o options, w way, broken stepBroken) (_ *outcome, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s, err := open(o, w)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.configureLives(lifetime); err != nil {
		return nil, err
	}
	clock, err := wallclock.New(s.dir)
	if err != nil {
		return nil, err
	}
	defer clock.Close()
	run := s.command(context.WithoutCancel(ctx), "run", "-f", s.file())
	under := s.lab.NS("lb").Command(context.WithoutCancel(ctx), self, clock.Args(run.Args...)...)
	under.Env = run.Env
	if err := s.startCommand(ctx, under); err != nil {
		return nil, err
	}
	each := pick(o, 2*time.Second, 5*time.Second)
	if broken.unmoved {
		each = 100 * time.Millisecond // what connections make of it is of no interest
	}
	shown := make(chan int, 1)
	var failed error
	go func() {
		n := 0
		for i, ahead := range steps {
			if !broken.unmoved {
				clock.Set(ahead)
			}
			var now time.Duration
			if now, failed = s.shownAhead(ctx, 2+i%2); failed != nil {
				break
			}
			if (now - ahead).Abs() < time.Hour {
				n++
			}
			if failed = sleep(ctx, each); failed != nil {
				break
			}
		}
		shown <- n
	}()
	lives, busy, err := s.watchLives(ctx, time.Duration(len(steps))*each)
	n := <-shown
	if err = errors.Join(err, failed); err != nil {
		return nil, err
	}
	out := o.outcome()
	out.prove("settings of the clock that tunlb's events show", float64(n), float64(len(steps)), "")
	s.judgeLives(ctx, out, lives, busy)
	dead := 0
	err = s.client().Events(ctx, 0, false, func(e tunlb.Event) error {
		if e.Kind == policy.ServerDown {
			dead++
		}
		return nil
	})
	out.atMost("servers taken for dead", float64(dead), 0, "")
	out.quietly() // a check has 200 ms
	return out, err
}

// shownAhead is by how much the wall clock is ahead that tunlb dates an event with. The event is a server's weight.
func (s *site) shownAhead(ctx context.Context, weight int) (time.Duration, error) {
	events, err := s.client().Order(ctx, tunlb.ServerOrder{Service: "web", Server: "rs1", Do: tunlb.Weigh, Weight: weight})
	if err != nil {
		return 0, err
	}
	if len(events) == 0 {
		return 0, fmt.Errorf("no event of the weight %d", weight)
	}
	return events[0].Time.Round(0).Sub(time.Now().Round(0)), nil
}
