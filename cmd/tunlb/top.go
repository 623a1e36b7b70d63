package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/tunlb/tunlb/tunlb/top"
)

func topCommand() *cli.Command {
	return &cli.Command{
		Name:  "top",
		Usage: "watch services, servers, connections and drops of the running daemon, and act on them",
		Description: "Keys: arrows or jk select, enter shows a server's connections, t traces, d drains, u undrains, w sets a weight,\n" +
			"/ filters, s sorts, p pauses, tab goes to the next pane, ? explains, q quits. NO_COLOR is honoured.",
		Flags: []cli.Flag{
			socketFlag(),
			&cli.DurationFlag{Name: "interval", Aliases: []string{"i"}, Value: time.Second, Usage: "look every `TIME`, like 500ms or 5s"},
			&cli.BoolFlag{Name: "batch", Aliases: []string{"b"}, Usage: "print frames as plain text, for logs and pipes"},
			&cli.IntFlag{Name: "frames", Aliases: []string{"n"}, Usage: "with --batch: end after `N` of them"},
			&cli.IntFlag{Name: "width", Aliases: []string{"w"}, Usage: "with --batch: lines of at most `COLUMNS`; without it as the environment's COLUMNS says, or 160"},
		},
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			interval, n, width := c.Duration("interval"), c.Int("frames"), columns()
			switch {
			case interval < top.MinInterval:
				return usagef("--interval %v: want at least %v", interval, top.MinInterval)
			case c.IsSet("frames") && !c.Bool("batch"):
				return usagef("-n wants --batch: without it `tunlb top` goes on until q")
			case c.IsSet("frames") && n < 1:
				return usagef("-n %d: want a number of frames, at least 1", n)
			case c.IsSet("width") && !c.Bool("batch"):
				return usagef("-w wants --batch: a terminal has the width that it has")
			case c.IsSet("width"):
				if width = c.Int("width"); width < narrowest || width > widest {
					return usagef("-w %d: want a number of columns from %d to %d", width, narrowest, widest)
				}
			}
			if c.Bool("batch") {
				return top.Batch(c.Context, client(c), interval, n, width, c.App.Writer)
			}
			in, isFile := c.App.Reader.(*os.File)
			out, isFile2 := c.App.Writer.(*os.File)
			err := top.ErrNoTerminal
			if isFile && isFile2 {
				err = top.Run(c.Context, client(c), interval, in, out)
			}
			if errors.Is(err, top.ErrNoTerminal) {
				return usageError{fmt.Errorf("top: %w: `tunlb status` prints the same once, `tunlb top --batch -n 1` with rates", err)}
			}
			return err
		},
	}
}

// Widths of frames in batch mode.
const narrowest, widest = 40, 1000

// columns is how wide frames are that no terminal bounds: as wide as COLUMNS says, or enough for all columns.
func columns() int {
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n >= narrowest && n <= widest {
		return n
	}
	return 160
}
