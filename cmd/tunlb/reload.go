package main

import (
	"fmt"

	"github.com/urfave/cli/v2"
)

func reloadCommand() *cli.Command {
	return &cli.Command{
		Name:  "reload",
		Usage: "have the daemon read its file again; connections go on but to servers that are gone, a bad file changes nothing",
		Flags: []cli.Flag{
			socketFlag(), outputFlag(),
			&cli.BoolFlag{Name: "dry-run", Usage: "only say what it would change"},
		},
		Action: func(c *cli.Context) error {
			asJSON, err := asJSON(c)
			if err != nil {
				return err
			}
			result, err := client(c).Reload(c.Context, c.Bool("dry-run"))
			if err != nil {
				return err
			}
			switch {
			case asJSON:
				err = writeJSON(c.App.Writer, result)
			case len(result.Errors) > 0:
				for _, e := range result.Errors {
					fmt.Fprintln(c.App.ErrWriter, e)
				}
				fmt.Fprintln(c.App.ErrWriter, "nothing was changed")
			case len(result.Changes) == 0:
				fmt.Fprintln(c.App.Writer, "nothing to change")
			default:
				for _, change := range result.Changes {
					fmt.Fprintln(c.App.Writer, change)
				}
			}
			switch {
			case err != nil:
				return err
			case result.Invalid:
				return cli.Exit(errReported, exitConfig)
			case len(result.Errors) > 0:
				return errReported
			}
			return nil
		},
	}
}
