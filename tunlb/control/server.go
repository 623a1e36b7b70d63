package control

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/rs/zerolog"

	"github.com/tunlb/tunlb/tunlb"
)

// Bounds of a request; answers may take longer, a listing of a million connections is 200 MB.
const (
	headerTimeout  = 5 * time.Second
	idleTimeout    = time.Minute
	maxHeaderBytes = 16 << 10
	shutdownGrace  = time.Second
)

// Serve answers on l until ctx ends, then closes it. Safe to run beside everything else: a slow or
// hostile client costs its own connection only.
func Serve(ctx context.Context, l net.Listener, d Daemon, log zerolog.Logger) error {
	srv := &http.Server{
		Handler:           Handler(d, log),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
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

// Handler is the API: docs/api.md has it by example.
func Handler(d Daemon, log zerolog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, Status{Daemon: d.Info(), Status: d.Status()})
	})
	mux.HandleFunc("GET /v1/conns", func(w http.ResponseWriter, r *http.Request) { serveConns(w, r, d) })
	mux.HandleFunc("POST /v1/reload", func(w http.ResponseWriter, r *http.Request) {
		result := d.Reload(r.Context())
		code := http.StatusOK
		if len(result.Errors) > 0 {
			code = http.StatusUnprocessableEntity
		}
		log.Info().Strs("changes", result.Changes).Strs("errors", result.Errors).Msg("reload asked for on the control socket")
		reply(w, code, result)
	})
	return mux
}

// serveConns streams one JSON object a line, so that neither side holds them all. ?limit=N ends it early.
func serveConns(w http.ResponseWriter, r *http.Request, d Daemon) {
	limit := -1
	if s := r.URL.Query().Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 {
			http.Error(w, "limit: want a number of connections, like limit=100", http.StatusBadRequest)
			return
		}
		limit = n
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc := json.NewEncoder(w)
	d.Conns(func(c tunlb.Conn) bool {
		if limit == 0 {
			return false
		}
		limit--
		return enc.Encode(c) == nil
	})
}

func reply(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	// The client is gone if this fails, and there is nobody else to tell.
	_ = json.NewEncoder(w).Encode(body)
}
