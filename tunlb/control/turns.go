package control

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/tunlb/tunlb/tunlb/gate"
)

const (
	// answersAtATime bounds the answers that are in memory as a whole, twice: those for root and the daemon's own user, and
	// those for all others.
	answersAtATime = 8
	// answerTime is how long one of these may take to be read, and turnTime how long others wait for their turn.
	answerTime = 30 * time.Second
	turnTime   = 30 * time.Second
	// maxWatchers bounds the traces and captures at a time: each takes memory, and time of every packet. The last
	// keptWatchers are for root and the daemon's own user.
	maxWatchers  = 16
	keptWatchers = 4
)

// turns is as many things as may be done at a time.
type turns chan struct{}

// take waits for a turn, which done ends.
func (t turns) take(ctx context.Context, patience time.Duration) (done func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case t <- struct{}{}:
		return func() { <-t }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%d others are being served, for longer than %v: try again", cap(t), patience)
	}
}

// ranked says whether root or the daemon's own user asks.
func ranked(r *http.Request) bool { return gate.Of(r.Context()).Caller().Rank }

// byRank is the turns of those of whom a request's caller is one.
type byRank struct{ ranked, others turns }

func newByRank(n int) byRank { return byRank{make(turns, n), make(turns, n)} }

func (b byRank) of(r *http.Request) turns {
	if ranked(r) {
		return b.ranked
	}
	return b.others
}

// whole has a call wait for its turn whose answer is made in one piece before it is sent.
func (a *api) whole(serve http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		done, err := a.answers.of(r).take(r.Context(), turnTime)
		if err != nil {
			fail(w, http.StatusServiceUnavailable, err)
			return
		}
		defer done()
		control := http.NewResponseController(w)
		// Where there are no deadlines the gate's bound is left.
		_ = control.SetWriteDeadline(time.Now().Add(answerTime))
		defer func() { _ = control.SetWriteDeadline(time.Time{}) }()
		serve(w, r)
	}
}

// mayWatch answers itself if there are too many who look on already. Whoever may calls done at the end.
func (a *api) mayWatch(w http.ResponseWriter, ranked bool) (done func(), ok bool) {
	most := maxWatchers
	if !ranked {
		most -= keptWatchers
	}
	if int(a.watchers.Add(1)) <= most {
		return func() { a.watchers.Add(-1) }, true
	}
	a.watchers.Add(-1)
	fail(w, http.StatusServiceUnavailable, fmt.Errorf("%d others trace or capture already, and no more may: end one of them", most))
	return nil, false
}
