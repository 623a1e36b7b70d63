package health

import (
	"context"
	"errors"
	"fmt"
	"syscall"
)

// compileUDP: a datagram is answered. Where nothing is to be sent it is an empty one, which many servers do
// not answer: then silence is health, and only an ICMP error is not.
func compileUDP(t *Target) (func(context.Context) error, error) {
	reply, err := compilePattern(t.Health.Reply)
	if err != nil {
		return nil, fmt.Errorf("reply: %w", err)
	}
	silenceWillDo := t.Health.Send == "" && reply == nil
	return func(ctx context.Context) error {
		err := exchange(ctx, t, []byte(t.Health.Send), func(got []byte) (bool, error) {
			if reply != nil && !reply.Match(got) {
				return true, mismatch(got, reply)
			}
			return true, nil
		})
		if _, silent := errors.AsType[silence](err); silent && silenceWillDo {
			return nil
		}
		return err
	}, nil
}

// exchange sends a datagram and hands on what comes back until that is an answer, or ctx ends. What is handed
// on is borrowed.
func exchange(ctx context.Context, t *Target, query []byte, answer func([]byte) (bool, error)) error {
	conn, done, err := open(ctx, t, "udp")
	if err != nil {
		return err
	}
	defer done()
	if _, err := conn.Write(query); err != nil {
		return failedDatagram(ctx, "send", err)
	}
	buf := make([]byte, maxReply)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return failedDatagram(ctx, "read", err)
		}
		if ok, err := answer(buf[:n]); ok {
			return err
		}
	}
}

// failedDatagram puts the kernel's "connection refused", which there is none of, as what has happened.
func failedDatagram(ctx context.Context, step string, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, syscall.ECONNREFUSED):
		return errors.New("port unreachable")
	}
	return failed(ctx, step, err)
}
