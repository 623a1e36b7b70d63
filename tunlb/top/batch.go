package top

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"

	"github.com/tunlb/tunlb/tunlb/control"
)

// Batch prints what Run shows, without a terminal: n frames (0: until ctx ends, which is no error) of a width in
// columns, an interval between them and one before the first, of which its rates are made. It ends with the daemon.
func Batch(ctx context.Context, d Daemon, interval time.Duration, n, columns int, out io.Writer) error {
	m := New(interval)
	m.focus = panes // nothing is selected
	m.width = columns
	ask := &asker{ctx: ctx, daemon: d, interval: interval, clock: time.Now}
	for i := 0; n == 0 || i <= n; i++ {
		seen := uint64(0)
		if k := len(m.events); k > 0 {
			seen = m.events[k-1].Seq
		}
		msg, ok := ask.poll(m.status.Daemon.Started, seen, false)().(pollMsg)
		switch {
		case ctx.Err() != nil:
			return nil
		case i > 0 && errors.Is(msg.err, control.ErrNoDaemon): // how it went is of no use to a log
			return fmt.Errorf("%w any more: it has ended while we watched", control.ErrNoDaemon)
		case !ok || msg.err != nil:
			return msg.err
		}
		m.took(&msg)
		if i > 0 {
			if _, err := io.WriteString(out, m.plain(len(msg.events))); err != nil {
				return fmt.Errorf("write frame %d: %w", i, err)
			}
		}
		if i == n && n > 0 {
			return nil
		}
		if ask.after(interval, tickMsg{})() == nil {
			return nil // ctx has ended
		}
	}
	return nil
}

// plain is everything that the model shows, however high, with the last events, and an empty line at the end.
func (m *Model) plain(events int) string {
	blocks := [][]string{m.header(), m.services(m.width, len(m.rows)+1)}
	if len(m.history.drops) > 0 {
		blocks = append(blocks, m.pane(dropsPane, m.width, len(m.history.drops)+1))
	}
	if _, n, _ := m.neighbourLines(m.width); n > 0 {
		blocks = append(blocks, m.pane(neighboursPane, m.width, n+1))
	}
	if events = min(events, len(m.events)); events > 0 {
		blocks = append(blocks, m.pane(eventsPane, m.width, events+1))
	}
	var b strings.Builder
	for _, line := range slices.Concat(blocks...) {
		b.WriteString(strings.TrimRight(ansi.Strip(cut(line, m.width)), " "))
		b.WriteByte('\n')
	}
	b.WriteByte('\n')
	return b.String()
}
