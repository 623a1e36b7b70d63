package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/labnet"
	"github.com/tunlb/tunlb/labnet/netns"
	"github.com/tunlb/tunlb/tunlb"
)

// screen is a pseudo-terminal with a tunlb command on it.
type screen struct {
	s         *site
	far, near *os.File
	before    *unix.Termios
	output    syncBuffer
	cmd       *netns.Cmd
}

// onScreen starts a tunlb command on lb, on a terminal of its own.
func (s *site) onScreen(args ...string) *screen {
	s.t.Helper()
	far, near, err := pty.Open()
	if err != nil {
		s.t.Skip("no pseudo-terminal: ", err)
	}
	v := &screen{s: s, far: far, near: near}
	s.must(pty.Setsize(far, &pty.Winsize{Cols: 120, Rows: 40}))
	v.before, err = unix.IoctlGetTermios(int(near.Fd()), unix.TCGETS)
	s.must(err)
	read := make(chan struct{})
	go func() { // until nobody has the near end open
		defer close(read)
		for b := make([]byte, 4096); ; {
			n, err := far.Read(b)
			v.output.Write(b[:n])
			if err != nil {
				return
			}
		}
	}()
	v.cmd = s.command(args...)
	v.cmd.Env = append(v.cmd.Env, "TERM=xterm-256color", "NO_COLOR=")
	v.cmd.Stdin, v.cmd.Stdout, v.cmd.Stderr = near, near, near
	v.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true} // so that it hears of a new size
	s.must(v.cmd.Start())
	s.t.Cleanup(func() {
		v.cmd.Close()
		near.Close()
		<-read
		far.Close()
	})
	return v
}

// escapes are control sequences and strings, and charsets.
const escapes = "\x1b\\[[0-?]*[ -/]*[@-~]|\x1b[\\]P_][^\x07\x1b]*(?:\x07|\x1b\\\\)|\x1b[()][A-Z0-9]|\x1b[=>78]"

// since is what was shown after a place in the output, as text.
func (v *screen) since(at int) string {
	return regexp.MustCompile(escapes).ReplaceAllString(v.output.String()[at:], "")
}

// press types, and waits for texts that are shown thereafter.
func (v *screen) press(keys string, want ...string) {
	v.s.t.Helper()
	at := len(v.output.String())
	_, err := v.far.WriteString(keys)
	v.s.must(err)
	v.shows(at, want...)
}

// shows waits for texts that are shown after a place in the output.
func (v *screen) shows(at int, want ...string) {
	v.s.t.Helper()
	for _, text := range want {
		v.s.until(fmt.Sprintf("%q on the screen", text), func() error {
			if got := v.since(at); !strings.Contains(got, text) {
				return fmt.Errorf("shown since: %s", got)
			}
			return nil
		})
	}
}

// ended wants the command to succeed and to leave the terminal as it was: the main screen, a cursor, cooked mode.
func (v *screen) ended() {
	v.s.t.Helper()
	if err := v.cmd.Wait(); err != nil {
		v.s.t.Errorf("it ended with %v", err)
	}
	for on, off := range map[string]string{"\x1b[?1049h": "\x1b[?1049l", "\x1b[?25l": "\x1b[?25h"} {
		v.s.until("the terminal is put back", func() error {
			if out := v.output.String(); !strings.Contains(out, on) || strings.LastIndex(out, on) > strings.LastIndex(out, off) {
				return fmt.Errorf("%q is not taken back by %q", on, off)
			}
			return nil
		})
	}
	after, err := unix.IoctlGetTermios(int(v.near.Fd()), unix.TCGETS)
	v.s.must(err)
	if *after != *v.before {
		v.s.t.Errorf("the terminal's mode is %+v, was %+v", after, v.before)
	}
	if after.Lflag&unix.ICANON == 0 || after.Lflag&unix.ECHO == 0 {
		v.s.t.Error("the terminal is not in cooked mode")
	}
}

