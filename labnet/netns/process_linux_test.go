package netns

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestProcess: a process that runs, one that ends by itself with last words, by a signal, against its will, and one that does not start.
func TestProcess(t *testing.T) {
	if err := Check(); err != nil {
		t.Skip(err)
	}
	ns, err := New("process")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	start := func(script string, through *bytes.Buffer) *Process {
		p, err := StartProcess(ns.Command(t.Context(), "/bin/sh", "-c", script), through)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	var seen bytes.Buffer
	p := start("echo last words >&2; exit 3", &seen)
	<-p.ended
	if err := p.Alive(); err == nil || !strings.Contains(err.Error(), "last words") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("of one that has ended with words is said: %v", err)
	}
	if err := p.End(unix.SIGTERM, time.Minute); err == nil {
		t.Error("one that has ended before is ended")
	}
	if seen.String() != "last words\n" {
		t.Errorf("what was said comes through as %q", &seen)
	}

	p = start("trap 'exit 0' TERM; echo ready; while :; do sleep 0.01; done", &seen)
	for p.Said() == "" && p.Alive() == nil { // before, the signal would kill it
		time.Sleep(time.Millisecond)
	}
	if err := p.Alive(); err != nil {
		t.Error(err)
	}
	if err := p.End(unix.SIGTERM, time.Minute); err != nil {
		t.Errorf("one that ends when asked: %v", err)
	}

	p = start("trap '' TERM; echo deaf; while :; do sleep 0.01; done", &seen)
	for p.Said() == "" && p.Alive() == nil {
		time.Sleep(time.Millisecond)
	}
	if err := p.End(unix.SIGTERM, 50*time.Millisecond); err == nil || !strings.Contains(err.Error(), "does not end; it said:\ndeaf") {
		t.Errorf("one that does not end: %v", err)
	}
	p.Kill()
	if p.Alive() == nil {
		t.Error("one that was killed is alive")
	}

	if _, err := StartProcess(ns.Command(t.Context(), "/there/is/none"), nil); err == nil {
		t.Error("nothing has started")
	}
	var none *Process
	if none.Said() != "" {
		t.Errorf("nobody has said %q", none.Said())
	}
}

// TestTail: the end is kept.
func TestTail(t *testing.T) {
	var tail Tail
	for range 3000 {
		if n, err := tail.Write([]byte("0123456789")); n != 10 || err != nil {
			t.Fatal(n, err)
		}
	}
	if said := tail.Said(); !strings.HasSuffix(said, "0123456789") || len(said) > 17<<10 || len(said) < 10<<10 {
		t.Errorf("%d bytes, ...%q", len(said), said[max(0, len(said)-20):])
	}
}
