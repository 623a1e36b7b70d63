package top

import (
	"context"
	"fmt"
	"strings"

	"github.com/tunlb/tunlb/tunlb/control"
	"github.com/tunlb/tunlb/tunlb/trace"
	"github.com/tunlb/tunlb/tunlb/watch"
)

// tracer follows packets.
type tracer interface {
	Trace(ctx context.Context, o watch.Options, visit func(control.TraceLine) error) error
}

// follow visits the journeys of the packets that a filter takes, each as lines that fit a width.
func follow(ctx context.Context, d tracer, f watch.Filter, columns int, visit func(lines []string) error) error {
	printer := trace.Printer{Colour: true, Width: columns}
	lost := uint64(0)
	return d.Trace(ctx, watch.Options{Filter: f, Why: true}, func(line control.TraceLine) error {
		var text strings.Builder
		if line.Lost > lost {
			fmt.Fprintf(&text, "(%d packets lost here: they came faster than they could be shown)\n\n", line.Lost-lost)
			lost = line.Lost
		}
		j := trace.Of(&line.Record, line.Lost)
		j.Time = j.Time.Local()
		var alone trace.Pairer // shows a packet when it comes, and does not wait for its answer
		for _, row := range alone.Add(j) {
			if err := printer.Print(&text, row); err != nil {
				return err
			}
		}
		return visit(strings.Split(strings.TrimSuffix(text.String(), "\n"), "\n"))
	})
}
