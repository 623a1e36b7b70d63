package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/pprof"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/tunlb/tunlb/stack"
	"github.com/tunlb/tunlb/tunlb/config"
	"github.com/tunlb/tunlb/tunlb/config/aside"
	"github.com/tunlb/tunlb/tunlb/fdstore"
)

func runCommand() *cli.Command {
	return &cli.Command{
		Name:  "run",
		Usage: "balance as a configuration file says, until SIGINT or SIGTERM; SIGHUP reloads, SIGUSR2 upgrades",
		Flags: []cli.Flag{
			fileFlag(),
			&cli.StringFlag{Name: "log-level", Value: "info", Usage: "`LEVEL`: debug, info, warn or error"},
			&cli.BoolFlag{Name: "log-json", Usage: "log JSON, one object a line"},
			&cli.StringFlag{Name: "socket", Usage: "control socket `PATH`, instead of the file's", EnvVars: []string{"TUNLB_SOCKET"}},
			&cli.BoolFlag{Name: "ipvsadm", Usage: "start without a file and without services, for ipvsadm to add; ends with the network namespace"},
			&cli.BoolFlag{Name: "keep-capabilities", Usage: "give none up after the start, for health checks by commands that need more"},
			&cli.StringFlag{Name: "cpuprofile", Usage: "write a CPU profile of the whole run to this `FILE`, for go tool pprof"},
		},
		Action: func(c *cli.Context) error {
			lines, err := newLog(c)
			if err != nil {
				return err
			}
			defer lines.Close(lastWords)
			log := lines.Logger
			ctx, end := context.WithCancelCause(c.Context)
			stop := func() { end(nil) }
			defer stop()
			if err := followSupervisor(ctx, end); err != nil {
				return err
			}
			file, err := fileOfRun(c)
			if err != nil {
				return err
			}
			cfg := config.Default()
			if file == "" {
				watched := make(chan struct{})
				go func() {
					defer close(watched)
					watchNamespace(ctx, stop, log)
				}()
				defer func() { // it takes the log along, so it must not be cut short
					stop()
					<-watched
				}()
			} else if cfg, err = aside.Load(ctx, file); err != nil {
				return showConfigErrors(c, err)
			}
			stack.LogNetstack(log)
			endProfile, err := profileCPU(c.String("cpuprofile"))
			if err != nil {
				return err
			}
			orders := listenForOrders()
			defer orders.stop()
			store := fdstore.Open()
			d, err := startDaemon(file, c.String("socket"), cfg, store, lines)
			if err != nil {
				return errors.Join(err, endProfile())
			}
			d.succession = &succession{self: os.Args[0], end: end}
			if !c.Bool("keep-capabilities") {
				dropCapabilities(d.capabilities(), log)
			}
			err = errors.Join(d.serve(ctx, orders), endProfile())
			var next *successor
			if err == nil && c.Context.Err() == nil && errors.As(context.Cause(ctx), &next) {
				return d.giveWay(store, next)
			}
			if errors.Is(context.Cause(ctx), errNoSupervisor) {
				err = errors.Join(err, errNoSupervisor)
			} else {
				d.manager.stopping()
			}
			return errors.Join(err, d.close())
		},
	}
}

// fileOfRun is the configuration file, "" if it is to start without.
func fileOfRun(c *cli.Context) (string, error) {
	if !c.Bool("ipvsadm") {
		return fileOf(c)
	}
	if c.Args().Present() || c.IsSet("file") {
		return "", usagef("--ipvsadm starts without a file")
	}
	return "", nil
}

// orders are signals that ask something of a daemon.
type orders struct{ reload, upgrade chan os.Signal }

// listenForOrders takes them from here on; before, they would kill.
func listenForOrders() orders {
	o := orders{reload: make(chan os.Signal, 1), upgrade: make(chan os.Signal, 1)}
	signal.Notify(o.reload, syscall.SIGHUP)
	notifyUpgrade(o.upgrade)
	return o
}

func (o orders) stop() {
	signal.Stop(o.reload)
	signal.Stop(o.upgrade)
}

// profileCPU has the process sampled until end is called. Without a path nothing is, and end does nothing.
func profileCPU(path string) (end func() error, err error) {
	if path == "" {
		return func() error { return nil }, nil
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("--cpuprofile: %w", err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(fmt.Errorf("--cpuprofile: %w", err), f.Close())
	}
	return func() error {
		pprof.StopCPUProfile() // which writes it
		if err := f.Close(); err != nil {
			return fmt.Errorf("--cpuprofile %s: %w", path, err)
		}
		return nil
	}, nil
}

// makeRoom lets Go run a thread more for each lane. A lane that has fallen asleep in a system call keeps its processor, as Go calls
// it, until somebody takes it away, and has to find one when it wakes: with one each they do not wait for each
// other (docs/performance.md). Whoever sets GOMAXPROCS has the last word: then it is false.
func makeRoom(lanes int) bool {
	if os.Getenv("GOMAXPROCS") != "" {
		return false
	}
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + lanes)
	return true
}
