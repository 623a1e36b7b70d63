package tunlb

import (
	"context"
	"net/netip"
	"sync"
	"time"
)

// Event is something that has happened to a service, a server or the segment, and that people want to know.
type Event struct {
	Seq     uint64         `json:"seq"` // counts from 1 up, without gaps
	Time    time.Time      `json:"time"`
	Kind    string         `json:"kind"` // up, down, drained, undrained, weight, conflict, ...
	Service string         `json:"service,omitempty"`
	Server  string         `json:"server,omitempty"`
	Address netip.AddrPort `json:"address,omitzero"`
	Cause   string         `json:"cause,omitempty"` // why, for people
}

// eventsKept is how many events are remembered for those who ask later.
const eventsKept = 1024

// journal remembers the last events and wakes those who wait for more. Safe for concurrent use.
type journal struct {
	mu    sync.Mutex
	last  uint64            // Seq of the newest
	ring  [eventsKept]Event // by Seq
	woken chan struct{}     // closed when the next event comes
}

func newJournal() *journal { return &journal{woken: make(chan struct{})} }

// add numbers an event and wakes who waits. It returns the event with its number.
func (j *journal) add(ev Event) Event {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.last++
	ev.Seq = j.last
	j.ring[ev.Seq%eventsKept] = ev
	close(j.woken)
	j.woken = make(chan struct{})
	return ev
}

// since copies those events after seq that are still known, and says what to wait for if there are none.
func (j *journal) since(seq uint64) (events []Event, woken <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	first := seq + 1
	if j.last >= eventsKept {
		first = max(first, j.last-eventsKept+1)
	}
	for ; first <= j.last; first++ {
		events = append(events, j.ring[first%eventsKept])
	}
	return events, j.woken
}

// Events calls visit for the events after seq (0: all that are remembered) until it returns false; with follow
// it waits for more until ctx ends. Events are lost to a visitor who falls more than 1024 behind: Seq shows it.
func (e *Engine) Events(ctx context.Context, seq uint64, follow bool, visit func(Event) bool) {
	for {
		events, woken := e.journal.since(seq)
		for _, ev := range events {
			if !visit(ev) {
				return
			}
			seq = ev.Seq
		}
		if len(events) > 0 {
			continue
		}
		if !follow {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-woken:
		}
	}
}
