package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb"
)

func TestMain(m *testing.M) {
	if os.Getenv(asPeer) != "" {
		os.Exit(bePeer())
	}
	goleak.VerifyTestMain(m)
}

// daemon answers from a script.
type daemon struct {
	conns  int
	checks bool // they are tunlb's own
	reload ReloadResult
	order  error // of Order
	lvs

	mu        sync.Mutex
	calls     []string            // of Order and Kill
	filter    tunlb.ConnFilter    // the last one
	events    []tunlb.Event       // known
	more      chan tunlb.Event    // to come
	following chan struct{}       // gets one when a follower has seen all, and one when it is gone
	dead      map[string]struct{} // IDs that Kill doesn't find
}

func (d *daemon) Info() Info { return Info{Version: "test", PID: 42, Config: "/etc/tunlb.yaml"} }
func (d *daemon) Status() tunlb.Status {
	return tunlb.Status{
		Services: []tunlb.ServiceStatus{{
			Name: "web", Listen: policy.On(netip.MustParseAddrPort("[2001:db8::22]:80"), policy.TCP),
			Servers: []tunlb.ServerStatus{{Name: "rs1", Address: netip.MustParseAddrPort("[2001:db8:1::10]:8080"), Health: "up", Since: time.Unix(1, 0)}},
		}},
		Ports: []tunlb.PortStatus{{Name: "tunlb0", MTU: 1500}},
		Drops: map[string]uint64{"land": 3},
	}
}

func (d *daemon) Conns(filter tunlb.ConnFilter, visit func(tunlb.Conn) bool) {
	d.mu.Lock()
	d.filter = filter
	d.mu.Unlock()
	for i := range d.conns {
		c := conn(i)
		c.Check = d.checks
		if !visit(c) {
			return
		}
	}
}

// conn is the i-th connection; every other one is of IPv6.
func conn(i int) tunlb.Conn {
	client, vip := netip.MustParseAddr("198.51.100.7"), netip.MustParseAddrPort("203.0.113.22:80")
	if i%2 == 1 {
		client, vip = netip.MustParseAddr("2001:db8:2::7"), netip.MustParseAddrPort("[2001:db8::22]:80")
	}
	return tunlb.Conn{Protocol: "tcp", State: "ESTABLISHED", Client: netip.AddrPortFrom(client, uint16(i)), VIP: vip, Server: vip}
}

func (d *daemon) Events(ctx context.Context, since uint64, follow bool, visit func(tunlb.Event) bool) {
	for _, ev := range d.events {
		if ev.Seq > since && !visit(ev) {
			return
		}
	}
	if !follow {
		return
	}
	defer func() { d.following <- struct{}{} }()
	d.following <- struct{}{}
	for {
		select {
		case <-ctx.Done():
			return
		case ev := <-d.more:
			if !visit(ev) {
				return
			}
		}
	}
}

func (d *daemon) Order(o tunlb.ServerOrder) ([]tunlb.Event, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, fmt.Sprintf("%+v", o))
	if d.order != nil {
		return nil, d.order
	}
	return []tunlb.Event{{Seq: 1, Kind: o.Do + "ed", Service: o.Service, Server: o.Server}}, nil
}

func (d *daemon) Kill(id string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, gone := d.dead[id]; gone {
		return fmt.Errorf("%s: %w", id, tunlb.ErrNoConn)
	}
	d.calls = append(d.calls, id)
	return nil
}

func (d *daemon) Reload(context.Context, bool) ReloadResult { return d.reload }

// asked are the calls so far.
func (d *daemon) asked() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	calls := d.calls
	d.calls = nil
	return calls
}

// serve runs a server on a socket of its own until the test ends.
func serve(t *testing.T, d Daemon) (path string) {
	t.Helper()
	path, _ = serveFor(t, d, Allow{}, zerolog.Nop())
	return path
}

func serveFor(t *testing.T, d Daemon, allow Allow, log zerolog.Logger) (path string, stop func()) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "c.sock")
	l, err := Listen(path, 0o600, allow)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, l, d, log) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(path); err == nil {
			t.Error("the socket is still there")
		}
	})
	t.Cleanup(stop)
	return path, stop
}

