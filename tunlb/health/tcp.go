package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
)

// maxReply is how much of an answer to a tcp or udp check is looked at.
const maxReply = 16 << 10

// compileTCP: the server accepts a connection, and, if asked, what it says matches.
func compileTCP(t *Target) (func(context.Context) error, error) {
	reply, err := compilePattern(t.Health.Reply)
	if err != nil {
		return nil, fmt.Errorf("reply: %w", err)
	}
	return func(ctx context.Context) error {
		conn, done, err := open(ctx, t, "tcp")
		if err != nil {
			return err
		}
		defer done()
		if t.Health.Send != "" {
			if _, err := io.WriteString(conn, t.Health.Send); err != nil {
				return failed(ctx, "send", err)
			}
		}
		if reply != nil {
			if err := readReply(ctx, conn, reply); err != nil {
				return err
			}
		}
		if reply != nil || t.Health.Send == "" {
			reset(conn)
		}
		return nil
	}, nil
}

// readReply reads until what has come matches. Servers may keep the connection open, so what has come is
// tried each time that there is more of it.
func readReply(ctx context.Context, conn net.Conn, want *regexp.Regexp) error {
	got := make([]byte, 0, 512)
	for {
		if len(got) == cap(got) {
			got = append(make([]byte, 0, 2*cap(got)), got...)
		}
		n, err := conn.Read(got[len(got):cap(got)])
		got = got[:len(got)+n]
		switch {
		case n > 0 && want.Match(got):
			return nil
		case len(got) >= maxReply, err != nil && len(got) > 0:
			return mismatch(got, want)
		case err == io.EOF:
			return errors.New("closed without an answer")
		case err != nil:
			return failedRead(ctx, err)
		}
	}
}

// failedRead is that nothing came: of the time being over no step needs to be told.
func failedRead(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return failed(ctx, "read", err)
}

func mismatch(got []byte, want *regexp.Regexp) error {
	return fmt.Errorf("reply %q does not match /%s/", got[:min(len(got), 40)], want)
}
