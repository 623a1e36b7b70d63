package keeper

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tunlb/tunlb/labnet/scenario"
)

// endurance bounds every wait for something that has to happen; nothing is waited out.
const endurance = 15 * time.Second

// fakeLab has no hosts: exec is what its commands do, and connections lead to this machine.
type fakeLab struct {
	scenario.Lab
	exec     func(ctx context.Context, argv []string, std scenario.Stdio) (int, error)
	impaired chan scenario.Impairment
	ended    error
}

func (f *fakeLab) Ended() error { return f.ended }

func (f *fakeLab) Exec(ctx context.Context, host string, argv []string, std scenario.Stdio) (int, error) {
	if host != "h" {
		return 0, fmt.Errorf("no host %q", host)
	}
	return f.exec(ctx, argv, std)
}

func (f *fakeLab) Dial(ctx context.Context, _, network string, to netip.AddrPort) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, network, to.String())
}

func (f *fakeLab) Impair(_, network string, i scenario.Impairment) error {
	if network != "lan" {
		return errors.New("no such network")
	}
	f.impaired <- i
	return nil
}

// start serves a fake lab in a directory of the test's.
func start(t *testing.T, lab *fakeLab) (*Client, *Server, <-chan error) {
	t.Helper()
	p := Place{Name: "test", Dir: t.TempDir()}
	l, err := net.Listen("unix", p.Socket())
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(lab, Info{Name: "test", Director: "lb", Client: "h", Hosts: []string{"h"}})
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(context.Background(), l) }()
	t.Cleanup(s.Close)
	return p.Client(), s, ended
}

func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), endurance)
	t.Cleanup(cancel)
	return ctx
}

// zeros is n bytes that are all the same, at no cost.
func zeros(n int64) io.Reader { return io.LimitReader(zero{}, n) }

type zero struct{}

func (zero) Read(b []byte) (int, error) { return len(b), nil }

// TestExecStreams: input, output and errors come through whole, whatever is in them and however much, and the code with them.
func TestExecStreams(t *testing.T) {
	c, _, _ := start(t, &fakeLab{exec: func(_ context.Context, argv []string, std scenario.Stdio) (int, error) {
		if std.In == nil {
			return 5, nil
		}
		n, err := io.Copy(io.MultiWriter(std.Out, std.Err), std.In)
		fmt.Fprintf(std.Err, "%s %d %v", argv[0], n, err)
		return 42, nil
	}})
	const much = 100 << 20
	out, errOut := sha256.New(), &counter{}
	code, err := c.Exec(bounded(t), "h", []string{"copy"}, scenario.Stdio{In: zeros(much), Out: out, Err: errOut})
	want := sha256.New()
	if _, err := io.Copy(want, zeros(much)); err != nil {
		t.Fatal(err)
	}
	if said := fmt.Sprintf("copy %d <nil>", much); code != 42 || err != nil || !bytes.Equal(out.Sum(nil), want.Sum(nil)) || errOut.n != much+int64(len(said)) || string(errOut.last) != said {
		t.Errorf("code %d, %v, %d bytes of errors ending in %q", code, err, errOut.n, errOut.last)
	}
	if code, err := c.Exec(bounded(t), "h", []string{"x"}, scenario.Stdio{}); code != 5 || err != nil {
		t.Errorf("without input: %d, %v", code, err)
	}
	if _, err := c.Exec(bounded(t), "g", []string{"x"}, scenario.Stdio{}); !errors.Is(err, ErrNotStarted) || !strings.Contains(err.Error(), `no host "g"`) {
		t.Errorf("no such host: %v", err)
	}
}

// counter counts, and keeps the last write.
type counter struct {
	n    int64
	last []byte
}

func (c *counter) Write(b []byte) (int, error) {
	c.n += int64(len(b))
	c.last = append(c.last[:0], b...)
	return len(b), nil
}

