package top

import (
	"context"
	"errors"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/control"
	"github.com/tunlb/tunlb/tunlb/watch"
)

// Messages to the model. Time comes with them.
type (
	tickMsg struct{} // time to look again
	pollMsg struct {
		at     time.Time
		status control.Status
		events []tunlb.Event // those after the ones that were known
		err    error
		extra  bool // out of turn: there is no tick to follow, and no rate to be made of it
	}
	connsMsg struct {
		visit int // which look at connections they belong to
		at    time.Time
		took  time.Duration
		conns []control.Conn
		more  bool // than these
		err   error
	}
	connsTickMsg struct{ visit int }
	orderMsg     struct {
		what   string
		events []tunlb.Event
		err    error
	}
	traceMsg struct { // lines of a stream, or its end
		from  *stream
		lines []string
		ended bool
		err   error
	}
)

// asker makes the commands by which the model asks the daemon: it is all of the view that waits for anything.
type asker struct {
	ctx      context.Context
	daemon   Daemon
	interval time.Duration
	clock    func() time.Time
}

// patience is how long a daemon may take to answer.
const patience = 10 * time.Second

// after is a tick that does not outlive the view.
func (a *asker) after(d time.Duration, msg tea.Msg) tea.Cmd {
	return func() tea.Msg {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			return msg
		case <-a.ctx.Done():
			return nil
		}
	}
}

// poll asks for the state of everything, and for what has happened since an event of the daemon that began at started:
// another one counts its own.
func (a *asker) poll(started time.Time, since uint64, extra bool) tea.Cmd {
	return func() tea.Msg {
		ctx, cancel := context.WithTimeout(a.ctx, patience)
		defer cancel()
		msg := pollMsg{extra: extra}
		msg.status, msg.err = a.daemon.Status(ctx)
		msg.at = a.clock()
		if msg.err != nil {
			return msg
		}
		if !msg.status.Daemon.Started.Equal(started) {
			since = 0
		}
		msg.err = a.daemon.Events(ctx, since, false, func(ev tunlb.Event) error {
			msg.events = append(msg.events, ev)
			return nil
		})
		return msg
	}
}

// mostConns bounds the list of a server's connections: nobody reads more, and a daemon may have millions.
const mostConns = 500

var errEnough = errors.New("enough")

func (a *asker) conns(of subject, visit int) tea.Cmd {
	return func() tea.Msg {
		ctx, cancel := context.WithTimeout(a.ctx, patience)
		defer cancel()
		msg, begun := connsMsg{visit: visit}, a.clock()
		msg.err = a.daemon.Conns(ctx, of.filter(), mostConns+1, func(c control.Conn) error {
			if len(msg.conns) == mostConns {
				msg.more = true
				return errEnough
			}
			msg.conns = append(msg.conns, c)
			return nil
		})
		if errors.Is(msg.err, errEnough) {
			msg.err = nil
		}
		msg.at = a.clock()
		msg.took = msg.at.Sub(begun)
		return msg
	}
}

func (a *asker) order(o tunlb.ServerOrder, what string) tea.Cmd {
	return func() tea.Msg {
		ctx, cancel := context.WithTimeout(a.ctx, patience)
		defer cancel()
		events, err := a.daemon.Order(ctx, o)
		return orderMsg{what, events, err}
	}
}

// stream is a trace under way. Its lines wait in a bounded channel: a reader that is slow makes the daemon count
// records as lost, never wait.
type stream struct {
	ctx    context.Context
	stop   context.CancelFunc
	lines  chan []string
	failed error // valid once lines is closed
}

// open begins a trace. The stream's stop ends it, and so does the view's end.
func (a *asker) open(f watch.Filter, columns int) (*stream, tea.Cmd) {
	s := &stream{lines: make(chan []string, 64)}
	s.ctx, s.stop = context.WithCancel(a.ctx)
	run := func() tea.Msg {
		s.failed = follow(s.ctx, a.daemon, f, columns, func(lines []string) error {
			select {
			case s.lines <- lines:
				return nil
			case <-s.ctx.Done():
				return s.ctx.Err()
			}
		})
		close(s.lines)
		return nil
	}
	return s, tea.Batch(run, s.next())
}

// next waits for lines, and takes what else there is.
func (s *stream) next() tea.Cmd {
	return func() tea.Msg {
		msg := traceMsg{from: s}
		lines, ok := <-s.lines // closed by the end of the stream
		for ; ok; lines, ok = <-s.lines {
			msg.lines = append(msg.lines, lines...)
			if len(s.lines) == 0 || len(msg.lines) >= mostLines {
				return msg
			}
		}
		msg.ended = true
		if s.ctx.Err() == nil {
			msg.err = s.failed
		}
		return msg
	}
}
