package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"syscall"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/rs/zerolog"

	"github.com/tunlb/tunlb/tunlb/fdstore"
)

// times are how long a supervisor waits.
type times struct {
	start   time.Duration // until a watched child balances
	stop    time.Duration // from SIGTERM until SIGKILL
	abort   time.Duration // from SIGABRT, which prints where everybody is, until SIGKILL
	first   time.Duration // the first restart is at once, the second in a row after this, then twice as long each time
	longest time.Duration
	calm    time.Duration // a child that has lived this long does not die in a row
}

func ordinaryTimes() times {
	return times{time.Minute, 30 * time.Second, 2 * time.Second, 100 * time.Millisecond, 5 * time.Second, 10 * time.Second}
}

const giveUpAfter = 5 // deaths before it balanced, within calm

// supervisor is one loop (run) that starts a child, watches it until its end and decides what is next.
type supervisor struct {
	times
	log      zerolog.Logger
	watchdog time.Duration // 0: none
	program  string        // looked for anew for each child
	args     []string
	keeper   *fdstore.Keeper
	notes    chan note
	signals  chan os.Signal

	stopping bool // somebody has told us to end
	everBeen bool // a child has balanced
	unborn   []time.Time
	delay    time.Duration
}

// note is an assignment that the child has sent.
type note struct{ key, value string }

// supervise runs tunlb with args until it ends for good, and returns its exit code.
func supervise(log zerolog.Logger, watchdog time.Duration, args []string) (code int, err error) {
	s := &supervisor{times: ordinaryTimes(), log: log, watchdog: watchdog, program: os.Args[0], args: args, signals: make(chan os.Signal, 16)}
	signal.Notify(s.signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR2)
	defer signal.Stop(s.signals)
	return s.supervise()
}

func (s *supervisor) supervise() (code int, err error) {
	if s.keeper, err = fdstore.NewKeeper(); err != nil {
		return 0, err
	}
	s.notes = make(chan note, 64)
	ended, served := make(chan struct{}), make(chan error, 1)
	go func() { // ends with Close
		served <- s.keeper.Serve(func(key, value string) {
			select {
			case s.notes <- note{key, value}:
			case <-ended:
			}
		})
	}()
	code, err = s.run()
	close(ended)
	return code, errors.Join(err, s.keeper.Close(), <-served)
}

// run returns the exit code that is to be this process's.
func (s *supervisor) run() (int, error) {
	for {
		child, err := s.start()
		if err != nil {
			return 0, err
		}
		child.watch()
		if err := s.settle(); err != nil {
			return 0, err
		}
		code := exitCodeOf(child.state)
		switch {
		case s.stopping, child.state.Success():
			return code, nil
		case s.hopeless(child, code):
			s.log.Error().Str("child", child.state.String()).Msg("tunlb does not start: the supervisor gives up")
			return code, nil
		}
		s.log.Error().Str("child", child.state.String()).Stringer("after", time.Since(child.born).Round(time.Millisecond)).Strs("kept", s.keeper.Names()).Stringer("delay", s.delay).
			Msg("tunlb has died and is started again")
		if !s.wait() {
			return code, nil
		}
		s.delay = child.delay
	}
}

// settle has all that the dead child has said be handled, and nobody is believed until there is another. What it noted is of no interest
// any more.
func (s *supervisor) settle() error {
	defer s.keeper.Trust(0)
	settled := make(chan error, 1)
	go func() { settled <- s.keeper.Settle() }()
	for {
		select {
		case <-s.notes:
		case err := <-settled:
			for len(s.notes) > 0 {
				<-s.notes
			}
			return err
		}
	}
}

// hopeless says whether to give up.
func (s *supervisor) hopeless(c *child, code int) bool {
	now := time.Now()
	if c.ready {
		s.everBeen, s.unborn = true, nil
		if now.Sub(c.born) >= s.calm {
			s.delay, c.delay = 0, s.first
		}
	} else {
		s.unborn = append(slices.DeleteFunc(s.unborn, func(t time.Time) bool { return now.Sub(t) > s.calm }), now)
		// A wrong file or machine does not mend itself. If it worked before, somebody may be at it.
		if len(s.unborn) >= giveUpAfter || !s.everBeen && slices.Contains([]int{exitConfig, exitCannot}, code) {
			return true
		}
	}
	return false
}

