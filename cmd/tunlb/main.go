// Command tunlb is a layer-4 load balancer in userspace; see the README.
//
// It owns the command line: a file a command, and the daemon that `tunlb run` is. What it does is in
// the packages below.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/tunlb/tunlb/labnet/netns"
	"github.com/tunlb/tunlb/stack/port"
	"github.com/tunlb/tunlb/tunlb/config"
	"github.com/tunlb/tunlb/tunlb/control"
)

// Exit codes are a contract with scripts.
const (
	exitFailed   = 1
	exitUsage    = 2
	exitConfig   = 3
	exitNoDaemon = 4
	exitCannot   = 77 // this machine cannot; automake's "skip"
)

func main() { os.Exit(run(os.Args, os.Stdin, os.Stdout, os.Stderr)) }

// run is the whole program but for the process's exit.
func run(args []string, in io.Reader, out, errOut io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return runIn(ctx, args, in, out, errOut)
}

// runIn is run but for the signals, which end ctx.
func runIn(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	if program, ok := calledAs(args); ok {
		return newIPVSADM(ctx, in, out, errOut).main(program, args[1:])
	}
	app := newApp()
	app.Reader, app.Writer, app.ErrWriter = in, out, errOut
	err := app.RunContext(ctx, flagsFirst(app.Commands, args))
	if err == nil {
		return 0
	}
	if !errors.Is(err, errReported) {
		sayLast(errOut, err)
	}
	return exitCode(err)
}

// errReported is wrapped by errors that have been shown already.
var errReported = errors.New("reported")

// usageError is a command line that makes no sense.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func exitCode(err error) int {
	var (
		usage       usageError
		invalid     config.Errors
		exit        cli.ExitCoder
		unsupported *netns.Unsupported
	)
	switch {
	case errors.As(err, &exit):
		return exit.ExitCode()
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &invalid):
		return exitConfig
	case errors.Is(err, control.ErrNoDaemon):
		return exitNoDaemon
	case errors.Is(err, port.ErrUnavailable), errors.As(err, &unsupported):
		return exitCannot
	default:
		return exitFailed
	}
}

func newApp() *cli.App {
	app := &cli.App{
		Name:  "tunlb",
		Usage: "a layer-4 load balancer in userspace: LVS's methods without root or kernel module",
		Commands: []*cli.Command{
			runCommand(),
			checkCommand(),
			readConfigCommand(),
			statusCommand(),
			topCommand(),
			connsCommand(),
			killCommand(),
			eventsCommand(),
			explainCommand(),
			traceCommand(),
			captureCommand(),
			replayCommand(),
			drainCommand(),
			undrainCommand(),
			weightCommand(),
			reloadCommand(),
			upgradeCommand(),
			superviseCommand(),
			ipvsadmCommand(),
			importCommand(),
			cleanCommand(),
			demoCommand(),
			labCommand(),
			doctorCommand(),
			versionCommand(),
		},
		HideVersion:          true,
		EnableBashCompletion: true,
		// Errors come back to run, which knows the exit codes.
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   onUsageError,
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef("no command %q; `tunlb help` lists them", c.Args().First())
			}
			return cli.ShowAppHelp(c)
		},
	}
	for _, c := range app.Commands {
		c.OnUsageError = onUsageError
		for _, sub := range c.Subcommands {
			if sub.OnUsageError == nil {
				sub.OnUsageError = onUsageError
			}
		}
	}
	return app
}

func onUsageError(c *cli.Context, err error, _ bool) error {
	name := "tunlb"
	if c.Command != nil && c.Command.Name != "" {
		name = c.Command.HelpName
	}
	return usagef("%w; `%s --help` lists the options", err, name)
}

// noArgs refuses arguments that a command doesn't have.
func noArgs(c *cli.Context) error {
	if c.Args().Present() {
		return usagef("%s takes no argument, but got %q", c.Command.HelpName, c.Args().First())
	}
	return nil
}

// socketFlag and outputFlag are those of all commands that ask a daemon.
func socketFlag() cli.Flag {
	return &cli.StringFlag{
		Name:    "socket",
		Usage:   "control socket `PATH`; without it that of this network namespace's daemon",
		EnvVars: []string{"TUNLB_SOCKET"},
	}
}

func outputFlag() cli.Flag {
	return &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "table", Usage: "`FORMAT`: table or json"}
}

// asJSON says whether -o asks for JSON, for commands without arguments.
func asJSON(c *cli.Context) (bool, error) {
	if err := noArgs(c); err != nil {
		return false, err
	}
	switch format := c.String("output"); format {
	case "json":
		return true, nil
	case "table":
		return false, nil
	default:
		return false, usagef("-o %q: want table or json", format)
	}
}

func client(c *cli.Context) *control.Client { return control.NewClient(c.String("socket")) }
