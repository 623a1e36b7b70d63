package control

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/tunlb/gate"
	"github.com/tunlb/tunlb/tunlb/watch"
)

// raw opens a connection to the socket, and sends what is to be sent.
func raw(t *testing.T, path, send string) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.WriteString(conn, send); err != nil {
		t.Fatal(err)
	}
	return conn
}

// status is the HTTP status of the next answer, or 0 if there is none.
func status(conn net.Conn) int {
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

// TestIdleClients: a thousand who ask nothing keep nobody out, and are bounded.
func TestIdleClients(t *testing.T) {
	path := serve(t, &daemon{})
	for range 1000 {
		raw(t, path, "")
	}
	s, err := NewClient(path).Status(t.Context())
	if err != nil || s.Control.Open > 200 || s.Control.Cut[gate.Idle.String()] < 800 {
		t.Errorf("%+v, %v: want at most 200 connections", s.Control, err)
	}
}

// TestHalfBodies: a body that does not come is an error of its own, and not of the one who sends another.
func TestHalfBodies(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as a request may take")
	}
	t.Parallel()
	d := &daemon{}
	path := serve(t, d)
	half := raw(t, path, "POST /v1/servers HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"server\"")
	loris := raw(t, path, "GET /v1/status HTTP/1.1\r\nHost: x\r\nX-A")
	c := NewClient(path)
	if _, err := c.Status(t.Context()); err != nil {
		t.Error(err)
	}
	if got := status(half); got != http.StatusRequestTimeout {
		t.Errorf("half a body: status %d, want 408", got)
	}
	if got := status(loris); got != 0 && got != http.StatusBadRequest {
		t.Errorf("half a header: status %d", got)
	}
	s, err := c.Status(t.Context())
	if err != nil || s.Control.Cut[gate.Slow.String()] != 2 || len(d.asked()) != 0 {
		t.Errorf("%+v, %v: want 2 slow ones, and nothing done", s.Control, err)
	}
}

// slowly is a daemon whose reloads and statuses take as long as they are told to.
type slowly struct {
	daemon
	entered chan struct{}
	leave   chan struct{}

	mu        sync.Mutex
	now, most int
}

func (d *slowly) Reload(context.Context, bool) ReloadResult {
	d.mu.Lock()
	d.now++
	d.most = max(d.most, d.now)
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		d.now--
		d.mu.Unlock()
	}()
	runtime.Gosched()
	return ReloadResult{}
}

func (d *slowly) Info() Info {
	if d.entered != nil {
		d.entered <- struct{}{}
		<-d.leave
	}
	return d.daemon.Info()
}

// TestReloadsInTurn: a hundred at a time are done one by one, all of them.
func TestReloadsInTurn(t *testing.T) {
	d := &slowly{}
	c := NewClient(serve(t, d))
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if r, err := c.Reload(t.Context(), false); err != nil || len(r.Errors) > 0 {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
	wg.Wait()
	if d.most != 1 {
		t.Errorf("%d reloads at a time", d.most)
	}
}

// TestAnswersInTurn: so many large answers are in memory, and no more.
func TestAnswersInTurn(t *testing.T) {
	d := &slowly{entered: make(chan struct{}), leave: make(chan struct{})}
	c := NewClient(serve(t, d))
	var wg sync.WaitGroup
	for range answersAtATime + 3 {
		wg.Go(func() {
			if _, err := c.Status(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	for range answersAtATime {
		<-d.entered
	}
	select {
	case <-d.entered:
		t.Error("one more is made")
	case <-time.After(50 * time.Millisecond): // too short a time to see it would be no fault of the others
	}
	close(d.leave)
	for range 3 {
		<-d.entered
	}
	wg.Wait()
}

// TestTurns: who waits too long is told so, and who goes away waits no more.
func TestTurns(t *testing.T) {
	only := make(turns, 1)
	done, err := only.take(t.Context(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := only.take(t.Context(), time.Millisecond); err == nil || !strings.Contains(err.Error(), "try again") {
		t.Errorf("no turn: %v", err)
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	if _, err := only.take(gone, time.Hour); err == nil {
		t.Error("who has gone got a turn")
	}
	done()
	if done, err = only.take(t.Context(), time.Minute); err != nil {
		t.Error(err)
	} else {
		done()
	}
}

// TestSlowWatcher: who opens a trace or a capture and does not read it is cut, with a reason that is counted, and until then
// costs no more than is said.
func TestSlowWatcher(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as a client may leave an answer unread")
	}
	t.Parallel()
	for _, test := range []struct {
		request string
		most    int64 // bytes of the heap
	}{
		{"/v1/trace?snap=65549", 3 * watchMemory},
		{"/v1/capture", 2 * captureMemory},
	} {
		t.Run(test.request, func(t *testing.T) {
			d := newWatched()
			d.slots = 0 // as the handler says
			path := serve(t, d)
			before := heap()
			raw(t, path, fmt.Sprintf("GET %s HTTP/1.1\r\nHost: x\r\n\r\n", test.request))
			sub := <-d.subs
			super := largest()
			peak, began := int64(0), time.Now()
			for ended := false; !ended; {
				for range 100 {
					sub.Offer(super)
				}
				select {
				case <-d.ends:
					ended = true
				case <-time.After(100 * time.Millisecond):
					peak = max(peak, heap()-before)
				}
				if time.Since(began) > 3*stallTime {
					t.Fatal("it is not cut")
				}
			}
			t.Logf("cut after %v, heap at most %.1f MiB more, %d records lost", time.Since(began).Round(time.Second), float64(peak)/(1<<20), sub.Lost())
			if peak > test.most {
				t.Errorf("it took %.1f MiB of heap, want at most %.1f", float64(peak)/(1<<20), float64(test.most)/(1<<20))
			}
			if sub.Lost() == 0 || time.Since(began) < stallTime/2 {
				t.Error("the client has been read from: this shows nothing")
			}
			s, err := NewClient(path).Status(t.Context())
			if err != nil || s.Control.Cut[gate.Stalled.String()] != 1 {
				t.Errorf("%+v, %v: want 1 stalled", s.Control, err)
			}
		})
	}
}

// largest is the record of a super-packet.
func largest() *watch.Record {
	r := record(1)
	r.Reset()
	frame := make([]byte, packet.VnetLen+packet.MaxPacket)
	r.SetIn("outer", false, frame, len(frame))
	r.AddOut("inner", false, frame, len(frame))
	return r
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestWatchersReserved: others can't take the last traces from root and the daemon's own user.
func TestWatchersReserved(t *testing.T) {
	var a api
	watch := func(ranked bool) bool {
		w := httptest.NewRecorder()
		_, ok := a.mayWatch(w, ranked)
		if !ok && w.Code != http.StatusServiceUnavailable {
			t.Errorf("status %d, want 503", w.Code)
		}
		return ok
	}
	for n := range maxWatchers - keptWatchers {
		if !watch(false) {
			t.Fatalf("%d watch, and no more may", n)
		}
	}
	if watch(false) {
		t.Error("one of others has got what is kept")
	}
	for range keptWatchers {
		if !watch(true) {
			t.Error("nothing is kept")
		}
	}
	if watch(true) {
		t.Errorf("more than %d watch", maxWatchers)
	}
}
