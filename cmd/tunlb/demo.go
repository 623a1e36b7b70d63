package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/tunlb/tunlb/labnet"
	"github.com/tunlb/tunlb/labnet/netns"
	"github.com/tunlb/tunlb/tunlb/control"
)

// demoTime is more than a demo ever takes.
const demoTime = 10 * time.Second

func demoCommand() *cli.Command {
	return &cli.Command{
		Name:  "demo",
		Usage: "show a network at work, in namespaces that are gone afterwards, or simulated where there are none",
		Subcommands: []*cli.Command{
			{Name: "nat", Usage: "the load balancer as the servers' gateway, translating both ways", Action: play((*demo).nat, "nat")},
			{Name: "dr", Usage: "the load balancer beside the servers, which answer the clients past it", Action: play((*demo).dr, "dr-inline")},
		},
		Action: func(c *cli.Context) error { return usagef("which demo? tunlb demo nat, or tunlb demo dr") },
	}
}

// play runs a demo in namespaces of its own, by running this program again there. All that the demo makes
// hangs on that process, so nothing is left however it ends. On a machine that cannot, the lab instead is simulated.
func play(act func(*demo) error, instead string) cli.ActionFunc {
	return func(c *cli.Context) error {
		if err := noArgs(c); err != nil {
			return err
		}
		if err := netns.CheckTUN(); err != nil {
			return playSimulated(c, instead, err)
		}
		switch code, ran, err := netns.Enter(); {
		case err != nil && !ran:
			return playSimulated(c, instead, err)
		case err != nil:
			return err
		case ran && code != 0:
			return cli.Exit(errReported, code)
		case ran:
			return nil
		}
		ctx, cancel := context.WithTimeout(c.Context, demoTime)
		defer cancel()
		return act(&demo{ctx: ctx, out: c.App.Writer})
	}
}

// demo is one run of a demo. After the first error it does nothing more.
type demo struct {
	ctx context.Context
	out io.Writer
	lab *labnet.Lab
	err error
}

// stage opens a network, says what it is, and runs tunlb on its lb. end stops that and takes all down; it is to
// be called in any case, with what the demo has come to.
func (d *demo) stage(topology labnet.Topology, what, config string) (end func(error) error) {
	d.lab, d.err = labnet.Open(topology)
	if d.err != nil {
		return func(err error) error { return err }
	}
	d.say("%s\n%s", what, labnet.Draw(topology))
	stop := d.start(config)
	return func(err error) error { return errors.Join(err, stop(), d.lab.Close()) }
}

// say prints unless something has failed.
func (d *demo) say(format string, args ...any) {
	if d.err == nil {
		_, d.err = fmt.Fprintf(d.out, format, args...)
	}
}

// demoSocket is abstract: it is seen in lb's namespace only and goes with it.
const demoSocket = "@tunlb"

// start runs tunlb on lb and waits until it answers. stop ends it and waits for that.
func (d *demo) start(config string) (stop func() error) {
	stop = func() error { return nil }
	self, err := os.Executable()
	if err != nil {
		d.err = err
		return stop
	}
	var log strings.Builder
	cmd := d.lab.NS("lb").Command(d.ctx, self, "run", "-f", "/dev/stdin", "--socket", demoSocket)
	cmd.Stdin, cmd.Stderr = strings.NewReader(config), &log
	if d.err = cmd.Start(); d.err != nil {
		return stop
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if d.err = d.await(ended); d.err != nil {
		d.err = fmt.Errorf("tunlb run: %w\n%s", d.err, log.String())
		return stop
	}
	return func() error {
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			return err
		}
		if err := <-ended; err != nil {
			return fmt.Errorf("tunlb run: %w\n%s", err, log.String())
		}
		return nil
	}
}

// await polls until the daemon answers or has ended.
func (d *demo) await(ended <-chan error) error {
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		if _, err := d.client().Status(d.ctx); err == nil {
			return nil
		}
		select {
		case <-poll.C:
		case err := <-ended:
			return errors.Join(errors.New("ended before it was ready"), err)
		case <-d.ctx.Done():
			return context.Cause(d.ctx)
		}
	}
}

func (d *demo) client() *control.Client { return clientIn(d.lab.NS("lb")) }

// clientIn talks to the daemon that a lab has in a namespace.
func clientIn(ns *netns.NS) *control.Client {
	return control.NewClientVia(demoSocket, func(ctx context.Context, network, address string) (net.Conn, error) {
		return dialIn(ctx, ns, network, address)
	})
}

// dialIn dials inside a namespace whatever net.Dialer can: Unix sockets and raw IP as well.
func dialIn(ctx context.Context, ns *netns.NS, network, address string) (conn net.Conn, err error) {
	err = ns.Do(func() error {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// get asks once, over a connection of its own, and returns the name of the server that answered.
func (d *demo) get(url string) string {
	if d.err != nil {
		return ""
	}
	client := d.lab.NS("client").HTTPClient()
	defer client.CloseIdleConnections()
	resp, err := client.Get(url)
	if err != nil {
		d.err = err
		return ""
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		d.err = err
	}
	return resp.Header.Get("Server")
}

func (d *demo) requests(what, url string, n int) {
	var answers []string
	for range n {
		answers = append(answers, d.get(url))
	}
	tally := map[string]int{}
	for _, a := range answers {
		tally[a]++
	}
	var sums []string
	for _, name := range slices.Compact(slices.Sorted(slices.Values(answers))) {
		sums = append(sums, fmt.Sprintf("%s %d", name, tally[name]))
	}
	d.say("\n  %s  %s\n    answered by %s\n    in all      %s\n", url, what, strings.Join(answers, " "), strings.Join(sums, ", "))
}

// hop is an interface at which a journey is looked at.
type hop struct{ node, iface string }

// watch captures at interfaces while act acts.
func (d *demo) watch(act func(), hops ...hop) (points []labnet.Point) {
	if d.err != nil {
		return nil
	}
	sniffers := make([]*netns.Sniffer, len(hops))
	for i, h := range hops {
		s, err := d.lab.NS(h.node).Sniff(h.iface)
		if err != nil {
			d.err = err
			return nil
		}
		defer s.Close()
		sniffers[i] = s
	}
	act()
	for i, h := range hops {
		if err := sniffers[i].Close(); err != nil && d.err == nil {
			d.err = err
		}
		points = append(points, labnet.Point{Hop: h.node + " " + h.iface, Packets: sniffers[i].Packets()})
	}
	return points
}

// trace finds the way of the first request.
func (d *demo) trace(points []labnet.Point) (j labnet.Journey) {
	if d.err == nil {
		j, d.err = labnet.Trace(points)
	}
	return j
}

// ask is what lb's tunlb says of itself now.
func (d *demo) ask() (s control.Status) {
	if d.err == nil {
		s, d.err = d.client().Status(d.ctx)
	}
	return s
}

func (d *demo) status() {
	if s := d.ask(); d.err == nil {
		d.err = showStatus(d.out, s)
	}
}
