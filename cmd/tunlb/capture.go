package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/tunlb/tunlb/tunlb/capture"
	"github.com/tunlb/tunlb/tunlb/control"
	"github.com/tunlb/tunlb/tunlb/watch"
)

func captureCommand() *cli.Command {
	return &cli.Command{
		Name:      "capture",
		Usage:     "write the packets of the running daemon as pcapng, before and after they are rewritten",
		ArgsUsage: "[FILTER...]",
		Description: `Every port is an interface of the file. Every packet has a comment: its flow, its server and why, or why it
was dropped. Wireshark and tshark filter by it: frame.comment contains "drop".

   tunlb capture -w web.pcapng vip 203.0.113.22:80
   tunlb capture -w - | tshark -r - -Y 'frame.comment contains "rs2"'
   tunlb capture -w day.pcapng --rotate 100M --files 10 --snap 192

` + watch.FilterSyntax + `

A file that is there is overwritten, a symbolic link is not followed. Traffic never waits for a capture: what
can't be written fast enough is lost, counted, and told at the end.`,
		Flags: []cli.Flag{
			socketFlag(),
			&cli.StringFlag{Name: "write", Aliases: []string{"w"}, Usage: "`FILE`, which only its owner may read; - is the output"},
			&cli.StringFlag{Name: "side", Value: "in,out", Usage: "`SIDE`: in, as packets come; out, as they leave; or in,out"},
			&cli.IntFlag{Name: "snap", Usage: "`BYTES` of each frame, instead of all of it; 192 have the headers"},
			&cli.StringFlag{Name: "rotate", Usage: "begin another file before one has more than `SIZE` bytes, like 500K, 100M or 2G: FILE_00001.pcapng and so on"},
			&cli.IntFlag{Name: "files", Usage: "with --rotate: keep the last `N` files"},
			&cli.Uint64Flag{Name: "count", Aliases: []string{"n"}, Usage: "end after `N` packets; one that is written before and after counts twice"},
			&cli.DurationFlag{Name: "duration", Usage: "end after `TIME`, like 30s or 5m"},
		},
		Action: func(c *cli.Context) error {
			options, err := captureOptions(c)
			if err != nil {
				return err
			}
			files, err := captureFiles(c)
			if err != nil {
				return err
			}
			warnOfNames(c, options.Filter)
			ctx := c.Context
			if c.IsSet("duration") {
				var stop context.CancelFunc
				ctx, stop = context.WithTimeout(ctx, c.Duration("duration"))
				defer stop()
			}
			return record(ctx, client(c), options, files, c.App.ErrWriter)
		},
	}
}

// captureOptions reads what is to be captured.
func captureOptions(c *cli.Context) (o control.CaptureOptions, err error) {
	o.Filter, err = watch.ParseFilter(strings.Join(c.Args().Slice(), " "))
	if err != nil {
		return o, usageError{err}
	}
	if o.Side, err = capture.ParseSide(c.String("side")); err != nil {
		return o, usagef("--%w", err)
	}
	o.Snap = c.Int("snap")
	switch {
	case c.IsSet("snap") && (o.Snap < 1 || o.Snap > capture.MaxSnap):
		return o, usagef("--snap %d: want a number of bytes from 1 to %d", o.Snap, capture.MaxSnap)
	case c.IsSet("duration") && c.Duration("duration") <= 0:
		return o, usagef("--duration %v: want a time above zero, like 30s", c.Duration("duration"))
	case c.IsSet("count") && c.Uint64("count") == 0:
		return o, usagef("-n 0: want a number of packets")
	}
	return o, nil
}

