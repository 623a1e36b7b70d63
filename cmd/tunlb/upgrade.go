package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/tunlb/tunlb/tunlb/control"
	"github.com/tunlb/tunlb/tunlb/fdstore"
)

func upgradeCommand() *cli.Command {
	return &cli.Command{
		Name:      "upgrade",
		Usage:     "replace the running daemon by another binary, or the same started anew; connections go on",
		ArgsUsage: "[BINARY]",
		Description: "Without BINARY the one that is at the daemon's own path now. It is tried first, on the daemon's file: one that does not\n" +
			"take it changes nothing. SIGUSR2 does the same without BINARY.",
		Flags: []cli.Flag{socketFlag(), outputFlag()},
		Action: func(c *cli.Context) error {
			var binary string
			if args := c.Args().Slice(); len(args) > 1 {
				return usagef("upgrade takes one binary, but got %q", args)
			} else if len(args) == 1 {
				var err error
				if binary, err = filepath.Abs(args[0]); err != nil {
					return err
				}
			}
			format := c.String("output")
			if format != "table" && format != "json" {
				return usagef("-o %q: want table or json", format)
			}
			result, err := upgradeAndWait(c.Context, client(c), binary)
			if err != nil {
				return err
			}
			if format == "json" {
				return writeJSON(c.App.Writer, result)
			}
			_, err = fmt.Fprintf(c.App.Writer, "%s: %s became %s\n", result.Binary, result.From, result.To)
			return err
		},
	}
}

// takeoverTime is how long the command waits for the new binary to answer.
const takeoverTime = 30 * time.Second

// upgradeAndWait returns when the new binary answers.
func upgradeAndWait(ctx context.Context, cl *control.Client, binary string) (control.Upgrade, error) {
	before, err := cl.Status(ctx)
	if err != nil {
		return control.Upgrade{}, err
	}
	result, err := cl.Upgrade(ctx, binary)
	if err != nil {
		return result, err
	}
	ctx, cancel := context.WithTimeout(ctx, takeoverTime)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		now, err := cl.Status(ctx)
		switch {
		case err != nil: // between the two
		case now.Daemon.PID != before.Daemon.PID:
			return result, fmt.Errorf("the daemon died in the upgrade, process %d has taken its place; its log says why", now.Daemon.PID)
		case !now.Daemon.Started.Equal(before.Daemon.Started):
			if now.Daemon.Version != result.To {
				return result, fmt.Errorf("%s could not take over, %s goes on; the log says why", result.To, now.Daemon.Version)
			}
			return result, nil
		}
		select {
		case <-ctx.Done():
			return result, fmt.Errorf("nobody has taken over within %v; the daemon's log says why: %w", takeoverTime, errors.Join(err, ctx.Err()))
		case <-tick.C:
		}
	}
}

// successor is the program that is to take this one's place. As an error it is the cause for which the daemon ends its work.
type successor struct {
	name    string // what it is called by
	binary  string // where it is
	version string
	tried   os.FileInfo // of the file that was tried
}

// unchanged is nil if the file is still the one that was tried.
func (s *successor) unchanged() error {
	now, err := os.Stat(s.binary)
	if err == nil && (!os.SameFile(now, s.tried) || now.Size() != s.tried.Size() || !now.ModTime().Equal(s.tried.ModTime())) {
		err = fmt.Errorf("%s has changed since it was tried; upgrade again when it is complete", s.binary)
	}
	return err
}

func (s *successor) Error() string { return "to be replaced by " + s.binary }

// succession finds the successor and ends the daemon's work for it. Safe for concurrent use.
type succession struct {
	self string                  // os.Args[0]
	end  context.CancelCauseFunc // of the daemon's work

	mu   sync.Mutex
	next *successor
}

// errUnderWay refuses an upgrade beside another.
var errUnderWay = errors.New("an upgrade is under way already")

// begin tries binary on the configuration file, if there is one, and ends the daemon's work in its favour.
func (s *succession) begin(ctx context.Context, binary, file string) (*successor, error) {
	if !s.mu.TryLock() {
		return nil, errUnderWay
	}
	defer s.mu.Unlock()
	if s.next != nil {
		return nil, errUnderWay
	}
	if binary == "" {
		binary = s.self
	}
	path, err := program(binary)
	if err != nil {
		return nil, fmt.Errorf("upgrade: %w; name the binary", err)
	}
	next := &successor{name: binary, binary: path}
	if next.tried, err = os.Stat(path); err == nil {
		next.version, err = trySuccessor(ctx, path, file)
	}
	if err == nil {
		err = next.unchanged()
	}
	if err != nil {
		return nil, fmt.Errorf("upgrade refused, nothing has changed: %w", err)
	}
	s.next = next
	s.end(next)
	return next, nil
}

