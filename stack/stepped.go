package stack

import (
	"encoding/binary"
	"io"
	"math/rand/v2"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip/faketime"
)

// NewSteppedClock makes a Clock that stands still but for Advance, which runs the timers that are due before it
// returns. Safe for concurrent use; needs no closing.
func NewSteppedClock() *SteppedClock { return faketime.NewManualClock() }

// SteppedClock is gVisor's.
type SteppedClock = faketime.ManualClock

// seeded is a source of bytes that are the same for the same seed; nil for 0.
func seeded(seed uint64) io.Reader {
	if seed == 0 {
		return nil
	}
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	return &seededReader{source: rand.NewChaCha8(key)}
}

// seededReader is one source for all goroutines of a stack.
type seededReader struct {
	mu     sync.Mutex
	source *rand.ChaCha8
}

func (r *seededReader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.source.Read(p)
}
