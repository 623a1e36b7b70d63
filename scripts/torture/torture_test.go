//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tunlb/tunlb/labnet/netns"
	"github.com/tunlb/tunlb/scripts/torture/wallclock"
)

// programVariable names the folder of the tortured program.
const programVariable = "TUNLB_TORTURE_PROGRAM"

func TestMain(m *testing.M) {
	if code, ran, err := wallclock.Main(); ran {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(code)
	}
	os.Exit(netns.Main(func() int {
		dir, err := os.MkdirTemp("", "torture-test")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		os.Setenv(programVariable, dir)
		return m.Run()
	}))
}

// program builds tunlb once for all tests: what is tortured is the program, in a process of its own.
var program = sync.OnceValues(func() (string, error) {
	path := filepath.Join(os.Getenv(programVariable), "tunlb")
	cmd := exec.Command("go", "build", "-o", path, "github.com/tunlb/tunlb/cmd/tunlb")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", errors.Join(err, errors.New(string(out)))
	}
	return path, nil
})

// small are the options of the short form. shared is said of what has to hold beside other packages' tests; what has to fail is held to
// the targets as they are.
func small(t *testing.T, shared bool) options {
	t.Helper()
	if err := netns.Check(); err != nil {
		t.Skip(err)
	}
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "torture") // t.TempDir is too long for a socket's name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return options{tunlb: path, short: true, shared: shared, dir: dir, log: t.Logf}
}

