package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/control"
)

const serverUsage = "SERVER is a name, service/name, an address, or address:port; without --service it is meant in every service that has it."

func serviceFlag() cli.Flag {
	return &cli.StringFlag{Name: "service", Usage: "of the service `NAME` only"}
}

func drainCommand() *cli.Command {
	return &cli.Command{
		Name:        "drain",
		Usage:       "give a server no new connections; those that it has go on",
		ArgsUsage:   "SERVER",
		Description: serverUsage + " Clients that persistence keeps with it go elsewhere, too.\nIt lasts until undrain, over reloads.",
		Flags: []cli.Flag{
			socketFlag(), serviceFlag(),
			&cli.BoolFlag{Name: "wait", Usage: "until it has no connections left; those in TIME_WAIT and CLOSE have ended"},
			&cli.DurationFlag{Name: "timeout", Value: 5 * time.Minute, Usage: "give up waiting after `TIME`, like 30s or 5m"},
		},
		Action: func(c *cli.Context) error {
			order, _, err := orderOf(c, "drain", 1)
			if err != nil {
				return err
			}
			if c.IsSet("timeout") && (!c.Bool("wait") || c.Duration("timeout") <= 0) {
				return usagef("--timeout wants --wait, and a time above zero")
			}
			if err := obey(c, order); err != nil || !c.Bool("wait") {
				return err
			}
			return awaitDrained(c.Context, client(c), order, c.Duration("timeout"), progress(c.App.ErrWriter))
		},
	}
}

func undrainCommand() *cli.Command {
	return &cli.Command{
		Name:        "undrain",
		Usage:       "give a drained server new connections again",
		ArgsUsage:   "SERVER",
		Description: serverUsage,
		Flags:       []cli.Flag{socketFlag(), serviceFlag()},
		Action: func(c *cli.Context) error {
			order, _, err := orderOf(c, "undrain", 1)
			if err != nil {
				return err
			}
			return obey(c, order)
		},
	}
}

func weightCommand() *cli.Command {
	return &cli.Command{
		Name:        "weight",
		Usage:       "change a server's weight",
		ArgsUsage:   "SERVER WEIGHT",
		Description: serverUsage + "\nIt lasts until the file gives the server another weight.",
		Flags:       []cli.Flag{socketFlag(), serviceFlag()},
		Action: func(c *cli.Context) error {
			order, args, err := orderOf(c, "weight", 2)
			if err != nil {
				return err
			}
			if order.Weight, err = strconv.Atoi(args[1]); err != nil || order.Weight < 0 || order.Weight > policy.MaxWeight {
				return usagef("weight %q: want a number from 0 to %d", args[1], policy.MaxWeight)
			}
			return obey(c, order)
		},
	}
}

// orderOf reads the server of a command with n arguments.
func orderOf(c *cli.Context, do string, n int) (order tunlb.ServerOrder, args []string, err error) {
	args = c.Args().Slice()
	if len(args) != n || args[0] == "" {
		return order, nil, usagef("%s wants %s, as in: tunlb %[1]s%s", do,
			map[int]string{1: "one server", 2: "a server and a weight"}[n], map[int]string{1: " rs1", 2: " rs1 10"}[n])
	}
	order = tunlb.ServerOrder{Service: c.String("service"), Server: args[0], Do: do}
	if c.IsSet("service") {
		if order.Service == "" {
			return order, nil, usagef("--service: want a service's name")
		}
		return order, args, nil
	}
	// Services without a name are called like 203.0.113.22:80/tcp, so it is the last slash that counts.
	if i := strings.LastIndexByte(args[0], '/'); i >= 0 {
		order.Service, order.Server = args[0][:i], args[0][i+1:]
		if order.Service == "" || order.Server == "" {
			return order, nil, usagef("%q: want a server's name, service/name, address or address:port", args[0])
		}
	}
	return order, args, nil
}

