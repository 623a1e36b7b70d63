package top

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"
	"github.com/charmbracelet/x/term"
	"github.com/creack/pty"
)

// terminal is a pseudo-terminal and what was written to it.
type terminal struct {
	t         *testing.T
	far, near *os.File // who types and looks, and the program's end
	before    *term.State
	mu        sync.Mutex
	output    bytes.Buffer
}

func openTerminal(t *testing.T) *terminal {
	t.Helper()
	t.Setenv("TERM", "xterm-256color")
	far, near, err := pty.Open()
	if err != nil {
		t.Skip("no pseudo-terminal: ", err)
	}
	if err := pty.Setsize(far, &pty.Winsize{Cols: 100, Rows: 30}); err != nil {
		t.Fatal(err)
	}
	v := &terminal{t: t, far: far, near: near}
	if v.before, err = term.GetState(near.Fd()); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for b := make([]byte, 4096); ; {
			n, err := far.Read(b)
			v.mu.Lock()
			v.output.Write(b[:n])
			v.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		near.Close()
		<-read // the last one to have it open was near
		far.Close()
	})
	return v
}

func (v *terminal) written() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.output.String()
}

// until waits for what the terminal shows.
func (v *terminal) until(what string, ok func(text string) bool) {
	v.t.Helper()
	deadline, retry := time.After(15*time.Second), time.NewTicker(5*time.Millisecond)
	defer retry.Stop()
	for !ok(v.written()) {
		select {
		case <-deadline:
			v.t.Fatalf("%s: not within 15 s:\n%s", what, ansi.Strip(v.written()))
		case <-retry.C:
		}
	}
}

func (v *terminal) shows(text string) {
	v.t.Helper()
	v.until(text, func(s string) bool { return strings.Contains(ansi.Strip(s), text) })
}

func (v *terminal) press(keys string) {
	v.t.Helper()
	if _, err := v.far.WriteString(keys); err != nil {
		v.t.Fatal(err)
	}
}

// restored wants the terminal to be as it was: the main screen, a cursor, cooked mode.
func (v *terminal) restored() {
	v.t.Helper()
	v.until("the main screen is back", func(s string) bool {
		return strings.LastIndex(s, ansi.ResetModeAltScreenSaveCursor) > strings.LastIndex(s, ansi.SetModeAltScreenSaveCursor)
	})
	v.until("the cursor is back", func(s string) bool {
		return strings.LastIndex(s, ansi.SetModeTextCursorEnable) > strings.LastIndex(s, ansi.ResetModeTextCursorEnable)
	})
	after, err := term.GetState(v.near.Fd())
	if err != nil {
		v.t.Fatal(err)
	}
	if *after != *v.before {
		v.t.Errorf("the terminal's mode is %+v, was %+v", after, v.before)
	}
}

// TestTerminalIsRestored by the user's quitting, and by a signal, which ends the context.
func TestTerminalIsRestored(t *testing.T) {
	for _, name := range []string{"q", "signal"} {
		t.Run(name, func(t *testing.T) {
			v := openTerminal(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan error, 1)
			go func() { ended <- Run(ctx, &scripted{statuses: recorded(t)}, MinInterval, v.near, v.near) }()
			v.shows("rs1")
			if name == "q" {
				v.press("q")
			} else {
				cancel()
			}
			if err := <-ended; err != nil {
				t.Error(err)
			}
			v.restored()
		})
	}
}

// TestFault: a fault of ours leaves a terminal that can be worked with, on which there is to read what has happened.
func TestFault(t *testing.T) {
	for key, words := range map[string]string{"U": "Update breaks", "V": "View breaks", "C": "a command breaks"} {
		t.Run(words, func(t *testing.T) {
			v := openTerminal(t)
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, self)
			cmd.Env = append(os.Environ(), asFragile+"=1", "GORACE=atexit_sleep_ms=0")
			cmd.Stdin, cmd.Stdout, cmd.Stderr = v.near, v.near, v.near
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			v.shows("every 1s")
			v.press(key)
			var exit *exec.ExitError
			if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 3 {
				t.Errorf("it ended with %v", err)
			}
			v.restored()
			v.until("the fault is shown", func(s string) bool {
				_, after, _ := strings.Cut(s, ansi.ResetModeAltScreenSaveCursor)
				return strings.Contains(after, words)
			})
		})
	}
}

// TestRun: a daemon on a terminal; one that is not there is an error before the terminal is touched.
func TestRun(t *testing.T) {
	v := openTerminal(t)
	none := errors.New("no tunlb is running here")
	if err := Run(t.Context(), &scripted{err: none}, MinInterval, v.near, v.near); !errors.Is(err, none) || v.written() != "" {
		t.Errorf("without a daemon: %v, %q", err, v.written())
	}
	t.Setenv("NO_COLOR", "1")
	ended := make(chan error, 1)
	go func() { ended <- Run(t.Context(), &scripted{statuses: recorded(t)}, MinInterval, v.near, v.near) }()
	v.shows("overloaded")
	if strings.Contains(v.written(), "\x1b[1;31m") || strings.Contains(v.written(), "\x1b[31m") {
		t.Error("colours in spite of NO_COLOR")
	}
	if err := pty.Setsize(v.far, &pty.Winsize{Cols: 40, Rows: 10}); err != nil {
		t.Fatal(err)
	}
	v.press("?") // help is drawn in the new size, or the old: both have its first line
	v.shows("Everywhere")
	v.press("qq")
	if err := <-ended; err != nil {
		t.Error(err)
	}
	v.restored()
	t.Setenv("TERM", "dumb")
	if err := Run(t.Context(), &scripted{statuses: recorded(t)}, MinInterval, v.near, v.near); !errors.Is(err, ErrNoTerminal) {
		t.Errorf("a dumb terminal: %v", err)
	}
}
