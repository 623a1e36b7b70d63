package main

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/rs/zerolog"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/control"
	"github.com/tunlb/tunlb/tunlb/ipvs"
)

// TestScripts runs testdata/script: the command line against a daemon that answers from a script. `exit CODE
// ARGUMENTS` runs tunlb, `exit CODE as NAME ARGUMENTS` under another name.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			dir := t.TempDir() // short: a socket's path is bounded
			socket := filepath.Join(dir, "s")
			env.Setenv("TUNLB_SOCKET", socket)
			env.Setenv("XDG_RUNTIME_DIR", dir) // of labs
			l, err := control.Listen(socket, 0o600, control.Allow{})
			if err != nil {
				return err
			}
			ctx, cancel := context.WithCancel(context.Background())
			ended := make(chan error, 1)
			go func() { ended <- control.Serve(ctx, l, &actor{open: 2}, zerolog.Nop()) }()
			env.Defer(func() {
				cancel()
				if err := <-ended; err != nil {
					t.Error(err)
				}
				downAllIn(t, dir)
			})
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exit": func(ts *testscript.TestScript, neg bool, args []string) {
				want, err := strconv.Atoi(args[0])
				if err != nil || neg {
					ts.Fatalf("usage: exit CODE ARGUMENTS")
				}
				program, args := "tunlb", args[1:]
				if len(args) > 0 && args[0] == "as" {
					program, args = args[1], args[2:]
				}
				self, err := os.Executable()
				ts.Check(err)
				cmd := exec.Command(self, args...)
				cmd.Dir = ts.MkAbs(".")
				cmd.Args[0] = program
				cmd.Env = append(os.Environ(), asProgram+"=1", "TUNLB_SOCKET="+ts.Getenv("TUNLB_SOCKET"), "XDG_RUNTIME_DIR="+ts.Getenv("XDG_RUNTIME_DIR"), raceOptions)
				cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(ts.ReadFile("stdin")), ts.Stdout(), ts.Stderr()
				if err := cmd.Run(); cmd.ProcessState == nil {
					ts.Fatalf("%v", err)
				}
				if got := cmd.ProcessState.ExitCode(); got != want {
					ts.Fatalf("exit %d, want %d", got, want)
				}
			},
		},
	})
}

// actor is a daemon that does as it is told and knows nothing of packets.
type actor struct {
	mu      sync.Mutex
	drained bool
	open    int // connections, one fewer each time they are looked at while drained
	lvs     ipvs.State
}

func (a *actor) Info() control.Info {
	return control.Info{Version: "test", PID: 42, Started: time.Now()}
}

func (a *actor) Status() tunlb.Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	second := policy.Listen{Addr: netip.MustParseAddr("2001:db8::22"), Proto: policy.UDP, First: 8000, Last: 8100}
	server := tunlb.ServerStatus{Name: "rs1", Address: netip.MustParseAddrPort("192.168.0.10:8080"), Mode: "nat", Weight: 2, Configured: 2, Health: "up"}
	slow := tunlb.ServerStatus{Name: "rs2", Address: netip.MustParseAddrPort("[2001:db8:1::10]:8080"), Mode: "dr", Weight: 1, Configured: 4, Health: "down", Cause: "connection refused", Drained: a.drained, Overloaded: true, Upper: 10, Active: 10}
	return tunlb.Status{Services: []tunlb.ServiceStatus{{
		Name: "web", Listen: append(policy.On(netip.MustParseAddrPort("203.0.113.22:80"), policy.TCP), second),
		Mode: "nat", Scheduler: "wlc", Owner: "tunlb", Servers: []tunlb.ServerStatus{server, slow},
	}}}
}

func (a *actor) Conns(f tunlb.ConnFilter, visit func(tunlb.Conn) bool) {
	a.mu.Lock()
	n := a.open
	if a.drained && a.open > 0 && f.Server != "[2001:db8:1::10]:8080" {
		a.open--
	}
	a.mu.Unlock()
	c := tunlb.Conn{
		Protocol: "tcp", VIP: netip.MustParseAddrPort("203.0.113.22:80"), Server: netip.MustParseAddrPort("192.168.0.10:8080"), Service: "web", ServerName: "rs1",
		Client: netip.MustParseAddrPort("198.51.100.7:40000"), Expires: 90 * time.Second, State: "TIME_WAIT",
	}
	if f.Client.IsValid() && !f.Client.Contains(c.Client.Addr()) || !visit(c) {
		return
	}
	for i := range n {
		c.Client, c.State = netip.AddrPortFrom(c.Client.Addr(), uint16(40001+i)), "ESTABLISHED"
		if !visit(c) {
			return
		}
	}
	if f.Templates {
		c.Client, c.State, c.Template = netip.AddrPortFrom(c.Client.Addr(), 0), "ASSURED", true
		visit(c)
	}
}

