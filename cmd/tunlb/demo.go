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
		Usage: "show a network at work, in namespaces that are gone afterwards",
		Subcommands: []*cli.Command{{
			Name:   "nat",
			Usage:  "the load balancer as the servers' gateway, translating both ways",
			Action: demoNAT,
		}},
		Action: func(c *cli.Context) error { return usagef("which demo? tunlb demo nat") },
	}
}

// demoConfig is what the demo's tunlb runs with. Each scheduler has a service of its own.
const demoConfig = `services:
  - name: web
    listen: 203.0.113.22:80/tcp
    scheduler: rr
    servers:
      - {name: rs1, address: 192.168.0.10:8080}
      - {name: rs2, address: 192.168.0.11:8080}
      - {name: rs3, address: 192.168.0.12:8080}
  - name: weighted
    listen: 203.0.113.22:8080/tcp
    scheduler: wrr
    servers:
      - {name: rs1, address: 192.168.0.10:8080, weight: 3}
      - {name: rs2, address: 192.168.0.11:8080, weight: 2}
      - {name: rs3, address: 192.168.0.12:8080, weight: 1}
  - name: web6
    listen: "[2001:db8:113::22]:80/tcp"
    scheduler: rr
    servers:
      - {name: rs1, address: "[2001:db8:c0::10]:8080"}
      - {name: rs2, address: "[2001:db8:c0::11]:8080"}
      - {name: rs3, address: "[2001:db8:c0::12]:8080"}
`

// demoNAT runs itself again in namespaces of its own and plays the demo there. All that it makes hangs
// on that process, so nothing is left however it ends.
func demoNAT(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	if err := netns.CheckTUN(); err != nil {
		return err
	}
	switch code, ran, err := netns.Enter(); {
	case err != nil:
		return err
	case ran && code != 0:
		return cli.Exit(errReported, code)
	case ran:
		return nil
	}
	ctx, cancel := context.WithTimeout(c.Context, demoTime)
	defer cancel()
	return (&demo{ctx: ctx, out: c.App.Writer}).nat()
}

// demo is one run of a demo. After the first error it does nothing more.
type demo struct {
	ctx context.Context
	out io.Writer
	lab *labnet.Lab
	err error
}

func (d *demo) nat() error {
	// Without offload the checksums on the links are whole, as on a wire, and can be shown.
	topology := labnet.Story(labnet.StoryOptions{OwnVIP: true, NoOffload: true})
	d.lab, d.err = labnet.Open(topology)
	if d.err != nil {
		return d.err
	}
	defer d.lab.Close()
	d.say("The network. Only lb is known outside; the servers' default gateway is lb.\n")
	d.say("%s", labnet.Draw(topology))
	stop := d.start(demoConfig)
	if d.err != nil {
		return d.err
	}

	d.say("\nRequests from the client, one connection each:\n")
	journey := d.journey(func() { d.requests("round robin", "http://203.0.113.22/", 6) })
	d.requests("weighted round robin, 3:2:1", "http://203.0.113.22:8080/", 12)
	d.requests("round robin, IPv6", "http://[2001:db8:113::22]/", 6)

	d.say("\nThe way of the first request and of its answer:\n\n")
	if d.err == nil {
		d.err = journey.Table(d.out, colours(d.out))
	}
	d.say("\nWhat lb says (tunlb status):\n\n")
	d.status()
	return errors.Join(d.err, stop())
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

// journey captures at every interface while ask asks, and finds the packets' way in it.
func (d *demo) journey(ask func()) labnet.Journey {
	if d.err != nil {
		return labnet.Journey{}
	}
	hops := []struct{ node, iface string }{
		{"client", "eth0"}, {"lb", "eth0"}, {"lb", "tunlb0"}, {"lb", "eth1"}, {"rs1", "eth0"}, {"rs2", "eth0"}, {"rs3", "eth0"},
	}
	sniffers := make([]*netns.Sniffer, len(hops))
	for i, h := range hops {
		s, err := d.lab.NS(h.node).Sniff(h.iface)
		if err != nil {
			d.err = err
			return labnet.Journey{}
		}
		defer s.Close()
		sniffers[i] = s
	}
	ask()
	var points []labnet.Point
	for i, h := range hops {
		if err := sniffers[i].Close(); err != nil && d.err == nil {
			d.err = err
		}
		points = append(points, labnet.Point{Hop: h.node + " " + h.iface, Packets: sniffers[i].Packets()})
	}
	j, err := labnet.Trace(points)
	if d.err == nil {
		d.err = err
	}
	return j
}

func (d *demo) status() {
	if d.err != nil {
		return
	}
	s, err := d.client().Status(d.ctx)
	if err != nil {
		d.err = err
		return
	}
	d.err = showStatus(d.out, s)
}