// TestExecPace: a command that does not read takes no more than a window, and hears an interrupt all the same.
func TestExecPace(t *testing.T) {
	c, _, _ := start(t, &fakeLab{exec: func(ctx context.Context, _ []string, std scenario.Stdio) (int, error) {
		fmt.Fprint(std.Out, "ready")
		<-ctx.Done()
		return 130, nil
	}})
	ctx, cancel := context.WithCancel(bounded(t))
	in := &watched{taken: make(chan int, 1<<20)}
	ended := make(chan error, 1)
	go func() {
		code, err := c.Exec(ctx, "h", []string{"x"}, scenario.Stdio{In: in})
		if code != 130 {
			err = fmt.Errorf("code %d, %w", code, err)
		}
		ended <- err
	}()
	for sum := 0; sum < window; sum += <-in.taken {
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	close(in.taken)
	rest := 0
	for n := range in.taken {
		rest += n
	}
	if rest > 64<<10 {
		t.Errorf("%d bytes were read beyond the window", rest)
	}
}

// watched tells of what is read of it, without end.
type watched struct{ taken chan int }

func (w *watched) Read(b []byte) (int, error) {
	defer func() { _ = recover() }() // read once more after the end
	w.taken <- len(b)
	return len(b), nil
}

// TestExecOutputPace: a command writes no faster than its output is taken.
func TestExecOutputPace(t *testing.T) {
	written := make(chan int64, 1)
	c, _, _ := start(t, &fakeLab{exec: func(ctx context.Context, _ []string, std scenario.Stdio) (int, error) {
		n, _ := io.Copy(std.Out, zeros(1<<30))
		written <- n
		return 0, nil
	}})
	broken := errors.New("broken")
	_, err := c.Exec(bounded(t), "h", []string{"x"}, scenario.Stdio{Out: failing{broken}})
	if !errors.Is(err, broken) {
		t.Errorf("output that nobody takes: %v", err)
	}
	if n := <-written; n > 16<<20 {
		t.Errorf("%d bytes were written to nobody", n)
	}
}

type failing struct{ error }

func (f failing) Write([]byte) (int, error) { return 0, f.error }

// TestExecGone: a command whose user goes is interrupted.
func TestExecGone(t *testing.T) {
	started, interrupted := make(chan struct{}), make(chan struct{})
	c, _, _ := start(t, &fakeLab{exec: func(ctx context.Context, _ []string, std scenario.Stdio) (int, error) {
		close(started)
		<-ctx.Done()
		close(interrupted)
		return 0, nil
	}})
	conn, err := c.dial(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := (&frames{w: conn}).sendJSON(frameRequest, request{Do: doExec, Host: "h", Argv: []string{"x"}}); err != nil {
		t.Fatal(err)
	}
	<-started
	conn.Close()
	select {
	case <-interrupted:
	case <-time.After(endurance):
		t.Error("it runs on")
	}
}

// TestExecTerminal: a terminal's size is there first, and follows.
func TestExecTerminal(t *testing.T) {
	c, _, _ := start(t, &fakeLab{exec: func(ctx context.Context, _ []string, std scenario.Stdio) (int, error) {
		if !std.Terminal {
			return 1, nil
		}
		for range 2 {
			select {
			case s := <-std.Resize:
				fmt.Fprintf(std.Out, "%dx%d ", s.Columns, s.Rows)
			case <-ctx.Done():
				return 2, nil
			}
		}
		return 0, nil
	}})
	sizes := make(chan scenario.Size, 1)
	sizes <- scenario.Size{Columns: 101, Rows: 33}
	var out bytes.Buffer
	second := writeFunc(func(b []byte) {
		if out.Len() == 0 {
			sizes <- scenario.Size{Columns: 500, Rows: 44}
		}
		out.Write(b)
	})
	code, err := c.Exec(bounded(t), "h", []string{"x"}, scenario.Stdio{Out: second, Terminal: true, Resize: sizes})
	if code != 0 || err != nil || out.String() != "101x33 500x44 " {
		t.Errorf("code %d, %v, %q", code, err, &out)
	}
}

type writeFunc func([]byte)

func (w writeFunc) Write(b []byte) (int, error) { w(b); return len(b), nil }

// TestPublish: a port leads both ways with half-closes, for several at once, and is closed with the lab.
func TestPublish(t *testing.T) {
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		for {
			conn, err := echo.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				b, _ := io.ReadAll(conn) // answers only when all is there
				_, _ = conn.Write(bytes.ToUpper(b))
			}()
		}
	}()
	c, s, _ := start(t, &fakeLab{})
	p, err := c.Publish(bounded(t), Publication{Listen: "127.0.0.1:0", To: echo.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	if p.From != "h" {
		t.Errorf("from %q, want the client", p.From)
	}
	for i := range 3 {
		conn, err := net.Dial("tcp", p.Listen)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(endurance)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "hello %d", i)
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(conn); err != nil || string(b) != fmt.Sprintf("HELLO %d", i) {
			t.Errorf("%q, %v", b, err)
		}
	}
	if info, err := c.Info(bounded(t)); err != nil || len(info.Published) != 1 || info.Published[0] != p {
		t.Errorf("info: %+v, %v", info, err)
	}
	if _, err := c.Publish(bounded(t), Publication{Listen: p.Listen, To: p.To}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a port that is taken: %v", err)
	}
	if _, err := c.Publish(bounded(t), Publication{Listen: "127.0.0.1:0", To: p.To, From: "nobody"}); err == nil {
		t.Error("nobody connects")
	}
	open, err := net.Dial("tcp", p.Listen)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	s.Close()
	if _, err := open.Read(make([]byte, 1)); err == nil {
		t.Error("an open connection outlives the lab")
	}
	if conn, err := net.Dial("tcp", p.Listen); err == nil {
		conn.Close()
		t.Error("the port outlives the lab")
	}
}

// TestRefused: a connection that the lab refuses is not left waiting.
func TestRefused(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	l.Close()
	c, _, _ := start(t, &fakeLab{})
	p, err := c.Publish(bounded(t), Publication{Listen: "127.0.0.1:0", To: nobody})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", p.Listen)
	if errors.Is(err, syscall.ECONNRESET) {
		return // at once
	}
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(endurance)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

// TestDown: whoever asks for the end hears what it has come to, after it.
func TestDown(t *testing.T) {
	for _, want := range []string{"", "the lab would not go"} {
		c, s, ended := start(t, &fakeLab{})
		down := make(chan error, 1)
		warnings := make(chan string, 1)
		go func() {
			warning, err := c.Down(bounded(t))
			warnings <- warning
			down <- err
		}()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		s.Close()
		var err error
		if want != "" {
			err = errors.New(want)
		}
		select {
		case err := <-down:
			t.Fatalf("down before it is: %v", err)
		default:
		}
		s.Farewell(err, errors.New("it was broken"))
		if got := fmt.Sprint(<-down); got != fmt.Sprint(err) {
			t.Errorf("down: %s, want %v", got, err)
		}
		if got := <-warnings; got != "it was broken" {
			t.Errorf("warning %q", got)
		}
		if _, err := c.Info(bounded(t)); !errors.Is(err, ErrNoLab) {
			t.Errorf("a lab that is down: %v", err)
		}
	}
}

// TestBroken: Info says why the director does not work.
func TestBroken(t *testing.T) {
	c, _, _ := start(t, &fakeLab{ended: errors.New("killed")})
	if info, err := c.Info(bounded(t)); err != nil || info.Broken != "killed" {
		t.Errorf("%+v, %v", info, err)
	}
}

// TestExecEnv: a command gets the environment that is sent.
func TestExecEnv(t *testing.T) {
	lab := &fakeLab{exec: func(_ context.Context, _ []string, std scenario.Stdio) (int, error) {
		fmt.Fprint(std.Out, std.Env)
		return 0, nil
	}}
	c, _, _ := start(t, lab)
	var out bytes.Buffer
	if _, err := c.Exec(bounded(t), "h", []string{"env"}, scenario.Stdio{Out: &out, Env: []string{"TERM=vt100"}}); err != nil || out.String() != "[TERM=vt100]" {
		t.Errorf("%q, %v", &out, err)
	}
}

func TestImpair(t *testing.T) {
	lab := &fakeLab{impaired: make(chan scenario.Impairment, 1)}
	c, _, _ := start(t, lab)
	want := scenario.Impairment{Delay: 3 * time.Millisecond, Loss: 0.25, Reorder: 0.5}
	if err := c.Impair(bounded(t), "h", "lan", want); err != nil {
		t.Fatal(err)
	}
	if got := <-lab.impaired; got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if err := c.Impair(bounded(t), "h", "wan", want); err == nil || err.Error() != "no such network" {
		t.Error(err)
	}
}

// TestStrangers: what is not the protocol is refused, and costs nobody else anything.
func TestStrangers(t *testing.T) {
	c, _, _ := start(t, &fakeLab{})
	for name, b := range map[string][]byte{
		"another protocol": []byte("GET / HTTP/1.0\r\n\r\n"),
		"too much":         binary.BigEndian.AppendUint32([]byte{frameRequest}, maxFrame+1),
		"no JSON":          []byte("r\x00\x00\x00\x02{]"),
		"another frame":    []byte("i\x00\x00\x00\x02{}"),
		"nothing to do":    []byte("r\x00\x00\x00\x02{}"),
	} {
		conn, err := c.dial(bounded(t))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(b); err != nil {
			t.Fatal(err)
		}
		r, err := c.reply(bounded(t), conn)
		if err == nil || r.Err == "" {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
		conn.Close()
	}
	if _, err := c.Info(bounded(t)); err != nil {
		t.Error(err)
	}
}

// TestClaim: one at a time, also by those who inherit, and what nobody holds is removed.
func TestClaim(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	p, err := At("mine")
	if err != nil {
		t.Fatal(err)
	}
	claim, err := p.Claim()
	if err != nil {
		t.Fatal(err)
	}
	if err := claim.Prepare(); err != nil {
		t.Fatal(err)
	}
	if err := claim.Note(4711); err != nil {
		t.Fatal(err)
	}
	if pid, ok := p.PID(); !ok || pid != 4711 {
		t.Errorf("process %d, %v", pid, ok)
	}
	if _, err := p.Claim(); !errors.Is(err, ErrClaimed) {
		t.Errorf("claimed twice: %v", err)
	}
	if all, err := All(); err != nil || len(all) != 1 || all[0] != p {
		t.Errorf("all: %v, %v", all, err)
	}
	if err := claim.Release(); err != nil { // its holder was killed
		t.Fatal(err)
	}
	if all, err := All(); err != nil || len(all) != 0 {
		t.Errorf("all: %v, %v", all, err)
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(p.Dir), "*")); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, err := p.Client().Info(t.Context()); !errors.Is(err, ErrNoLab) {
		t.Errorf("nobody there: %v", err)
	}
	for _, bad := range []string{"", ".", "..", "a/b", "-x", strings.Repeat("x", 33), "x.lock", "ä"} {
		if _, err := At(bad); err == nil {
			t.Errorf("%q is no name", bad)
		}
	}
}
