package scenario

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// answer is what one attempt has come to.
type answer struct {
	server string     // host that answered; "" if that is not known
	client netip.Addr // whom it has seen; invalid if it does not say
	status int        // of HTTP; 0 for all else
	bytes  int64      // of HTTP's body
	took   time.Duration
	failed string // one of failures, or an error's text; "" iff there is an answer
}

// The kinds of failures.
const (
	refused     = "refused"     // there is a host, and nothing at that port
	timedOut    = "timeout"     // nobody has answered in time
	reset       = "reset"       // a connection was broken off
	closed      = "closed"      // a connection was ended before there was an answer
	unreachable = "unreachable" // there is no way, or no host
)

func failures() []string { return []string{refused, timedOut, reset, closed, unreachable} }

// failure names an error's kind. Kernels' errors are numbers; those of gVisor's stack are text only.
func failure(ctx context.Context, err error) string {
	if ctx.Err() != nil {
		return timedOut
	}
	for _, known := range []struct {
		kind string
		errs []error
		text []string
	}{
		{refused, []error{syscall.ECONNREFUSED}, []string{"refused"}},
		{reset, []error{syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNABORTED}, []string{"reset", "aborted", "broken pipe"}},
		{unreachable, []error{syscall.EHOSTUNREACH, syscall.ENETUNREACH}, []string{"no route", "unreachable"}},
		{timedOut, []error{syscall.ETIMEDOUT, context.DeadlineExceeded}, []string{"timed out", "timeout"}},
		{closed, []error{io.EOF, io.ErrUnexpectedEOF}, []string{"EOF", "closed"}},
	} {
		if slices.ContainsFunc(known.errs, func(e error) bool { return errors.Is(err, e) }) ||
			slices.ContainsFunc(known.text, func(s string) bool { return strings.Contains(err.Error(), s) }) {
			return known.kind
		}
	}
	return err.Error()
}

// attempt does something once, within a time on the lab's clock.
func (r *runner) attempt(ctx context.Context, timeout time.Duration, try func(context.Context) (answer, error)) answer {
	limited, cancel := r.lab.After(ctx, timeout)
	defer cancel()
	began := r.lab.Now()
	a, err := try(limited)
	a.took = r.lab.Now() - began
	if err != nil {
		a.failed = failure(limited, err)
	}
	return a
}

// request makes all requests, some of them at once.
func (r *runner) request(ctx context.Context, do *Request) []answer {
	answers := make([]answer, do.Count)
	next := make(chan int)
	var workers sync.WaitGroup
	for range do.Parallel {
		workers.Go(func() { // ends with next
			for i := range next {
				answers[i] = r.attempt(ctx, do.Timeout, func(ctx context.Context) (answer, error) { return r.get(ctx, do) })
			}
		})
	}
	for i := range answers {
		next <- i
	}
	close(next)
	workers.Wait()
	return answers
}

// get asks once, over a connection of its own.
func (r *runner) get(ctx context.Context, do *Request) (a answer, err error) {
	transport := &http.Transport{
		DisableKeepAlives:  true,
		DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return r.lab.Dial(ctx, do.From, "tcp", do.To)
		},
	}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, do.URL, nil)
	if err != nil {
		return a, err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	a.server, a.status = resp.Header.Get("Server"), resp.StatusCode
	var head bytes.Buffer
	if a.bytes, err = io.CopyN(&head, resp.Body, 4<<10); err == nil {
		var more int64
		more, err = io.Copy(io.Discard, resp.Body)
		a.bytes += more
	} else if errors.Is(err, io.EOF) {
		err = nil
	}
	a.client = seen(head.String())
	return a, err
}

// seen finds the client in "rs1 GET /path from 198.51.100.7:40000".
func seen(line string) netip.Addr {
	_, from, _ := strings.Cut(line, " from ")
	from, _, _ = strings.Cut(from, "\n")
	from, _, _ = strings.Cut(from, " ")
	at, _ := netip.ParseAddrPort(from)
	return at.Addr()
}

func (r *runner) udp(ctx context.Context, do *UDP) (answers []answer) {
	for i := range do.Count {
		answers = append(answers, r.attempt(ctx, do.Timeout, func(ctx context.Context) (answer, error) {
			conn, err := r.lab.Dial(ctx, do.From, "udp", do.To)
			if err != nil {
				return answer{}, err
			}
			defer conn.Close()
			said, err := exchange(ctx, conn, fmt.Appendf(nil, "datagram %d", i+1), 0)
			server, _, _ := strings.Cut(said, " ")
			return answer{server: server}, err
		}))
	}
	return answers
}

// exchange sends something and reads what comes back: one read, or for a stream as many bytes as are wanted.
func exchange(ctx context.Context, conn net.Conn, what []byte, wanted int) (string, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := conn.Write(what); err != nil {
		return "", err
	}
	buf := make([]byte, max(wanted, 64<<10))
	if wanted > 0 {
		n, err := io.ReadFull(conn, buf[:wanted])
		return string(buf[:n]), err
	}
	n, err := conn.Read(buf)
	return string(buf[:n]), err
}

func (r *runner) ping(ctx context.Context, do *Ping) (answers []answer) {
	for range do.Count {
		answers = append(answers, r.attempt(ctx, do.Timeout, func(ctx context.Context) (answer, error) {
			_, err := r.lab.Ping(ctx, do.From, do.To)
			return answer{}, err
		}))
	}
	return answers
}

// held is a connection that is kept.
type held struct {
	conn   net.Conn
	to     netip.AddrPort
	said   int
	server string // the host, once it is known
}

func (r *runner) hold(ctx context.Context, do *Hold) answer {
	return r.attempt(ctx, do.Timeout, func(ctx context.Context) (answer, error) {
		conn, err := r.lab.Dial(ctx, do.From, "tcp", do.To)
		if err != nil {
			return answer{}, err
		}
		h := &held{conn: conn, to: do.To}
		r.held[do.Name] = h
		return answer{}, h.say(ctx)
	})
}

func (r *runner) check(ctx context.Context, do *Check) answer {
	h := r.held[do.Hold]
	if h == nil {
		return answer{failed: "never opened"}
	}
	return r.attempt(ctx, do.Timeout, func(ctx context.Context) (answer, error) { return answer{}, h.say(ctx) })
}

// say wants the other end to repeat something new.
func (h *held) say(ctx context.Context) error {
	h.said++
	what := fmt.Sprintf("line %d\n", h.said)
	if back, err := exchange(ctx, h.conn, []byte(what), len(what)); err != nil {
		return err
	} else if back != what {
		return fmt.Errorf("echoed %q for %q", back, what)
	}
	return nil
}
