package control

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/rs/zerolog"
)

// Bounds of a request; answers may take longer, a listing of a million connections is 200 MB.
const (
	headerTimeout  = 5 * time.Second
	idleTimeout    = time.Minute
	maxHeaderBytes = 16 << 10
	maxBodyBytes   = 1 << 20
	shutdownGrace  = time.Second
)

// Serve answers on l, which is from Listen, until ctx ends, then closes it. Safe to run beside everything
// else: a slow or hostile client costs its own connection only.
func Serve(ctx context.Context, l net.Listener, d Daemon, log zerolog.Logger) error {
	g := &guard{log: log, told: map[uint32]struct{}{}}
	if l, ok := l.(*listener); ok {
		g.allow = l.allow
	}
	srv := &http.Server{
		Handler:           g.protect(newHandler(d, log)),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ConnContext:       withConn,
		// Who follows the events would otherwise hold up the end for all of the grace.
		BaseContext: func(net.Listener) context.Context { return ctx },
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
	err := srv.Serve(l)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
