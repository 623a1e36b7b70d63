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
)

// options are what the command line says.
type options struct {
	rounds   int
	time     time.Duration
	subjects []subject
	loads    []load
	tunlb    string
	markdown string
	json     string
	verbose  bool
	quick    bool
	halting  bool
	profile  string // directory for CPU profiles
	compare  string // a record
	record   string
	from     string // a record, instead of a run
	gobench  string // what Go benchmarks said, instead of a run
	svg      string

	congestion string // TCP's; "" is the machine's
	dir        string // for the subjects' files
}

func main() {
	// The children come first: they are this program, too, and already where they belong.
	if len(os.Args) > 1 && strings.HasPrefix(os.Args[1], childPrefix) {
		exit(runChild(os.Args[1], os.Args[2:]))
	}
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	switch {
	case o.gobench != "":
		exit(judgeGo(o.gobench))
	case o.from != "":
		exit(redraw(o))
	}
	code, ran, err := netns.Enter()
	if ran && err == nil {
		os.Exit(code)
	}
	if err == nil {
		err = run(o)
	}
	exit(err)
}

func exit(err error) {
	var unsupported *netns.Unsupported
	switch {
	case err == nil:
		os.Exit(0)
	case errors.As(err, &unsupported):
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(netns.ExitUnsupported)
	case errors.Is(err, context.Canceled):
		os.Exit(130)
	}
	fmt.Fprintln(os.Stderr, "bench:", err)
	os.Exit(1)
}

func parse(args []string) (options, error) {
	var o options
	var only, loads string
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.IntVar(&o.rounds, "rounds", 5, "how often each load runs over each subject; medians are of these")
	f.DurationVar(&o.time, "time", 1500*time.Millisecond, "how long each load is measured")
	f.StringVar(&only, "only", "", "only these subjects, of "+names(allSubjects))
	f.StringVar(&loads, "loads", "", "only these loads, of "+names(allLoads))
	f.BoolVar(&o.quick, "quick", false, "-rounds 1 -time 500ms: does it work?")
	f.BoolVar(&o.halting, "halting", false, "let idle processors halt, as they do; figures of the load idle then show how long it takes to wake them")
	f.StringVar(&o.congestion, "congestion", "reno", "TCP's congestion control; empty: the machine's. Of bbr, streams show little but its pace")
	f.StringVar(&o.tunlb, "tunlb", "bin/tunlb", "the tunlb binary, which `make build` makes")
	f.StringVar(&o.markdown, "o", "", "write the tables as Markdown to this file, too; if it is there and has the marks of figures, between these")
	f.StringVar(&o.compare, "compare", "docs/performance.json", "compare with what is recorded in this file")
	f.StringVar(&o.record, "record", "", "record medians and ranges in this file")
	f.StringVar(&o.svg, "svg", "", "draw the chart into this file")
	f.StringVar(&o.from, "from", "", "run nothing: draw the -svg of what is recorded in this file")
	f.StringVar(&o.gobench, "go", "", "run nothing: hold what go test -bench has printed into this `file` against the targets")
	f.StringVar(&o.profile, "profile", "", "have tunlb write CPU profiles of its work into this `directory`, SUBJECT.pprof each")
	f.StringVar(&o.json, "json", "", "write every single figure to this file")
	f.BoolVar(&o.verbose, "v", false, "show what the subjects' processes say")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("%s: there are flags only, see -help", f.Arg(0))
	}
	if o.quick {
		o.rounds, o.time = 1, 500*time.Millisecond
	}
	if o.rounds < 1 || o.time < 100*time.Millisecond {
		return o, errors.New("-rounds is at least 1, -time at least 100ms")
	}
	if o.from != "" && o.svg == "" {
		return o, errors.New("-from FILE is for -svg FILE")
	}
	var err error
	if o.profile != "" {
		if o.profile, err = filepath.Abs(o.profile); err != nil {
			return o, err
		}
	}
	if o.subjects, err = choose(allSubjects, only); err != nil {
		return o, fmt.Errorf("-only: %w", err)
	}
	if o.loads, err = choose(allLoads, loads); err != nil {
		return o, fmt.Errorf("-loads: %w", err)
	}
	o.tunlb, err = filepath.Abs(o.tunlb)
	return o, err
}

type named interface{ String() string }

func names[T named](all []T) string {
	var s []string
	for _, v := range all {
		s = append(s, v.String())
	}
	return strings.Join(s, ",")
}

// choose picks by name, in the order of all.
func choose[T named](all []T, list string) ([]T, error) {
	if list == "" {
		return all, nil
	}
	want := strings.Split(list, ",")
	for _, w := range want {
		if !slices.ContainsFunc(all, func(v T) bool { return v.String() == w }) {
			return nil, fmt.Errorf("%q is none of %s", w, names(all))
		}
	}
	return slices.DeleteFunc(slices.Clone(all), func(v T) bool { return !slices.Contains(want, v.String()) }), nil
}

// scratch is where configuration files and sockets go: a tmpfs that only our mount namespace sees, so
// that it is gone with the process.
const scratch = "/run"

func run(o options) (err error) {
	if err := unix.Mount("bench", scratch, "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount a tmpfs on %s: %w", scratch, err)
	}
	o.dir = scratch
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()

	then, err := recorded(o.compare)
	if err != nil {
		return err
	}
	if o.profile != "" {
		if err := os.MkdirAll(o.profile, 0o755); err != nil {
			return err
		}
	}
	r := report{Machine: describeMachine(o.congestion), Rounds: o.rounds, Seconds: o.time.Seconds(), Halting: o.halting}
	var stands []*stand
	defer func() {
		for _, s := range stands {
			err = errors.Join(err, s.close())
		}
	}()
	for _, s := range o.subjects {
		st, err := setUp(ctx, s, o)
		var missing *missingError
		if errors.As(err, &missing) {
			r.Missing = append(r.Missing, fmt.Sprintf("%s: %s", s, missing))
			fmt.Fprintf(os.Stderr, "left out: %s: %s\n", s, missing)
			continue
		}
		if err != nil {
			return fmt.Errorf("set up %s: %w", s, err)
		}
		stands = append(stands, st)
		r.Subjects = append(r.Subjects, st.describe())
	}
	if len(stands) == 0 {
		return errors.New("no subject is left")
	}
	var estimate time.Duration
	for _, l := range o.loads {
		estimate += time.Duration(o.rounds*len(stands)) * (l.length(o) + warmUp + settle)
	}
	fmt.Fprintf(os.Stderr, "rounds: %d, loads: %d, subjects: %d; it takes about %s\n", o.rounds, len(o.loads), len(stands), estimate.Round(time.Second))

	r.Samples, err = measureAll(ctx, o, stands)
	if len(r.Samples) > 0 {
		fmt.Print(r.markdown())
		fmt.Print(r.record().compare(then))
	}
	if err != nil {
		return err // and no file is written over with half of the figures
	}
	return r.save(o)
}

// recorded is what there is to compare with. No file is no record.
func recorded(path string) (record, error) {
	then, err := loadRecord(path)
	if errors.Is(err, os.ErrNotExist) {
		fmt.Fprintf(os.Stderr, "nothing to compare with: there is no %s, which -record writes\n", path)
		err = nil
	}
	return then, err
}

func judgeGo(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	results, err := parseGo(f)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	fmt.Print(results.report())
	return nil
}

func redraw(o options) error {
	r, err := loadRecord(o.from)
	if err != nil {
		return err
	}
	return os.WriteFile(o.svg, []byte(r.chart()), 0o644)
}
