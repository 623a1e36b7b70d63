package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/tunlb/tunlb/tunlb/capture"
	"github.com/tunlb/tunlb/tunlb/replay"
)

func replayCommand() *cli.Command {
	return &cli.Command{
		Name:      "replay",
		Usage:     "run a capture through a configuration, offline: the same every time",
		ArgsUsage: "FILE",
		Description: `FILE is pcap or pcapng. Of a file of tunlb capture those packets come in again that came in, by the port of the same
name; of any other all, by the port that their source lies behind. The clock is the file's. Health checks do not
run: every server is up. Nothing of the machine is touched, no right is needed.

   tunlb replay web.pcapng --config tunlb.yaml
   tunlb replay web.pcapng --config other.yaml -w other.pcapng`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "config", Aliases: []string{"c"}, Usage: "configuration `FILE`"},
			&cli.StringFlag{Name: "write", Aliases: []string{"w"}, Usage: "pcapng `FILE` with the packets before and after; - is the output"},
			&cli.Uint64Flag{Name: "seed", Value: replay.DefaultSeed, Usage: "of what is drawn at random, source ports say: a `NUMBER` above 0"},
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "table", Usage: "`FORMAT`: table or json"},
		},
		Action: runReplay,
	}
}

func runReplay(c *cli.Context) error {
	format, write := c.String("output"), c.String("write")
	switch {
	case c.NArg() != 1 || c.Args().First() == "":
		return usagef("replay wants one capture: tunlb replay FILE.pcapng --config tunlb.yaml")
	case c.String("config") == "":
		return usagef("replay wants a configuration: tunlb replay %s --config tunlb.yaml", c.Args().First())
	case c.Uint64("seed") == 0:
		return usagef("--seed 0: want a number above 0")
	case format != "table" && format != "json":
		return usagef("-o %q: want table or json", format)
	case write == "-" && isTerminal(c.App.Writer):
		return usagef("-w -: a capture is not for terminals; write into a pipe: tunlb replay ... -w - | tshark -r -")
	}
	cfg, err := loadNamed(c, "tunlb replay CAPTURE --config FILE")
	if err != nil {
		return err
	}
	o := replay.Options{
		File: c.Args().First(), Config: cfg, Seed: c.Uint64("seed"),
		Header: capture.Header{Application: capture.Application + version()}, // and not the machine: the bytes are the same everywhere
	}
	told, out := c.App.Writer, &lateFile{path: write, not: o.File}
	switch write {
	case "":
	case "-":
		told, out.file = c.App.ErrWriter, keepOpen{c.App.Writer}
		fallthrough
	default:
		o.Out = out
	}
	sum, err := replay.Run(c.Context, o)
	if err := errors.Join(err, out.close()); err != nil {
		return err
	}
	if format == "json" {
		return writeJSON(told, sum)
	}
	return showReplay(told, sum)
}

// lateFile is a file that is made when there is something to write: a replay that can't begin empties none.
type lateFile struct {
	path string
	not  string // the file that is read
	file io.WriteCloser
	out  *bufio.Writer
}

func (l *lateFile) Write(b []byte) (int, error) {
	if l.out == nil {
		if err := l.create(); err != nil {
			return 0, err
		}
	}
	return l.out.Write(b)
}

func (l *lateFile) create() (err error) {
	if l.file == nil {
		read, _ := os.Stat(l.not) // it has been read, and what is not there yet is another
		if there, err := os.Stat(l.path); err == nil && os.SameFile(read, there) {
			return usagef("-w %s: that is the capture which is replayed; name another file", l.path)
		}
		if l.file, err = createPrivate(l.path); err != nil {
			return err
		}
	}
	l.out = bufio.NewWriterSize(l.file, 1<<16)
	return nil
}

func (l *lateFile) close() error {
	if l.out == nil {
		return nil
	}
	return errors.Join(l.out.Flush(), l.file.Close())
}

// showReplay is the summary for people.
func showReplay(w io.Writer, s *replay.Summary) error {
	if n := s.Skipped[replay.CutOff]; n > 0 {
		fmt.Fprintf(w, "warning: the file has only a part of %s, which could not be replayed: the figures are incomplete; capture without --snap\n\n", count(n, "packet"))
	}
	fmt.Fprintf(w, "%s in %v from %s, seed %d\n", count(s.Read, "packet"), s.Duration.Round(time.Microsecond), s.First.Format(time.RFC3339Nano), s.Seed)
	fmt.Fprintf(w, "%d replayed, %d written (%d of them tunlb's own), %d dropped, %d held, %s opened\n", s.In, s.Out, s.Own, s.Dropped, s.Held, count(s.Flows, "flow"))
	if s.Answers > 0 {
		fmt.Fprintf(w, "%s of tunlb for a neighbour answered as in the file\n", count(s.Answers, "question"))
	}
	for _, why := range slices.Sorted(maps.Keys(s.Skipped)) {
		fmt.Fprintf(w, "%d not replayed, %s\n", s.Skipped[why], why)
	}
	if len(s.Drops) > 0 {
		t := newTable(w, "\nDROPS", "PACKETS")
		for _, reason := range slices.Sorted(maps.Keys(s.Drops)) {
			t.row(reason, s.Drops[reason])
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	t := newTable(w, "\nSERVICE", "SCHED", "SERVER", "ADDRESS", "WEIGHT", "CONNS", "SHARE", "IN", "OUT")
	for _, svc := range s.Services {
		for _, srv := range svc.Servers {
			t.row(svc.Name, svc.Scheduler, srv.Name, srv.Address, srv.Weight, srv.Conns, percent(srv.Share), size(srv.InBytes), size(srv.OutBytes))
		}
		if len(svc.Servers) == 0 {
			t.row(svc.Name, svc.Scheduler, "-", "-", "-", svc.Conns, "-", "-", "-")
		}
	}
	return t.flush()
}

func percent(share float64) string {
	return strings.TrimSuffix(fmt.Sprintf("%.1f", 100*share), ".0") + "%"
}
