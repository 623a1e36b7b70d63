package tunlb

import (
	"testing"
	"time"
)

// TestBeat: an engine whose lock is held does not answer the watchdog.
func TestBeat(t *testing.T) {
	e := large(t, 1, 1)
	e.mu.Lock()
	answered := make(chan int)
	go func() { answered <- e.Beat() }()
	select {
	case <-answered:
		e.mu.Unlock()
		t.Fatal("it answers with its lock held")
	case <-time.After(50 * time.Millisecond):
	}
	e.mu.Unlock()
	<-answered
}
