package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/tunlb/tunlb/tunlb/control"
	"github.com/tunlb/tunlb/tunlb/trace"
	"github.com/tunlb/tunlb/tunlb/watch"
)

const (
	// defaultPackets is how many a trace shows that nobody has told when to end.
	defaultPackets = 10
	// holdAnswer is how much later an answer may come to be shown beside its request, on the daemon's clock; traceQuiet is how long
	// nothing has to come here until what waits is shown without. People don't notice, and a busy machine does not tear pairs.
	holdAnswer = 5 * time.Millisecond
	traceQuiet = 100 * time.Millisecond
)

func traceCommand() *cli.Command {
	return &cli.Command{
		Name:      "trace",
		Usage:     "show the journey of packets through the running daemon, step by step",
		ArgsUsage: "[FILTER...]",
		Description: "Of each packet: the port that it came in by, its connection and why that has its server, every field that was changed,\n" +
			"and where it left or why it was dropped. An answer stands beside its request where there is room for both.\n\n" +
			watch.FilterSyntax + "\n\nExamples:\n" +
			"   tunlb trace                                 the next 10 packets\n" +
			"   tunlb trace --client 198.51.100.7 -n 2      a request of one client, and the answer\n" +
			"   tunlb trace -f drops                        whatever is dropped from now on, and why\n" +
			"   tunlb trace vip [2001:db8::22]:80 and server rs1 -o json",
		Flags: append([]cli.Flag{
			socketFlag(),
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "table", Usage: "`FORMAT`: table (text for people), or json (one object a packet)"},
			&cli.IntFlag{Name: "number", Aliases: []string{"n"}, Value: defaultPackets, Usage: "end after `N` packets"},
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on until interrupted"},
			&cli.BoolFlag{Name: "wide", Usage: fmt.Sprintf("requests left and answers right, even if the output is no terminal of %d columns", trace.WideFrom)},
		}, watchFlags()...),
		Action: func(c *cli.Context) error {
			filter, err := watchFilter(c)
			switch {
			case err != nil:
				return err
			case c.IsSet("number") && c.Bool("follow"):
				return usagef("-n ends after a number of packets, and -f goes on: leave one out")
			case c.Int("number") < 1:
				return usagef("-n %d: want a number of packets above zero, or -f to go on", c.Int("number"))
			}
			limit := c.Int("number")
			if c.Bool("follow") {
				limit = 0
			}
			show, err := traceOutput(c)
			if err != nil {
				return err
			}
			warnOfNames(c, filter)
			return runTrace(c, filter, limit, show)
		},
	}
}

// watchFlags are the conditions of a filter that have options of their own.
func watchFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "client", Usage: "packets of the `CLIENT`: address or network, with a port if you like"},
		&cli.StringFlag{Name: "vip", Usage: "packets to the `VIP`, and their answers; with a port and /tcp or /udp if you like"},
		&cli.StringFlag{Name: "server", Usage: "packets to and from the real `SERVER`: name, address, or address:port"},
		&cli.StringFlag{Name: "service", Usage: "packets of the service `NAME`"},
		&cli.StringFlag{Name: "proto", Usage: "`PROTOCOL`: tcp, udp, icmp, arp or a number"},
		&cli.StringFlag{Name: "port", Usage: "packets that came in or left by the port `NAME` of tunlb's"},
		&cli.BoolFlag{Name: "drops", Usage: "packets that were dropped"},
	}
}

// watchFilter reads a command's arguments as a filter and adds its watchFlags.
func watchFilter(c *cli.Context) (watch.Filter, error) {
	filter, err := watch.ParseFilter(strings.Join(c.Args().Slice(), " "))
	if err != nil {
		return filter, usagef("%w", err)
	}
	for _, name := range []string{"client", "vip", "server", "service", "proto", "port", "drops"} {
		if !c.IsSet(name) || name == "drops" && !c.Bool(name) {
			continue
		}
		value := ""
		if name != "drops" {
			value = c.String(name)
		}
		if err := filter.Set(name, value); err != nil {
			return filter, usagef("--%s: %w", name, err)
		}
	}
	return filter, nil
}

// shown is where a trace's packets go, and the pause after which what waits for its answer goes without.
type shown interface {
	packet(*trace.Journey) error
	pause() error
}

