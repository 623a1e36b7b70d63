package gate

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// door is a server behind a gate, whose clients are who names says, in the order in which they come.
type door struct {
	*Gate
	t      *testing.T
	path   string
	names  chan Caller
	asked  chan struct{} // one for each time that the gate asks for the next connection
	within chan struct{} // one for each request of /wait
	leave  chan struct{}
	broken atomic.Int64 // answers that could not be written
}

const patience = 10 * time.Second

func open(t *testing.T, o Options) *door {
	t.Helper()
	d := &door{t: t, path: filepath.Join(t.TempDir(), "s"), names: make(chan Caller), asked: make(chan struct{}, 1000), within: make(chan struct{}), leave: make(chan struct{})}
	l, err := net.Listen("unix", d.path)
	if err != nil {
		t.Fatal(err)
	}
	o.Who = func(net.Conn) Caller { return <-d.names }
	if o.Stall == 0 {
		o.Stall = patience
	}
	d.Gate = New(&asking{l, d.asked}, o)
	srv := &http.Server{ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		switch r.URL.Path {
		case "/wait":
			d.within <- struct{}{}
			<-d.leave
		case "/much":
			for b := make([]byte, 10*piece); ; {
				if _, err := w.Write(b); err != nil {
					d.broken.Add(1)
					return
				}
			}
		case "/silent":
			http.NewResponseController(w).Flush()
			<-d.leave
		}
		fmt.Fprint(w, Of(r.Context()).Caller().Name)
	})}
	ended := make(chan error, 1)
	go func() {
		ended <- d.Serve(srv, func(w http.ResponseWriter, why Why) { http.Error(w, why.String(), http.StatusServiceUnavailable) })
	}()
	t.Cleanup(func() {
		srv.Close()
		if err := <-ended; err != http.ErrServerClosed {
			t.Error(err)
		}
	})
	return d
}

// client is a connection.
type client struct {
	net.Conn
	r *bufio.Reader
	t *testing.T
}

// come connects, and returns when the gate knows.
func (d *door) come(name string, rank bool) *client {
	d.t.Helper()
	conn, err := net.Dial("unix", d.path)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	<-d.asked
	d.names <- Caller{name, rank}
	<-d.asked
	d.asked <- struct{}{} // for the next who comes
	return &client{conn, bufio.NewReader(conn), d.t}
}

// asking is a listener that tells when it is asked: what came before has been let in by then, or refused.
type asking struct {
	net.Listener
	asked chan struct{}
}

func (a *asking) Accept() (net.Conn, error) {
	a.asked <- struct{}{}
	return a.Listener.Accept()
}

func (d *door) until(what string, ok func() bool) {
	d.t.Helper()
	for deadline := time.Now().Add(patience); !ok(); {
		if time.Now().After(deadline) {
			d.t.Fatalf("not %s: %+v", what, d.Counts())
		}
		time.Sleep(time.Millisecond)
	}
}

func (c *client) send(path string) {
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
}

// answer is the status and the body, or "gone".
func (c *client) answer() string {
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return "gone"
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return fmt.Sprint(resp.StatusCode, " ", strings.TrimSpace(string(b)))
}

func (c *client) wants(path, want string) {
	c.t.Helper()
	if path != "" {
		c.send(path)
	}
	if got := c.answer(); got != want {
		c.t.Errorf("%s: %q, want %q", path, got, want)
	}
}

// TestEach: a caller's idle connections make room for a new one, the longest idle first; busy ones do not.
func TestEach(t *testing.T) {
	d := open(t, Options{Most: 100, Each: 3})
	a, b, c := d.come("x", false), d.come("x", false), d.come("x", false)
	a.wants("/", "200 x") // so b has been idle for longest
	other := d.come("y", false)
	e := d.come("x", false)
	b.wants("/", "gone")
	for _, still := range []*client{c, a, e} {
		still.wants("/", "200 x")
	}
	for _, busy := range []*client{a, c, e} {
		busy.send("/wait")
		<-d.within
	}
	f := d.come("x", false)
	f.wants("/", "503 busy")
	f.wants("/", "gone")
	other.wants("/", "200 y")
	for range 3 {
		d.leave <- struct{}{}
	}
	for _, served := range []*client{a, c, e} {
		served.wants("", "200 x")
	}
	d.until("counted", func() bool { return d.Counts().Cut["busy"] == 1 && d.Counts().Cut["idle"] == 1 && d.Counts().Open == 4 })
	for _, c := range []*client{a, c, e} { // who goes makes room as well
		c.Close()
	}
	d.until("counted", func() bool { return d.Counts().Open == 1 })
	d.come("x", false).wants("/", "200 x")
	if n := d.Counts(); n.Cut["idle"] != 1 || n.Cut["busy"] != 1 {
		t.Errorf("%+v: somebody was cut though there was room", n)
	}
}