func (a *actor) Events(ctx context.Context, since uint64, follow bool, visit func(tunlb.Event) bool) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)
	for _, ev := range []tunlb.Event{
		{Seq: 1, Time: at, Kind: "up", Service: "web", Server: "rs1", Cause: "2 checks in a row"},
		{Seq: 2, Time: at, Kind: "conflict", Address: netip.MustParseAddrPort("203.0.113.22:80"), Cause: "somebody has the VIP"},
	} {
		if ev.Seq > since && !visit(ev) {
			return
		}
	}
}

func (a *actor) Order(o tunlb.ServerOrder) ([]tunlb.Event, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case o.Service != "" && o.Service != "web" && o.Service != "203.0.113.22:80/tcp":
		return nil, fmt.Errorf("%w %q", tunlb.ErrNoService, o.Service)
	case o.Server == "rs9":
		return nil, fmt.Errorf("%w %q", tunlb.ErrNoServer, o.Server)
	case o.Do == "drain" && a.drained, o.Do == "undrain" && !a.drained:
		return nil, nil
	}
	ev := tunlb.Event{Kind: o.Do + "ed", Service: "web", Server: o.Server}
	if o.Do == "weight" {
		ev.Kind, ev.Cause = "weight", strconv.Itoa(o.Weight)
	} else {
		a.drained = o.Do == "drain"
	}
	return []tunlb.Event{ev}, nil
}

func (a *actor) Kill(id string) error {
	if !strings.HasPrefix(id, "tcp/198.51.100.7:4") {
		return fmt.Errorf("%w: %s", tunlb.ErrNoConn, id)
	}
	return nil
}

func (a *actor) Reload(_ context.Context, dryRun bool) control.ReloadResult {
	if dryRun {
		return control.ReloadResult{Changes: []string{"- server web/rs1"}}
	}
	return control.ReloadResult{Errors: []string{"tunlb.yaml:1:1: bad"}, Invalid: true}
}

func (a *actor) LVS() (ipvs.State, []ipvs.Entry) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.lvs, nil
}

func (a *actor) LVSCommand(c ipvs.Command) (err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lvs, err = a.lvs.Apply(c)
	return err
}

// TestCalledAs: the links that LVS's scripts call, wherever they are.
func TestCalledAs(t *testing.T) {
	for arg, want := range map[string]string{
		"/usr/sbin/ipvsadm": "ipvsadm", "ipvsadm-save": "ipvsadm-save", "./ipvsadm-restore": "ipvsadm-restore",
		"/usr/local/bin/tunlb": "", "ipvsadm2": "", "": "",
	} {
		if got, ok := calledAs([]string{arg}); got != want || ok != (want != "") {
			t.Errorf("%q: %q, %v", arg, got, ok)
		}
	}
	if _, ok := calledAs(nil); ok {
		t.Error("nothing is a name")
	}
}

// TestNoOutput: an output that cannot be written is no success.
func TestNoOutput(t *testing.T) {
	var errOut bytes.Buffer
	t.Setenv("TUNLB_SOCKET", filepath.Join(t.TempDir(), "nobody"))
	if code := run([]string{"ipvsadm", "-Ln"}, strings.NewReader(""), brokenPipe{}, &errOut); code == 0 {
		t.Errorf("exit 0 without output: %s", &errOut)
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, fmt.Errorf("broken pipe") }

func (a *actor) Explain(q tunlb.Question) (tunlb.Explanation, error) {
	return tunlb.ExplainConfig([]policy.Spec{{
		Name: "web", Listen: policy.On(netip.MustParseAddrPort("203.0.113.22:80"), policy.TCP),
		Servers: []policy.ServerSpec{{Name: "rs1", Address: netip.MustParseAddrPort("192.168.0.10:8080"), Weight: 2}},
	}}, q)
}
