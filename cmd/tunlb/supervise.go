package main

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/urfave/cli/v2"
)

func superviseCommand() *cli.Command {
	return &cli.Command{
		Name:      "supervise",
		Usage:     "run tunlb as a child: start it again when it dies, and keep its devices, connections and control socket in between",
		ArgsUsage: "-- run -f FILE ...",
		Description: "Where no service manager keeps descriptors (systemd does). SIGTERM and SIGINT end both, SIGHUP and SIGUSR2 are handed on.\n" +
			"It ends with the child's exit code when that ends by itself with 0, is told to end, or does not even start.",
		Flags: []cli.Flag{
			&cli.DurationFlag{Name: "watchdog", Usage: "kill a child that has balanced and says nothing for this `TIME`; 0 never does"},
			&cli.StringFlag{Name: "log-level", Value: "info", Usage: "`LEVEL`: debug, info, warn or error"},
			&cli.BoolFlag{Name: "log-json", Usage: "log JSON, one object a line"},
		},
		Action: func(c *cli.Context) error {
			args := c.Args().Slice()
			if len(args) == 0 || args[0] != "run" {
				return usagef("supervise wants the command that it is to run: tunlb supervise -- run -f FILE")
			}
			if d := c.Duration("watchdog"); d != 0 && d < leastWatchdog {
				return usagef("--watchdog %v: want %v at least, or 0", d, leastWatchdog)
			}
			if err := checkRun(c.Context, args); err != nil {
				return err
			}
			lines, err := newLog(c)
			if err != nil {
				return err
			}
			defer lines.Close(lastWords)
			code, err := supervise(lines.Logger.With().Str("from", "supervisor").Logger(), c.Duration("watchdog"), args)
			if err == nil && code != 0 {
				err = cli.Exit(errReported, code)
			}
			return err
		},
	}
}

// leastWatchdog is what a machine may take that has other things to do for a moment.
const leastWatchdog = 2 * time.Second

// checkRun refuses a command line that run would refuse. Its exit code alone would not tell: Go ends with the same after a panic, and then
// another start may be what it takes.
func checkRun(ctx context.Context, args []string) error {
	app := newApp()
	app.Writer, app.ErrWriter = io.Discard, io.Discard
	app.Command("run").Action = func(c *cli.Context) error {
		if _, err := levelOf(c); err != nil {
			return err
		}
		_, err := fileOfRun(c)
		return err
	}
	return app.RunContext(ctx, flagsFirst(app.Commands, append([]string{app.Name}, args...)))
}

// errNoSupervisor ends a daemon whose supervisor has died: the next one starts its own.
var errNoSupervisor = errors.New("the supervisor is gone")
