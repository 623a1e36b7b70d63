package metrics

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tunlb/tunlb/tunlb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start serves at an address, until the test ends.
func start(t *testing.T, address string, source Source) *Endpoint {
	t.Helper()
	e, err := Listen(address, NewHandler(source, options))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- e.Serve() }()
	t.Cleanup(func() {
		if err := errors.Join(e.Close(), <-served); err != nil {
			t.Error(err)
		}
	})
	return e
}

// ask sends a request to an endpoint, over a connection of its own.
func ask(t *testing.T, e *Endpoint, method, path string) (status int, body string, header http.Header) {
	t.Helper()
	network := e.listener.Addr().Network()
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, e.Address())
		},
	}}
	req, err := http.NewRequest(method, "http://metrics"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b), resp.Header
}

// TestEndpoint: what there is, and what there is not, over IPv4, IPv6 and a Unix socket.
func TestEndpoint(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0", filepath.Join(t.TempDir(), "metrics.sock")} {
		e := start(t, address, full())
		for _, test := range []struct {
			method, path string
			status       int
			has          string
		}{
			{"GET", "/metrics", 200, `tunlb_server_connections_total{server="rs1",service="web"} 3`},
			{"GET", "/metrics", 200, "go_goroutines"},
			{"HEAD", "/metrics", 200, ""},
			{"GET", "/", 200, `<a href="/metrics">`},
			{"POST", "/metrics", 405, ""},
			{"GET", "/debug/pprof/", 404, ""},
			{"GET", "/v1/status", 404, ""},
			{"GET", "/metrics/x", 404, ""},
		} {
			status, body, _ := ask(t, e, test.method, test.path)
			if status != test.status || !strings.Contains(body, test.has) {
				t.Errorf("%s: %s %s: %d, want %d with %q:\n%.300s", address, test.method, test.path, status, test.status, test.has, body)
			}
		}
	}
}

// TestListenErrors: an address that cannot be had comes with what to do.
func TestListenErrors(t *testing.T) {
	taken := start(t, "127.0.0.1:0", full()).Address()
	_, port, err := net.SplitHostPort(taken)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		address, want string
		is            error
	}{
		{taken, "ss -ltnp 'sport = :" + port + "'", syscall.EADDRINUSE},
		{"0.0.0.0:" + port, "ss -ltnp", syscall.EADDRINUSE},
		{"192.0.2.1:9474", "it is no address of this machine", syscall.EADDRNOTAVAIL},
		{"[2001:db8::1]:9474", "it is no address of this machine", syscall.EADDRNOTAVAIL},
		{file, "the path is no socket", syscall.EADDRINUSE},
		{filepath.Join(dir, "none", "x.sock"), "write another one", syscall.ENOENT},
	} {
		e, err := Listen(test.address, nil)
		if err == nil {
			e.Close()
		}
		if !errors.Is(err, test.is) || !strings.Contains(fmt.Sprint(err), test.want) || !strings.HasPrefix(fmt.Sprint(err), "metrics: ") {
			t.Errorf("%s: %v, want %v with %q", test.address, err, test.is, test.want)
		}
	}
	if got := remedy("127.0.0.1:80", syscall.EACCES); !strings.Contains(got, "ports below 1024") {
		t.Errorf("a forbidden port: %q", got)
	}
}

// TestStaleSocket: what a killed program has left is no obstacle; what a living one has is.
func TestStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metrics.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if e, err := Listen(path, nil); err == nil {
		e.Close()
		t.Fatal("took the socket of a living program")
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if status, _, _ := ask(t, start(t, path, full()), "GET", "/metrics"); status != 200 {
		t.Errorf("status %d", status)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o666 {
		t.Errorf("mode %v, %v: want 0666", info.Mode(), err)
	}
}

// blocking is a source that says nothing until it is told to.
type blocking struct {
	entered chan struct{}
	release chan struct{}
}

func (b *blocking) Status() tunlb.Status {
	b.entered <- struct{}{}
	<-b.release
	return tunlb.Status{}
}

// TestInFlight: a scrape too many is refused at once.
func TestInFlight(t *testing.T) {
	source := &blocking{make(chan struct{}), make(chan struct{})}
	e := start(t, "127.0.0.1:0", source)
	var wg sync.WaitGroup
	for range inFlight {
		wg.Go(func() {
			if status, _, _ := ask(t, e, "GET", "/metrics"); status != 200 {
				t.Errorf("status %d, want 200", status)
			}
		})
	}
	for range inFlight {
		<-source.entered
	}
	if status, _, _ := ask(t, e, "GET", "/metrics"); status != http.StatusServiceUnavailable {
		t.Errorf("status %d with %d scrapes under way, want 503", status, inFlight)
	}
	close(source.release)
	wg.Wait()
}

// TestManyConnections: whoever comes when there are as many as may be gets an answer, and one that has been idle goes.
func TestManyConnections(t *testing.T) {
	e := start(t, "127.0.0.1:0", full())
	var conns []net.Conn
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", e.Address())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		conns = append(conns, conn)
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		return conn
	}
	for range maxConnsOne + 10 {
		conn := dial()
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if line, err := bufio.NewReader(conn).ReadString('\n'); !strings.Contains(line, "200") {
			t.Fatalf("connection %d: %q, %v", len(conns), line, err)
		}
	}
	if n := e.listener.Counts(); n.Open != maxConnsOne || n.Cut["idle"] != 10 {
		t.Errorf("%+v, want %d open and 10 idle ones cut", n, maxConnsOne)
	}
	io.Copy(io.Discard, conns[0]) // ends, since it was closed
}

// TestManyAnswers: so many wait to be read, and no more.
func TestManyAnswers(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	h := few(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		entered <- struct{}{}
		<-release
	}))
	var wg sync.WaitGroup
	for range maxAnswers {
		wg.Go(func() { h.ServeHTTP(httptest.NewRecorder(), nil) })
		<-entered
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, nil)
	if w.Code != http.StatusServiceUnavailable {
		t.Errorf("status %d, want 503", w.Code)
	}
	close(release)
	wg.Wait()
}

// TestFamilies: all addresses of IPv4 are no addresses of IPv6.
func TestFamilies(t *testing.T) {
	for listen, want := range map[string]string{"0.0.0.0:0": "0.0.0.0:", "[::]:0": "[::]:", "127.0.0.1:0": "127.0.0.1:"} {
		e, err := Listen(listen, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := e.Address(); !strings.HasPrefix(got, want) {
			t.Errorf("%s listens on %s", listen, got)
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}
}
