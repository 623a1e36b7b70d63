package control

import (
	"context"
	"errors"
	stdlog "log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/tunlb/tunlb/tunlb/gate"
)

// Bounds of a request; answers may take longer, a listing of a million connections is 200 MB. What is being read of an answer
// must go on: 64 KiB in stallTime.
const (
	headerTimeout  = 5 * time.Second
	idleTimeout    = time.Minute
	stallTime      = 10 * time.Second
	maxHeaderBytes = 16 << 10
	maxBodyBytes   = 64 << 10 // whoever decodes JSON has a few times as much in memory
	shutdownGrace  = time.Second
)

// Bounds of connections. Root and the daemon's own user have theirs for themselves; whoever wants one more than there may be
// gets the place of one that asks nothing.
const (
	maxConns    = 256 // of all others
	maxConnsOne = 128 // of one user
)

// Serve answers on l, which is from Listen, until ctx ends, then closes it. Safe to run beside everything
// else: a slow or hostile client costs its own connection only.
func Serve(ctx context.Context, l net.Listener, d Daemon, log zerolog.Logger) error {
	g := &guard{log: log, told: map[uint32]struct{}{}}
	if l, ok := l.(*listener); ok {
		g.allow = l.allow
	}
	door := gate.New(l, gate.Options{Most: maxConns, Each: maxConnsOne, Stall: stallTime, Who: callerOf})
	if l, ok := l.(*listener); ok {
		l.door.Store(door)
	}
	srv := &http.Server{
		Handler:           g.protect(newHandler(d, log, door.Counts)),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		// Who follows the events would otherwise hold up the end for all of the grace.
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    stdlog.New(complaints{log}, "", 0),
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			srv.Close()
		}
	})
	err := door.Serve(srv, refuse)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Counts is of the connections to a listener of this package, since Serve. Safe for concurrent use.
func Counts(l net.Listener) gate.Counts {
	if l, ok := l.(*listener); ok {
		if door := l.door.Load(); door != nil {
			return door.Counts()
		}
	}
	return gate.Counts{Cut: map[string]uint64{}}
}

// callerOf says whose a connection is. Who can't be told is nobody in particular.
func callerOf(conn net.Conn) gate.Caller {
	if !checksPeers { // the socket's folder has let them in: one of our own
		return gate.Caller{Rank: true}
	}
	p, err := peerOf(conn)
	if err != nil {
		return gate.Caller{}
	}
	return gate.Caller{Name: strconv.FormatUint(uint64(p.uid), 10), Rank: p.uid == 0 || int(p.uid) == os.Geteuid()}
}

// refuse tells who comes when there are too many already.
func refuse(w http.ResponseWriter, why gate.Why) {
	err := errors.New("there are too many connections to the control socket already; try again")
	if why == gate.Busy {
		err = errors.New("you have too many requests on the control socket already: end some of them")
	}
	fail(w, http.StatusServiceUnavailable, err)
}

// complaints are net/http's, of a handler that panics or of descriptors that have run out.
type complaints struct{ log zerolog.Logger }

func (c complaints) Write(b []byte) (int, error) {
	c.log.Error().Str("says", strings.TrimSpace(string(b))).Msg("control socket")
	return len(b), nil
}
