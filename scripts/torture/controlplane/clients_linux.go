package controlplane

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tunlb/tunlb/scripts/torture/packets"
	"github.com/tunlb/tunlb/tunlb/control"
	"github.com/tunlb/tunlb/tunlb/watch"
)

// run opens a site for a case, and closes it.
func run(ctx context.Context, binary string, attack func(s *site) error) (*packets.Result, error) {
	s, err := open(ctx, binary, nil, nil)
	if err != nil {
		return nil, err
	}
	err = attack(s)
	if err != nil {
		err = fmt.Errorf("%w; tunlb says:\n%s", err, s.log())
	}
	return &s.result, errors.Join(err, s.close())
}

func (s *site) dial() (net.Conn, error) {
	conn, err := net.DialTimeout("unix", s.socket, patience)
	if err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(time.Now().Add(patience))
}

// RequestLine has clients send requests without end, n MiB of them in all.
func RequestLine(ctx context.Context, binary string, n int) (*packets.Result, error) {
	const inParallel = 32
	heads := []string{
		"GET /",
		"GET /v1/status HTTP/1.1\r\nHost: x\r\nX-A: ",
		"POST /v1/servers HTTP/1.1\r\nHost: x\r\nContent-Length: 4294967296\r\n\r\n\"",
		"POST /v1/servers HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n\"",
		"GET /v1/status HTTP/1.1\r\nHost: x\r\nContent-Length: 4294967296\r\n\r\n",
	}
	return run(ctx, binary, func(s *site) error {
		var sent, offered, cut atomic.Int64
		const each = 4 << 30 // of a request
		err := s.endure(ctx, func(ctx context.Context) error {
			var all sync.WaitGroup
			var failed atomic.Pointer[error]
			piece := bytes.Repeat([]byte{'x'}, 64<<10)
			for worker := range inParallel {
				all.Go(func() {
					for i := worker; offered.Load() < int64(n)<<20 && ctx.Err() == nil; i++ {
						conn, err := s.dial()
						if err != nil {
							failed.Store(&err)
							return
						}
						go io.Copy(io.Discard, conn) // ends with the connection
						took, _ := io.WriteString(conn, heads[i%len(heads)])
						total := int64(took)
						for total < each {
							took, err := conn.Write(piece)
							total += int64(took)
							if err != nil {
								cut.Add(1)
								break
							}
						}
						conn.Close()
						sent.Add(total)
						offered.Add(max(total, 1<<20)) // one that is cut has offered what it could not send
					}
				})
			}
			all.Wait()
			if err := failed.Load(); err != nil {
				return *err
			}
			return nil
		})
		s.prove("requests without end", float64(cut.Load()), float64(max(n/4, 8)), "")
		s.atMost("bytes taken of each", float64(sent.Load())/float64(max(cut.Load(), 1)), 4<<20, "B")
		return err
	})
}

// IdleClients connects n times and asks nothing.
func IdleClients(ctx context.Context, binary string, n int) (*packets.Result, error) {
	return run(ctx, binary, func(s *site) error {
		var slowest time.Duration
		connected := 0
		err := s.endure(ctx, func(ctx context.Context) error {
			for range n {
				conn, err := s.dial()
				if err != nil {
					return err
				}
				defer conn.Close()
				connected++
			}
			for range 10 {
				began := time.Now()
				if _, err := s.client.Status(ctx); err != nil {
					return fmt.Errorf("the operator is kept out: %w", err)
				}
				slowest = max(slowest, time.Since(began))
			}
			return nil
		})
		if err != nil {
			return err
		}
		made, err := s.cut(ctx, "idle")
		s.prove("clients that ask nothing", float64(connected), float64(max(n, 500)), "")
		s.atLeast("of these made room", made, float64(n)/2, "")
		s.atMost("operator's slowest answer", slowest.Seconds()*1e3, longest, "ms")
		return err
	})
}

// SlowRequests has n clients, half of which send a byte of a header now and then, and half of which keep half of a body to
// themselves.
func SlowRequests(ctx context.Context, binary string, n int) (*packets.Result, error) {
	return run(ctx, binary, func(s *site) error {
		lived := make(chan time.Duration, n)
		err := s.endure(ctx, func(ctx context.Context) error {
			var all sync.WaitGroup
			for i := range n {
				conn, err := s.dial()
				if err != nil {
					return err
				}
				all.Go(func() {
					began := time.Now()
					go io.Copy(io.Discard, conn) // ends with the connection
					defer conn.Close()
					if i%2 == 0 {
						io.WriteString(conn, "POST /v1/servers HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
					} else {
						io.WriteString(conn, "GET /v1/status HTTP/1.1\r\nHost: x\r\nX-A: ")
					}
					for ctx.Err() == nil {
						if _, err := conn.Write([]byte{' '}); err != nil {
							lived <- time.Since(began)
							return
						}
						wait(ctx, 100*time.Millisecond)
					}
				})
			}
			if _, err := s.client.Status(ctx); err != nil {
				return fmt.Errorf("the operator is kept out: %w", err)
			}
			all.Wait()
			return nil
		})
		if err != nil {
			return err
		}
		close(lived)
		oldest, ended := time.Duration(0), 0
		for d := range lived {
			oldest = max(oldest, d)
			ended++
		}
		slow, err := s.cut(ctx, "slow")
		s.prove("clients that take their time", float64(n), 100, "")
		s.atLeast("of these were ended", float64(ended), float64(n), "")
		s.atLeast("of these for being slow", slow, 1, "")
		s.atMost("longest of them", oldest.Seconds(), 20, "s")
		return err
	})
}

// SlowReaders opens a trace and a capture of everything, again and again for n seconds, and reads nothing of them.
func SlowReaders(ctx context.Context, binary string, n int) (*packets.Result, error) {
	return run(ctx, binary, func(s *site) error {
		opened := 0
		err := s.endure(ctx, func(ctx context.Context) error {
			for until := time.Now().Add(time.Duration(n) * time.Second); time.Now().Before(until) && ctx.Err() == nil; opened++ {
				// The connection's own buffer is all that is taken of it.
				trace, err := s.client.OpenTrace(ctx, watch.Options{Snap: 65535})
				if err != nil {
					return err
				}
				capture, err := s.client.Capture(ctx, control.CaptureOptions{})
				if err != nil {
					return errors.Join(err, trace.Close())
				}
				stalled := func() error {
					if got, err := s.cut(ctx, "stalled"); err != nil || got < float64(2*opened+2) {
						return fmt.Errorf("%.0f stalled, %w", got, err)
					}
					return nil
				}
				err = s.until(ctx, "the end of those who do not read", stalled)
				err = errors.Join(err, trace.Close(), capture.Close())
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		status, err := s.client.Status(ctx)
		s.prove("records that nobody has read", float64(status.WatchLost), 100, "")
		s.atLeast("traces and captures cut as stalled", float64(status.Control.Cut["stalled"]), float64(max(2*opened, 2)), "")
		return err
	})
}

// said is what the log has of a message.
func said(log []byte, message string) int { return strings.Count(string(log), `"message":"`+message) }
