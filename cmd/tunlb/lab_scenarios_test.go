package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tunlb/tunlb/labnet/scenario"
	"github.com/tunlb/tunlb/labnet/sim"
)

// TestScenariosSim runs the labs that come with tunlb where no machine can refuse them.
func TestScenariosSim(t *testing.T) {
	for _, name := range scenario.Shipped() {
		t.Run(name, func(t *testing.T) { playScenario(t, sim.New(sim.Options{Seed: 1}), load(t, name)) })
	}
}

// TestScenariosSeeFaults breaks each lab and wants its steps to notice: assertions that nothing can fail are none.
func TestScenariosSeeFaults(t *testing.T) {
	link := func(host, network string, i scenario.Impairment) scenario.Step {
		return scenario.Step{Do: &scenario.Impair{Host: host, Network: network, Impairment: i}}
	}
	behave := func(host string, port uint16, b scenario.Behaviour) scenario.Step {
		return scenario.Step{Do: &scenario.Behave{Host: host, Port: port, Behaviour: b}}
	}
	lost := scenario.Impairment{Loss: 1}
	for _, c := range []struct {
		lab, what string
		fault     scenario.Step
	}{
		{"nat", "a server is cut off", link("rs2", "inside", lost)},
		{"nat", "a server fails", behave("rs3", 8080, scenario.Behaviour{Fail: 500})},
		{"dr-inline", "a server's program has died", behave("rs1", 80, scenario.Behaviour{Stopped: true})},
		{"dr-one-arm", "the director is cut off", link("lb", "lan", lost)},
		{"dr-one-arm", "a server's UDP is silent", behave("rs2", 7, scenario.Behaviour{Silent: true})},
		{"drain", "there is one server only", scenario.Step{Do: &scenario.Order{Do: "drain", Server: "rs2"}}},
		{"server-failure", "a server never comes up", behave("rs2", 80, scenario.Behaviour{Silent: true})},
		{"hairpin", "a server is cut off", link("rs2", "inside", lost)},
	} {
		t.Run(c.lab+" "+c.what, func(t *testing.T) {
			f := load(t, c.lab)
			f.Steps = append([]scenario.Step{c.fault}, f.Steps...)
			failed := 0
			err := inLab(t, sim.New(sim.Options{Seed: 1}), f, func(r scenario.StepResult) {
				if !r.OK {
					failed++
				}
			})
			if failed == 0 {
				t.Errorf("no step has noticed: %v", err)
			}
		})
	}
}

// TestScenariosSeeModes: the steps fail where tunlb does something else than the lab is about.
func TestScenariosSeeModes(t *testing.T) {
	for lab, change := range map[string][2]string{
		"nat":            {"listen: 203.0.113.22:80/tcp\n", "listen: 203.0.113.22:80/tcp\n        mode: fullnat\n"},
		"dr-one-arm":     {"mode: dr", "mode: fullnat"},
		"dr-inline":      {"mode: dr", "mode: fullnat"},
		"drain":          {"    drain: {server: rs1}", "    weight: {server: rs1, weight: 5}"},
		"server-failure": {"fall: 3}", "fall: 1000}"},
		"hairpin":        {"listen: 203.0.113.22:80/tcp\n", "listen: 203.0.113.22:80/tcp\n        mode: fullnat\n"},
	} {
		t.Run(lab, func(t *testing.T) {
			f := edited(t, lab, change[0], change[1])
			ok := true
			err := inLab(t, sim.New(sim.Options{Seed: 1}), f, func(r scenario.StepResult) { ok = ok && r.OK })
			if ok {
				t.Errorf("no step has noticed: %v", err)
			}
		})
	}
}

// interrupter cancels once something like a step's result is written.
type interrupter struct {
	bytes.Buffer
	cancel func()
}

func (i *interrupter) Write(b []byte) (int, error) {
	if bytes.HasPrefix(b, []byte("ok ")) {
		i.cancel()
	}
	return i.Buffer.Write(b)
}

// TestLabRunInterrupted: a run that is interrupted says where, and has failed.
func TestLabRunInterrupted(t *testing.T) {
	for _, json := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		out := &interrupter{cancel: cancel}
		f := load(t, "nat")
		r := &labRun{file: f, driver: driverSim, out: out, json: json}
		if json {
			cancel()
		}
		err := r.run(ctx)
		cancel()
		if err == nil || exitCode(err) != exitFailed {
			t.Errorf("%v, want a failure", err)
		}
		if want := fmt.Sprintf("nat, sim: stopped at step 2 of %d: 1 passed, 0 failed", len(f.Steps)); !json && !strings.Contains(out.String(), want) {
			t.Errorf("%s\nwant %s", out, want)
		}
	}
}

func load(t *testing.T, name string) *scenario.File {
	t.Helper()
	f, err := scenario.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// edited is a lab with some of its text exchanged.
func edited(t *testing.T, name, old, with string) *scenario.File {
	t.Helper()
	path := filepath.Join("..", "..", "labnet", "scenario", "shipped", name+".yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), old) {
		t.Fatalf("%s has no %q", name, old)
	}
	f, err := scenario.Parse(path, []byte(strings.ReplaceAll(string(text), old, with)))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// playScenario brings a lab up and wants all of its steps to come true.
func playScenario(t *testing.T, d scenario.Driver, f *scenario.File) {
	t.Helper()
	var all []scenario.StepResult
	if err := inLab(t, d, f, func(r scenario.StepResult) { all = append(all, r) }); err != nil {
		for _, r := range all {
			t.Log(r.Text())
		}
		t.Fatal(err)
	}
	if len(all) != len(f.Steps) || slices.ContainsFunc(all, func(r scenario.StepResult) bool { return !r.OK }) {
		t.Errorf("%d of %d steps are reported, or some failed without an error", len(all), len(f.Steps))
	}
}

// inLab runs a file's steps.
func inLab(t *testing.T, d scenario.Driver, f *scenario.File, report func(scenario.StepResult)) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	lab, err := d.Up(ctx, f)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	}()
	return scenario.Run(ctx, lab, f, report)
}
