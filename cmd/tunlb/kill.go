package main

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/control"
)

func killCommand() *cli.Command {
	return &cli.Command{
		Name:      "kill",
		Usage:     "end connections: both ends get a reset, if it is TCP",
		ArgsUsage: "[CONN...]",
		Description: "CONN is an ID as `tunlb conns -o wide` shows it: protocol/client/VIP. Instead of IDs the options name\n" +
			"all connections that match every one of them.",
		Flags: append([]cli.Flag{socketFlag()}, filterFlags()...),
		Action: func(c *cli.Context) error {
			filter, filtered, err := filterOf(c)
			ids := c.Args().Slice()
			switch {
			case err != nil:
				return err
			case filtered && len(ids) > 0:
				return usagef("kill wants IDs or options that choose, not both")
			case !filtered && len(ids) == 0:
				return usagef("kill wants IDs, as `tunlb conns -o wide` shows them, or --server, --client or --service")
			case filtered:
				n, err := client(c).KillAll(c.Context, filter)
				if err != nil {
					return err
				}
				fmt.Fprintf(c.App.Writer, "killed %s\n", count(n, "connection"))
				return nil
			}
			return killByID(c, ids)
		},
	}
}

// killByID goes on after those that are not there.
func killByID(c *cli.Context, ids []string) error {
	daemon, killed := client(c), 0
	var errs []error
	for _, id := range ids {
		err := daemon.Kill(c.Context, id)
		var refused *control.Error
		switch {
		case err == nil:
			killed++
		case errors.As(err, &refused):
			errs = append(errs, err)
		default:
			return err
		}
	}
	fmt.Fprintf(c.App.Writer, "killed %s\n", count(killed, "connection"))
	return errors.Join(errs...)
}

// filterFlags choose connections.
func filterFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "server", Usage: "those to the `SERVER`, by name, address or address:port"},
		&cli.StringFlag{Name: "client", Usage: "those of the `CLIENT`, an address or a network like 198.51.100.0/24"},
		&cli.StringFlag{Name: "service", Usage: "those of the service `NAME`"},
	}
}

// filterOf reads filterFlags, and says whether there is any.
func filterOf(c *cli.Context) (filter tunlb.ConnFilter, any bool, err error) {
	for _, name := range []string{"server", "client", "service"} {
		if !c.IsSet(name) {
			continue
		}
		// A script's empty variable must not choose everything.
		if any = true; c.String(name) == "" {
			return filter, any, usagef("--%s is empty", name)
		}
	}
	filter.Server, filter.Service = c.String("server"), c.String("service")
	if c.IsSet("client") {
		if filter.Client, err = control.ParseClient(c.String("client")); err != nil {
			return filter, any, usagef("--%w", err)
		}
	}
	return filter, any, nil
}