// TestTop works with `tunlb top` as an operator does.
func TestTop(t *testing.T) {
	needLab(t)
	s := openLab(t, labnet.Story(labnet.StoryOptions{}), echoConfig)
	s.start()
	conn := s.dial("client", "tcp", hostPort(labnet.VIP, 7)) // rr: the first one's
	s.echo(conn, []byte("before"))
	server := func() (srv tunlb.ServerStatus) {
		for _, svc := range s.status().Services {
			if svc.Name == "tcpecho" {
				srv = svc.Servers[0]
			}
		}
		return srv
	}
	v := s.onScreen("top", "--interval", "100ms")
	v.shows(0, "tcpecho", "192.168.0.10", "rs1", "LAST MINUTE", "Drops", "Events")

	v.press("/", "/")
	v.press("tcpecho\r")
	v.press("jj")
	v.press("k")
	v.press("d", "drain tcpecho/rs1", "[y/n]")
	if server().Drained {
		t.Error("drained before anybody said yes")
	}
	v.press("y", "tcpecho/rs1 drained")
	s.until("the daemon has drained it", func() error {
		if srv := server(); !srv.Drained {
			return fmt.Errorf("%+v", srv)
		}
		return nil
	})
	v.press("u", "undrain tcpecho/rs1")
	v.press("y", "undrained")
	v.press("w", "weight of tcpecho/rs1")
	v.press("7\r", "tcpecho/rs1 weight")
	s.until("the daemon has undrained it and given it weight 7", func() error {
		if srv := server(); srv.Drained || srv.Configured != 7 || srv.Weight != 7 {
			return fmt.Errorf("%+v", srv)
		}
		return nil
	})

	v.press("\r", "Connections of tcpecho/rs1", conn.LocalAddr().String(), "ESTABLISHED")
	v.press("t", "Trace of tcp/"+conn.LocalAddr().String())
	at := len(v.output.String())
	s.until("a packet is traced", func() error {
		s.echo(conn, []byte("traced"))
		if got := v.since(at); !strings.Contains(got, "checksum") || !strings.Contains(got, "-> 192.168.0.10:7") {
			return errors.New(got)
		}
		return nil
	})
	v.press("q", "Connections of")
	v.press("q", "NAME")

	at = len(v.output.String())
	s.must(pty.Setsize(v.far, &pty.Winsize{Cols: 45, Rows: 12}))
	v.shows(at, "NAME", "tcpecho")

	// The daemon ends, and another one is started.
	at = len(v.output.String())
	s.stop()
	v.shows(at, "NO ANSWER")
	at = len(v.output.String())
	s.start()
	v.shows(at, "tunlb was started anew")

	v.press("\x1b[B") // an arrow, and the message is gone
	v.press("q")
	v.ended()
	s.stop()
}

// TestTopEnds by signals, and says what to do where it cannot begin.
func TestTopEnds(t *testing.T) {
	needLab(t)
	s := openSite(t, labnet.StoryOptions{}, storyConfig)
	for _, signal := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		v := s.onScreen("top")
		v.shows(0, "tcpecho")
		s.must(v.cmd.Process.Signal(signal))
		v.ended()
	}
	if _, stderr, code := s.tunlb("top"); code != exitUsage || !strings.Contains(stderr, "tunlb status") {
		t.Errorf("without a terminal: exit %d, %s", code, stderr)
	}
	v := s.onScreen("top", "--socket", "@nobody")
	var exit interface{ ExitCode() int }
	if err := v.cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != exitNoDaemon {
		t.Errorf("without a daemon: %v", err)
	}
	s.until("it says so", func() error {
		if out := v.output.String(); !strings.Contains(out, "no tunlb is running here") || strings.Contains(out, "\x1b[?1049h") {
			return errors.New(out)
		}
		return nil
	})
}

// TestTopBatch: frames of a daemon with traffic have its rates.
func TestTopBatch(t *testing.T) {
	needLab(t)
	s := openSite(t, labnet.StoryOptions{}, storyConfig)
	cmd := s.command("top", "--batch", "--interval", "200ms")
	var out syncBuffer
	cmd.Stdout = &out
	s.must(cmd.Start())
	rate := regexp.MustCompile(`(?m)^▾ web +[0-9]/[0-9] +[0-9]+ +[0-9]+ +[1-9][0-9.]*[kM]? +[1-9][0-9.]*[kM]? +[1-9][0-9.]*[kM]? `)
	s.until("a frame with rates", func() error {
		s.get("client", "http://203.0.113.22/")
		if text := out.String(); !rate.MatchString(text) {
			return errors.New(text)
		}
		return nil
	})
	s.must(cmd.Process.Signal(os.Interrupt))
	begun := time.Now()
	if err := cmd.Wait(); err != nil || time.Since(begun) > patience {
		t.Errorf("interrupted: %v", err)
	}
	if b := []byte(out.String()); bytes.ContainsAny(b, "\x1b\r") {
		t.Errorf("escapes in\n%s", b)
	}
}