// wait waits for the delay, and says whether there is to be another child.
func (s *supervisor) wait() bool {
	pause := time.NewTimer(s.delay)
	defer pause.Stop()
	for {
		select {
		case <-pause.C:
			return true
		case sig := <-s.signals:
			if sig == syscall.SIGTERM || sig == syscall.SIGINT {
				return false
			}
		}
	}
}

// child is one process, from its start to its end.
type child struct {
	*supervisor
	cmd     *exec.Cmd
	born    time.Time
	delay   time.Duration // before the next one, should this one die soon
	ready   bool          // it has balanced
	turning bool          // and is about to do so in another way: it reloads, or becomes its successor
	state   *os.ProcessState
}

func (s *supervisor) start() (*child, error) {
	self, err := program(s.program)
	if err != nil {
		return nil, fmt.Errorf("supervise: %w", err)
	}
	cmd := exec.Command(self, s.args...)
	cmd.Args[0] = s.program
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	release, err := s.keeper.Equip(cmd)
	if err != nil {
		return nil, fmt.Errorf("supervise: %w", err)
	}
	cmd.Env = append(cmd.Env, fdstore.SupervisorVariable+"="+strconv.Itoa(os.Getpid()))
	if s.watchdog > 0 {
		cmd.Env = append(cmd.Env, "WATCHDOG_USEC="+strconv.FormatInt(s.watchdog.Microseconds(), 10))
	}
	c := &child{supervisor: s, cmd: cmd, born: time.Now(), delay: min(max(2*s.delay, s.first), s.longest)}
	err = cmd.Start()
	release()
	if err != nil {
		return nil, fmt.Errorf("supervise: %w", err)
	}
	s.keeper.Trust(cmd.Process.Pid)
	s.log.Info().Int("pid", cmd.Process.Pid).Int("inherits", len(cmd.ExtraFiles)).Msg("tunlb is started")
	return c, nil
}

// watch returns when the child is dead.
func (c *child) watch() {
	exited := make(chan struct{})
	go func() { // ends with the child
		defer close(exited)
		c.cmd.Wait() // its error is in the state
	}()
	deadline := time.NewTimer(c.times.start)
	defer deadline.Stop()
	if c.watchdog == 0 {
		deadline.Stop()
	}
	const notEnded = "has not ended"
	const notBalanced = "has not balanced"
	fate := notBalanced // what the deadline finds; "": it was aborted for it
	for {
		select {
		case <-exited:
			c.state = c.cmd.ProcessState
			return
		case sig := <-c.signals:
			if sig == syscall.SIGTERM || sig == syscall.SIGINT {
				c.stopping, fate = true, notEnded
				deadline.Reset(c.stop)
			}
			c.cmd.Process.Signal(sig) // should it be dead, exited says so
		case n := <-c.notes:
			alive := c.heed(n)
			switch {
			case c.watchdog == 0, c.stopping, fate == "", fate == notEnded:
			case n.key == "STOPPING": // by itself; it has other things to do than to say so
				fate = notEnded
				deadline.Reset(c.stop)
			case alive && c.turning: // a successor that takes over has no time to say so
				fate = notBalanced
				deadline.Reset(c.times.start)
			case alive:
				fate = "has said nothing"
				deadline.Reset(c.watchdog)
			}
		case <-deadline.C:
			if fate == "" || c.stopping {
				c.log.Error().Msg("tunlb is killed")
				c.cmd.Process.Kill()
				continue
			}
			c.log.Error().Stringer("after", time.Since(c.born).Round(time.Millisecond)).Msgf("tunlb %s in time: it is aborted", fate)
			c.cmd.Process.Signal(syscall.SIGABRT)
			fate = ""
			deadline.Reset(c.abort)
		}
	}
}

// heed says whether a note is a sign of life that starts the watchdog's time anew, or from RELOADING=1 until READY=1 the start's. What people and managers further up want to know goes to them.
func (c *child) heed(n note) (alive bool) {
	text := n.key + "=" + n.value
	switch text {
	case systemd.SdNotifyReady:
		c.ready, c.turning, alive = true, false, true
	case systemd.SdNotifyReloading:
		c.turning, alive = true, true
	case systemd.SdNotifyWatchdog:
		return c.ready
	}
	switch n.key {
	case "READY", "STATUS", "STOPPING":
		if _, err := systemd.SdNotify(false, text); err != nil {
			c.log.Debug().Err(err).Msg("the supervisor's own manager")
		}
	}
	return alive
}

// exitCodeOf is a process's exit code as shells have it: 128 and the signal's number for one that a signal has killed.
func exitCodeOf(state *os.ProcessState) int {
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return state.ExitCode()
}
