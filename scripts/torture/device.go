//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/labnet/netns"
)

const (
	deletedTarget = "recreated, or a clean exit with a message and nothing left behind, within 1 s; no spin"
	flapTarget    = "connections go on, new ones within 1 s; no spin, no leak"
	netnsTarget   = "the other ports go on; no spin; a clean exit when asked"
)

// idleMost is what an idle tunlb may use of a processor, in percent: it wakes for its timers, health checks and nothing else.
const idleMost = 10

// deviceBroken is how a negative control breaks these cases.
type deviceBroken struct {
	hung bool // tunlb is stopped (SIGSTOP): it neither ends nor mends anything
	down bool // the link is down at the end, and tunlb is stopped
	held bool // somebody else still has the namespace
}

// deviceSite is a network in which tunlb runs, as it was before, and some connections.
func deviceSite(ctx context.Context, o options, w way) (s *site, before []string, err error) {
	if s, err = open(o, w); err != nil {
		return nil, nil, err
	}
	if before, err = traces(s.lab.NS("lb")); err == nil {
		if err = s.configure(w.service("web", webPort, "tcp", "") + w.service("echo", echoPort, "tcp", "")); err == nil {
			err = s.start(ctx)
		}
	}
	if err != nil {
		return nil, nil, errors.Join(err, s.close())
	}
	return s, before, nil
}

