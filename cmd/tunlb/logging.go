package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"

	"github.com/tunlb/tunlb/tunlb/logging"
)

// lastWords is how long the end waits for an output that does not take what was said last.
const lastWords = time.Second

// newLog logs to the error output: text for a person, JSON for a collector. Whoever ends the process, or replaces it by
// another program, closes or flushes it before.
func newLog(c *cli.Context) (*logging.Log, error) {
	level, err := levelOf(c)
	if err != nil {
		return nil, err
	}
	o := logging.Options{Level: level}
	if out := c.App.ErrWriter; !c.Bool("log-json") {
		o.Format = func(line io.Writer) io.Writer {
			return zerolog.ConsoleWriter{Out: line, NoColor: !colours(out), TimeFormat: time.TimeOnly}
		}
	}
	return logging.New(c.App.ErrWriter, o), nil
}

func levelOf(c *cli.Context) (zerolog.Level, error) {
	level, err := zerolog.ParseLevel(c.String("log-level"))
	if err != nil {
		return level, usagef("--log-level %q: want debug, info, warn or error", c.String("log-level"))
	}
	return level, nil
}

// colours says whether escapes may be written to w: to a terminal, and not against NO_COLOR.
func colours(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// sayLast writes why the program ends. An error output that nobody reads must not keep it from ending.
func sayLast(w io.Writer, err error) {
	said := make(chan struct{})
	go func() { // ends with its write, or with the process
		defer close(said)
		fmt.Fprintln(w, "tunlb:", err)
	}()
	enough := time.NewTimer(lastWords)
	defer enough.Stop()
	select {
	case <-said:
	case <-enough.C:
	}
}
