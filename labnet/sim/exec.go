package sim

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/tunlb/tunlb/labnet/scenario"
)

// Exit codes that shells have for all commands.
const (
	exitFailed   = 1
	exitUsage    = 2
	exitNotFound = 127
	exitEnded    = 130 // by an interrupt
)

// command is one that simulated hosts have. There are no processes on them, and no programs but these.
type command struct {
	name, usage, does string
	run               func(*call) int
}

func commands() []command {
	return []command{
		{"curl", "curl [-s] [-S] [-f] [-i] [-I] [-o FILE] [-w FORMAT] [-m SECONDS] [-H 'NAME: VALUE'] URL", "ask a web server", curl},
		{"ping", "ping [-c N] [-W SECONDS] ADDRESS", "ask for echoes", ping},
		{"nc", "nc [-u] [-w SECONDS] ADDRESS PORT", "connect standard input and output with a port", netcat},
		{"ip", "ip addr|route|neigh", "show this host's addresses, routes or neighbours", ipCommand},
		{"help", "help", "list the commands", help},
	}
}

// call is a command that runs.
type call struct {
	ctx  context.Context
	lab  *Lab
	host *host // nil on the director
	args []string
	scenario.Stdio
	command
}

// Exec implements scenario.Lab. A simulated host has a few commands built in (see help); on the director there is tunlb's
// own, if the driver has been told how to run it.
func (l *Lab) Exec(ctx context.Context, name string, argv []string, std scenario.Stdio) (int, error) {
	if len(argv) == 0 {
		return 0, fmt.Errorf("no command for %s; it has %s", name, names())
	}
	if std.Out == nil {
		std.Out = io.Discard
	}
	if std.Err == nil || std.Terminal {
		std.Err = std.Out
	}
	if name == l.file.Director.Name {
		return l.execDirector(ctx, argv, std)
	}
	h, err := l.host(name)
	if err != nil {
		return 0, err
	}
	all := commands()
	i := slices.IndexFunc(all, func(c command) bool { return c.name == argv[0] })
	if i < 0 {
		fmt.Fprintf(std.Err, "%s: command not found: %s is simulated and has no programs but %s\n", argv[0], name, names())
		return exitNotFound, nil
	}
	ctx, done := l.waiting(ctx)
	defer done()
	return all[i].run(&call{ctx: ctx, lab: l, host: h, args: argv[1:], Stdio: std, command: all[i]}), nil
}

// execDirector runs tunlb's own command line.
func (l *Lab) execDirector(ctx context.Context, argv []string, std scenario.Stdio) (int, error) {
	if l.alive.Err() != nil {
		return 0, errClosed
	}
	if argv[0] != "tunlb" || l.options.Tunlb == nil {
		fmt.Fprintf(std.Err, "%s: command not found: %s is the director, and simulated: it has no program but tunlb\n", argv[0], l.file.Director.Name)
		return exitNotFound, nil
	}
	return l.options.Tunlb(ctx, l.Control().Socket(), argv[1:], std), nil
}

func names() string {
	all := commands()
	list := make([]string, len(all))
	for i, c := range all {
		list[i] = c.name
	}
	return strings.Join(list[:len(list)-1], ", ") + " and " + list[len(list)-1]
}

func help(c *call) int {
	for _, known := range commands() {
		fmt.Fprintf(c.Out, "%s\n    %s\n", known.usage, known.does)
	}
	return 0
}

// misused says how the command is used.
func (c *call) misused(why string) int {
	fmt.Fprintf(c.Err, "%s: %s\nusage: %s\n", c.name, why, c.usage)
	return exitUsage
}

// options takes the flags out of the arguments. with are those that have a value, without those that have none; both are
// letters. What is left are the operands.
func (c *call) options(without, with string) (flags map[byte][]string, operands []string, err error) {
	flags = map[byte][]string{}
	for args := c.args; len(args) > 0; {
		arg := args[0]
		args = args[1:]
		if arg == "--" {
			return flags, append(operands, args...), nil
		}
		if len(arg) < 2 || arg[0] != '-' {
			operands = append(operands, arg)
			continue
		}
		for i := 1; i < len(arg); i++ {
			flag := arg[i]
			switch {
			case strings.IndexByte(without, flag) >= 0:
				flags[flag] = append(flags[flag], "")
				continue
			case strings.IndexByte(with, flag) < 0:
				return nil, nil, fmt.Errorf("there is no -%c", flag)
			}
			value := arg[i+1:]
			if value == "" {
				if len(args) == 0 {
					return nil, nil, fmt.Errorf("-%c wants a value", flag)
				}
				value, args = args[0], args[1:]
			}
			flags[flag] = append(flags[flag], value)
			break
		}
	}
	return flags, operands, nil
}
