//go:build !linux

package keep

import "time"

// Clock is a monotonic clock.
func Clock() func() time.Duration {
	start := time.Now()
	return func() time.Duration { return time.Since(start) }
}
