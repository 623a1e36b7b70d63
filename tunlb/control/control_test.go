package control

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/tunlb/tunlb/tunlb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// daemon answers from a script.
type daemon struct {
	conns  int
	reload ReloadResult
}

func (d *daemon) Info() Info { return Info{Version: "test", PID: 42, Config: "/etc/tunlb.yaml"} }
func (d *daemon) Status() tunlb.Status {
	return tunlb.Status{Services: []tunlb.ServiceStatus{{Name: "web", Listen: netip.MustParseAddrPort("[2001:db8::22]:80")}}, Drops: map[string]uint64{"land": 3}}
}

func (d *daemon) Conns(visit func(tunlb.Conn) bool) {
	for i := range d.conns {
		if !visit(tunlb.Conn{Protocol: "tcp", Client: netip.AddrPortFrom(netip.MustParseAddr("198.51.100.7"), uint16(i))}) {
			return
		}
	}
}

func (d *daemon) Reload(context.Context) ReloadResult { return d.reload }

// serve runs a server on a socket of its own until the test ends.
func serve(t *testing.T, d Daemon) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "c.sock")
	l, err := Listen(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, l, d, zerolog.Nop()) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(path); err == nil {
			t.Error("the socket is still there")
		}
	})
	return path
}

func TestCalls(t *testing.T) {
	d := &daemon{conns: 5}
	path := serve(t, d)
	c := NewClient(path)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode: %v, %v, want 0600", info.Mode(), err)
	}
	s, err := c.Status(t.Context())
	if err != nil || s.Daemon.PID != 42 || s.Services[0].Listen.String() != "[2001:db8::22]:80" || s.Drops["land"] != 3 {
		t.Errorf("status: %+v, %v", s, err)
	}
	for limit, want := range map[int]int{-1: 5, 0: 0, 3: 3, 9: 5} {
		got := 0
		err := c.Conns(t.Context(), limit, func(conn tunlb.Conn) error {
			if conn.Client.Port() != uint16(got) || conn.Source.IsValid() {
				t.Errorf("connection %d: %+v", got, conn)
			}
			got++
			return nil
		})
		if err != nil || got != want {
			t.Errorf("limit %d: %d connections, %v, want %d", limit, got, err, want)
		}
	}
	enough := errors.New("enough")
	if err := c.Conns(t.Context(), -1, func(tunlb.Conn) error { return enough }); err != enough {
		t.Errorf("a visitor's error: %v", err)
	}
	d.reload = ReloadResult{Changes: []string{"+ service web"}}
	if r, err := c.Reload(t.Context()); err != nil || len(r.Changes) != 1 {
		t.Errorf("reload: %+v, %v", r, err)
	}
	d.reload = ReloadResult{Errors: []string{"tunlb.yaml:1:1: bad"}, Invalid: true}
	if r, err := c.Reload(t.Context()); err != nil || !r.Invalid || r.Errors[0] != "tunlb.yaml:1:1: bad" {
		t.Errorf("refused reload: %+v, %v", r, err)
	}
}

// TestBadRequests: what is no call gets an answer that says so, and the server lives on.
func TestBadRequests(t *testing.T) {
	path := serve(t, &daemon{})
	h := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
	for request, want := range map[string]int{
		"GET /": 404, "GET /v1/nothing": 404, "POST /v1/status": 405, "GET /v1/reload": 405,
		"GET /v1/conns?limit=many": 400, "GET /v1/conns?limit=-1": 400,
	} {
		method, url, _ := strings.Cut(request, " ")
		req, err := http.NewRequest(method, "http://tunlb"+url, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := h.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: status %d, want %d", request, resp.StatusCode, want)
		}
	}
	// A request line without end costs the connection it is on, not the daemon's memory.
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	go io.Copy(conn, io.MultiReader(strings.NewReader("GET /"), endless{})) // ends with the connection
	if b, _ := io.ReadAll(conn); !strings.Contains(string(b), "431") {
		t.Errorf("an endless request line: %q, want status 431", b)
	}
	if _, err := NewClient(path).Status(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

func TestListen(t *testing.T) {
	path := serve(t, &daemon{})
	if _, err := Listen(path, 0o600); err == nil || !strings.Contains(err.Error(), "another tunlb") {
		t.Errorf("a socket in use: %v", err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(file, 0o600); err == nil {
		t.Error("a file was taken for a socket")
	}
	if b, _ := os.ReadFile(file); string(b) != "precious" {
		t.Error("the file was changed")
	}
	// What a killed daemon leaves: a socket that nobody listens on.
	stale := filepath.Join(dir, "stale")
	l, err := net.Listen("unix", stale)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if l, err = Listen(stale, 0o600); err != nil {
		t.Errorf("a stale socket: %v", err)
	} else {
		l.Close()
	}
	if _, err := Listen(filepath.Join(dir, "no", "such", "folder"), 0o600); err == nil {
		t.Error("no folder: no error")
	}
}

func TestNoDaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nobody")
	_, err := NewClient(path).Status(t.Context())
	if !errors.Is(err, ErrNoDaemon) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "tunlb run") {
		t.Errorf("got %v, want ErrNoDaemon with place and next command", err)
	}
}

// TestFormat pins names that programs rely on.
func TestFormat(t *testing.T) {
	b, err := json.Marshal(tunlb.Conn{Protocol: "udp", Expires: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"protocol", "state", "expires_ns", "client", "vip", "server", "in_bytes", "out_bytes"} {
		if !strings.Contains(string(b), `"`+key+`":`) {
			t.Errorf("no %s in %s", key, b)
		}
	}
}

// TestTrusted: a folder that others may write to is no place to look for a daemon.
func TestTrusted(t *testing.T) {
	dir := t.TempDir()
	if err := trusted(dir); err != nil {
		t.Errorf("our own folder: %v", err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := trusted(dir); !errors.Is(err, os.ErrPermission) {
		t.Errorf("a folder for everybody: %v, want a refusal", err)
	}
}
