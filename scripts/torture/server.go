//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const serverTarget = "others lose nothing; new flows avoid it within fall x interval + 1 s"

// serverBroken is how a negative control breaks the case.
type serverBroken struct {
	unchecked bool // nobody checks the servers' health
	unharmed  bool // the fault does not happen
}

// resent is what a connection takes at least whose first SYN was lost: the kernel sends the second after a second.
const resent = 900 * time.Millisecond

// victim is the server that the fault meets.
const victim = "rs2"

func killServer(ctx context.Context, o options, w way, broken serverBroken) (*outcome, error) {
	return loseServer(ctx, o, w, broken, func(s *site) error {
		_, err := s.lab.Stop(victim, webPort)
		return err
	})
}

// silenceServer takes the far end of the server's link away: what is sent to it goes nowhere, and nobody answers.
func silenceServer(ctx context.Context, o options, w way, broken serverBroken) (*outcome, error) {
	return loseServer(ctx, o, w, broken, func(s *site) error { return s.setLink(victim, "eth0", false) })
}

// setLink sets an interface of a node up or down.
func (s *site) setLink(node, name string, up bool) error {
	handle := s.lab.NS(node).Handle()
	link, err := handle.LinkByName(name)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", node, name, err)
	}
	if up {
		return handle.LinkSetUp(link)
	}
	return handle.LinkSetDown(link)
}

func loseServer(ctx context.Context, o options, w way, broken serverBroken, fault func(*site) error) (_ *outcome, err error) {
	s, err := open(o, w)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	const fall = 3
	interval := pick(o, 300*time.Millisecond, time.Second)
	limit := fall*interval + time.Second
	health := fmt.Sprintf("health: {type: tcp, interval: %s, timeout: %s, rise: 1, fall: %d}, ", interval, interval, fall)
	if broken.unchecked {
		health = ""
	}
	if err := s.configure(w.service("web", webPort, "tcp", health)); err != nil {
		return nil, err
	}
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	client := s.lab.NS("client")
	for _, node := range serverNodes {
		if err := s.until(ctx, node+" serves", func() error {
			server, err := request(ctx, client, "/", time.Second)
			if err == nil && server != node {
				err = fmt.Errorf("%s answers", server)
			}
			return err
		}); err != nil {
			return nil, err
		}
	}
	// So large that no kernel's buffers hold what is left of one.
	t := startTransfers(ctx, client, pick(o, 30, 90), 256<<10, pick[int64](o, 512<<10, 2<<20), 2*limit, stalledAfter)
	opening, giveUp := context.WithCancel(ctx)
	defer giveUp()
	a := arrive(opening, client, 100, patience)
	if err := t.untilRunning(ctx); err != nil {
		giveUp()
		a.wait()
		return nil, errors.Join(err, t.wait().err())
	}
	began := time.Now()
	if !broken.unharmed {
		err = fault(s)
	}
	if err == nil {
		err = a.untilAvoided(ctx, began, limit, o.limit(limit))
	}
	stopped, of := 0, 0
	a.stop() // those that are under way have a moment yet: who needs more of it has met the fault
	if err == nil {
		stopped, of, err = t.stopped(ctx, victim, resent)
	}
	ended := time.Now()
	giveUp()
	attempts := a.wait()
	if !broken.unharmed {
		t.giveUpOn(victim) // theirs end with it; on a silent link nobody tells the client
	}
	result := t.wait()
	if err != nil {
		return nil, err
	}

	var last time.Duration // after the fault, when a new flow still went to the victim
	var met, others, afterwards int
	for _, at := range attempts {
		after := at.began.Sub(began)
		switch {
		case at.err != nil && at.ended.Before(began):
			return nil, fmt.Errorf("a connection failed before the fault: %w", at.err)
		case at.err != nil && at.ended.After(ended) && at.ended.Sub(at.began) < resent: // given up by us
		case at.met(began):
			met++
			last = max(last, after)
		case after > 0:
			others++
		}
	}
	for _, at := range attempts {
		if at.began.Sub(began) > last {
			afterwards++
		}
	}
	_, theirs := result.by(func(server string) bool { return server == victim })
	out := o.outcome()
	out.prove("transfers of the server's that the fault has stopped", 100*float64(stopped)/max(float64(of), 1), 50, "%")
	out.prove("new connections that met the fault", float64(met), 1, "")
	out.prove("transfers with others meanwhile", float64(theirs.right+theirs.broken), float64(len(t.all))/3, "")
	out.within("new connections avoid it after", last, limit)
	out.atLeast("connections after that, none of which fails", float64(afterwards), 20, "")
	out.atMost("others' transfers that were lost", float64(theirs.broken), 0, "")
	if theirs.first != nil {
		o.log("the first: %v", theirs.first)
	}
	out.atLeast("new connections to others meanwhile", float64(others), 1, "")
	return out, nil
}

// met says whether a connection has met the victim's fault: whoever fails, or has to send its SYN again, is counted so.
func (t attempt) met(fault time.Time) bool {
	return t.err != nil || t.began.After(fault) && (t.server == victim || t.ended.Sub(t.began) > resent)
}

// untilAvoided waits until no connection has met the fault for a while, at least until limit is over and at most until most is.
func (a *arrivals) untilAvoided(ctx context.Context, fault time.Time, limit, most time.Duration) error {
	const while = time.Second
	for {
		last := a.lastMet(fault)
		if since := time.Since(fault); since > most+while || since > limit+while && time.Since(last) > resent+while {
			return nil
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// lastMet is when the last of those that have met the fault began, as far as is known by now.
func (a *arrivals) lastMet(fault time.Time) (last time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, at := range a.done {
		if at.met(fault) && at.began.After(last) {
			last = at.began
		}
	}
	return last
}