// captureFiles reads where it goes.
func captureFiles(c *cli.Context) (*capture.Files, error) {
	path := c.String("write")
	files := &capture.Files{Keep: c.Int("files"), Packets: c.Uint64("count")}
	switch {
	case path == "":
		return nil, usagef("capture wants a file: tunlb capture -w FILE.pcapng, or -w - into a pipe")
	case c.IsSet("files") && (files.Keep < 1 || !c.IsSet("rotate")):
		return nil, usagef("--files %d: want a number of files, and --rotate SIZE", files.Keep)
	case path == "-" && c.IsSet("rotate"):
		return nil, usagef("--rotate wants a file, not the output")
	case path == "-" && isTerminal(c.App.Writer):
		return nil, usagef("-w -: a capture is not for terminals; write into a pipe: tunlb capture -w - | tshark -r -")
	}
	if path == "-" {
		files.Create = func(int) (io.WriteCloser, string, error) { return keepOpen{c.App.Writer}, "the output", nil }
		return files, nil
	}
	name := func(int) string { return path }
	if c.IsSet("rotate") {
		size, err := parseSize(c.String("rotate"))
		if err != nil {
			return nil, err
		}
		files.Size = size
		name = func(n int) string { return numbered(path, n) }
	}
	files.Create = func(n int) (io.WriteCloser, string, error) {
		f, err := createPrivate(name(n))
		return f, name(n), err
	}
	files.Remove = func(n int) error { return os.Remove(name(n)) }
	return files, nil
}

// numbered puts a number in front of a file's extension, counted from 1.
func numbered(path string, n int) string {
	extension := filepath.Ext(path)
	return fmt.Sprintf("%s_%05d%s", strings.TrimSuffix(path, extension), n+1, extension)
}

// parseSize reads a number of bytes with a binary unit. The least is what the heads of a file and one whole packet take.
func parseSize(text string) (int64, error) {
	const least = 4 << 10
	digits := strings.TrimRight(strings.ToUpper(text), "KMGIB")
	units := map[string]int64{"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}
	unit, known := units[strings.ToUpper(text[len(digits):])]
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || !known || n <= 0 || n > math.MaxInt64/unit || n*unit < least {
		return 0, usagef("--rotate %q: want a size of at least 4K, like 500K, 100M or 2G", text)
	}
	return n * unit, nil
}

// createPrivate makes a file, or empties the one that is there. Root would otherwise empty whatever a link in
// somebody else's folder leads to.
func createPrivate(path string) (io.WriteCloser, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|noFollow|noWait, 0o600)
	if info, lstat := os.Lstat(path); err != nil && lstat == nil {
		switch {
		case info.Mode()&os.ModeSymlink != 0:
			return nil, fmt.Errorf("open %s: it is a symbolic link, which is not followed; name the file that it leads to", path)
		case info.Mode()&os.ModeNamedPipe != 0:
			return nil, fmt.Errorf("%s is a named pipe that nobody reads: start its reader first, or use -w - and redirect into it", path)
		}
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

// keepOpen is a writer that others close.
type keepOpen struct{ io.Writer }

func (keepOpen) Close() error { return nil }

// record captures until ctx ends, which is no error, and says what there was.
func record(ctx context.Context, asked *control.Client, o control.CaptureOptions, files *capture.Files, told io.Writer) error {
	stream, err := asked.Capture(ctx, o)
	if err != nil {
		return err
	}
	defer stream.Close()
	sum, err := files.Copy(stream)
	if sum.Files > 0 {
		text := fmt.Sprintf("%s, %s, in %s", count(int(sum.Packets), "packet"), size(uint64(sum.Bytes)), sum.Name)
		if sum.Files > 1 {
			text = fmt.Sprintf("%s, %s, in %d files, the last is %s", count(int(sum.Packets), "packet"), size(uint64(sum.Bytes)), sum.Files, sum.Name)
		}
		if sum.Lost > 0 {
			text += fmt.Sprintf("; %s lost: they came faster than they were written, --snap 192 or a filter makes them fewer", count(int(sum.Lost), "record"))
		}
		fmt.Fprintln(told, text)
	}
	switch {
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return nil // that is how a capture ends
	case errors.Is(err, control.ErrNoDaemon) && sum.Files > 0:
		return fmt.Errorf("%w; what is in %s is whole", err, sum.Name)
	case err == nil && (files.Packets == 0 || sum.Packets < files.Packets) && ctx.Err() == nil:
		return fmt.Errorf("%w any more: it has ended while we captured", control.ErrNoDaemon)
	}
	return err
}

// isTerminal says whether people would see what is written to w.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && info.Name() != filepath.Base(os.DevNull)
}