func TestCalls(t *testing.T) {
	d := &daemon{conns: 5}
	path := serve(t, d)
	c := NewClient(path)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode: %v, %v, want 0600", info.Mode(), err)
	}
	s, err := c.Status(t.Context())
	if err != nil || s.Daemon.PID != 42 || s.Services[0].Listen[0].String() != "[2001:db8::22]:80/tcp" || s.Drops["land"] != 3 {
		t.Errorf("status: %+v, %v", s, err)
	}
	for limit, want := range map[int]int{-1: 5, 0: 0, 3: 3, 9: 5} {
		got := 0
		err := c.Conns(t.Context(), tunlb.ConnFilter{}, limit, func(line Conn) error {
			if line.Conn != conn(got) || line.ID != line.Conn.ID() {
				t.Errorf("connection %d: %+v", got, line)
			}
			got++
			return nil
		})
		if err != nil || got != want {
			t.Errorf("limit %d: %d connections, %v, want %d", limit, got, err, want)
		}
	}
	enough := errors.New("enough")
	if err := c.Conns(t.Context(), tunlb.ConnFilter{}, -1, func(Conn) error { return enough }); err != enough {
		t.Errorf("a visitor's error: %v", err)
	}
	for _, network := range []string{"198.51.100.0/24", "2001:db8:2::/64"} {
		filter := tunlb.ConnFilter{Service: "203.0.113.22:80/tcp", Server: "[2001:db8:1::10]:80", Client: netip.MustParsePrefix(network), Templates: true}
		if err := c.Conns(t.Context(), filter, -1, func(Conn) error { return nil }); err != nil || d.filter != filter {
			t.Errorf("filter: %+v, %v, want %+v", d.filter, err, filter)
		}
	}
	for _, dry := range []bool{false, true} {
		d.reload = ReloadResult{Changes: []string{"+ service web"}}
		if r, err := c.Reload(t.Context(), dry); err != nil || len(r.Changes) != 1 || r.DryRun != dry {
			t.Errorf("reload: %+v, %v", r, err)
		}
	}
	d.reload = ReloadResult{Errors: []string{"tunlb.yaml:1:1: bad"}, Invalid: true}
	if r, err := c.Reload(t.Context(), false); err != nil || !r.Invalid || r.Errors[0] != "tunlb.yaml:1:1: bad" {
		t.Errorf("refused reload: %+v, %v", r, err)
	}
}

func TestOrders(t *testing.T) {
	d := &daemon{}
	c := NewClient(serve(t, d))
	for _, order := range []tunlb.ServerOrder{
		{Server: "rs1", Do: "drain"},
		{Service: "web", Server: "[2001:db8:1::10]:80", Do: "undrain"},
		{Server: "rs1", Do: "weight", Weight: 0},
		{Server: "192.168.0.10", Do: "weight", Weight: policy.MaxWeight},
	} {
		events, err := c.Order(t.Context(), order)
		if calls := d.asked(); err != nil || len(events) != 1 || events[0].Server != order.Server || !slices.Equal(calls, []string{fmt.Sprintf("%+v", order)}) {
			t.Errorf("%+v: %v, %v, calls %q", order, events, err, calls)
		}
	}
	for engine, want := range map[error]int{
		fmt.Errorf("rs9: %w", tunlb.ErrNoServer): 404, fmt.Errorf("nothing: %w", tunlb.ErrNoService): 404, errors.New("several servers have that name"): 409,
	} {
		d.order = engine
		var refused *Error
		if _, err := c.Order(t.Context(), tunlb.ServerOrder{Server: "rs9", Do: "drain"}); !errors.As(err, &refused) || refused.Status != want || refused.Message != engine.Error() {
			t.Errorf("the engine says %v: %+v, want status %d", engine, err, want)
		}
	}
}

// TestKill: by ID, by filter, and what has ended by itself meanwhile is nobody's error.
func TestKill(t *testing.T) {
	d := &daemon{conns: 3, dead: map[string]struct{}{conn(1).ID(): {}}}
	c := NewClient(serve(t, d))
	if err := c.Kill(t.Context(), conn(0).ID()); err != nil || !slices.Equal(d.asked(), []string{conn(0).ID()}) {
		t.Errorf("kill one: %v", err)
	}
	var refused *Error
	if err := c.Kill(t.Context(), conn(1).ID()); !errors.As(err, &refused) || refused.Status != 404 {
		t.Errorf("kill what is gone: %v", err)
	}
	n, err := c.KillAll(t.Context(), tunlb.ConnFilter{Server: "rs1"})
	if calls := d.asked(); err != nil || n != 2 || !slices.Equal(calls, []string{conn(0).ID(), conn(2).ID()}) || d.filter.Server != "rs1" {
		t.Errorf("kill a server's: %d, %v, calls %q, filter %+v", n, err, calls, d.filter)
	}
	// A forgotten filter is no filter that takes all.
	if n, err := c.KillAll(t.Context(), tunlb.ConnFilter{}); !errors.As(err, &refused) || refused.Status != 400 || n != 0 || len(d.asked()) != 0 {
		t.Errorf("kill everything: %d, %v", n, err)
	}
}

// TestKillChecks: what tunlb asks its servers by is nobody's to end by a filter.
func TestKillChecks(t *testing.T) {
	d := &daemon{conns: 3, checks: true}
	if n, err := NewClient(serve(t, d)).KillAll(t.Context(), tunlb.ConnFilter{Server: "rs1"}); err != nil || n != 0 || len(d.asked()) != 0 {
		t.Errorf("%d were killed, %v", n, err)
	}
}

