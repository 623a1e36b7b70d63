package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb/watch"
)

// Watch of a daemon that nobody watches is over after one packet.
func (d *daemon) Watch(o watch.Options) *watch.Subscription {
	s := watch.NewSubscription(o, nil)
	s.Offer(record(1))
	s.Close()
	return s
}

// record is the n-th packet.
func record(n uint64) *watch.Record {
	r := &watch.Record{
		Seq: n, Time: time.Unix(int64(n), 0).UTC(), At: time.Duration(n), Exit: "port", Protocol: "tcp",
		Client: netip.MustParseAddrPort("198.51.100.7:40000"), VIP: netip.MustParseAddrPort("[2001:db8::22]:80"),
		Flow: 7, Opened: true, State: "SYN_RECV", Mode: "nat", Service: "web", ServerName: "rs1", Server: netip.MustParseAddrPort("192.168.0.10:8080"),
		Why: &policy.Explanation{Service: "web", Scheduler: "rr", Server: "rs1", Why: "its turn", Servers: []policy.Candidate{{Server: "rs1", Address: netip.MustParseAddrPort("192.168.0.10:8080"), Weight: 1}}},
	}
	frame := make([]byte, 10+400)
	r.SetIn("outer", false, frame, len(frame))
	r.AddOut("inner", true, frame, len(frame))
	return r
}

// watched is a daemon whose packets the test makes.
type watched struct {
	daemon
	subs  chan *watch.Subscription
	ends  chan *watch.Subscription
	slots int // of each; 0: what is asked for
}

func newWatched() *watched {
	return &watched{subs: make(chan *watch.Subscription, 1), ends: make(chan *watch.Subscription, 1), slots: 8}
}

func (d *watched) Watch(o watch.Options) *watch.Subscription {
	if d.slots > 0 {
		o.Slots = d.slots
	}
	s := watch.NewSubscription(o, func(s *watch.Subscription) { d.ends <- s })
	d.subs <- s
	return s
}

// TestTrace: options arrive, records come as they were offered, and either side's end is the other's.
func TestTrace(t *testing.T) {
	d := newWatched()
	path, stop := serveFor(t, d, Allow{}, zerolog.Nop())
	c := NewClient(path)
	filter, err := watch.ParseFilter(`client 198.51.100.0/24 service "web"`)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s, err := c.OpenTrace(ctx, watch.Options{Filter: filter, Why: true, Snap: 100})
	if err != nil {
		t.Fatal(err)
	}
	sub := <-d.subs // OpenTrace has returned: the subscription is there
	if o := sub.Options(); o.Filter != filter || !o.Why || o.Snap != 100 {
		t.Errorf("options: %+v", o)
	}
	other := record(0)
	other.Service = "dns"
	sub.Offer(other)
	for n := range uint64(20) { // one at a time: each has to come without another behind it
		want := record(n)
		sub.Offer(want)
		got, err := s.Next()
		if err != nil || got.Seq != n || got.Lost != 0 {
			t.Fatalf("record %d: %+v, %v", n, got, err)
		}
		if len(got.In.Data) != 110 || len(got.Out[0].Data) != 110 || got.In.Length != 400 || !got.Out[0].Ethernet {
			t.Fatalf("frames: %d and %d bytes of %d", len(got.In.Data), len(got.Out[0].Data), got.In.Length)
		}
		got.In, got.Out = want.In, want.Out
		if same(t, got.Record) != same(t, *want) {
			t.Fatalf("got  %+v\nwant %+v", got.Record, want)
		}
	}
	cancel()
	if ended := <-d.ends; ended != sub {
		t.Error("another subscription was closed")
	}
	if _, err := s.Next(); !errors.Is(err, context.Canceled) {
		t.Errorf("after its end: %v", err)
	}
	s.Close()

	// The daemon's end is a clean one.
	ended := make(chan error)
	go func() { ended <- c.Trace(t.Context(), watch.Options{}, func(TraceLine) error { return nil }) }()
	sub = <-d.subs
	if o := sub.Options(); o.Filter != (watch.Filter{}) || o.Why || o.Snap != watch.DefaultSnap {
		t.Errorf("no options: %+v", o)
	}
	go stop()
	<-d.ends
	if err := <-ended; err != nil {
		t.Errorf("the daemon's end: %v", err)
	}
	stop()
}

