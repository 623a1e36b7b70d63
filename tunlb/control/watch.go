package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/tunlb/tunlb/tunlb/capture"
	"github.com/tunlb/tunlb/tunlb/watch"
)

// TraceLine is a line of GET /v1/trace: what happened to a packet, and how many records were lost so far since nobody
// had read those before them.
type TraceLine struct {
	watch.Record
	Lost uint64 `json:"lost"`
}

// watchMemory is what waits for one who looks on, until more is lost.
const watchMemory = 2 << 20

// trace ends when the client goes away or the daemon ends.
func (a *api) trace(w http.ResponseWriter, r *http.Request) {
	q, err := parameters(r, "filter", "why", "snap")
	o := watch.Options{Why: q.is("why", &err), Snap: int(q.number("snap", watch.DefaultSnap, &err))}
	if err == nil && (o.Snap < 1 || o.Snap > capture.MaxSnap) {
		err = fmt.Errorf("snap: want a number of bytes from 1 to %d", capture.MaxSnap)
	}
	if err == nil {
		o.Filter, err = watch.ParseFilter(q.Get("filter"))
	}
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	done, ok := a.mayWatch(w, ranked(r))
	if !ok {
		return
	}
	defer done()
	o.Memory = watchMemory
	sub := a.d.Watch(o)
	defer sub.Close()
	w.Header().Set("Content-Type", ndjson)
	sendTrace(r.Context(), sub, json.NewEncoder(w), http.NewResponseController(w).Flush)
}

// sendTrace writes records until there are no more or the client is gone. It flushes when nothing waits: with every
// record a busy trace would make a system call each. So it does at the start, by which the client learns that
// from now on packets are seen.
func sendTrace(ctx context.Context, sub *watch.Subscription, enc *json.Encoder, flush func() error) {
	now, cancel := context.WithCancel(ctx) // with it Next does not wait
	cancel()
	var line TraceLine
	for ctx.Err() == nil {
		r, ok := sub.Next(now)
		if !ok {
			if flush() != nil {
				return
			}
			if r, ok = sub.Next(ctx); !ok {
				return
			}
		}
		line.Record, line.Lost = *r, sub.Lost()
		err := enc.Encode(&line)
		sub.Release(r)
		if err != nil {
			return
		}
	}
}

// TraceStream is an answer of GET /v1/trace that is being read. For one goroutine, except Close, which has to be
// called once it is no longer read.
type TraceStream struct {
	body io.ReadCloser
	dec  *json.Decoder
}

// OpenTrace subscribes to packets' journeys: those that pass from its return on are in the stream. Of the options
// Slots is the daemon's to choose.
func (c *Client) OpenTrace(ctx context.Context, o watch.Options) (*TraceStream, error) {
	q := url.Values{}
	if filter := o.Filter.String(); filter != "" {
		q.Set("filter", filter)
	}
	if o.Why {
		q.Set("why", "1")
	}
	if o.Snap > 0 {
		q.Set("snap", strconv.Itoa(o.Snap))
	}
	body, err := c.do(ctx, http.MethodGet, "/v1/trace", q, nil)
	if err != nil {
		return nil, err
	}
	return &TraceStream{body, json.NewDecoder(body)}, nil
}

// Next waits for a packet. io.EOF is the daemon's end, ErrNoDaemon that it was killed.
func (s *TraceStream) Next() (line TraceLine, err error) {
	if err = s.dec.Decode(&line); err != nil && !errors.Is(err, io.EOF) {
		err = unread("/v1/trace", err)
	}
	return line, err
}

// Close ends the subscription. Idempotent; Next returns an error then.
func (s *TraceStream) Close() error { return s.body.Close() }

// Trace calls visit for each packet whose journey the options ask for, until ctx or the daemon ends.
func (c *Client) Trace(ctx context.Context, o watch.Options, visit func(TraceLine) error) error {
	s, err := c.OpenTrace(ctx, o)
	if err != nil {
		return err
	}
	defer s.Close()
	for {
		line, err := s.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := visit(line); err != nil {
			return err
		}
	}
}
