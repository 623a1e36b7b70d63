package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"regexp"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/tunlb/tunlb/policy"
)

// probe is what a target asks for, compiled. A probe that cannot be fails each time, and says why.
type probe struct {
	check   func(ctx context.Context) error // returns soon after ctx ends
	timeout time.Duration
	clock   Clock
}

func newProbe(t *Target) probe {
	check, err := compile(t)
	if err != nil {
		check = func(context.Context) error { return err }
	}
	return probe{check, t.Health.Timeout, realTime{}}
}

func compile(t *Target) (func(context.Context) error, error) {
	h := &t.Health
	if t.Address.Port() == 0 && h.Type != "icmp" && h.Type != "exec" {
		return nil, errors.New("no port to check: set the check's port")
	}
	switch h.Type {
	case "tcp":
		return compileTCP(t)
	case "http", "https":
		return compileHTTP(t)
	case "udp":
		return compileUDP(t)
	case "icmp":
		return func(ctx context.Context) error { return failed(ctx, "", t.Dial.Ping(ctx, t.Address.Addr())) }, nil
	case "dns":
		return compileDNS(t)
	case "exec":
		return compileExec(t)
	}
	return nil, fmt.Errorf("unknown type of check %q", h.Type)
}

// compilePattern makes nil of the empty pattern.
func compilePattern(s string) (*regexp.Regexp, error) {
	if s == "" {
		return nil, nil
	}
	return regexp.Compile(s)
}

// run probes once, and returns the cause of failure, or "".
func (p probe) run(ctx context.Context) string {
	ctx, cancel := p.clock.WithTimeout(ctx, p.timeout, silence(p.timeout))
	defer cancel()
	if err := p.check(ctx); err != nil {
		return clean(err.Error())
	}
	return ""
}

// silence is that there was no answer for so long: the cause of the end of a probe's context.
type silence time.Duration

func (s silence) Error() string { return "no answer in " + time.Duration(s).String() }

// failed says at what step of a probe an error came up; nil stays nil. If the probe's time is over, it is that
// there was no answer, however the dialer puts that.
func failed(ctx context.Context, step string, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		err = errors.New("connection closed")
	default:
		err = bare(err)
	}
	if step == "" || strings.HasPrefix(err.Error(), step+": ") {
		return err
	}
	return fmt.Errorf("%s: %w", step, err)
}

// bare strips what people who look at a server know already: its address and which system call it was.
func bare(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Err != nil {
		return bare(op.Err)
	}
	if call, ok := errors.AsType[*os.SyscallError](err); ok {
		return bare(call.Err)
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		return bare(u.Err)
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno
	}
	return err
}

// maxCause bounds a cause in runes.
const maxCause = 160

// clean makes one short line without control characters: some of it may be from a server or a program.
func clean(s string) string {
	s = strings.TrimSpace(strings.ToValidUTF8(s, "?"))
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	if r := []rune(s); len(r) > maxCause {
		s = string(r[:maxCause]) + "..."
	}
	return s
}

// open connects to the target. The connection's deadline expires as ctx ends, for whatever reason. close
// closes it.
func open(ctx context.Context, t *Target, network string) (conn net.Conn, close func(), err error) {
	conn, err = t.Dial.DialContext(ctx, network, t.Address.String())
	if err != nil {
		return nil, nil, failed(ctx, "connect", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	return conn, func() {
		stop()
		_ = conn.Close()
	}, nil
}

// reset has Close send a reset: a probe a second to 500 servers would otherwise leave 30,000 sockets in
// TIME-WAIT, and servers that hang as many in FIN-WAIT. Bytes not sent yet are lost, so not for probes that
// have not seen the answer to what they sent.
func reset(conn net.Conn) {
	if c, ok := conn.(interface{ SetLinger(sec int) error }); ok {
		_ = c.SetLinger(0)
	}
}

// statuses is what is healthy as people write it.
func statuses(ranges []policy.StatusRange) string {
	var b strings.Builder
	for i, r := range ranges {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprint(&b, r.First)
		if r.Last != r.First {
			fmt.Fprintf(&b, "-%d", r.Last)
		}
	}
	return b.String()
}
