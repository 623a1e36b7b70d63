package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/rs/zerolog"

	"github.com/tunlb/tunlb/tunlb/config"
	"github.com/tunlb/tunlb/tunlb/fdstore"
)

// asChild makes the test binary be a supervisor's child: a real process that does what the variable says, and notes it
// in the file that journalVariable names.
const (
	asChild         = "TUNLB_TEST_AS_CHILD"
	journalVariable = "TUNLB_TEST_JOURNAL"
)

// beChild is what a child does. Each start is a line of the journal.
func beChild(mode string) int {
	journal := func(format string, args ...any) {
		f, err := os.OpenFile(os.Getenv(journalVariable), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			panic(err)
		}
		defer f.Close()
		fmt.Fprintf(f, format+"\n", args...)
	}
	store := fdstore.Open()
	told := make(chan os.Signal, 16)
	signal.Notify(told, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR2)
	ready := func() { systemd.SdNotify(false, systemd.SdNotifyReady) }
	die := func() {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	switch mode {
	case "three": // code 3 at once
		journal("start")
		return exitConfig
	case "seven":
		journal("start")
		return 7
	case "well":
		journal("start")
		ready()
		return 0
	case "heir": // the first puts a pipe with a word into the store and dies, the second reads it
		fd, ok := store.Take("pipe")
		if !ok {
			journal("first")
			var p [2]int
			syscall.Pipe2(p[:], syscall.O_CLOEXEC)
			syscall.Write(p[1], []byte("word"))
			if err := store.Put("pipe", p[0]); err != nil {
				journal("put: %v", err)
			}
			ready()
			die()
		}
		b := make([]byte, 10)
		n, _ := syscall.Read(fd, b)
		journal("second read %s", b[:n])
		return 0
	case "broken": // for a while, once the first has died
		b, _ := os.ReadFile(os.Getenv(journalVariable))
		switch n := bytes.Count(b, []byte("\n")); {
		case n == 0:
			journal("first")
			r, _, _ := os.Pipe()
			store.Put("something", int(r.Fd()))
			ready()
			die()
		case n < 4:
			journal("broken")
			return 1
		case store.Inherited():
			journal("with all")
		}
		return 0
	case "signals":
		journal("start")
		ready()
		for sig := range told {
			journal("%v", sig)
			if sig == syscall.SIGTERM {
				return 5
			}
		}
	case "deaf": // it says nothing more
		journal("start")
		signal.Ignore(syscall.SIGABRT, syscall.SIGTERM)
		ready()
		select {}
	case "mute": // it says nothing more, but dies of SIGABRT
		journal("start")
		ready()
		select {}
	case "alive":
		journal("start")
		ready()
		for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			systemd.SdNotify(false, systemd.SdNotifyWatchdog)
		}
		systemd.SdNotify(false, systemd.SdNotifyStopping)
		time.Sleep(time.Second) // of which it needs not say anything
		return 0
	case "panicking": // at its first start; what Go ends with then is what a wrong command line ends with
		if b, _ := os.ReadFile(os.Getenv(journalVariable)); len(b) == 0 {
			journal("start")
			return exitUsage
		}
		journal("again")
		return 0
	case "turning": // it becomes its successor, which takes longer than the watchdog waits
		journal("start")
		ready()
		systemd.SdNotify(false, systemd.SdNotifyReloading)
		systemd.SdNotify(false, systemd.SdNotifyWatchdog) // somebody was about to say so
		time.Sleep(900 * time.Millisecond)
		ready()
		journal("turned")
		select {} // and from here on it is watched again
	case "heir of a heritage", "doomed": // which the doomed die of
		h := inheritFrom(store, &config.Config{}, zerolog.Nop())
		m := h.flows()
		journal("%v", h.had)
		if b, _ := os.ReadFile(os.Getenv(journalVariable)); mode != "doomed" || bytes.Count(b, []byte("\n")) == 1 {
			m.Proven() // as the first does here in any case
		}
		die()
	case "crashing": // again and again, after it was ready
		journal("start %d", time.Now().UnixMilli())
		ready()
		if b, _ := os.ReadFile(os.Getenv(journalVariable)); bytes.Count(b, []byte("start")) == 6 {
			return 0
		}
		die()
	}
	return 1
}

// supervised is a supervisor in this process, with a child of its own.
type supervised struct {
	*supervisor
	t       *testing.T
	journal string
	log     *syncBuffer
	ended   chan int
}

