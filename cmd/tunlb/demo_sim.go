package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/tunlb/tunlb/labnet/netns"
	"github.com/tunlb/tunlb/labnet/scenario"
)

// playSimulated shows a shipped lab at work in this process, where refused says that there are no namespaces, or no TUN.
func playSimulated(c *cli.Context, name string, refused error) (err error) {
	var unsupported *netns.Unsupported
	if !errors.As(refused, &unsupported) {
		return refused
	}
	f, err := scenario.Load(name)
	if err != nil {
		return err
	}
	picture, err := scenario.Graph(f, "ascii")
	if err != nil {
		return err
	}
	out := c.App.Writer
	fmt.Fprintf(out, "Simulated, since this machine refuses what the real thing needs: %v.\n"+
		"Each host is a network stack in this process; between them is the same tunlb. This is `tunlb lab run %s --driver sim`.\n\n", refused, name)
	fmt.Fprintf(out, "The network.\n%s\nWhat is tried in it, and what comes of it:\n\n", picture)

	ctx, cancel := context.WithTimeout(c.Context, demoTime)
	defer cancel()
	lab, err := makeDriver(driverSim, nil).Up(ctx, f)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	if err := scenario.Run(ctx, lab, f, func(s scenario.StepResult) { fmt.Fprintln(out, s.Text()) }); err != nil {
		return err
	}
	status, err := lab.Control().Status(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\nWhat %s says (tunlb status):\n\n", f.Director.Name)
	return showStatus(out, status)
}
