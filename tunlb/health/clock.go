package health

import (
	"context"
	"errors"
	"time"
)

// Clock is the time that probes go by. Safe for concurrent use.
type Clock interface {
	Now() time.Time
	// WithTimeout is context.WithTimeoutCause, but that the error of the context, unlike its cause, may be
	// context.Canceled.
	WithTimeout(ctx context.Context, d time.Duration, cause error) (context.Context, context.CancelFunc)
}

// realTime is everybody's. The zero value is ready.
type realTime struct{}

func (realTime) Now() time.Time { return time.Now() }

func (realTime) WithTimeout(ctx context.Context, d time.Duration, cause error) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, cause)
}

// errPaused is the end of a pause.
var errPaused = errors.New("the pause is over")

// pause waits, and reports false if ctx ends first.
func pause(ctx context.Context, clock Clock, d time.Duration) bool {
	wait, cancel := clock.WithTimeout(ctx, d, errPaused)
	defer cancel()
	<-wait.Done()
	return ctx.Err() == nil
}