func newSupervised(t *testing.T, mode string, change func(*supervisor)) *supervised {
	t.Helper()
	u := &supervised{t: t, journal: filepath.Join(t.TempDir(), "journal"), log: &syncBuffer{}, ended: make(chan int, 1)}
	t.Setenv(asChild, mode)
	t.Setenv(journalVariable, u.journal)
	t.Setenv("GORACE", "atexit_sleep_ms=0")
	u.supervisor = &supervisor{times: ordinaryTimes(), log: zerolog.New(u.log), program: "/proc/self/exe", args: []string{"run"}, signals: make(chan os.Signal, 16)}
	if change != nil {
		change(u.supervisor)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		code, err := u.supervise()
		if err != nil {
			t.Error(err)
		}
		u.ended <- code
	}()
	t.Cleanup(func() {
		u.signals <- syscall.SIGTERM
		<-done
	})
	return u
}

func (u *supervised) wantEnd(code int) {
	u.t.Helper()
	select {
	case got := <-u.ended:
		if got != code {
			u.t.Errorf("exit code %d, want %d; log:\n%s", got, code, u.log)
		}
	case <-time.After(patience):
		u.t.Fatalf("the supervisor goes on; log:\n%s", u.log)
	}
}

func (u *supervised) lines() []string {
	b, _ := os.ReadFile(u.journal)
	return strings.Split(strings.TrimSpace(string(b)), "\n")
}

func (u *supervised) wantJournal(want ...string) {
	u.t.Helper()
	if got := u.lines(); strings.Join(got, ",") != strings.Join(want, ",") {
		u.t.Errorf("journal %q, want %q; log:\n%s", got, want, u.log)
	}
}

func (u *supervised) untilJournal(last string) {
	u.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if lines := u.lines(); lines[len(lines)-1] == last {
			return
		}
		if time.Now().After(end) {
			u.t.Fatalf("journal %q, want %s; log:\n%s", u.lines(), last, u.log)
		}
	}
}

func TestSupervisorEnds(t *testing.T) {
	for _, c := range []struct {
		mode   string
		code   int
		starts int
	}{
		{"well", 0, 1},
		{"three", exitConfig, 1},  // a file that is wrong stays wrong
		{"seven", 7, giveUpAfter}, // five deaths before it balanced
	} {
		t.Run(c.mode, func(t *testing.T) {
			u := newSupervised(t, c.mode, nil)
			u.wantEnd(c.code)
			if got := len(u.lines()); got != c.starts {
				t.Errorf("%d starts, want %d", got, c.starts)
			}
		})
	}
}

func TestSupervisorKeepsDescriptors(t *testing.T) {
	u := newSupervised(t, "heir", nil)
	u.wantEnd(0)
	u.wantJournal("first", "second read word")
}

// TestSupervisorKeepsForTheLast: a binary that does not even look at what was left, since it is broken, has not died of it.
func TestSupervisorKeepsForTheLast(t *testing.T) {
	u := newSupervised(t, "broken", nil)
	u.wantEnd(0)
	u.wantJournal("first", "broken", "broken", "broken", "with all")
}

// TestDoomedHeritage: whoever starts one process after the other, the third that a heritage might kill is without.
func TestDoomedHeritage(t *testing.T) {
	for mode, want := range map[string]string{
		"doomed":             "false true true false true false", // the fourth makes a new one, of which the next two die
		"heir of a heritage": "false true true true true true",
	} {
		t.Run(mode, func(t *testing.T) {
			k, err := fdstore.NewKeeper()
			if err != nil {
				t.Fatal(err)
			}
			served := make(chan error, 1)
			go func() { served <- k.Serve(func(string, string) {}) }()
			defer func() {
				if err := errors.Join(k.Close(), <-served); err != nil {
					t.Error(err)
				}
			}()
			journal := filepath.Join(t.TempDir(), "journal")
			for range 6 {
				cmd := exec.Command("/proc/self/exe")
				cmd.Env = append(os.Environ(), asChild+"="+mode, journalVariable+"="+journal, raceOptions)
				release, err := k.Equip(cmd)
				if err != nil {
					t.Fatal(err)
				}
				err = cmd.Start()
				release()
				if err != nil {
					t.Fatal(err)
				}
				k.Trust(cmd.Process.Pid)
				cmd.Wait() // it kills itself
				if err := k.Settle(); err != nil {
					t.Fatal(err)
				}
			}
			b, err := os.ReadFile(journal)
			if got := strings.Join(strings.Fields(string(b)), " "); got != want || err != nil {
				t.Errorf("inherited: %s, %v; want %s", got, err, want)
			}
		})
	}
}

