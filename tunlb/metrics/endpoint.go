package metrics

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tunlb/tunlb/tunlb/gate"
)

// Bounds of what a stranger can ask of the endpoint. More scrapes at once than inFlight are refused with 503, and more answers
// that are being read than maxAnswers. Of connections beyond maxConns, or beyond maxConnsOne of an address, the one that
// has been idle for longest ends.
const (
	inFlight      = 4
	maxAnswers    = 8
	maxConns      = 64
	maxConnsOne   = 32
	scrapeTimeout = 10 * time.Second
	stallTime     = 10 * time.Second
	readTimeout   = 5 * time.Second
	idleTimeout   = 2 * time.Minute // above Prometheus' usual interval
	maxHeader     = 16 << 10
)

// NewRegistry has tunlb's metrics, and those of Go's runtime and of the process.
func NewRegistry(source Source, o Options) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(newCollector(source, o), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// NewHandler serves the metrics at /metrics, and a page that says so at /.
func NewHandler(source Source, o Options) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(NewRegistry(source, o), promhttp.HandlerOpts{
		MaxRequestsInFlight: inFlight, Timeout: scrapeTimeout, EnableOpenMetrics: true,
	}))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintln(w, `<!doctype html><title>tunlb</title><a href="/metrics">metrics</a>`)
	})
	return mux
}

// Endpoint is a listening HTTP server of metrics. Make it with Listen; Close it after use, also without Serve.
type Endpoint struct {
	listener *gate.Gate
	server   http.Server
}

// Listen takes an address, IP:port or the absolute path of a Unix socket, without serving on it yet.
func Listen(address string, h http.Handler) (*Endpoint, error) {
	network := "tcp" // for [::] both families
	if ap, err := netip.ParseAddrPort(address); err == nil && ap.Addr().Is4() {
		network = "tcp4" // Go would open 0.0.0.0 for IPv6 as well
	}
	if strings.HasPrefix(address, "/") {
		network = "unix"
		removeStale(address)
	}
	l, err := net.Listen(network, address)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w: %s", err, remedy(address, err))
	}
	if network == "unix" {
		// Whoever gets to the path may read, as with a port of 127.0.0.1: there is nothing to be changed here.
		if err := os.Chmod(address, 0o666); err != nil {
			return nil, errors.Join(fmt.Errorf("metrics: %w", err), l.Close())
		}
	}
	return &Endpoint{
		listener: gate.New(l, gate.Options{Most: maxConns, Each: maxConnsOne, Stall: stallTime, Who: callerOf}),
		server: http.Server{
			Handler: few(h), ReadTimeout: readTimeout, ReadHeaderTimeout: readTimeout,
			WriteTimeout: 2 * scrapeTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		},
	}, nil
}

// Address is where it listens.
func (e *Endpoint) Address() string { return e.listener.Addr().String() }

// Counts is of the connections. Safe for concurrent use.
func (e *Endpoint) Counts() gate.Counts { return e.listener.Counts() }

// Serve answers until Close, which is no error.
func (e *Endpoint) Serve() error {
	refuse := func(w http.ResponseWriter, _ gate.Why) {
		http.Error(w, "too many connections", http.StatusServiceUnavailable)
	}
	if err := e.listener.Serve(&e.server, refuse); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}

// Close ends Serve and all connections. Idempotent.
func (e *Endpoint) Close() error {
	return errors.Join(e.server.Close(), e.listener.Close()) // a listener that was never served is the server's no concern
}

// callerOf counts connections by address, but those to a Unix socket together.
func callerOf(conn net.Conn) gate.Caller {
	host, _, err := net.SplitHostPort(conn.RemoteAddr().String())
	if err != nil {
		host = ""
	}
	return gate.Caller{Name: host}
}

// few bounds the answers that are in memory.
func few(h http.Handler) http.Handler {
	answers := make(chan struct{}, maxAnswers)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case answers <- struct{}{}:
			defer func() { <-answers }()
			h.ServeHTTP(w, r)
		default:
			http.Error(w, "too many scrapes at a time", http.StatusServiceUnavailable)
		}
	})
}

// remedy is what to do about an address that cannot be had.
func remedy(address string, err error) string {
	const another = "write another one for metrics: {listen: ...}"
	switch {
	case errors.Is(err, syscall.EADDRINUSE) && strings.HasPrefix(address, "/"):
		return "another program listens there, or the path is no socket; " + another
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Sprintf("another program has it, see ss -ltnp 'sport = :%s'; %s", portOf(address), another)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "it is no address of this machine, see ip addr; " + another
	case errors.Is(err, fs.ErrPermission) && !strings.HasPrefix(address, "/"):
		return "ports below 1024 need CAP_NET_BIND_SERVICE; write a port from 1024 on, 9474 for example"
	}
	return another
}

func portOf(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

// removeStale removes the socket of a program that is gone, which nobody answers on. What is wrong otherwise Listen
// reports.
func removeStale(path string) {
	if info, err := os.Lstat(path); err != nil || info.Mode()&fs.ModeSocket == 0 {
		return
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		conn.Close()
	} else if errors.Is(err, syscall.ECONNREFUSED) {
		os.Remove(path)
	}
}
