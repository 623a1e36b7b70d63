//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/tunlb/tunlb/labnet/netns"
	"github.com/tunlb/tunlb/tunlb/control"
)

const synfloodTarget = "a 300 Mbit/s flow keeps 95 %, new connections 90 %, memory within the cap, no established flow evicted"

// synfloodBroken is how a negative control breaks the case.
type synfloodBroken struct {
	noFlood bool // the attack does not happen
	full    bool // the table is full of established flows before: there is nothing that may be evicted
}

// recordMost is what a flow may cost of memory with all that is beside it: record, index, wheel. docs/performance.md has what it
// does cost. slack is for the packets under way, and what Go's collector has not yet given back.
const (
	recordMost = 256
	slack      = 24 << 20
)

// synflood measures in pairs of windows, a quiet one and one of the flood, so that another load on the machine meets both.
func synflood(ctx context.Context, o options, w way, broken synfloodBroken) (_ *outcome, err error) {
	s, err := open(o, w)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	const pps, rate, perSecond = 50_000, 300e6, 50
	limit, holding := pick(o, 4_000, 20_000), 50
	if broken.full {
		limit, holding = 200, 210
	}
	if err := s.configure(w.service("web", webPort, "tcp", "")+w.service("echo", echoPort, "tcp", "")+w.service("sink", sinkPort, "tcp", ""),
		fmt.Sprintf("flows: {max: %d}", limit)); err != nil {
		return nil, err
	}
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	taken, err := openSinks(s)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, taken.close()) }()
	client := s.lab.NS("client")
	// The servers answer the flood, and their answers have a way to go, as they would have into the Internet.
	if err := s.lab.NS("lb").AddRoute(netns.Route{To: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("198.51.100.7")}); err != nil {
		return nil, err
	}
	stream, err := startPaced(ctx, client, rate)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stream.close()) }()
	if broken.full {
		holding = limit - 1 // the paced flow has the last place
	}
	idle, err := hold(ctx, client, holding)
	if err != nil {
		return nil, err
	}
	defer idle.close()
	macs, err := s.lab.NS("lb").MACs()
	if err != nil {
		return nil, err
	}
	before, err := usageOf(s.proc.cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	window, rounds := o.window(time.Second, 3*time.Second), pick(o, 2, 4)
	var quiet, flooded float64
	var sent int64
	var fullest int
	var attacked time.Duration
	var calm, honest []attempt
	for range rounds {
		got, all, err := measured(ctx, s, taken, window, perSecond)
		if err != nil {
			return nil, err
		}
		quiet, calm = quiet+got/float64(rounds), append(calm, all...)
		var f *flood
		if !broken.noFlood {
			if f, err = startFlood(ctx, client, macs["eth0"], netip.MustParseAddrPort(at(webPort)), pps); err != nil {
				return nil, err
			}
		}
		began := time.Now()
		got, all, err = measured(ctx, s, taken, window, perSecond)
		if f != nil {
			attacked += time.Since(began)
			err = errors.Join(err, f.close())
			sent += f.sent.Load()
		}
		if err != nil {
			return nil, err
		}
		flooded, honest = flooded+got/float64(rounds), append(honest, all...)
		status, err := s.status(ctx)
		if err != nil {
			return nil, err
		}
		fullest = max(fullest, status.Flows.Count)
	}
	after, err := usageOf(s.proc.cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	status, err := s.status(ctx)
	if err != nil {
		return nil, err
	}
	lost, cause := failures(honest)
	missed, _ := failures(calm)
	still, why := idle.answering(patience)

	out := o.outcome()
	o.log("quiet: %.0f Mbit/s, %d of %d connections; flooded: %.0f Mbit/s; drops %v", quiet/1e6, len(calm)-missed, len(calm), flooded/1e6, status.Drops)
	s.logPorts(status, attacked)
	out.prove("SYNs sent", float64(sent)/max(attacked.Seconds(), 1e-3)/1000, pps*0.8/1000, "kpps")
	out.prove("table occupancy at its fullest", 100*float64(fullest)/float64(limit), 98, "%")
	out.prove("half-open connections evicted", float64(status.Flows.Evicted), float64(limit), "")
	out.atLeast("the flow of 300 Mbit/s, of what it has without the flood", 100*flooded/quiet, 95, "%")
	out.atLeast("new connections, of what succeeds without the flood", 100*float64(len(honest)-lost)/float64(len(honest))/max(1e-9, float64(len(calm)-missed)/float64(len(calm))), 90, "%")
	if cause != nil {
		o.log("the first connection that failed: %v", cause)
	}
	out.atMost("memory grown by", float64(after.rss-before.rss)/(1<<20), float64(limit*recordMost+slack)/(1<<20), "MiB")
	out.holds("established connections still there", still == len(idle) && stream.alive(), fmt.Sprintf("%d of %d: %v", still, len(idle), why))
	return out, nil
}

// logPorts says what has been lost before tunlb saw it, and how busy the lanes were.
func (s *site) logPorts(status control.Status, attacked time.Duration) {
	for _, p := range status.Ports {
		lost := p.Overruns
		if link, err := s.lab.NS("lb").Handle().LinkByName(p.Name); err == nil && s.tun && link.Attrs().Statistics != nil {
			lost += link.Attrs().Statistics.TxDropped // what its queue had no room for
		}
		s.opts.log("%s: %d packets in, %d out, %d lost in its queue, processor time %s, %s of flood", p.Name, p.RxPackets, p.TxPackets, lost, rounded(p.CPU), rounded(attacked))
	}
}

// measured is the paced flow's rate in a window, and the connections opened meanwhile.
func measured(ctx context.Context, s *site, taken *sink, window time.Duration, perSecond int) (float64, []attempt, error) {
	const answer = 3 * time.Second // a SYN that was lost is sent again after one
	a := arrive(ctx, s.lab.NS("client"), perSecond, answer)
	rate, err := taken.rate(ctx, window)
	return rate, a.wait(), err
}
