package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/tunlb/tunlb/stack/kernel"
	"github.com/tunlb/tunlb/tunlb/control"
)

func cleanCommand() *cli.Command {
	return &cli.Command{
		Name:  "clean",
		Usage: "remove what a killed tunlb left in this network namespace, and nothing else; prints it as commands",
		Flags: []cli.Flag{socketFlag()},
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			switch status, err := client(c).Status(c.Context); {
			case err == nil:
				return fmt.Errorf("tunlb is running here as process %d: what it has set is in use; stop it first: kill %[1]d", status.Daemon.PID)
			case !errors.Is(err, control.ErrNoDaemon):
				return err
			}
			removed, err := kernel.Clean("")
			if err == nil {
				var sockets []string
				sockets, err = control.RemoveStale(c.String("socket"))
				for _, s := range append(sockets, removeLogs(c.String("socket"))...) {
					removed = append(removed, "rm "+s)
				}
			}
			for _, command := range removed {
				fmt.Fprintln(c.App.Writer, command)
			}
			if err == nil && len(removed) == 0 {
				fmt.Fprintln(c.App.Writer, "nothing to clean")
			}
			return err
		},
	}
}

// removeLogs removes what daemons that ipvsadm had started have logged beside their sockets.
func removeLogs(socket string) (removed []string) {
	for _, place := range control.Found(socket) {
		if log := logOf(place); log != "" && os.Remove(log) == nil {
			removed = append(removed, log)
		}
	}
	return removed
}
