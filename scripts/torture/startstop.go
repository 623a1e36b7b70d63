//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"time"

	"github.com/rs/zerolog"

	"github.com/tunlb/tunlb/labnet/netns"
	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/port"
	"github.com/tunlb/tunlb/tunlb"
)

const (
	startstopTarget = "rules, routes, tables, devices and descriptors are back at the start, exactly"
	engineTarget    = "goroutines and descriptors are back at the start, exactly"
)

// startstopBroken is how a negative control breaks these cases.
type startstopBroken struct {
	killed bool // tunlb is killed in place of being stopped, the last time
	leak   bool // there is an engine more each time, which nobody closes
}

func startStop(ctx context.Context, o options, w way, broken startstopBroken) (_ *outcome, err error) {
	s, err := open(o, w)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.configure(w.service("web", webPort, "tcp", "") + w.service("echo", echoPort, "udp", "")); err != nil {
		return nil, err
	}
	before, err := traces(s.lab.NS("lb"))
	if err != nil {
		return nil, err
	}
	n, served, differ, first, left := pick(o, 5, 500), 0, 0, -1, ""
	var grown int
	for i := range n {
		if err := s.start(ctx); err != nil {
			return nil, fmt.Errorf("start %d: %w", i+1, err)
		}
		if _, err := request(ctx, s.lab.NS("client"), "/", patience); err == nil {
			served++
		}
		u, err := usageOf(s.proc.Cmd.Process.Pid)
		if err != nil {
			return nil, err
		}
		if first < 0 {
			first = u.descriptors
		}
		grown = max(grown, u.descriptors-first)
		if broken.killed && i == n-1 {
			s.proc.Kill()
		} else if err := s.stop(); err != nil {
			return nil, fmt.Errorf("stop %d: %w", i+1, err)
		}
		after, err := traces(s.lab.NS("lb"))
		if err != nil {
			return nil, err
		}
		if diff := difference(before, after); diff != "" {
			if differ++; left == "" {
				left = fmt.Sprintf("after stop %d:%s", i+1, diff)
			}
		}
	}
	out := o.outcome()
	out.prove("starts that served a request, and stops", float64(served), float64(n), "")
	out.holds("what the kernel has been told is as before, each time", differ == 0, left)
	// The first has what Go opens for good; a control connection may be under way when they are counted.
	out.atMost("descriptors more than in the first", float64(grown), 2, "")
	out.nothingLeft(s, before)
	return out, nil
}

func startStopEngine(ctx context.Context, o options) (*outcome, error) {
	return engines(ctx, o, startstopBroken{})
}

// engines are made and closed in this process, where goroutines can be counted.
func engines(ctx context.Context, o options, broken startstopBroken) (_ *outcome, err error) {
	if err := netns.CheckTUN(); err != nil {
		return nil, err
	}
	ns, err := netns.New("engines")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, ns.Close()) }()
	const first = 3 // after these, what Go and the libraries make once is there
	n := pick(o, 20, 500)
	if _, err := startAndStop(ctx, ns, first, nil); err != nil {
		return nil, err
	}
	var leaked []*tunlb.Engine
	defer func() {
		for _, e := range leaked {
			err = errors.Join(err, e.Close())
		}
	}()
	leak := &leaked
	if !broken.leak {
		leak = nil
	}
	// What other cases have left in this process may end late, and would hide as much that stays. Then the start was none, and there is another.
	var ran int
	var before, after holding
	for try := 0; try == 0 || try < 5 && (after.goroutines < before.goroutines || after.descriptors < before.descriptors); try++ {
		before = settled(nil)
		if ran, err = startAndStop(ctx, ns, n, leak); err != nil {
			return nil, err
		}
		after = settled(&before)
	}
	links, err := ns.Handle().LinkList()
	if err != nil {
		return nil, err
	}
	out := o.outcome()
	out.prove("engines that ran", float64(ran), float64(n), "")
	out.add(after.goroutines == before.goroutines, false, "goroutines more than at the start", fmt.Sprint(after.goroutines-before.goroutines), "0")
	out.add(after.descriptors == before.descriptors, false, "descriptors more than at the start", fmt.Sprint(after.descriptors-before.descriptors), "0")
	out.add(len(links) == 1, false, "devices besides lo", fmt.Sprint(len(links)-1), "0")
	return out, nil
}

// startAndStop makes n engines one after the other, runs and closes them. leak takes one more each time, which nobody runs.
func startAndStop(ctx context.Context, ns *netns.NS, n int, leak *[]*tunlb.Engine) (ran int, err error) {
	for i := range n {
		e, err := newEngine(ns)
		if err != nil {
			return ran, fmt.Errorf("engine %d: %w", i+1, err)
		}
		if serves(ctx, e) {
			ran++
		}
		if err := e.Close(); err != nil {
			return ran, err
		}
		if leak != nil {
			if e, err = newEngine(ns); err != nil {
				return ran, err
			}
			*leak = append(*leak, e)
		}
	}
	return ran, nil
}

// newEngine makes an engine with a TUN in a namespace. The caller closes it.
func newEngine(ns *netns.NS) (*tunlb.Engine, error) {
	p, err := port.OpenTUN(port.TUNConfig{Name: "tun%d", NetNS: ns.Path()})
	if err != nil {
		return nil, err
	}
	e, err := tunlb.New(tunlb.Options{
		Attachments: []tunlb.Attachment{{
			Port: p, Own: []netip.Addr{netip.MustParseAddr("10.255.0.2")}, Routes: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}, Kernel: true,
		}},
		MaxFlows: 1000, Log: zerolog.Nop(),
	}, tunlb.Config{Services: []policy.Spec{}})
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	if err := ns.Up(p.Name()); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// serves has an engine run for a moment, and says whether it answers and ends without an error.
func serves(ctx context.Context, e *tunlb.Engine) bool {
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- e.Run(running) }() // ends with stop
	ports := len(e.Status().Ports)
	stop()
	return <-ended == nil && ports == 1
}

// holding is what this process has open.
type holding struct{ goroutines, descriptors int }

// settled counts it when it is as wanted, or after a while: what ends takes a moment. Without a wish it is counted when it has not changed for
// a while.
func settled(want *holding) (now holding) {
	quiet := 0
	for until := time.Now().Add(5 * time.Second); time.Now().Before(until) && quiet < 200; time.Sleep(5 * time.Millisecond) {
		next := holding{runtime.NumGoroutine(), openDescriptors()}
		if next == now {
			quiet++
		} else {
			quiet = 0
		}
		now = next
		if want != nil && now == *want || want == nil && quiet > 20 {
			break
		}
	}
	return now
}

// openDescriptors are this process's own.
func openDescriptors() int {
	list, _ := os.ReadDir("/proc/self/fd")
	return len(list)
}
