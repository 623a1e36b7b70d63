package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tunlb/tunlb/labnet"
	"github.com/tunlb/tunlb/labnet/netns"
	"github.com/tunlb/tunlb/tunlb/trace"
)

// tracing is a `tunlb trace` that runs.
type tracing struct {
	s           *site
	cmd         *netns.Cmd
	out, errOut *syncBuffer
	ended       chan error
}

// trace starts one and returns when it sees packets.
func (s *site) trace(args ...string) *tracing {
	s.t.Helper()
	tr := &tracing{s: s, cmd: s.command(append([]string{"trace"}, args...)...), out: &syncBuffer{}, errOut: &syncBuffer{}, ended: make(chan error, 1)}
	tr.cmd.Stdout, tr.cmd.Stderr = tr.out, tr.errOut
	tr.cmd.Env = append(tr.cmd.Env, "COLUMNS=200")
	s.must(tr.cmd.Start())
	go func() { tr.ended <- tr.cmd.Wait() }()
	s.until("the trace is on", func() error {
		if !strings.Contains(tr.errOut.String(), "tracing ") {
			return fmt.Errorf("it says %q", tr.errOut)
		}
		return nil
	})
	return tr
}

// wait is for the trace's end with success, and returns what it has shown.
func (tr *tracing) wait() string {
	tr.s.t.Helper()
	select {
	case err := <-tr.ended:
		if err != nil {
			tr.s.t.Fatalf("trace ended: %v\n%s%s", err, tr.errOut, tr.out)
		}
	case <-time.After(patience):
		tr.cmd.Process.Kill()
		tr.s.t.Fatalf("the trace does not end:\n%s%s", tr.errOut, tr.out)
	}
	return tr.out.String()
}

// TestTrace follows a real request through the running daemon.
func TestTrace(t *testing.T) {
	offloads(t, func(t *testing.T, off bool) {
		s := openSite(t, labnet.StoryOptions{NoOffload: off}, storyConfig)
		text := s.trace("--vip", "203.0.113.22:80/tcp", "client", "198.51.100.7", "-n", "2", "--wide")
		asJSON := s.trace("vip", labnet.VIP, "proto", "tcp", "-n", "5", "-o", "json")
		follow := s.trace("-f")
		_, server := s.get("client", "http://"+hostPort(labnet.VIP, 80)+"/")

		shown := text.wait()
		for _, want := range []string{"──▶ SYN seq", "│ ◀── #", "SYN ACK seq", "flow   opened: web (rr) -> " + server + " 192.168.0.10:8080, nat; SYN_RECV", "│ flow   hit: web",
			"203.0.113.22:80 -> 192.168.0.10:8080", "192.168.0.10:8080 -> 203.0.113.22:80", "* rs1", "rs2", "rs3", "ip checksum", "delta 0x"} {
			if !strings.Contains(shown, want) {
				t.Errorf("no %q in:\n%s", want, shown)
			}
		}
		if strings.Contains(shown, "but what it covers changed by") {
			t.Errorf("a checksum was not carried along:\n%s", shown)
		}
		if !strings.HasSuffix(text.errOut.String(), "2 packets seen, 0 lost\n") {
			t.Errorf("it ended with %q", text.errOut)
		}
		checkTraceJSON(t, asJSON.wait())

		// One that follows ends when it is interrupted, and has shown what had come.
		s.until("the request is shown", func() error {
			if !strings.Contains(follow.out.String(), "SYN ACK") {
				return fmt.Errorf("it shows %q", follow.out)
			}
			return nil
		})
		s.must(follow.cmd.Process.Signal(os.Interrupt))
		follow.wait()
		if !strings.Contains(follow.errOut.String(), " packets seen, ") {
			t.Errorf("it ended with %q", follow.errOut)
		}
	})
}

// checkTraceJSON wants the first packets of a request, and the changes that NAT makes.
func checkTraceJSON(t *testing.T, text string) {
	t.Helper()
	var journeys []trace.Journey
	for dec := json.NewDecoder(bytes.NewBufferString(text)); dec.More(); {
		var j trace.Journey
		if err := dec.Decode(&j); err != nil {
			t.Fatal(err)
		}
		journeys = append(journeys, j)
	}
	if len(journeys) != 5 {
		t.Fatalf("%d packets, want 5:\n%s", len(journeys), text)
	}
	opened, answered := 0, 0
	for _, j := range journeys {
		want := trace.Change{Field: "dst", From: "203.0.113.22:80", To: j.Server.String()}
		if j.Reply {
			want = trace.Change{Field: "src", From: j.Server.String(), To: "203.0.113.22:80"}
			answered++
		}
		if !slices.ContainsFunc(j.Steps, func(s trace.Step) bool { return s.Change != nil && *s.Change == want }) {
			t.Errorf("packet %d: no change %+v in %+v", j.Seq, want, j.Steps)
		}
		if j.Opened {
			opened++
		}
	}
	if opened != 1 || answered == 0 {
		t.Errorf("%d opened and %d answered:\n%s", opened, answered, text)
	}
}

// TestTraceDrops: a drop is told of with its reason, and nothing else is.
func TestTraceDrops(t *testing.T) {
	needLab(t)
	s := openSite(t, labnet.StoryOptions{}, storyConfig)
	drops := s.trace("drops", "and", "vip", hostPort(labnet.VIP, 81), "-n", "1")
	s.get("client", "http://"+hostPort(labnet.VIP, 80)+"/")
	if _, err := dialIn(t.Context(), s.lab.NS("client"), "tcp", hostPort(labnet.VIP, 81)); err == nil {
		t.Error("a service without a server has answered")
	}
	shown := drops.wait()
	for _, want := range []string{"drop   no-server: ", "what next: ", "answer tunlb0", "port unreachable, about tcp 198.51.100.7:"} {
		if !strings.Contains(shown, want) {
			t.Errorf("no %q in:\n%s", want, shown)
		}
	}
	if strings.Contains(shown, "203.0.113.22:80 ") {
		t.Errorf("what was not dropped is shown:\n%s", shown)
	}
}