// shown runs a case; what this machine cannot do is left out.
func shown(t *testing.T, shared bool, run func(context.Context, options) (*outcome, error)) *outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	out, err := run(ctx, small(t, shared))
	var unsupported *netns.Unsupported
	if errors.As(err, &unsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestFaults: every case holds with small numbers, beside other packages' tests. The packets' cases run in their own package's.
func TestFaults(t *testing.T) {
	for _, f := range faults {
		if f.kind() == "packets" {
			continue
		}
		t.Run(f.name, func(t *testing.T) {
			out := shown(t, true, f.run)
			t.Logf("\n%s", out)
			if out.failed() {
				t.Errorf("below target: %q", out.failures())
			}
		})
	}
}

// TestNegativeControls: with its protection off, or without its attack, each case fails, and by the very figure that is to tell.
func TestNegativeControls(t *testing.T) {
	broken := func(run func(context.Context, options, way, deviceBroken) (*outcome, error), w way, b deviceBroken) func(context.Context, options) (*outcome, error) {
		return func(ctx context.Context, o options) (*outcome, error) { return run(ctx, o, w, b) }
	}
	for _, c := range []struct {
		name  string
		run   func(context.Context, options) (*outcome, error)
		fails []string // figures of which one has to
	}{
		{"synflood without a flood", func(ctx context.Context, o options) (*outcome, error) {
			return synflood(ctx, o, onPacket, synfloodBroken{noFlood: true})
		}, []string{"SYNs sent"}},
		{"synflood against a table that is full of established flows", func(ctx context.Context, o options) (*outcome, error) {
			return synflood(ctx, o, onPacket, synfloodBroken{full: true})
		}, []string{"new connections, of what succeeds without the flood"}},
		{"server killed, and nobody checks it", func(ctx context.Context, o options) (*outcome, error) {
			return killServer(ctx, o, onTUN, serverBroken{unchecked: true})
		}, []string{"new connections avoid it after"}},
		{"server silent, and nobody checks it", func(ctx context.Context, o options) (*outcome, error) {
			return silenceServer(ctx, o, onTUN, serverBroken{unchecked: true})
		}, []string{"new connections avoid it after"}},
		{"server unharmed", func(ctx context.Context, o options) (*outcome, error) {
			return silenceServer(ctx, o, onTUN, serverBroken{unharmed: true})
		}, []string{"transfers of the server's that the fault has stopped"}},
		{"reloads that reset the deleted server's connections", func(ctx context.Context, o options) (*outcome, error) {
			return reloads(ctx, o, onTUN, reloadsBroken{reset: true})
		}, []string{"connections of before still there", "connections that failed"}},
		{"reloads of the same file", func(ctx context.Context, o options) (*outcome, error) {
			return reloads(ctx, o, onTUN, reloadsBroken{same: true})
		}, []string{"reloads that changed something"}},
		{"device deleted under a tunlb that hangs", broken(deleteDevice, onTUN, deviceBroken{hung: true}), []string{"recreated, or ended"}},
		{"device down for good", broken(flapDevice, onTUN, deviceBroken{down: true}), []string{"a new connection succeeds after"}},
		{"namespace that somebody else still has", func(ctx context.Context, o options) (*outcome, error) {
			return giveUpNamespace(ctx, o, deviceBroken{held: true})
		}, []string{"who has it then"}},
		{"namespace given up under a tunlb that hangs", func(ctx context.Context, o options) (*outcome, error) {
			return giveUpNamespace(ctx, o, deviceBroken{hung: true})
		}, []string{"a connection by the other port succeeds after"}},
		{"killed in place of being stopped", func(ctx context.Context, o options) (*outcome, error) {
			return startStop(ctx, o, onTUN, startstopBroken{killed: true})
		}, []string{"what the kernel has been told is as before, each time"}},
		{"engines that are not closed", func(ctx context.Context, o options) (*outcome, error) {
			return engines(ctx, o, startstopBroken{leak: true})
		}, []string{"descriptors more than at the start"}},
		{"uptime with the clock as it is", func(ctx context.Context, o options) (*outcome, error) {
			return uptime(ctx, o, onTUN, uptimeBroken{unmoved: true})
		}, []string{"uptime that tunlb is told"}},
		{"connections remembered for too long", func(ctx context.Context, o options) (*outcome, error) {
			return uptime(ctx, o, onTUN, uptimeBroken{late: true})
		}, []string{"the last of them is forgotten after"}},
		{"wall clock that is not set", func(ctx context.Context, o options) (*outcome, error) {
			return step(ctx, o, onTUN, stepBroken{unmoved: true})
		}, []string{"settings of the clock that tunlb's events show"}},
		{"kill -9 without a supervisor", func(ctx context.Context, o options) (*outcome, error) {
			return kill9(ctx, o, onTUN, handoverBroken{alone: true})
		}, []string{"transfers that finish with the right SHA-256"}},
		{"upgrade by killing", func(ctx context.Context, o options) (*outcome, error) {
			return upgrade(ctx, o, onTUN, handoverBroken{alone: true})
		}, []string{"transfers that finish with the right SHA-256"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := shown(t, false, c.run)
			if !slices.ContainsFunc(c.fails, func(figure string) bool { return slices.Contains(out.failures(), figure) }) {
				t.Errorf("none of %q has failed:\n%s", c.fails, out)
			}
		})
	}
}

// TestWallRule: what the rule about the wall clock finds, and what it leaves alone.
func TestWallRule(t *testing.T) {
	for _, c := range []struct{ body, want string }{
		{"time.Now().Sub(then) > time.Second", ""},
		{"time.Since(then)", ""},
		{"time.Unix(0, ticks)", ""},
		{"x.Round(time.Second)", ""},
		{"time.Now().Unix() - then", "Unix()"},
		{"uint64(time.Now().UnixNano())", "UnixNano()"},
		{"time.Now().Round(0)", "Round(0)"},
		{"unix.ClockGettime(unix.CLOCK_REALTIME, &ts)", "CLOCK_REALTIME"},
		{"unix.Gettimeofday(&tv)", "Gettimeofday"},
	} {
		found, err := wallUsesIn("x.go", []byte("package x\nvar y = "+c.body))
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(found, " "); c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.body, got, c.want)
		}
	}
}