// traceOutput is what -o asks for.
func traceOutput(c *cli.Context) (shown, error) {
	switch format := c.String("output"); format {
	case "json":
		enc := json.NewEncoder(c.App.Writer)
		enc.SetEscapeHTML(false) // arrows
		return journeysAsJSON{enc}, nil
	case "table":
		width := terminalWidth(c.App.Writer, c.Bool("wide"))
		return &journeysAsText{
			w:       c.App.Writer,
			pairs:   trace.Pairer{Hold: holdAnswer},
			printer: trace.Printer{Colour: colours(c.App.Writer), Width: width, Wide: c.Bool("wide") || width >= trace.WideFrom},
		}, nil
	default:
		return nil, usagef("-o %q: want table or json", format)
	}
}

type journeysAsJSON struct{ *json.Encoder }

func (j journeysAsJSON) packet(journey *trace.Journey) error { return j.Encode(journey) }
func (journeysAsJSON) pause() error                          { return nil }

type journeysAsText struct {
	w       io.Writer
	pairs   trace.Pairer
	printer trace.Printer
	lost    uint64
}

func (t *journeysAsText) packet(j *trace.Journey) error {
	j.Time = j.Time.Local()
	if j.Lost > t.lost {
		if err := t.pause(); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(t.w, "(%s lost here: they came faster than they could be shown)\n\n", count(int(j.Lost-t.lost), "packet")); err != nil {
			return err
		}
		t.lost = j.Lost
	}
	return t.print(t.pairs.Add(j))
}

func (t *journeysAsText) pause() error { return t.print(t.pairs.Flush()) }

func (t *journeysAsText) print(rows []trace.Row) error {
	for _, r := range rows {
		if err := t.printer.Print(t.w, r); err != nil {
			return err
		}
	}
	return nil
}

// runTrace shows packets until there are limit (0: without end), or somebody interrupts.
func runTrace(c *cli.Context, filter watch.Filter, limit int, show shown) error {
	ctx, cancel := context.WithCancel(c.Context)
	stream, err := client(c).OpenTrace(ctx, watch.Options{Filter: filter, Why: true})
	if err != nil {
		cancel()
		return err
	}
	what := filter.String()
	if what == "" {
		what = "all packets"
	}
	fmt.Fprintf(c.App.ErrWriter, "tracing %s\n", what)
	lines, ended := make(chan control.TraceLine, 64), make(chan error, 1)
	go readTrace(ctx, stream, lines, ended)
	seen, lost, err := showTrace(lines, limit, show)
	cancel() // readTrace ends, if it has not yet
	for range lines {
	}
	readErr := <-ended
	stream.Close()
	fmt.Fprintf(c.App.ErrWriter, "%s seen, %d lost\n", count(seen, "packet"), lost)
	switch {
	case err != nil, limit > 0 && seen == limit, c.Context.Err() != nil:
		return err
	case errors.Is(readErr, io.EOF):
		return fmt.Errorf("%w any more: it has ended while we traced", control.ErrNoDaemon)
	}
	return readErr
}

// readTrace passes packets on until the stream or ctx ends, and says why.
func readTrace(ctx context.Context, stream *control.TraceStream, lines chan<- control.TraceLine, ended chan<- error) {
	defer close(lines)
	for {
		line, err := stream.Next()
		if err != nil {
			ended <- err
			return
		}
		select {
		case lines <- line:
		case <-ctx.Done():
			ended <- ctx.Err()
			return
		}
	}
}

// showTrace shows packets until there are limit, or no more come.
func showTrace(lines <-chan control.TraceLine, limit int, show shown) (seen int, lost uint64, err error) {
	pause := time.NewTimer(traceQuiet)
	defer pause.Stop()
	for limit == 0 || seen < limit {
		select {
		case line, ok := <-lines:
			if !ok {
				return seen, lost, show.pause()
			}
			seen, lost = seen+1, line.Lost
			if err := show.packet(trace.Of(&line.Record, line.Lost)); err != nil {
				return seen, lost, err
			}
			pause.Reset(traceQuiet)
		case <-pause.C:
			if err := show.pause(); err != nil {
				return seen, lost, err
			}
		}
	}
	return seen, lost, show.pause()
}

// terminalWidth is how many characters a line of w has; 0 if it is no terminal, unless anyway is set and the environment
// says.
func terminalWidth(w io.Writer, anyway bool) int {
	if f, ok := w.(*os.File); ok {
		if n := windowWidth(f); n > 0 {
			return n
		}
	}
	n, err := strconv.Atoi(os.Getenv("COLUMNS"))
	if !anyway || err != nil || n < 0 {
		return 0
	}
	return n
}
