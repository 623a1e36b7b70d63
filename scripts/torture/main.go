//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/labnet/netns"
	"github.com/tunlb/tunlb/scripts/torture/wallclock"
)

// options are what the command line says.
type options struct {
	tunlb  string        // the binary
	short  bool          // small numbers, seconds for each case
	shared bool          // others work on the machine meanwhile: see outcome
	time   time.Duration // how long a window is measured; 0: the case's own
	record string        // a document that keeps what the cases have shown; "": none
	dir    string        // for files, made and removed by whoever calls
	log    func(format string, args ...any)
}

// pick is the number for -short, or the full one.
func pick[T any](o options, short, full T) T {
	if o.short {
		return short
	}
	return full
}

// outcome is an empty one.
func (o options) outcome() *outcome { return &outcome{shared: o.shared} }

// limit is how long is waited for something that has to happen within a time, to be judged by outcome.within.
func (o options) limit(want time.Duration) time.Duration {
	if o.shared {
		return want + allowance
	}
	return want
}

// window is how long something is measured.
func (o options) window(short, full time.Duration) time.Duration {
	if o.time > 0 {
		return o.time
	}
	return pick(o, short, full)
}

func main() {
	if code, ran, err := wallclock.Main(); ran {
		if err != nil {
			fmt.Fprintln(os.Stderr, "torture:", err)
		}
		os.Exit(code)
	}
	o, chosen, list, err := parse(os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		fmt.Fprintln(os.Stderr, "torture:", err)
		os.Exit(2)
	case list:
		for _, c := range chosen {
			fmt.Printf("%-20s %s\n%20s wants: %s\n", c.name, c.what, "", c.target)
		}
		return
	}
	code, ran, err := netns.Enter()
	if ran && err == nil {
		os.Exit(code)
	}
	if err == nil {
		err = runAll(o, chosen)
	}
	var unsupported *netns.Unsupported
	switch {
	case err == nil:
		return
	case errors.As(err, &unsupported):
		fmt.Fprintln(os.Stderr, "torture: cannot here:", err)
		os.Exit(netns.ExitUnsupported)
	}
	fmt.Fprintln(os.Stderr, "torture:", err)
	os.Exit(1)
}

func parse(args []string) (o options, chosen []fault, list bool, err error) {
	var only string
	f := flag.NewFlagSet("torture", flag.ContinueOnError)
	f.StringVar(&only, "only", "", "only these cases, by name or by what stands before the dash: synflood,kill9-tun")
	f.BoolVar(&o.short, "short", false, "small numbers: some seconds for each case")
	f.BoolVar(&list, "list", false, "list the cases and what they want")
	f.DurationVar(&o.time, "time", 0, "how long a window is measured, instead of each case's own time")
	f.StringVar(&o.tunlb, "tunlb", "bin/tunlb", "the tunlb binary, which `make build` makes")
	f.StringVar(&o.record, "record", "", "keep what the cases have shown in the table of this document, docs/endurance.md")
	if err := f.Parse(args); err != nil {
		return o, nil, false, err
	}
	if f.NArg() > 0 {
		return o, nil, false, fmt.Errorf("%s: there are flags only, see -help", f.Arg(0))
	}
	if o.time < 0 || o.time > 0 && o.time < 100*time.Millisecond {
		return o, nil, false, errors.New("-time is at least 100ms")
	}
	if _, err := o.recorder(); err != nil {
		return o, nil, false, err
	}
	if chosen, err = choose(faults, only); err != nil {
		return o, nil, false, fmt.Errorf("-only: %w", err)
	}
	o.log = func(format string, args ...any) { fmt.Fprintf(os.Stderr, "  "+format+"\n", args...) }
	o.tunlb, err = filepath.Abs(o.tunlb)
	return o, chosen, list, err
}

// choose picks cases by name, or all of a kind: "kill9" is kill9-tun, kill9-packet and kill9-tap.
func choose(all []fault, only string) ([]fault, error) {
	if only == "" {
		return all, nil
	}
	var chosen []fault
	for _, want := range strings.Split(only, ",") {
		before := len(chosen)
		for _, c := range all {
			if c.name == want || c.kind() == want {
				chosen = append(chosen, c)
			}
		}
		if len(chosen) == before {
			return nil, fmt.Errorf("%q is no case; -list names them", want)
		}
	}
	return chosen, nil
}

// runAll runs cases one after the other. What this machine cannot do is named; it is an error only if nothing is left.
func runAll(o options, chosen []fault) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if _, err := os.Stat(o.tunlb); err != nil {
		return fmt.Errorf("%w: run `make build`, or say -tunlb PATH", err)
	}
	if o.dir, err = os.MkdirTemp("", "torture"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(o.dir)) }()
	keep, err := o.recorder()
	if err != nil {
		return err
	}
	var below, cannot []string
	var missing error
	for _, c := range chosen {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		fmt.Printf("%s: %s\n", c.name, c.what)
		if load, err := os.ReadFile("/proc/loadavg"); err == nil { // of a busy machine figures say little
			one, _, _ := strings.Cut(string(load), " ")
			fmt.Printf("  load %s before\n", one)
		}
		began := time.Now()
		out, err := c.run(ctx, o)
		var unsupported *netns.Unsupported
		switch {
		case errors.As(err, &unsupported):
			fmt.Printf("  cannot here: %v\n", err)
			cannot, missing = append(cannot, c.name), err
			continue
		case err != nil:
			fmt.Printf("  FAILED: %v\n", err)
		}
		out.print(os.Stdout)
		fmt.Printf("  %s\n\n", time.Since(began).Round(100*time.Millisecond))
		if keep != nil {
			keep.set(c.name, out, err, when(time.Now()))
			if err := keep.write(faults); err != nil { // after each: who ends the run early has these
				return err
			}
		}
		if err != nil || out.failed() {
			below = append(below, c.name)
		}
	}
	if len(cannot) > 0 {
		fmt.Printf("cannot here: %s\n", strings.Join(cannot, ", "))
	}
	switch {
	case len(below) > 0:
		return fmt.Errorf("below target: %s", strings.Join(slices.Compact(below), ", "))
	case len(cannot) == len(chosen):
		return missing
	}
	fmt.Printf("%d of %d cases hold\n", len(chosen)-len(cannot), len(chosen))
	return nil
}
