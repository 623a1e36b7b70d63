package stack

import (
	"fmt"
	"time"

	"github.com/rs/zerolog"
	"gvisor.dev/gvisor/pkg/log"
)

// LogNetstack sends what gVisor says of itself to logger, at level debug; otherwise it goes to standard
// error in a format of its own. gVisor has one log for the process: call it once, before the first Host.
func LogNetstack(logger zerolog.Logger) { log.SetTarget(emitter{logger}) }

type emitter struct{ zerolog.Logger }

// Emit is gVisor's log.Emitter.
func (e emitter) Emit(_ int, _ log.Level, _ time.Time, format string, args ...any) {
	if e := e.Debug(); e.Enabled() { // as a field: what it says is of many kinds, and its lines are counted as one
		e.Str("says", fmt.Sprintf(format, args...)).Msg("netstack")
	}
}
