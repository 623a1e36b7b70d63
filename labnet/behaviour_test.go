package labnet

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// clock is one that stands still until it is told: its timers are handed to the test.
type clock chan timer

type timer struct {
	after time.Duration
	fire  chan time.Time
}

func (c clock) after(d time.Duration) <-chan time.Time {
	t := timer{d, make(chan time.Time, 1)}
	c <- t
	return t.fire
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// serve runs a program until the test ends.
func serve(t *testing.T, c io.Closer) {
	t.Helper()
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestProgramHTTP(t *testing.T) {
	timers := make(clock, 1)
	p := NewProgram(HTTP, "rs1", timers.after)
	l := listen(t)
	serve(t, p.Serve(l))
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	get := func() (int, string) {
		resp, err := client.Get("http://" + l.Addr().String() + "/x")
		if err != nil {
			t.Error(err)
			return 0, ""
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil || resp.Header.Get("Server") != "rs1" {
			t.Errorf("server %q: %v", resp.Header.Get("Server"), err)
		}
		return resp.StatusCode, string(text)
	}
	if code, text := get(); code != 200 || !strings.HasPrefix(text, "rs1 GET /x from 127.0.0.1:") {
		t.Errorf("well: %d %q", code, text)
	}
	p.SetBehaviour(Behaviour{Fail: 503})
	if code, text := get(); code != 503 {
		t.Errorf("failing: %d %q", code, text)
	}
	p.SetBehaviour(Behaviour{Slow: time.Hour})
	answered := make(chan int, 1)
	go func() { code, _ := get(); answered <- code }()
	waiting := <-timers
	if waiting.after != time.Hour {
		t.Errorf("slow by %v", waiting.after)
	}
	select {
	case <-answered:
		t.Error("answered before its time")
	default:
	}
	waiting.fire <- time.Time{}
	if code := <-answered; code != 200 {
		t.Errorf("slow: %d", code)
	}
}

// TestProgramSilent: it accepts, never answers, and ends all the same.
func TestProgramSilent(t *testing.T) {
	for _, kind := range []Kind{HTTP, TCPEcho} {
		p := NewProgram(kind, "rs1", nil)
		p.SetBehaviour(Behaviour{Silent: true})
		l := listen(t)
		running := p.Serve(l)
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		var timeout net.Error
		if n, err := c.Read(make([]byte, 1)); n != 0 || !asTimeout(err, &timeout) {
			t.Errorf("%s: %d bytes, %v", kind, n, err)
		}
		if err := running.Close(); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

func asTimeout(err error, into *net.Error) bool {
	e, ok := err.(net.Error)
	*into = e
	return ok && e.Timeout()
}

func TestProgramEcho(t *testing.T) {
	timers := make(clock, 1)
	p := NewProgram(TCPEcho, "rs1", timers.after)
	l := listen(t)
	serve(t, p.Serve(l))
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	echo := func(what string) {
		t.Helper()
		buf := make([]byte, len(what))
		if _, err := io.ReadFull(c, buf); err != nil || string(buf) != what {
			t.Errorf("%q for %q: %v", buf, what, err)
		}
	}
	io.WriteString(c, "one")
	echo("one")
	p.SetBehaviour(Behaviour{Slow: time.Minute})
	io.WriteString(c, "two")
	(<-timers).fire <- time.Time{}
	echo("two")
}

func TestProgramUDP(t *testing.T) {
	timers := make(clock, 2)
	p := NewProgram(UDPEcho, "rs1", timers.after)
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, p.ServePacket(pc))
	c, err := net.Dial("udp", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	read := func(want string) {
		t.Helper()
		buf := make([]byte, 100)
		if n, err := c.Read(buf); err != nil || string(buf[:n]) != want {
			t.Errorf("%q, want %q: %v", buf[:n], want, err)
		}
	}
	io.WriteString(c, "a")
	read("rs1 a")
	// Two that wait answer in the order in which their times are over.
	p.SetBehaviour(Behaviour{Slow: time.Second})
	io.WriteString(c, "b")
	first := <-timers
	io.WriteString(c, "c")
	second := <-timers
	second.fire <- time.Time{}
	read("rs1 c")
	first.fire <- time.Time{}
	read("rs1 b")
	// What is sent in silence is never answered; what comes later is.
	p.SetBehaviour(Behaviour{Slow: time.Second})
	io.WriteString(c, "never answered: closed before its time")
	<-timers
	p.SetBehaviour(Behaviour{})
	io.WriteString(c, "d")
	read("rs1 d")
}
