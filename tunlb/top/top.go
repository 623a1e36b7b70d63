// Package top is the live view of a running tunlb in a terminal: what services, servers and connections do now, and
// the keys by which an operator does something about it.
//
// It owns the model (what is shown, pure: messages in, lines out), the rates that it makes of counters, and the
// terminal while Run runs. It does not own what the daemon says (packages tunlb and tunlb/control), nor the command
// line (cmd/tunlb).
package top

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/term"

	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/control"
)

// Daemon is who is asked and given orders, such as a *control.Client. All methods are called concurrently.
type Daemon interface {
	Status(context.Context) (control.Status, error)
	Events(ctx context.Context, since uint64, follow bool, visit func(tunlb.Event) error) error
	Conns(ctx context.Context, filter tunlb.ConnFilter, limit int, visit func(control.Conn) error) error
	Order(context.Context, tunlb.ServerOrder) ([]tunlb.Event, error)
	tracer
}

// MinInterval is the shortest time between two looks: a status of many servers has its price for the daemon.
const MinInterval = 100 * time.Millisecond

// ErrNoTerminal says that there is no terminal to show anything on.
var ErrNoTerminal = errors.New("not a terminal")

// Run shows the view on a terminal until the user quits or ctx ends, neither of which is an error. It fails at once
// where no daemon answers; one that goes away later is waited for. The terminal is put back in any case, that of a
// panic included.
func Run(ctx context.Context, d Daemon, interval time.Duration, in, out *os.File) error {
	if !term.IsTerminal(in.Fd()) || !term.IsTerminal(out.Fd()) || os.Getenv("TERM") == "dumb" {
		return ErrNoTerminal
	}
	if _, err := d.Status(ctx); err != nil {
		return err
	}
	inner, cancel := context.WithCancel(ctx)
	defer cancel() // ends what the model has under way
	model := New(interval)
	model.ask = &asker{ctx: inner, daemon: d, interval: interval, clock: time.Now}
	return show(ctx, model, in, out)
}

// show gives a model the terminal. Signals are the caller's: they end ctx, and with it the program as q does. (To end it by
// tea.WithContext would leave the goroutine behind that reads keys.)
func show(ctx context.Context, model tea.Model, in, out *os.File) error {
	p := tea.NewProgram(guard{model}, tea.WithInput(in), tea.WithOutput(out), tea.WithoutSignalHandler())
	defer context.AfterFunc(ctx, p.Quit)()
	_, err := p.Run()
	if errors.Is(err, tea.ErrProgramPanic) {
		return fmt.Errorf("the view has failed, which is a fault of tunlb's; please report it: %w", err)
	}
	return err
}