// TestHalf: who keeps a part of a request back makes room for others, as one that asks nothing.
func TestHalf(t *testing.T) {
	const posted = "POST /wait HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"
	for _, request := range []string{"G", "GET /wait HTTP/1.1\r\nX-", posted, posted + "x", posted + "xx"} {
		d := open(t, Options{Most: 10, Each: 2})
		first := d.come("x", false)
		first.wants("/", "200 x")
		d.until("at rest", func() bool { return d.resting() == 1 })
		fmt.Fprint(first, request)
		whole := request == posted+"xx"
		if whole {
			<-d.within
		}
		d.until("heard", func() bool { return d.resting() == 0 })
		second := d.come("x", false)
		d.come("x", false).wants("/", "200 x")
		if whole {
			second.wants("", "gone")
			d.leave <- struct{}{}
			first.wants("", "200 x")
		} else {
			first.wants("", "gone")
			second.wants("/", "200 x")
		}
	}
}

// resting is how many connections have been answered and have asked nothing since.
func (d *door) resting() (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for c := range d.conns {
		if c.waiting.Load() {
			n++
		}
	}
	return n
}

// TestMost: many callers leave room for those of rank, and who has most makes room for others.
func TestMost(t *testing.T) {
	d := open(t, Options{Most: 4, Each: 3})
	single := d.come("single", false)
	greedy := []*client{d.come("greedy", false), d.come("greedy", false), d.come("greedy", false)}
	late := d.come("late", false)
	greedy[0].wants("/", "gone")
	root := d.come("root", true)
	for c, name := range map[*client]string{single: "single", greedy[1]: "greedy", greedy[2]: "greedy", late: "late", root: "root"} {
		c.wants("/", "200 "+name)
	}
	for _, c := range []*client{single, greedy[1], greedy[2], late} {
		c.send("/wait")
		<-d.within
	}
	d.come("more", false).wants("/", "503 full")
	for range 3 {
		d.come("root", true).wants("/", "200 root")
	}
	root.wants("/", "gone") // root's own bound
	close(d.leave)
	for _, c := range []*client{single, greedy[1], greedy[2], late} {
		c.answer()
	}
}

// TestRefused: those that are refused and say nothing are few as well.
func TestRefused(t *testing.T) {
	d := open(t, Options{Most: 1, Each: 1})
	busy := d.come("x", false)
	busy.send("/wait")
	<-d.within
	var refused []*client
	for range maxRefused + 5 {
		refused = append(refused, d.come("x", false))
	}
	d.until("bounded", func() bool { return d.Counts().Open == 1+maxRefused })
	refused[0].wants("/", "gone")
	refused[maxRefused].wants("/", "503 busy")
	close(d.leave)
	busy.wants("", "200 x")
}

// TestStalled: who does not read is cut, however slowly it reads; who has nothing to read is not.
func TestStalled(t *testing.T) {
	d := open(t, Options{Most: 10, Each: 10, Stall: 200 * time.Millisecond})
	still, silent := d.come("x", false), d.come("x", false)
	silent.send("/silent")
	still.send("/much")
	d.until("cut", func() bool { return d.broken.Load() == 1 })
	dribble, stop := d.come("x", false), make(chan struct{})
	dribble.send("/much")
	var wg sync.WaitGroup
	wg.Go(func() { // a byte at a time, again and again
		for b := make([]byte, 1); ; time.Sleep(10 * time.Millisecond) {
			select {
			case <-stop:
				return
			default:
				dribble.Read(b)
			}
		}
	})
	d.until("cut", func() bool { return d.broken.Load() == 2 })
	close(stop)
	wg.Wait()
	if n := d.Counts(); n.Cut["stalled"] != 2 {
		t.Errorf("%+v, want 2 stalled", n)
	}
	close(d.leave)
	silent.wants("", "200 x")

	reading := d.come("x", false)
	reading.send("/much")
	if n, err := io.CopyN(io.Discard, reading, 64<<20); err != nil {
		t.Errorf("who reads was cut after %d bytes: %v", n, err)
	}
}

// TestSlow: a request that does not come is counted, and silence between two is not.
func TestSlow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	g := New(l, Options{Most: 10, Each: 10, Stall: patience, Who: func(net.Conn) Caller { return Caller{} }})
	srv := &http.Server{ReadHeaderTimeout: 100 * time.Millisecond, ReadTimeout: 100 * time.Millisecond, IdleTimeout: 100 * time.Millisecond,
		Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })}
	ended := make(chan error, 1)
	go func() { ended <- g.Serve(srv, nil) }()
	defer func() { srv.Close(); <-ended }()
	for request, slow := range map[string]uint64{
		"":                                  1,
		"GET / HTTP/1.1\r\nHost: x\r\nX-":   1,
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n": 0,
		"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nxx": 1,
	} {
		before := g.Counts().Cut["slow"]
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(patience))
		io.WriteString(conn, request)
		if _, err := io.Copy(io.Discard, conn); err != nil {
			t.Errorf("%q: it is not closed: %v", request, err)
		}
		conn.Close()
		if n := g.Counts().Cut["slow"] - before; n != slow {
			t.Errorf("%q: %d slow, want %d", request, n, slow)
		}
	}
}

// TestReasons: the list has all that are counted, each once.
func TestReasons(t *testing.T) {
	counted := (&Gate{}).Counts().Cut
	for _, why := range Reasons() {
		delete(counted, why.String())
	}
	if len(counted) > 0 || len(Reasons()) != int(reasons) {
		t.Errorf("%v, without %v", Reasons(), counted)
	}
}
