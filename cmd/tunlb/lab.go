package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/tunlb/tunlb/labnet/keeper"
	"github.com/tunlb/tunlb/labnet/namespaces"
	"github.com/tunlb/tunlb/labnet/netns"
	"github.com/tunlb/tunlb/labnet/scenario"
	"github.com/tunlb/tunlb/labnet/sim"
)

func labCommand() *cli.Command {
	c := &cli.Command{
		Name:  "lab",
		Usage: "networks to try tunlb in, of this machine's namespaces or simulated",
		Description: "A lab is a file: networks, hosts on them, a director that runs tunlb, and steps that are tried there. FILE is such a file,\n" +
			"or the name of one that comes with tunlb: " + strings.Join(scenario.Shipped(), ", ") + ".",
		Subcommands: []*cli.Command{
			labUpCommand(), labDownCommand(), labListCommand(), labExecCommand(), labRunCommand(), labGraphCommand(),
			labImpairCommand(), labPublishCommand(), labKeepCommand(),
			{Name: "init", Hidden: true, Usage: "be the first process of a lab's hosts", Action: func(*cli.Context) error { namespaces.Init(); return nil }},
			{Name: "probe", Hidden: true, Usage: "find out whether namespaces can be had", Action: probe},
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef("no command %q; `tunlb lab --help` lists them", c.Args().First())
			}
			return cli.ShowSubcommandHelp(c)
		},
	}
	return c
}

// Drivers of labs, and how they are chosen.
const (
	driverAuto  = "auto"
	driverNetNS = "netns"
	driverSim   = "sim"
	driverBoth  = "both"
)

func driverFlag(usage string, value string) cli.Flag {
	return &cli.StringFlag{Name: "driver", Value: value, Usage: usage}
}

func labFlag() cli.Flag {
	return &cli.StringFlag{Name: "lab", Usage: "the lab `NAME`; with one lab up it is that"}
}

// loadLab reads a lab file and shows its errors and warnings.
func loadLab(c *cli.Context, path string) (*scenario.File, error) {
	f, err := scenario.Load(path)
	if err != nil {
		return nil, showConfigErrors(c, err)
	}
	warn(c, f)
	return f, nil
}

func warn(c *cli.Context, f *scenario.File) {
	for _, w := range f.Warnings {
		fmt.Fprintln(c.App.ErrWriter, w)
	}
}

// chooseDriver settles what --driver asks for, and says why. The error is a *netns.Unsupported if this machine cannot.
func chooseDriver(ctx context.Context, asked string) (name, why string, err error) {
	switch asked {
	case driverSim:
		return driverSim, "as asked for", nil
	case driverNetNS:
		return driverNetNS, "as asked for", checkNetNS(ctx)
	case driverAuto:
		if err := checkNetNS(ctx); err != nil {
			return driverSim, fmt.Sprintf("this machine gives no namespaces with TUN: %v", err), ctx.Err()
		}
		return driverNetNS, "namespaces and TUN work on this machine", nil
	}
	return "", "", usagef("--driver %q: want auto, netns or sim", asked)
}

// checkNetNS finds out whether labs of namespaces work, by having this program enter some.
func checkNetNS(ctx context.Context) error {
	if err := netns.CheckTUN(); err != nil {
		return err
	}
	cmd, err := ourselves(ctx, "lab", "probe")
	if err != nil {
		return err
	}
	answer, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &exit) && exit.ExitCode() == exitCannot:
		return &netns.Unsupported{What: strings.TrimSpace(strings.TrimPrefix(string(answer), "tunlb: "))}
	}
	return fmt.Errorf("try namespaces: %w: %s", err, answer)
}

// probe succeeds where namespaces can be entered.
func probe(*cli.Context) error {
	code, ran, err := netns.Enter()
	if ran && err == nil && code != 0 {
		return cli.Exit(errReported, code)
	}
	return err
}

// ourselves is this program as another process.
func ourselves(ctx context.Context, args ...string) (*exec.Cmd, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if runtime.GOOS == "linux" {
		path = "/proc/self/exe" // whatever is at its path by now
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Args[0] = "tunlb"
	return cmd, nil
}

// makeDriver gives the driver of a name that chooseDriver has settled. log gets what the director logs; nil is nowhere.
func makeDriver(name string, log io.Writer) scenario.Driver {
	if name == driverNetNS {
		return namespaces.Driver{Log: log}
	}
	return sim.New(sim.Options{Tunlb: tunlbIn})
}

// tunlbIn is tunlb's command line on a simulated director. ipvsadm's knows the socket from the environment only.
func tunlbIn(ctx context.Context, socket string, args []string, std scenario.Stdio) int {
	ofMachine := []string{"doctor", "run", "clean", "demo", "lab"}
	if len(args) > 0 && slices.Contains(ofMachine, args[0]) && !slices.Contains(args, "--help") && !slices.Contains(args, "-h") {
		fmt.Fprintf(std.Err, "tunlb: %s is about the kernel of the machine it runs on, and a simulated box has none; in a lab of `tunlb lab up --driver netns` there is one\n", args[0])
		return exitCannot
	}
	forgetScreen() // that of who has asked before
	for _, variable := range append(std.Env, "TUNLB_SOCKET="+socket) {
		name, value, _ := strings.Cut(variable, "=")
		if err := os.Setenv(name, value); err != nil {
			fmt.Fprintln(std.Err, "tunlb:", err)
			return exitFailed
		}
	}
	in := std.In
	if in == nil {
		in = strings.NewReader("")
	}
	return runIn(ctx, append([]string{"tunlb"}, args...), in, std.Out, std.Err)
}

// placeOf is the lab that a command is about: the one named, or the only one.
func placeOf(name string) (keeper.Place, error) {
	if name != "" {
		if err := keeper.CheckName(name); err != nil {
			return keeper.Place{}, usageError{err}
		}
		return keeper.At(name)
	}
	places, err := keeper.All()
	switch {
	case err != nil:
		return keeper.Place{}, err
	case len(places) == 0:
		return keeper.Place{}, fmt.Errorf("%w; `tunlb lab up nat` brings one up", errNoLab)
	case len(places) > 1:
		var names []string
		for _, p := range places {
			names = append(names, p.Name)
		}
		return keeper.Place{}, usagef("%d labs are up: say which with --lab %s", len(names), strings.Join(names, ", or --lab "))
	}
	return places[0], nil
}

var errNoLab = errors.New("no lab is up")

// clientOf is the host that a lab's users would sit at: the first that serves nothing.
func clientOf(f *scenario.File) string {
	i := slices.IndexFunc(f.Hosts, func(h scenario.Host) bool { return len(h.Services) == 0 })
	switch {
	case i >= 0:
		return f.Hosts[i].Name
	case len(f.Hosts) > 0:
		return f.Hosts[0].Name
	}
	return f.Director.Name
}
