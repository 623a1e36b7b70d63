package tunlb

import (
	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb/flow"
)

// Connections to a server that is gone are ended at once, both ends hearing a reset: a client that waits for an
// answer would wait long otherwise. Who sends something before its turn comes is reset for that (lane.revalidate).

// A sweep looks at sweepBatch records with the lock held, and at sweepBatches batches each tick.
const (
	sweepBatch   = 1024
	sweepBatches = 16
)

// sweep is one walk over the connection table. The zero value is none.
type sweep struct {
	due    bool
	cursor uint32
}

// goneLocked says whether one of the servers has been deleted and still has connections that are to end.
func goneLocked(servers []*policy.Server) bool {
	for _, srv := range servers {
		if srv.Deleted && !srv.Keep && srv.Flows() > 0 {
			return true
		}
	}
	return false
}

// serversLocked are those of all services.
func (e *Engine) serversLocked() (servers []*policy.Server) {
	if e.services == nil {
		return nil
	}
	for _, svc := range e.services.Services() {
		servers = append(servers, svc.Servers...)
	}
	return servers
}

// sweepSome goes on with the sweep, if one is due.
func (e *Engine) sweepSome() {
	for range sweepBatches {
		resets, more := e.sweepBatch()
		for _, r := range resets {
			e.sendReset(r)
		}
		if !more {
			return
		}
	}
}

func (e *Engine) sweepBatch() (resets []reset, more bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.sweep.due {
		return nil, false
	}
	var over []*flow.Flow
	e.sweep.cursor, e.sweep.due = e.flows.Walk(e.sweep.cursor, sweepBatch, func(f *flow.Flow) {
		if srv := e.services.Server(f.Server()); srv != nil && srv.Deleted && !srv.Keep {
			over = append(over, f)
		}
	})
	for _, f := range over {
		resets = append(resets, e.resetsLocked(f)...)
		e.flows.Delete(f)
	}
	return resets, e.sweep.due
}