// TestOutcome: no figure and no proof is a failure, as is one below its target.
func TestOutcome(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(*outcome)
		want bool
	}{
		{"nothing", func(*outcome) {}, true},
		{"no proof", func(o *outcome) { o.atMost("x", 0, 1, "") }, true},
		{"a proof alone", func(o *outcome) { o.prove("x", 1, 1, "") }, true},
		{"both", func(o *outcome) { o.prove("x", 1, 1, ""); o.atMost("y", 1, 1, "") }, false},
		{"no attack", func(o *outcome) { o.prove("x", 0, 1, ""); o.atMost("y", 1, 1, "") }, true},
		{"too much", func(o *outcome) { o.prove("x", 1, 1, ""); o.atMost("y", 2, 1, "") }, true},
		{"too late", func(o *outcome) { o.prove("x", 1, 1, ""); o.within("y", 2, 1) }, true},
		{"too late, shared", func(o *outcome) { o.shared = true; o.prove("x", 1, 1, ""); o.within("y", 2, 1) }, false},
		{"never, shared", func(o *outcome) { o.shared = true; o.prove("x", 1, 1, ""); o.within("y", never, 1) }, true},
		{"too much quietly", func(o *outcome) {
			o.prove("x", 1, 1, "")
			o.atMost("y", 1, 1, "")
			o.atMost("z", 2, 1, "")
			o.quietly()
		}, true},
		{"too much quietly, shared", func(o *outcome) {
			o.shared = true
			o.prove("x", 1, 1, "")
			o.atMost("y", 1, 1, "")
			o.atMost("z", 2, 1, "")
			o.quietly()
		}, false},
		{"nothing judged, shared", func(o *outcome) { o.shared = true; o.prove("x", 1, 1, ""); o.atMost("z", 0, 1, ""); o.quietly() }, true},
	} {
		var o outcome
		c.make(&o)
		if o.failed() != c.want {
			t.Errorf("%s: failed is %v", c.name, o.failed())
		}
	}
}

// TestRecord: a run's rows are written, the others stay as they were.
func TestRecord(t *testing.T) {
	all := []fault{{name: "a", what: "one|two", target: "none"}, {name: "b", what: "b", target: "all"}, {name: "c", what: "c", target: "x"}}
	path := filepath.Join(t.TempDir(), "doc.md")
	const around = "before\n%safter\n"
	if err := os.WriteFile(path, fmt.Appendf(nil, around, recordBegin+recordHead+"| `b` | old | old | 7 s (<= 9 s) | then |\n| `gone` | x | x | x | x |\n"+recordEnd), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := openRecord(path)
	if err != nil {
		t.Fatal(err)
	}
	out := &outcome{}
	out.prove("packets", 5, 1, "")
	out.atMost("lost", 0, 0, "")
	out.atLeast("kept", 97, 95, "%")
	out.holds("there", false, "no|ne\nat all")
	r.set("a", out, nil, "now")
	if err := r.write(all); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(around, recordBegin+recordHead+
		"| `a` | one\\|two | none | **below**: there: no: no\\|ne at all, wants yes; kept: 97 % (>= 95 %); 2 more hold | now |\n"+
		"| `b` | b | all | 7 s (<= 9 s) | then |\n"+
		"| `c` | c | x | not yet | |\n"+recordEnd)
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if r, err = openRecord(path); err != nil {
		t.Fatal(err)
	}
	if again := r.text(all); again != want {
		t.Errorf("read and written again:\n%s", again)
	}
}

// TestRecordInDocs: the document's table is of the cases as they are. `make torture-record` writes it.
func TestRecordInDocs(t *testing.T) {
	const path = "../../docs/endurance.md"
	r, err := openRecord(path)
	if err != nil {
		t.Fatal(err)
	}
	is, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := difference(strings.Split(string(is), "\n"), strings.Split(r.text(faults), "\n")); diff != "" {
		t.Errorf("the table and the cases differ; `make torture-record ARGS=\"-only CASE\"` writes it:%s", diff)
	}
}

// TestParse: the command line.
func TestParse(t *testing.T) {
	for _, c := range []struct {
		args string
		want int // cases, -1 an error
	}{
		{"", len(faults)}, {"-only synflood", 2}, {"-only kill9-tap,clock", 4}, {"-only nothing", -1}, {"-time 1ms", -1}, {"-short -record x", -1}, {"-record /none", -1}, {"word", -1},
	} {
		_, chosen, _, err := parse(strings.Fields(c.args))
		if err != nil != (c.want < 0) || err == nil && len(chosen) != c.want {
			t.Errorf("%q: %d cases, %v", c.args, len(chosen), err)
		}
	}
}
