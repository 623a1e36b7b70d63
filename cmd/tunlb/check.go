package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/tunlb/tunlb/tunlb/config"
)

func checkCommand() *cli.Command {
	return &cli.Command{
		Name:      "check",
		Usage:     "say everything that is wrong with a configuration file",
		ArgsUsage: "FILE",
		Action: func(c *cli.Context) error {
			if c.Args().Len() != 1 {
				return usagef("check wants one file: tunlb check FILE")
			}
			cfg, err := config.Load(c.Args().First())
			if err != nil {
				return showConfigErrors(c, err)
			}
			fmt.Fprintf(c.App.Writer, "%s: ok, %s, %s\n", c.Args().First(),
				count(len(cfg.Ports), "port"), count(len(cfg.Services), "service"))
			return nil
		},
	}
}

// showConfigErrors prints a file's errors one a line, as compilers do, without a prefix that would
// keep editors from jumping to them.
func showConfigErrors(c *cli.Context, err error) error {
	if exitCode(err) != exitConfig {
		return err
	}
	fmt.Fprintln(c.App.ErrWriter, err)
	return fmt.Errorf("%w: %w", errReported, err)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