// TestSupervisorTakesPanicsForPanics: the exit code is that of a wrong command line.
func TestSupervisorTakesPanicsForPanics(t *testing.T) {
	u := newSupervised(t, "panicking", nil)
	u.wantEnd(0)
	u.wantJournal("start", "again")
}

func TestSuperviseRefuses(t *testing.T) {
	for args, want := range map[string]string{
		"supervise -- run":                       "run wants one file",
		"supervise -- run -f a b":                "run wants one file",
		"supervise -- run -f a --bogus":          "bogus",
		"supervise -- run -f a --log-level loud": "--log-level",
		"supervise -- run --ipvsadm -f a":        "--ipvsadm starts without a file",
		"supervise -- check a":                   "wants the command",
		"supervise --watchdog 1s -- run -f a":    "want 2s at least",
		"supervise --watchdog -1s -- run -f a":   "want 2s at least",
	} {
		var out, errOut bytes.Buffer
		code := runIn(t.Context(), append([]string{"tunlb"}, strings.Fields(args)...), nil, &out, &errOut)
		if code != exitUsage || !strings.Contains(errOut.String(), want) || out.Len() > 0 {
			t.Errorf("%s: exit %d, %q and %q; want %d and %q", args, code, out.String(), errOut.String(), exitUsage, want)
		}
	}
	for _, args := range []string{"run -f /nowhere", "run /nowhere --log-level debug", "run --ipvsadm", "run --help"} {
		if err := checkRun(t.Context(), strings.Fields(args)); err != nil {
			t.Errorf("%s: %v", args, err)
		}
	}
}

func TestSupervisorHandsSignalsOn(t *testing.T) {
	u := newSupervised(t, "signals", nil)
	u.untilJournal("start")
	for _, sig := range []os.Signal{syscall.SIGHUP, syscall.SIGUSR2, syscall.SIGTERM} {
		u.signals <- sig
		u.untilJournal(sig.String())
	}
	u.wantEnd(5) // and is not started again
	u.wantJournal("start", "hangup", "user defined signal 2", "terminated")
}

func TestSupervisorBacksOff(t *testing.T) {
	u := newSupervised(t, "crashing", func(s *supervisor) { s.first, s.longest = 20*time.Millisecond, 80*time.Millisecond })
	u.wantEnd(0)
	var at []int64
	for _, line := range u.lines() {
		var ms int64
		fmt.Sscanf(line, "start %d", &ms)
		at = append(at, ms)
	}
	if len(at) != 6 {
		t.Fatalf("%d starts, want 6: it was ready each time", len(at))
	}
	for i, least := range []int64{0, 20, 40, 80, 80} {
		if got := at[i+1] - at[i]; got < least {
			t.Errorf("restart %d after %d ms, want %d at least", i+1, got, least)
		}
	}
}

func TestSupervisorWatchdog(t *testing.T) {
	quick := func(s *supervisor) {
		s.watchdog, s.abort = 300*time.Millisecond, 100*time.Millisecond
		s.first = time.Hour // for one death
	}
	for mode, want := range map[string]string{"mute": "status 2", "deaf": "signal: killed"} { // Go ends with 2 of a SIGABRT
		t.Run(mode, func(t *testing.T) {
			u := newSupervised(t, mode, quick)
			for end := time.Now().Add(patience); !strings.Contains(u.log.String(), "has died"); time.Sleep(5 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("a child that says nothing lives on:\n%s", u.log)
				}
			}
			if log := u.log.String(); !strings.Contains(log, want) || !strings.Contains(log, "has said nothing in time") {
				t.Errorf("want %s in\n%s", want, log)
			}
		})
	}
	t.Run("turning", func(t *testing.T) {
		u := newSupervised(t, "turning", quick)
		u.untilJournal("turned")
		if log := u.log.String(); strings.Contains(log, "aborted") {
			t.Errorf("a successor that takes over is aborted:\n%s", log)
		}
		for end := time.Now().Add(patience); !strings.Contains(u.log.String(), "has said nothing in time"); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("it has taken over, and is not watched any more:\n%s", u.log)
			}
		}
	})
	t.Run("alive", func(t *testing.T) {
		u := newSupervised(t, "alive", quick)
		u.wantEnd(0)
		u.wantJournal("start")
	})
}