// obey has the daemon do it and prints what has changed.
func obey(c *cli.Context, order tunlb.ServerOrder) error {
	events, err := client(c).Order(c.Context, order)
	if err != nil {
		return fmt.Errorf("%s %s: %w%s", order.Do, order.Server, err, hint(err))
	}
	for _, ev := range events {
		fmt.Fprintln(c.App.Writer, strings.TrimSpace(subject(ev)+" "+ev.Kind+because(ev)))
	}
	if len(events) == 0 {
		fmt.Fprintln(c.App.Writer, "nothing to change")
	}
	return nil
}

// hint is the next command after an error.
func hint(err error) string {
	var refused *control.Error
	if errors.As(err, &refused) && refused.Status == 404 {
		return "; `tunlb status` lists what there is"
	}
	return ""
}

// awaitDrained waits until a server's connections have ended, and reports how many there are left as it goes.
func awaitDrained(ctx context.Context, asked *control.Client, order tunlb.ServerOrder, patience time.Duration, report func(left int)) error {
	const often = 250 * time.Millisecond
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	interrupted := func(left string) error {
		return fmt.Errorf("interrupted: %s is still drained%s; wait on with `tunlb drain --wait`, or end that with `tunlb undrain %s`",
			order.Server, left, named(order))
	}
	targets, err := targetsOf(ctx, asked, order)
	known := ""
	for {
		begun := time.Now()
		left := 0
		if err == nil {
			left, err = openConns(ctx, asked, targets)
		}
		switch {
		case err != nil && ctx.Err() != nil:
			return interrupted(known)
		case err != nil:
			return err
		}
		report(left)
		known = ", and has " + count(left, "connection") + " left"
		if left == 0 {
			return nil
		}
		// To look through a million connections takes its time: nobody else is to wait for it most of the time.
		pause := time.NewTimer(max(often, 4*time.Since(begun)))
		select {
		case <-ctx.Done():
			return interrupted(known)
		case <-timeout.C:
			return fmt.Errorf("%s still has %s after %v; wait on with `tunlb drain --wait`, or end them with `tunlb kill --server %[4]s`",
				order.Server, count(left, "connection"), patience, named(order))
		case <-pause.C:
		}
	}
}

// named is a server as undrain takes it.
func named(order tunlb.ServerOrder) string {
	if order.Service == "" {
		return order.Server
	}
	return order.Server + " --service " + order.Service
}

// targetsOf are the filters of the connections of the servers that an order is about, which names them as people
// do. Nothing is taken for no connections: an order that was carried out is about somebody.
func targetsOf(ctx context.Context, asked *control.Client, order tunlb.ServerOrder) ([]tunlb.ConnFilter, error) {
	status, err := asked.Status(ctx)
	if err != nil {
		return nil, err
	}
	var targets []tunlb.ConnFilter
	for _, s := range servicesOf(status.Services, order.Service) {
		for _, srv := range serversOf(s, order.Server) {
			at := srv.Address.String()
			if srv.Address.Port() == 0 { // its connections have the port that the client asked for
				at = srv.Address.Addr().String()
			}
			targets = append(targets, tunlb.ConnFilter{Service: s.Name, Server: at})
		}
	}
	if len(targets) == 0 {
		return nil, fmt.Errorf("%s was drained, and is no longer there; `tunlb status` lists what there is", order.Server)
	}
	return targets, nil
}

// openConns counts servers' connections that have not ended.
func openConns(ctx context.Context, asked *control.Client, targets []tunlb.ConnFilter) (n int, err error) {
	for _, filter := range targets {
		err := asked.Conns(ctx, filter, -1, func(c control.Conn) error {
			if c.State != "TIME_WAIT" && c.State != "CLOSE" && !c.Check {
				n++
			}
			return nil
		})
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// progress shows a count on a terminal, and nothing elsewhere.
func progress(w io.Writer) func(left int) {
	f, ok := w.(*os.File)
	if !ok {
		return func(int) {}
	}
	if info, err := f.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return func(int) {}
	}
	return func(left int) {
		text := count(left, "connection") + " left"
		if left == 0 {
			text = "no connections left\n"
		}
		fmt.Fprintf(f, "\r%-40s", text)
	}
}
