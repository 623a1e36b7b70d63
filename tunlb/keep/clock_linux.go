package keep

import (
	"time"

	"golang.org/x/sys/unix"
)

// Clock is a monotonic clock on which a successor goes on counting: since the machine was started.
func Clock() func() time.Duration {
	var ts unix.Timespec
	base := time.Duration(0)
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) == nil {
		base = time.Duration(ts.Nano())
	}
	start := time.Now() // the later of the two: put to sleep in between, a process is behind the machine's clock, never ahead
	return func() time.Duration { return base + time.Since(start) }
}
