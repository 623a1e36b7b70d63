// Package aside reads large configuration files in a process of their own, so that what this costs, and what a hostile file
// makes of it, ends with that process and never is memory of the daemon's or work of its collector.
//
// It owns that process, and what is said between the two. What a file means is the business of package config.
package aside

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/tunlb/tunlb/tunlb/config"
)

// Command is the argument by which a program is told to call Read. The next one is the name that errors give the file.
const Command = "read-config"

// Bounds of the other process.
const (
	// small is what is read here: to parse it takes 6 MiB at most, as long as to start a process.
	small = 16 << 10
	// A file of 4 MiB takes two seconds, or ten on a busy machine.
	patience   = 2 * time.Minute
	mostAnswer = 64 << 20 // of a file of 4 MiB some 20 are said
	mostWords  = 4 << 10  // of what it says last, if it dies
)

// Program is what is executed with the arguments Command and a name, and then calls Read.
type Program struct {
	Path string // "" is this program
}

// answer is what the other process says: one of both.
type answer struct {
	Config *config.Config
	Errors config.Errors
}

// Load is Program.Load of this program.
func Load(ctx context.Context, path string) (*config.Config, error) { return Program{}.Load(ctx, path) }

// Load is config.Load, for a process that has better things to do: of a large file it only sees what is in it. Another
// process, which has no rights but the file, open for reading, does the rest with one processor. It is over when Load returns.
func (p Program) Load(ctx context.Context, path string) (*config.Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return config.Load(path) // which says what to do
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, small+1))
	if err != nil {
		return config.Load(path)
	}
	if len(data) <= small {
		return config.Parse(path, data)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("read the configuration: %w; name a file, a pipe can be read once only", err)
	}
	return p.ask(ctx, path, f)
}

// ask has the file read by another process.
func (p Program) ask(ctx context.Context, path string, f *os.File) (*config.Config, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	program, err := p.path()
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	cmd := exec.CommandContext(ctx, program, Command, "--", path)
	cmd.Args[0] = "tunlb"
	cmd.Env = []string{"GOMAXPROCS=1"} // the others forward
	cmd.Stdin = f
	out, last := limited{most: mostAnswer}, limited{most: mostWords}
	cmd.Stdout, cmd.Stderr = &out, &last
	err = cmd.Run()
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil, fmt.Errorf("read the configuration: %s has not been read within %v; write fewer servers", path, patience)
	case ctx.Err() != nil:
		return nil, fmt.Errorf("read the configuration: %s has not been read: %w", path, ctx.Err())
	case out.over:
		return nil, fmt.Errorf("read the configuration: what %s says takes more than %d MiB; write fewer servers", path, mostAnswer>>20)
	case err != nil:
		line, _, _ := strings.Cut(strings.TrimSpace(last.kept.String()), "\n")
		return nil, fmt.Errorf("read the configuration: the process that reads %s has died: %w: %s; `tunlb check` says more", path, err, line)
	}
	var a answer
	if err := gob.NewDecoder(&out.kept).Decode(&a); err != nil {
		return nil, fmt.Errorf("read the configuration: the answer of the process that reads %s: %w", path, err)
	}
	if len(a.Errors) > 0 {
		return nil, a.Errors
	}
	if a.Config == nil {
		return nil, fmt.Errorf("read the configuration: the process that reads %s has said nothing of it", path)
	}
	return a.Config, nil
}

// Read is the other process's part: it parses what comes from in, and says on out what it is.
func Read(name string, in io.Reader, out io.Writer) error {
	giveWay()
	cfg, err := config.Read(name, in)
	a := answer{Config: cfg}
	if err != nil && !errors.As(err, &a.Errors) {
		return err
	}
	return gob.NewEncoder(out).Encode(a)
}

// limited keeps the beginning of what is written to it. The buffer is not embedded: its ReadFrom would take everything.
type limited struct {
	kept bytes.Buffer
	most int
	over bool // there was more
}

func (l *limited) Write(b []byte) (int, error) {
	room := l.most - l.kept.Len()
	l.over = l.over || len(b) > room
	l.kept.Write(b[:min(len(b), room)])
	return len(b), nil
}
