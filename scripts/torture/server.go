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
	interval := pick(o, 200*time.Millisecond, time.Second)
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
	// Transfers last until well after the fault, so that it comes in their middle.
	lasting := 2*limit + time.Second
	t := startTransfers(ctx, client, pick(o, 30, 90), 64<<10, pick[int64](o, 256<<10, 2<<20), lasting)
	a := arrive(ctx, client, 100, limit)
	if err := t.untilRunning(ctx); err != nil {
		a.wait()
		return nil, errors.Join(err, t.wait().err())
	}
	began := time.Now()
	if !broken.unharmed {
		if err := fault(s); err != nil {
			return nil, err
		}
	}
	if err := sleep(ctx, limit+time.Second); err != nil {
		return nil, err
	}
	attempts := a.wait()
	if !broken.unharmed {
		t.giveUpOn(victim) // theirs end with it; on a silent link nobody tells the client
	}
	result := t.wait()

	var last time.Duration // after the fault, when a new flow still went to the victim
	var victims, others, failed int
	var first error
	for _, at := range attempts {
		after := at.began.Sub(began)
		switch {
		case at.err != nil && after < -limit: // before all this
			return nil, fmt.Errorf("a connection failed before the fault: %w", at.err)
		case at.err != nil || after > 0 && (at.server == victim || at.ended.Sub(at.began) > resent):
			// Whoever fails, or has to send its SYN again, is counted as sent to the victim until its time is over, and as
			// others' after that.
			if after > limit {
				if failed++; first == nil {
					first = at.err
				}
			}
			victims++
			last = max(last, after)
		case after > 0:
			others++
		}
	}
	ours, theirs := result.by(func(server string) bool { return server == victim })
	out := &outcome{}
	out.prove("transfers of the server's that the fault has ended", float64(ours.broken), 1, "")
	out.prove("new connections that met the fault", float64(victims), 1, "")
	out.prove("transfers with others meanwhile", float64(theirs.right+theirs.broken), float64(len(t.all))/3, "")
	out.within("new connections avoid it after", last, limit)
	out.atMost("connections that fail after that", float64(failed), 0, "")
	if first != nil {
		o.log("the first: %v", first)
	}
	out.atMost("others' transfers that were lost", float64(theirs.broken), 0, "")
	if theirs.first != nil {
		o.log("the first: %v", theirs.first)
	}
	out.atLeast("new connections to others meanwhile", float64(others), 1, "")
	return out, nil
}
