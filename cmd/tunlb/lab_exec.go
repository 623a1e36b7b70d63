package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/charmbracelet/x/term"
	"github.com/urfave/cli/v2"

	"github.com/tunlb/tunlb/labnet/keeper"
	"github.com/tunlb/tunlb/labnet/scenario"
)

// exitNotStarted is the shell's code for a command that cannot be found.
const exitNotStarted = 127

func labExecCommand() *cli.Command {
	return &cli.Command{
		Name:      "exec",
		Usage:     "run a command on a host of a lab, and exit with its code",
		ArgsUsage: "HOST -- COMMAND [ARGUMENT...]",
		Description: "Standard input, output and errors are the command's, and it gets a terminal if both input and output are one. Ctrl-C\n" +
			"interrupts it. 127 is the exit code if it cannot be started.\n\nExamples:\n" +
			"   tunlb lab exec client -- curl -s http://203.0.113.22/\n" +
			"   tunlb lab exec lb -- tunlb trace\n" +
			"   tunlb lab exec rs1 -- sh",
		Flags: []cli.Flag{
			labFlag(),
			&cli.BoolFlag{Name: "terminal", Aliases: []string{"t"}, Usage: "give it a terminal in any case"},
		},
		OnUsageError: func(c *cli.Context, err error, sub bool) error {
			args := c.Lineage()[1].Args().Slice() // this command's are not read; flagsFirst has parted them by --
			if i := slices.Index(args, "--"); i >= 0 && len(args) > i+2 {
				return usagef("%w; if it is the command's put -- before the command: tunlb lab exec %s -- %s ...", err, args[i+1], args[i+2])
			}
			return onUsageError(c, err, sub)
		},
		Action: func(c *cli.Context) error {
			args := c.Args().Slice()
			if len(args) < 2 || args[0] == "" {
				return usagef("exec wants a host and a command, as in: tunlb lab exec client -- curl -s http://203.0.113.22/")
			}
			place, err := placeOf(c.String("lab"))
			if err != nil {
				return err
			}
			code, err := execIn(c, place, args[0], args[1:])
			switch {
			case errors.Is(err, keeper.ErrNotStarted):
				fmt.Fprintln(c.App.ErrWriter, "tunlb:", err)
				return cli.Exit(errReported, exitNotStarted)
			case err != nil:
				return err
			case code != 0:
				return cli.Exit(errReported, code)
			}
			return nil
		},
	}
}

// execIn runs a command with our own standard streams, on a terminal of its own if that is asked for or natural.
func execIn(c *cli.Context, place keeper.Place, host string, argv []string) (code int, err error) {
	std := scenario.Stdio{In: c.App.Reader, Out: c.App.Writer, Err: c.App.ErrWriter, Env: screenEnv()}
	in, ours := terminalOf(c.App.Reader)
	out, theirs := terminalOf(c.App.Writer)
	std.Terminal = c.Bool("terminal") || ours && theirs
	if std.Terminal && theirs {
		sizes := make(chan scenario.Size, 1)
		stop := watchSize(func() {
			if columns, rows, err := term.GetSize(out.Fd()); err == nil {
				select { // only the latest counts
				case <-sizes:
				default:
				}
				sizes <- scenario.Size{Columns: uint16(columns), Rows: uint16(rows)}
			}
		})
		defer stop()
		std.Resize = sizes
	}
	if std.Terminal && ours {
		// Keys go to the command as they are: it is its terminal that knows ctrl-C.
		state, err := term.MakeRaw(in.Fd())
		if err != nil {
			return 0, fmt.Errorf("set the terminal up: %w", err)
		}
		defer func() { err = errors.Join(err, term.Restore(in.Fd(), state)) }()
	}
	return place.Client().Exec(c.Context, host, argv, std)
}

// screenEnv is what our environment says of who reads the output. All else is the lab's.
func screenEnv() (env []string) {
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if slices.Contains([]string{"TERM", "COLUMNS", "LINES", "NO_COLOR", "LANG"}, name) || strings.HasPrefix(name, "LC_") {
			env = append(env, variable)
		}
	}
	return env
}

// forgetScreen takes all that screenEnv tells out of our own environment.
func forgetScreen() {
	for _, variable := range screenEnv() {
		name, _, _ := strings.Cut(variable, "=")
		_ = os.Unsetenv(name) // the name has come from there
	}
}

// terminalOf says whether a stream is a terminal.
func terminalOf(stream any) (*os.File, bool) {
	f, ok := stream.(*os.File)
	return f, ok && term.IsTerminal(f.Fd())
}
