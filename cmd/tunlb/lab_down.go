package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/tunlb/tunlb/labnet/keeper"
	"github.com/tunlb/tunlb/labnet/scenario"
)

// downTime is more than a lab takes to go.
const downTime = 20 * time.Second

func labDownCommand() *cli.Command {
	return &cli.Command{
		Name:        "down",
		Usage:       "take a lab down: nothing is left of it",
		ArgsUsage:   "NAME|FILE",
		Description: "That it is down already is no error. What a killed lab has left is removed as well.",
		Flags:       []cli.Flag{&cli.BoolFlag{Name: "all", Usage: "all labs of yours"}},
		Action: func(c *cli.Context) error {
			switch {
			case c.Bool("all") && c.Args().Present():
				return usagef("--all is without a name")
			case c.Bool("all"):
				return downAll(c)
			case c.NArg() != 1:
				return usagef("down wants one lab: tunlb lab down NAME, or --all")
			}
			name, err := nameOf(c, c.Args().First())
			if err != nil {
				return err
			}
			place, err := keeper.At(name)
			if err != nil {
				return err
			}
			return takeDown(c, place)
		},
	}
}

// nameOf is a lab's name, or that of the lab in a file.
func nameOf(c *cli.Context, arg string) (string, error) {
	if keeper.CheckName(arg) == nil && !strings.HasSuffix(arg, ".yaml") && !strings.HasSuffix(arg, ".yml") {
		return arg, nil
	}
	f, err := scenario.Load(arg)
	if err != nil {
		return "", showConfigErrors(c, err)
	}
	return f.Name, nil
}

func downAll(c *cli.Context) error {
	places, err := keeper.All()
	if err != nil {
		return err
	}
	if len(places) == 0 {
		fmt.Fprintln(c.App.Writer, errNoLab)
	}
	var errs []error
	for _, p := range places {
		errs = append(errs, takeDown(c, p))
	}
	return errors.Join(errs...)
}

// takeDown returns when the keeper has ended.
func takeDown(c *cli.Context, p keeper.Place) error {
	ctx, cancel := context.WithTimeoutCause(c.Context, downTime, fmt.Errorf("lab %s is not down after %v", p.Name, downTime))
	defer cancel()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	asked := false
	var said error
	var warning string
	for {
		claim, err := p.Claim()
		switch {
		case err == nil:
			if err := errors.Join(said, claim.Remove()); err != nil {
				return err
			}
			what := "is down"
			if !asked {
				what = "is down already"
			}
			if warning != "" {
				fmt.Fprintf(c.App.ErrWriter, "lab %s was broken: %s\n", p.Name, warning)
			}
			fmt.Fprintf(c.App.Writer, "lab %s %s\n", p.Name, what)
			return nil
		case !errors.Is(err, keeper.ErrClaimed):
			return err
		}
		if !asked { // one that is coming up cannot be asked yet
			before, err := p.Client().Down(ctx)
			asked = !errors.Is(err, keeper.ErrNoLab) && ctx.Err() == nil
			if asked {
				said, warning = err, before
			}
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), kill(c, p))
		}
	}
}

// kill ends a keeper that does not listen. The lab ends with it.
func kill(c *cli.Context, p keeper.Place) error {
	pid, ok := p.PID()
	if !ok || c.Context.Err() != nil {
		return nil
	}
	process, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	fmt.Fprintf(c.App.ErrWriter, "killing the keeper of lab %s, process %d\n", p.Name, pid)
	return process.Kill()
}

func labListCommand() *cli.Command {
	return &cli.Command{
		Name:  "ls",
		Usage: "list the labs that are up",
		Flags: []cli.Flag{outputFlag()},
		Action: func(c *cli.Context) error {
			json, err := asJSON(c)
			if err != nil {
				return err
			}
			places, err := keeper.All()
			if err != nil {
				return err
			}
			labs := []listed{}
			for _, p := range places {
				ctx, cancel := context.WithTimeout(c.Context, 2*time.Second)
				info, err := p.Client().Info(ctx)
				cancel()
				state := "up"
				if err != nil {
					state, info = "starting", keeper.Info{Name: p.Name}
					if !errors.Is(err, keeper.ErrNoLab) {
						state = "silent"
					}
				} else if info.Broken != "" {
					state = "broken"
				}
				labs = append(labs, listed{info, state})
			}
			slices.SortFunc(labs, func(a, b listed) int { return strings.Compare(a.Name, b.Name) })
			if json {
				return writeJSON(c.App.Writer, labs)
			}
			return showLabs(c, labs)
		},
	}
}

// listed is a lab as `tunlb lab ls` has it. A silent one holds its place and does not answer.
type listed struct {
	keeper.Info
	State string `json:"state"`
}

func showLabs(c *cli.Context, labs []listed) error {
	if len(labs) == 0 {
		fmt.Fprintln(c.App.Writer, errNoLab)
		return nil
	}
	t := newTable(c.App.Writer, "NAME", "STATE", "DRIVER", "SINCE", "DIRECTOR", "HOSTS", "PUBLISHED")
	for _, l := range labs {
		var published []string
		for _, p := range l.Published {
			published = append(published, p.Listen+" -> "+p.To)
		}
		since := "-"
		if !l.Began.IsZero() {
			since = l.Began.Local().Format(time.DateTime)
		}
		t.row(l.Name, l.State, orDash(l.Driver), since, orDash(l.Director), orDash(strings.Join(l.Hosts, ",")), orDash(strings.Join(published, ", ")))
	}
	if err := t.flush(); err != nil {
		return err
	}
	for _, l := range labs {
		if l.Broken != "" {
			fmt.Fprintf(c.App.Writer, "\nlab %s is broken: %s; `tunlb lab down %s` takes it down\n", l.Name, l.Broken, l.Name)
		}
	}
	return nil
}
