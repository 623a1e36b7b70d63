package main

import (
	"github.com/urfave/cli/v2"

	"github.com/tunlb/tunlb/tunlb/config/aside"
)

// readConfigCommand is the daemon's own: it has large files read by it.
func readConfigCommand() *cli.Command {
	return &cli.Command{
		Name:   aside.Command,
		Hidden: true,
		Usage:  "parse the configuration that is the input, and say what it is",
		Action: func(c *cli.Context) error {
			if c.Args().Len() != 1 {
				return usagef("%s wants the name of its input", aside.Command)
			}
			return aside.Read(c.Args().First(), c.App.Reader, c.App.Writer)
		},
	}
}