func same(t *testing.T, r watch.Record) string {
	t.Helper()
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestTraceLost: who reads too slowly learns how much it has missed; and a visitor's error ends it.
func TestTraceLost(t *testing.T) {
	d := newWatched()
	c := NewClient(serve(t, d))
	go func() {
		sub := <-d.subs
		for n := uint64(1); sub.Lost() < 100; n++ { // faster than any socket
			sub.Offer(record(n))
		}
	}()
	enough := errors.New("enough")
	var last TraceLine
	err := c.Trace(t.Context(), watch.Options{}, func(line TraceLine) error {
		if line.Seq <= last.Seq || line.Lost < last.Lost || line.Lost >= line.Seq+100 {
			return fmt.Errorf("%d lost %d after %d lost %d", line.Seq, line.Lost, last.Seq, last.Lost)
		}
		if last = line; line.Lost >= 100 {
			return enough
		}
		return nil
	})
	if err != enough {
		t.Error(err)
	}
	<-d.ends
}

// flushes counts.
type flushes struct {
	strings.Builder
	n    int
	idle func() // what happens while nothing waits
}

func (f *flushes) flush() error {
	f.n++
	f.idle()
	return nil
}

// TestTraceBatches: what waits goes out in one piece.
func TestTraceBatches(t *testing.T) {
	sub := watch.NewSubscription(watch.Options{Slots: 8}, nil)
	for n := range uint64(8) {
		sub.Offer(record(n))
	}
	out := &flushes{idle: sub.Close}
	sendTrace(t.Context(), sub, json.NewEncoder(out), out.flush)
	if lines := strings.Count(out.String(), "\n"); lines != 8 || out.n != 1 {
		t.Errorf("%d lines in %d pieces, want 8 in 1", lines, out.n)
	}
}

// TestTraceRefused: no subscription is made for a request that makes no sense.
func TestTraceRefused(t *testing.T) {
	d := newWatched()
	ask := asker(t, d)
	for query, want := range map[string]string{
		"filter=clinet%20x": `filter:1:1: \"clinet\" is no keyword; write client`,
		"snap=0":            "snap: want a number of bytes from 1 to 65549",
		"snap=65550":        "snap: want a number of bytes from 1 to 65549",
		"snap=x":            "snap: want a number",
		"why=x":             "why: want",
		"filter=":           "want one value that is not empty",
	} {
		if status, body := ask("GET", "/v1/trace?"+query, ""); status != 400 || !strings.Contains(string(body), want) {
			t.Errorf("%s: %d %s, want %s", query, status, body, want)
		}
	}
	if len(d.subs) != 0 {
		t.Error("somebody was subscribed")
	}
}

// TestTraceOutlivesRequests: the time that a request has is none for the answer.
func TestTraceOutlivesRequests(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as a request may take")
	}
	t.Parallel()
	d := newWatched()
	s, err := NewClient(serve(t, d)).OpenTrace(t.Context(), watch.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	sub := <-d.subs
	select {
	case <-d.ends:
		t.Fatal("it has ended by itself")
	case <-time.After(headerTimeout + headerTimeout/10):
	}
	sub.Offer(record(1))
	if line, err := s.Next(); err != nil || line.Seq != 1 {
		t.Errorf("%+v, %v", line, err)
	}
	sub.Close()
	if _, err := s.Next(); err != io.EOF {
		t.Errorf("after the subscription's end: %v", err)
	}
}

// TestKilled: an answer that ends in the middle is the daemon's end, whatever was asked; one that we end ourselves is not.
func TestKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	next := make(chan net.Conn)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			http.ReadRequest(bufio.NewReader(conn))
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{ \r\n")
			next <- conn
		}
	}()
	c := NewClient(path)
	for name, ask := range map[string]func(context.Context) error{
		"trace": func(ctx context.Context) error {
			return c.Trace(ctx, watch.Options{}, func(TraceLine) error { return nil })
		},
		"capture": func(ctx context.Context) error {
			stream, err := c.Capture(ctx, CaptureOptions{})
			if err == nil {
				_, err = io.Copy(io.Discard, stream)
			}
			return err
		},
		"status": func(ctx context.Context) error { _, err := c.Status(ctx); return err },
	} {
		for _, killed := range []bool{true, false} {
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- ask(ctx) }()
			conn := <-next
			if killed {
				conn.Close()
			} else {
				cancel()
			}
			if err := <-ended; err == nil || errors.Is(err, ErrNoDaemon) != killed || killed && !strings.Contains(err.Error(), "the daemon has ended") {
				t.Errorf("%s, killed: %v: %v", name, killed, err)
			}
			cancel()
			conn.Close()
		}
	}
}