func deleteDevice(ctx context.Context, o options, w way, broken deviceBroken) (_ *outcome, err error) {
	s, before, err := deviceSite(ctx, o, w)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	client := s.lab.NS("client")
	idle, err := hold(ctx, client, 20)
	if err != nil {
		return nil, err
	}
	defer idle.close()
	if broken.hung {
		if err := s.proc.Cmd.Process.Signal(unix.SIGSTOP); err != nil {
			return nil, err
		}
	}
	was, err := usageOf(s.proc.Cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	handle := s.lab.NS("lb").Handle()
	link, err := handle.LinkByName("tunlb0")
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := handle.LinkDel(link); err != nil {
		return nil, err
	}
	out := o.outcome()
	_, there := handle.LinkByIndex(link.Attrs().Index)
	out.add(errors.As(there, new(netlink.LinkNotFoundError)), true, "the device is gone", fmt.Sprint(there), "Link not found")
	how, took := "nothing", never
	for how == "nothing" && time.Since(began) < o.limit(time.Second)+time.Second/2 {
		if s.proc.Alive() != nil {
			how, took = "exit", time.Since(began)
		} else if l, err := handle.LinkByName("tunlb0"); err == nil && l.Attrs().Index != link.Attrs().Index {
			if _, err := request(ctx, client, "/", time.Second); err == nil {
				how, took = "recreated", time.Since(began)
			}
		}
		if err := sleep(ctx, time.Millisecond); err != nil {
			return nil, err
		}
	}
	o.log("what tunlb did: %s", how)
	out.within("recreated, or ended", took, time.Second)
	switch how {
	case "exit":
		var spent time.Duration
		if state := s.proc.Cmd.ProcessState; state != nil {
			spent = state.UserTime() + state.SystemTime() - was.cpu
		}
		out.add(spent <= time.Second/2, false, "processor time until then", rounded(spent), "<= 500ms") // not the machine's time
		out.holds("it says why", strings.Contains(s.proc.Said(), "deleted"), s.proc.Said())
		out.add(s.proc.Cmd.ProcessState.ExitCode() == 1, false, "exit code", fmt.Sprint(s.proc.Cmd.ProcessState.ExitCode()), "1")
		out.nothingLeft(s, before)
	case "recreated":
		out.quiet(ctx, s.proc.Cmd.Process.Pid)
		out.holds("ends when asked", s.stop() == nil, s.proc.Said())
		out.nothingLeft(s, before)
	}
	return out, nil
}

// nothingLeft holds what is there against what was there before tunlb.
func (o *outcome) nothingLeft(s *site, before []string) {
	after, err := traces(s.lab.NS("lb"))
	diff := difference(before, after)
	if err != nil {
		diff = err.Error()
	}
	o.holds("no device, address, rule, route, table or sysctl is left behind", diff == "", diff)
	_, err = os.Stat(s.socket())
	o.holds("nor the control socket", errors.Is(err, os.ErrNotExist), s.socket())
}

// quiet is what an idle tunlb uses of a processor.
func (o *outcome) quiet(ctx context.Context, pid int) {
	const window = time.Second
	before, err := usageOf(pid)
	if err == nil {
		err = sleep(ctx, window)
	}
	after, gone := usageOf(pid)
	if err = errors.Join(err, gone); err != nil {
		o.holds("it is idle afterwards", false, err.Error())
		return
	}
	o.atMost("idle afterwards, of a processor", 100*float64(after.cpu-before.cpu)/float64(window), idleMost, "%")
	o.quietly()
}

func flapDevice(ctx context.Context, o options, w way, broken deviceBroken) (_ *outcome, err error) {
	s, before, err := deviceSite(ctx, o, w)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	client, device := s.lab.NS("client"), "eth0"
	if w.tun {
		device = "tunlb0"
	} else if err := s.lab.NS("lb").Sysctl("ipv6/conf/eth0/keep_addr_on_down", "1"); err != nil { // or the kernel takes them away
		return nil, err
	}
	idle, err := hold(ctx, client, 20)
	if err != nil {
		return nil, err
	}
	defer idle.close()
	was, err := usageOf(s.proc.Cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	n, downs := pick(o, 10, 100), 0
	for range n {
		if err := s.setLink("lb", device, false); err != nil {
			return nil, err
		}
		downs++                                                 // as the kernel has acknowledged; tunlb sets its TUN up again by itself
		if err := sleep(ctx, 10*time.Millisecond); err != nil { // long enough for tunlb to meet it
			return nil, err
		}
		if err := s.setLink("lb", device, true); err != nil {
			return nil, err
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return nil, err
		}
	}
	if broken.down {
		if err := errors.Join(s.proc.Cmd.Process.Signal(unix.SIGSTOP), s.setLink("lb", device, false)); err != nil {
			return nil, err
		}
	}
	began := time.Now()
	err = errors.New("not tried")
	for wait := 250 * time.Millisecond; err != nil && time.Since(began) < o.limit(time.Second)+time.Second/2 && s.proc.Alive() == nil; wait *= 2 {
		_, err = request(ctx, client, "/", wait)
	}
	took := time.Since(began)
	out := o.outcome()
	out.prove("times down and up", float64(downs), float64(n), "")
	out.holds("tunlb is there", s.proc.Alive() == nil, s.proc.Said())
	if err != nil {
		took = never
	}
	out.within("a new connection succeeds after", took, time.Second)
	if s.proc.Alive() != nil || err != nil {
		return out, nil
	}
	still, why := idle.answering(patience)
	out.holds("connections of before still there", still == len(idle), fmt.Sprintf("%d of %d: %v", still, len(idle), why))
	out.quiet(ctx, s.proc.Cmd.Process.Pid)
	is, err := usageOf(s.proc.Cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	out.atMost("descriptors more than before", float64(is.descriptors-was.descriptors), 0, "")
	out.atMost("memory grown by", float64(is.rss-was.rss)/(1<<20), 16, "MiB")
	out.holds("ends when asked", s.stop() == nil, s.proc.Said())
	out.nothingLeft(s, before)
	return out, nil
}

func loseNamespace(ctx context.Context, o options) (*outcome, error) {
	return giveUpNamespace(ctx, o, deviceBroken{})
}

// giveUpNamespace has a port in a network namespace of its own, which everybody else gives up.
func giveUpNamespace(ctx context.Context, o options, broken deviceBroken) (_ *outcome, err error) {
	lost, err := netns.New("lost")
	if err != nil {
		return nil, err
	}
	defer lost.Close()
	w := onTUN
	w.ports = fmt.Sprintf(`ports:
  - {name: tunlb0, addresses: [10.255.0.1/30]}
  - {name: away, netns: %s, addresses: [10.9.0.1/30], router: [10.9.0.2], routes: [10.9.0.0/30]}
`, lost.Path())
	s, before, err := deviceSite(ctx, o, w)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	name, err := os.Readlink(lost.Path())
	if err != nil {
		return nil, err
	}
	pid := s.proc.Cmd.Process.Pid
	out := o.outcome()
	all, err := holders(name)
	if err != nil {
		return nil, err
	}
	out.prove("processes that have the namespace at first", float64(len(all)), 2, "")
	if !broken.held {
		if err := lost.Close(); err != nil {
			return nil, err
		}
	}
	if all, err = holders(name); err != nil {
		return nil, err
	}
	out.add(slices.Equal(all, []int{pid}), true, "who has it then", fmt.Sprint(all), fmt.Sprintf("%d, tunlb", pid))
	if broken.hung {
		if err := s.proc.Cmd.Process.Signal(unix.SIGSTOP); err != nil {
			return nil, err
		}
	}
	began, limit := time.Now(), o.limit(time.Second)
	_, err = request(ctx, s.lab.NS("client"), "/", limit)
	took := time.Since(began)
	if err != nil {
		took = never
	}
	out.within("a connection by the other port succeeds after", took, time.Second)
	if err != nil {
		return out, nil
	}
	out.quiet(ctx, pid)
	out.holds("ends when asked", s.stop() == nil, s.proc.Said())
	out.nothingLeft(s, before)
	return out, nil
}

// holders are the processes that have a namespace open or are in it.
func holders(name string) (pids []int, err error) {
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	for _, dir := range all {
		links, _ := filepath.Glob(dir + "/fd/*")
		for _, link := range append(links, dir+"/ns/net") {
			if to, err := os.Readlink(link); err == nil && to == name { // else it has ended meanwhile
				pid, err := strconv.Atoi(filepath.Base(dir))
				if err != nil {
					return nil, err
				}
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids, nil
}