// TestEvents: those that are remembered, those that come, and the end from either side.
func TestEvents(t *testing.T) {
	d := &daemon{
		events:    []tunlb.Event{{Seq: 1, Kind: "up"}, {Seq: 2, Kind: "down", Cause: "connection refused"}},
		more:      make(chan tunlb.Event),
		following: make(chan struct{}),
	}
	path, stop := serveFor(t, d, Allow{}, zerolog.Nop())
	c := NewClient(path)
	var got []uint64
	collect := func(ev tunlb.Event) error { got = append(got, ev.Seq); return nil }
	if err := c.Events(t.Context(), 0, false, collect); err != nil || !slices.Equal(got, []uint64{1, 2}) {
		t.Errorf("all: %v, %v", got, err)
	}
	got = nil
	if err := c.Events(t.Context(), 1, false, collect); err != nil || !slices.Equal(got, []uint64{2}) {
		t.Errorf("since 1: %v, %v", got, err)
	}

	// An event is seen when it happens, and the client's end ends the server's side of it.
	ctx, cancel := context.WithCancel(t.Context())
	seen, ended := make(chan uint64), make(chan error)
	follow := func() {
		ended <- c.Events(ctx, 2, true, func(ev tunlb.Event) error { seen <- ev.Seq; return nil })
	}
	go follow()
	<-d.following
	for seq := range uint64(3) {
		d.more <- tunlb.Event{Seq: seq}
		if s := <-seen; s != seq {
			t.Errorf("got event %d, want %d", s, seq)
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("a client that goes away: %v", err)
	}
	<-d.following

	// The daemon's end is a clean one for who follows, and waits for nobody.
	ctx = t.Context()
	go follow()
	<-d.following
	begun := time.Now()
	go stop()
	<-d.following
	if err := <-ended; err != nil {
		t.Errorf("the daemon ends: %v", err)
	}
	stop()
	if took := time.Since(begun); took >= shutdownGrace {
		t.Errorf("the end took %v: it has waited for a follower", took)
	}
}

// TestBadRequests: what is no call gets an answer that says so, and the server lives on.
func TestBadRequests(t *testing.T) {
	d := &daemon{conns: 3}
	path := serve(t, d)
	h := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
	for _, test := range []struct {
		request string // method, URL, body
		want    int
		says    string
	}{
		{"GET /", 404, "docs/api.md"},
		{"GET /v1/nothing", 404, "/v1/nothing"},
		{"GET /v1/status/", 404, ""},
		{"POST /v1/status", 405, "GET does"},
		{"GET /v1/reload", 405, "POST does"},
		{"PUT /v1/conns", 405, "DELETE or GET does"},
		{"GET /v1/status?verbose=1", 400, `"verbose": there is none`},
		{"GET /v1/conns?limit=many", 400, "limit"},
		{"GET /v1/conns?limit=-1", 400, "limit"},
		{"GET /v1/conns?colour=red", 400, "want service, server, client, templates, limit"},
		{"GET /v1/conns?client=198.51.100.7/33", 400, "network"},
		{"GET /v1/conns?client=2001:db8::/129", 400, "network"},
		{"GET /v1/conns?client=fe80::1%25eth0", 400, "network"},
		{"GET /v1/conns?client=", 400, "not empty"},
		{"GET /v1/conns?server=a&server=b", 400, "one value"},
		{"GET /v1/conns?templates=perhaps", 400, "templates=1"},
		{"GET /v1/conns?%zz", 400, "parameters"},
		{"DELETE /v1/conns", 400, "which?"},
		{"DELETE /v1/conns?templates=1", 400, "which?"},
		{"DELETE /v1/conns?server=", 400, "not empty"},
		{"DELETE /v1/conns?id=x&server=rs1", 400, "one connection"},
		{"GET /v1/events?since=-1", 400, "since"},
		{"GET /v1/events?follow=yes", 400, "follow=1"},
		{"POST /v1/reload?dry_run=maybe", 400, "dry_run=1"},
		{"POST /v1/servers", 400, "body"},
		{"POST /v1/servers []", 400, "body"},
		{`POST /v1/servers {"server":"rs1","do":"drain"}{}`, 400, "more than one"},
		{`POST /v1/servers {"server":"rs1","do":"drain","force":true}`, 400, "force"},
		{`POST /v1/servers {"do":"drain"}`, 400, "server"},
		{`POST /v1/servers {"server":"rs1","do":"stop"}`, 400, "want drain, undrain or weight"},
		{`POST /v1/servers {"server":"rs1","do":"weight"}`, 400, "weight: want"},
		{`POST /v1/servers {"server":"rs1","do":"weight","weight":-1}`, 400, "weight: want"},
		{`POST /v1/servers {"server":"rs1","do":"weight","weight":2147483648}`, 400, "weight: want"},
		{`POST /v1/servers {"server":"rs1","do":"drain","weight":1}`, 400, "goes with"},
		{`POST /v1/servers {"server":"` + strings.Repeat("x", maxBodyBytes) + `"}`, 413, "longer"},
	} {
		method, rest, _ := strings.Cut(test.request, " ")
		url, body, _ := strings.Cut(rest, " ")
		req, err := http.NewRequest(method, "http://tunlb"+url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := h.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		var e Error
		if err := json.Unmarshal(text, &e); err != nil || resp.StatusCode != test.want || !strings.Contains(e.Message, test.says) || resp.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%.80s: status %d, %s, want %d, %q", test.request, resp.StatusCode, text, test.want, test.says)
		}
	}
	if calls := d.asked(); len(calls) > 0 {
		t.Errorf("something was done: %q", calls)
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
	if _, err := Listen(path, 0o600, Allow{}); err == nil || !strings.Contains(err.Error(), "another tunlb") {
		t.Errorf("a socket in use: %v", err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(file, 0o600, Allow{}); err == nil {
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
	if l, err = Listen(stale, 0o600, Allow{}); err != nil {
		t.Errorf("a stale socket: %v", err)
	} else {
		l.Close()
	}
	if _, err := Listen(filepath.Join(dir, "no", "such", "folder"), 0o600, Allow{}); err == nil {
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

// TestDying: a daemon that is killed while it is asked is none; one that has begun to answer is another matter.
func TestDying(t *testing.T) {
	for name, test := range map[string]struct {
		answer string
		none   bool
	}{
		"reset":   {"", true},
		"cut off": {"HTTP/1.1 2", false},
	} {
		path := filepath.Join(t.TempDir(), "s")
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan struct{})
		go func() {
			defer close(served)
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if test.answer != "" {
				conn.Read(make([]byte, 1))
				io.WriteString(conn, test.answer)
			}
			conn.Close() // with something unread: a reset
		}()
		_, err = NewClient(path).Status(t.Context())
		if err == nil || errors.Is(err, ErrNoDaemon) != test.none {
			t.Errorf("%s: %v, want ErrNoDaemon: %v", name, err, test.none)
		}
		<-served
		l.Close()
	}
}

// TestStale: only what nobody else can have put there is removed.
func TestStale(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	t.Setenv("TMPDIR", t.TempDir())
	place := DefaultSockets()[1]
	if err := os.MkdirAll(filepath.Dir(place), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", place)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	for _, mode := range []os.FileMode{0o777, 0o755} {
		if err := os.Chmod(filepath.Dir(place), mode); err != nil {
			t.Fatal(err)
		}
		removed, err := RemoveStale("")
		if err != nil || slices.Contains(removed, place) != (mode == 0o755) {
			t.Errorf("folder with mode %o: removed %q, %v", mode, removed, err)
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
	if os.Getuid() != 0 {
		return
	}
	// What root has given to somebody, as a folder and by a link, in a folder of its own and in one that others may write to.
	for mode, want := range map[os.FileMode]bool{0o755: true, 0o777: false} {
		above := t.TempDir()
		given, link := filepath.Join(above, "given"), filepath.Join(above, "link")
		if err := errors.Join(os.Mkdir(given, 0o755), os.Chown(given, 61234, 61234), os.Symlink(given, link), os.Chmod(above, mode)); err != nil {
			t.Fatal(err)
		}
		for _, dir := range []string{given, link} {
			if err := trusted(dir); (err == nil) != want {
				t.Errorf("%s, in a folder of mode %o: %v", filepath.Base(dir), mode, err)
			}
		}
		if err := os.Chmod(given, 0o777); err != nil {
			t.Fatal(err)
		}
		if trusted(given) == nil || trusted(link) == nil {
			t.Errorf("for everybody to write, in a folder of mode %o: trusted", mode)
		}
	}
}

func (d *daemon) Explain(q tunlb.Question) (tunlb.Explanation, error) {
	if q.VIP != netip.MustParseAddrPort("203.0.113.22:80") {
		return tunlb.Explanation{}, fmt.Errorf("%w: nothing listens on %s/%s", tunlb.ErrNoService, q.VIP, q.Protocol)
	}
	x := tunlb.Explanation{Mode: "nat", Flow: &tunlb.Conn{Protocol: q.Protocol, Client: q.Client, VIP: q.VIP}}
	x.Servers = []policy.Candidate{{Server: "rs1"}, {Server: "rs2", Excluded: strings.Join(q.Without, " ")}}
	return x, nil
}
