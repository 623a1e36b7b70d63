package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/control"
)

func eventsCommand() *cli.Command {
	return &cli.Command{
		Name:  "events",
		Usage: "show what has happened to services and servers, with its cause",
		Flags: []cli.Flag{
			socketFlag(),
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "table", Usage: "`FORMAT`: table, or json (one object a line)"},
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on with what happens from now, until interrupted"},
			&cli.Uint64Flag{Name: "since", Usage: "only those after the event with the number `N`"},
		},
		Action: func(c *cli.Context) error {
			asJSON, err := asJSON(c)
			if err != nil {
				return err
			}
			show := func(ev tunlb.Event) error {
				_, err := fmt.Fprintf(c.App.Writer, "%s  %-9s  %-24s  %s\n", ev.Time.Local().Format(time.DateTime), ev.Kind, subject(ev), ev.Cause)
				return err
			}
			if asJSON {
				enc := json.NewEncoder(c.App.Writer)
				show = func(ev tunlb.Event) error { return enc.Encode(ev) }
			}
			follow := c.Bool("follow")
			err = client(c).Events(c.Context, c.Uint64("since"), follow, show)
			switch {
			case errors.Is(err, context.Canceled):
				return nil // that is how following ends
			case err == nil && follow:
				return fmt.Errorf("%w any more: it has ended while we followed", control.ErrNoDaemon)
			}
			return err
		},
	}
}

// subject is what an event is about.
func subject(ev tunlb.Event) string {
	server := ev.Server
	if server == "" && ev.Address.IsValid() {
		server = ev.Address.String()
	}
	switch {
	case server == "":
		return ev.Service
	case ev.Service == "":
		return server
	}
	return ev.Service + "/" + server
}

func because(ev tunlb.Event) string {
	if ev.Cause == "" {
		return ""
	}
	return ": " + ev.Cause
}