// program is the binary that is there by this name now, which after an installation is not the one that is running.
func program(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return "", err
	}
	return path, nil
}

// Bounds of what is tried of a successor. A large file takes a second to be checked.
const (
	trialTime   = 30 * time.Second
	trialOutput = 4 << 10
)

// trySuccessor returns the version of a binary that is a tunlb and takes the file.
func trySuccessor(ctx context.Context, binary, file string) (version string, err error) {
	ctx, cancel := context.WithTimeout(ctx, trialTime)
	defer cancel()
	out, err := try(ctx, binary, "version")
	if err != nil {
		return "", err
	}
	words := strings.Fields(out)
	if len(words) < 2 || words[0] != "tunlb" {
		return "", fmt.Errorf("%s is no tunlb: its version is %q", binary, out)
	}
	if file != "" {
		if _, err := try(ctx, binary, "check", file); err != nil {
			return "", err
		}
	}
	return words[1], nil
}

// try runs a command of binary, which shall not take itself for the daemon, and returns what it says.
func try(ctx context.Context, binary string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = fdstore.Unmanaged(os.Environ())
	var out limited
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second // for its children, should it have any
	err := cmd.Run()
	said := strings.TrimSpace(out.kept.String())
	switch {
	case ctx.Err() != nil:
		return said, fmt.Errorf("`%s` has not ended within %v", cmd, trialTime)
	case err != nil && said != "":
		return said, fmt.Errorf("`%s`: %w: %s", cmd, err, said)
	case err != nil:
		return said, fmt.Errorf("`%s`: %w", cmd, err)
	}
	return said, nil
}

// limited keeps the beginning of what is written to it. The buffer is not embedded: its ReadFrom would take everything.
type limited struct{ kept bytes.Buffer }

func (l *limited) Write(b []byte) (int, error) {
	l.kept.Write(b[:min(len(b), trialOutput-l.kept.Len())])
	return len(b), nil
}

// Upgrade tries a binary and has the daemon replaced by it: serve returns, and run calls succeed.
func (d *daemon) Upgrade(ctx context.Context, binary string) (control.Upgrade, error) {
	if d.succession == nil {
		return control.Upgrade{Binary: binary}, errors.New("this tunlb can't be replaced in place; start it again")
	}
	next, err := d.succession.begin(ctx, binary, d.path)
	if err != nil {
		return control.Upgrade{Binary: binary, From: version()}, err
	}
	return control.Upgrade{Binary: next.binary, From: version(), To: next.version}, nil
}

// upgradeOn upgrades on every signal until ctx ends.
func (d *daemon) upgradeOn(ctx context.Context, usr2 <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-usr2:
			result, err := d.Upgrade(ctx, "")
			if err != nil {
				d.log.Error().Err(err).Msg("upgrade asked for by SIGUSR2")
				continue
			}
			d.log.Info().Str("binary", result.Binary).Str("to", result.To).Msg("upgrade asked for by SIGUSR2")
		}
	}
}

// lastWordsInHaste is lastWords while packets wait.
const lastWordsInHaste = 10 * time.Millisecond

// giveWay ends the daemon, whose serve has returned, and makes the process its successor. It returns only when that fails twice: what kills
// a new binary after it has been tried is left to this one.
func (d *daemon) giveWay(store *fdstore.Store, next *successor) error {
	d.manager.reloading("upgrading to " + next.version)
	d.log.Info().Str("binary", next.binary).Str("from", version()).Str("to", next.version).Msg("giving way to another binary")
	if err := errors.Join(d.leave(), raiseAmbient()); err != nil {
		d.log.Error().Err(err).Msg("giving way")
	}
	d.lines.Flush(lastWordsInHaste)
	ignoreOrders()
	first := next.unchanged()
	if first == nil {
		first = store.Exec(next.binary, append([]string{next.name}, os.Args[1:]...))
	}
	d.log.Error().Err(first).Msg("the other binary can't be executed, this one starts anew")
	d.lines.Flush(lastWordsInHaste)
	return errors.Join(first, store.Exec("/proc/self/exe", os.Args))
}
