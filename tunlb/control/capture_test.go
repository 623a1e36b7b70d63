package control

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/tunlb/tunlb/tunlb/capture"
	"github.com/tunlb/tunlb/tunlb/watch"
)

// TestCapture: options arrive, packets come as soon as they are there, either side's end is the other's.
func TestCapture(t *testing.T) {
	d := newWatched()
	path, stop := serveFor(t, d, Allow{}, zerolog.Nop())
	c := NewClient(path)
	filter, err := watch.ParseFilter(`client 198.51.100.0/24 service "web"`)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := c.Capture(ctx, CaptureOptions{Filter: filter, Side: capture.In, Snap: 100})
	if err != nil {
		t.Fatal(err)
	}
	sub := <-d.subs // Capture has returned: the subscription is there
	if o := sub.Options(); o.Filter != filter || !o.Why || o.Snap != 100 {
		t.Errorf("options: %+v", o)
	}
	// The stream is read as it comes, so that the reader's buffer hides nothing that was not flushed.
	sub.Offer(record(0))
	r, err := capture.NewReader(stream, "stream")
	if err != nil {
		t.Fatal(err)
	}
	for n := range int64(20) {
		if n > 0 {
			sub.Offer(record(uint64(n)))
		}
		p, err := r.Next()
		if err != nil || p.Time != n*1e9 || p.Port != "outer" || p.Side != capture.In || !p.Own || len(p.Data) != 100 || p.Length != 400 || !strings.Contains(p.Comment, "opened web -> rs1") {
			t.Fatalf("packet %d: %+v, %v", n, p, err)
		}
	}
	cancel()
	if ended := <-d.ends; ended != sub {
		t.Error("another subscription was closed")
	}
	if _, err := io.ReadAll(stream); !errors.Is(err, context.Canceled) {
		t.Errorf("after its end: %v", err)
	}
	stream.Close()

	// The daemon's end is a clean one, and what was lost is said in front of it.
	stream, err = c.Capture(t.Context(), CaptureOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	sub = <-d.subs
	if o := sub.Options(); o.Filter != (watch.Filter{}) || o.Snap != capture.MaxSnap {
		t.Errorf("no options: %+v", o)
	}
	sub.Offer(record(1))
	got := make(chan capture.Summary, 1)
	go func() {
		sum, err := (&capture.Files{Create: func(int) (io.WriteCloser, string, error) { return nowhere{}, "nowhere", nil }}).Copy(stream)
		if err != nil {
			t.Error(err)
		}
		got <- sum
	}()
	go stop()
	<-d.ends
	if sum := <-got; sum.Packets > 2 || sum.Lost != 0 {
		t.Errorf("%+v", sum)
	}
	stop()
}

type nowhere struct{}

func (nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (nowhere) Close() error                { return nil }

// TestCaptureLost: a client that does not read makes nobody wait. What was lost is in the file and in the trailer.
func TestCaptureLost(t *testing.T) {
	d := newWatched()
	path, stop := serveFor(t, d, Allow{}, zerolog.Nop())
	defer stop()
	h := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
	resp, err := h.Get("http://tunlb/v1/capture?side=in,out")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got := resp.Header.Get("Content-Type"); got != "application/x-pcapng" {
		t.Errorf("content type %q", got)
	}
	sub := <-d.subs
	offered := uint64(0)
	for ; sub.Lost() == 0 || offered < 50_000; offered++ { // sockets and buffers are full at some time, and then the queue
		sub.Offer(record(offered))
	}
	ended := make(chan struct{})
	go func() { // the daemon's own end: with it the answer ends as it should
		defer close(ended)
		sub.Close()
	}()
	sum, err := (&capture.Files{Create: func(int) (io.WriteCloser, string, error) { return nowhere{}, "nowhere", nil }}).Copy(resp.Body)
	<-ended
	if err != nil || sum.Lost == 0 || sum.Packets/2+sum.Lost > offered || sum.Packets == 0 {
		t.Errorf("%d offered: %+v, %v", offered, sum, err)
	}
	if trailer := resp.Trailer.Get("Tunlb-Lost"); trailer == "" || trailer == "0" {
		t.Errorf("the trailer says %q", trailer)
	}
}

// TestBadCaptures: what makes no sense is refused before anything is watched.
func TestBadCaptures(t *testing.T) {
	d := newWatched()
	ask := asker(t, d)
	for query, want := range map[string]string{
		"filter=clinet%201": "clinet", "side=both": "want in, out, or in,out", "snap=0": "from 1 to 65549", "snap=65550": "from 1 to 65549", "files=1": `parameter`, "filter=": "not empty",
	} {
		if status, body := ask("GET", "/v1/capture?"+query, ""); status != 400 || !strings.Contains(string(body), want) {
			t.Errorf("%s: %d %s, want %q", query, status, body, want)
		}
	}
	if len(d.subs) > 0 {
		t.Error("somebody watches")
	}
}

// TestCaptureOutlivesRequests: what bounds a request's time does not end a capture.
func TestCaptureOutlivesRequests(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as a request may take")
	}
	t.Parallel()
	d := newWatched()
	stream, err := NewClient(serve(t, d)).Capture(t.Context(), CaptureOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	sub := <-d.subs
	select {
	case <-d.ends:
		t.Fatal("it has ended by itself")
	case <-time.After(headerTimeout + headerTimeout/10):
	}
	sub.Offer(record(1))
	r, err := capture.NewReader(stream, "stream")
	if err != nil {
		t.Fatal(err)
	}
	if p, err := r.Next(); err != nil || p.Time != 1e9 {
		t.Errorf("%+v, %v", p, err)
	}
	sub.Close()
}

// TestWatchers: traces and captures together are no more than so many; who ends makes room.
func TestWatchers(t *testing.T) {
	d := &watched{subs: make(chan *watch.Subscription, 2*maxWatchers), ends: make(chan *watch.Subscription, 2*maxWatchers)}
	c := NewClient(serve(t, d))
	begin := [2]func() (io.Closer, error){
		func() (io.Closer, error) { return c.Capture(t.Context(), CaptureOptions{}) },
		func() (io.Closer, error) {
			return c.OpenTrace(t.Context(), watch.Options{})
		},
	}
	for n := range maxWatchers {
		stream, err := begin[n%2]()
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Close()
	}
	for _, one := range begin {
		_, err := one()
		var refused *Error
		if !errors.As(err, &refused) || refused.Status != http.StatusServiceUnavailable || !strings.Contains(refused.Message, "16 others") {
			t.Fatalf("one more: %v", err)
		}
	}
	if len(d.subs) != maxWatchers {
		t.Errorf("%d look on, want %d", len(d.subs), maxWatchers)
	}
	for _, one := range begin { // a capture ends, then a trace, and others take their places
		(<-d.subs).Close()
		for deadline := time.Now().Add(10 * time.Second); ; { // the place is free once the answer has ended, a moment after the subscription
			stream, err := one()
			if err == nil {
				defer stream.Close()
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("after one has ended: %v", err)
			}
		}
	}
}
