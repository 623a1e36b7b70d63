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

// The numbers of the flood, and of what honest clients do meanwhile.
const (
	floodPPS       = 50_000
	pacedRate      = 300e6 // bit/s
	honestPerTime  = 50    // new connections a second
	fullPercent    = 98
	answerPatience = 3 * time.Second // a SYN that was lost is sent again after one
)

// synflood measures in pairs of windows, a quiet one and one of the flood, so that another load on the machine meets both.
func synflood(ctx context.Context, o options, w way, broken synfloodBroken) (_ *outcome, err error) {
	s, err := open(o, w)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	// At 50,000 a second a half-open connection has 400 ms before it is the oldest, also in the short form: a handshake takes less.
	limit, holding := 20_000, 50
	if broken.full {
		limit, holding = 200, 199 // the paced flow has the last place
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
	stream, err := startPaced(ctx, client, at(sinkPort), pacedRate)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stream.close()) }()
	idle, err := hold(ctx, client, holding)
	if err != nil {
		return nil, err
	}
	defer idle.close()
	before, err := usageOf(s.proc.Cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	got, err := s.underFlood(ctx, taken, limit, broken)
	if err != nil {
		return nil, err
	}
	after, err := usageOf(s.proc.Cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	lost, cause := failures(got.honest)
	missed, _ := failures(got.calm)
	still, why := idle.answering(patience)

	out := o.outcome()
	o.log("quiet: %.0f Mbit/s, %d of %d connections; flooded: %.0f Mbit/s; drops %v", got.quiet/1e6, len(got.calm)-missed, len(got.calm), got.flooded/1e6, got.status.Drops)
	s.logPorts(got.status, got.attacked)
	out.prove("SYNs sent", float64(got.sent)/max(got.attacked.Seconds(), 1e-3)/1000, floodPPS*0.8/1000, "kpps")
	out.quietly()
	out.prove("table occupancy at its fullest", 100*float64(got.fullest)/float64(limit), fullPercent, "%")
	out.prove("half-open connections evicted", float64(got.status.Flows.Evicted), float64(limit), "")
	out.atLeast("the flow of 300 Mbit/s, of what it has without the flood", 100*got.flooded/got.quiet, 95, "%")
	out.quietly()
	out.atLeast("new connections, of what succeeds without the flood", 100*float64(len(got.honest)-lost)/float64(len(got.honest))/max(1e-9, float64(len(got.calm)-missed)/float64(len(got.calm))), 90, "%")
	out.quietly()
	if cause != nil {
		o.log("the first connection that failed: %v", cause)
	}
	out.atLeast("new connections that succeed in the flood", float64(len(got.honest)-lost), 1, "")
	out.atMost("memory grown by", float64(after.rss-before.rss)/(1<<20), float64(limit*recordMost+slack)/(1<<20), "MiB")
	out.holds("established connections still there", still == len(idle) && stream.alive(), fmt.Sprintf("%d of %d: %v", still, len(idle), why))
	if o.short {
		return out, nil
	}
	if err := stream.close(); err != nil {
		return nil, err
	}
	return out, s.withoutTunlb(ctx, taken)
}

// flooded is what has happened in the windows of a flood, and in the quiet ones before each.
type flooded struct {
	quiet, flooded float64 // bit/s of the paced flow
	calm, honest   []attempt
	sent           int64 // SYNs
	attacked       time.Duration
	fullest        int // flows in the table
	status         control.Status
}

// underFlood measures rounds of windows. On a slow machine a flood goes on until it has filled the table and had it give way.
func (s *site) underFlood(ctx context.Context, taken *sink, limit int, broken synfloodBroken) (got flooded, err error) {
	o, client := s.opts, s.lab.NS("client")
	window, rounds := o.window(time.Second, 3*time.Second), pick(o, 2, 4)
	if broken != (synfloodBroken{}) {
		rounds = 1
	}
	for range rounds {
		rate, all, err := measured(ctx, s, taken, window)
		if err != nil {
			return got, err
		}
		got.quiet, got.calm = got.quiet+rate/float64(rounds), append(got.calm, all...)
		var f *flood
		if !broken.noFlood {
			if f, err = s.startFlood(ctx, client, at(webPort)); err != nil {
				return got, err
			}
		}
		began := time.Now()
		rate, all, err = measured(ctx, s, taken, window)
		full := func() error {
			status, err := s.status(ctx)
			if err != nil {
				return err
			}
			got.status, got.fullest = status, max(got.fullest, status.Flows.Count)
			if 100*status.Flows.Count < fullPercent*limit || status.Flows.Evicted < uint64(limit) {
				return fmt.Errorf("%d flows, %d evicted", status.Flows.Count, status.Flows.Evicted)
			}
			return nil
		}
		if err == nil {
			if broken == (synfloodBroken{}) {
				err = s.until(ctx, "the table is full", full)
			} else {
				_ = full() // and the proofs tell
			}
		}
		if f != nil {
			got.attacked += time.Since(began)
			err = errors.Join(err, f.close())
			got.sent += f.sent.Load()
		}
		if err != nil {
			return got, err
		}
		got.flooded, got.honest = got.flooded+rate/float64(rounds), append(got.honest, all...)
	}
	return got, nil
}

// startFlood floods an address from the client's node.
func (s *site) startFlood(ctx context.Context, client *netns.NS, to string) (*flood, error) {
	macs, err := s.lab.NS("lb").MACs()
	if err != nil {
		return nil, err
	}
	return startFlood(ctx, client, macs["eth0"], netip.MustParseAddrPort(to), floodPPS)
}

// withoutTunlb has the same flow and the same flood go to a server's own address, past tunlb, and prints what the machine itself loses.
func (s *site) withoutTunlb(ctx context.Context, taken *sink) (err error) {
	client, server := s.lab.NS("client"), "192.168.0.10"
	if err := client.AddRoute(netns.Route{To: netip.MustParsePrefix("192.168.0.0/24"), Via: netip.MustParseAddr("198.51.100.1")}); err != nil {
		return err
	}
	if err := s.stop(); err != nil {
		return err
	}
	stream, err := startPaced(ctx, client, fmt.Sprintf("%s:%d", server, sinkPort), pacedRate)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stream.close()) }()
	window := s.opts.window(time.Second, 3*time.Second)
	quiet, err := taken.rate(ctx, window)
	if err != nil {
		return err
	}
	f, err := s.startFlood(ctx, client, fmt.Sprintf("%s:%d", server, webPort))
	if err != nil {
		return err
	}
	rate, err := taken.rate(ctx, window)
	if err = errors.Join(err, f.close()); err != nil {
		return err
	}
	s.opts.log("without tunlb, both to a server's own address: %.0f Mbit/s, flooded %.0f, %.0f %% of it", quiet/1e6, rate/1e6, 100*rate/quiet)
	return nil
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
func measured(ctx context.Context, s *site, taken *sink, window time.Duration) (float64, []attempt, error) {
	a := arrive(ctx, s.lab.NS("client"), honestPerTime, answerPatience)
	rate, err := taken.rate(ctx, window)
	return rate, a.wait(), err
}
