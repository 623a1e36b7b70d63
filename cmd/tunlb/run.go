package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/pprof"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"

	"github.com/tunlb/tunlb/stack"
	"github.com/tunlb/tunlb/tunlb/config"
)

func runCommand() *cli.Command {
	return &cli.Command{
		Name:  "run",
		Usage: "balance as a configuration file says, until SIGINT or SIGTERM; SIGHUP reloads",
		Flags: []cli.Flag{
			fileFlag(),
			&cli.StringFlag{Name: "log-level", Value: "info", Usage: "`LEVEL`: debug, info, warn or error"},
			&cli.BoolFlag{Name: "log-json", Usage: "log JSON, one object a line"},
			&cli.StringFlag{Name: "socket", Usage: "control socket `PATH`, instead of the file's", EnvVars: []string{"TUNLB_SOCKET"}},
			&cli.BoolFlag{Name: "ipvsadm", Usage: "start without a file and without services, for ipvsadm to add; ends with the network namespace"},
			&cli.StringFlag{Name: "cpuprofile", Usage: "write a CPU profile of the whole run to this `FILE`, for go tool pprof"},
		},
		Action: func(c *cli.Context) error {
			log, err := newLogger(c)
			if err != nil {
				return err
			}
			ctx, stop := context.WithCancel(c.Context)
			defer stop()
			var file string
			cfg := config.Default()
			if c.Bool("ipvsadm") {
				if c.Args().Present() || c.IsSet("file") {
					return usagef("--ipvsadm starts without a file")
				}
				watched := make(chan struct{})
				go func() {
					defer close(watched)
					watchNamespace(ctx, stop, log)
				}()
				defer func() { // it takes the log along, so it must not be cut short
					stop()
					<-watched
				}()
			} else {
				if file, err = fileOf(c); err != nil {
					return err
				}
				if cfg, err = config.Load(file); err != nil {
					return showConfigErrors(c, err)
				}
			}
			stack.LogNetstack(log)
			endProfile, err := profileCPU(c.String("cpuprofile"))
			if err != nil {
				return err
			}
			hup := make(chan os.Signal, 1)
			signal.Notify(hup, syscall.SIGHUP) // from here on it no longer kills
			defer signal.Stop(hup)
			d, err := startDaemon(file, c.String("socket"), cfg, log)
			if err != nil {
				return errors.Join(err, endProfile())
			}
			makeRoom(len(cfg.Ports))
			return errors.Join(d.serve(ctx, hup), d.close(), endProfile())
		},
	}
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

// newLogger logs to the error output: text for a person, JSON for a collector.
func newLogger(c *cli.Context) (zerolog.Logger, error) {
	level, err := zerolog.ParseLevel(c.String("log-level"))
	if err != nil {
		return zerolog.Nop(), usagef("--log-level %q: want debug, info, warn or error", c.String("log-level"))
	}
	var w io.Writer = c.App.ErrWriter
	if !c.Bool("log-json") {
		w = zerolog.ConsoleWriter{Out: w, NoColor: !colours(w), TimeFormat: time.TimeOnly}
	}
	return zerolog.New(w).Level(level).With().Timestamp().Logger(), nil
}

// colours says whether escapes may be written to w: to a terminal, and not against NO_COLOR.
func colours(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// makeRoom lets Go run a thread more for each lane. A lane that has fallen asleep in a system call keeps its processor, as Go calls
// it, until somebody takes it away, and has to find one when it wakes: with one each they do not wait for each
// other (docs/performance.md). Whoever sets GOMAXPROCS has the last word.
func makeRoom(lanes int) {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + lanes)
	}
}
