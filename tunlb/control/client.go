package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/tunlb/tunlb/tunlb"
)

// Client asks a daemon. What this refuses comes back as *Error. Safe for concurrent use; needs no closing.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient talks to the daemon at socket, or for "" to that of this network namespace.
func NewClient(socket string) *Client {
	if socket == "" {
		socket = findSocket()
	}
	return NewClientVia(socket, (&net.Dialer{}).DialContext)
}

// NewClientVia is NewClient with a way to the socket of its own, such as from another network
// namespace: abstract sockets (@name) are seen from their own namespace only.
func NewClientVia(socket string, dial func(ctx context.Context, network, address string) (net.Conn, error)) *Client {
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, "unix", socket) },
	}
	return &Client{socket: socket, http: &http.Client{Transport: transport}}
}

// Socket is where the daemon is asked.
func (c *Client) Socket() string { return c.socket }

// Status asks for the state of everything.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	return s, c.call(ctx, http.MethodGet, "/v1/status", nil, nil, &s)
}

// Reload has the daemon read its file again, or with dryRun say what that would change. Errors in the
// result mean that nothing was changed.
func (c *Client) Reload(ctx context.Context, dryRun bool) (ReloadResult, error) {
	q := url.Values{}
	if dryRun {
		q.Set("dry_run", "1")
	}
	var r ReloadResult
	return r, c.call(ctx, http.MethodPost, "/v1/reload", q, nil, &r)
}

// Order has the daemon do something to a server, and lists what has changed.
func (c *Client) Order(ctx context.Context, o tunlb.ServerOrder) ([]tunlb.Event, error) {
	body := orderBody{Service: o.Service, Server: o.Server, Do: o.Do}
	if o.Do == "weight" {
		body.Weight = &o.Weight
	}
	var r OrderResult
	return r.Events, c.call(ctx, http.MethodPost, "/v1/servers", nil, &body, &r)
}

// Conns calls visit for each connection that the filter takes, at most limit (-1: all) of them.
func (c *Client) Conns(ctx context.Context, filter tunlb.ConnFilter, limit int, visit func(Conn) error) error {
	q := encode(filter)
	if limit >= 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	return stream(ctx, c, "/v1/conns", q, visit)
}

// Kill ends a connection by its ID.
func (c *Client) Kill(ctx context.Context, id string) error {
	var r KillResult
	return c.call(ctx, http.MethodDelete, "/v1/conns", url.Values{"id": {id}}, nil, &r)
}

// KillAll ends all connections that the filter takes, which is not to be the zero value, and counts them.
func (c *Client) KillAll(ctx context.Context, filter tunlb.ConnFilter) (int, error) {
	var r KillResult
	err := c.call(ctx, http.MethodDelete, "/v1/conns", encode(filter), nil, &r)
	return r.Killed, err
}

// Events calls visit for each event after since that is remembered, and with follow for those to come
// until ctx or the daemon ends.
func (c *Client) Events(ctx context.Context, since uint64, follow bool, visit func(tunlb.Event) error) error {
	q := url.Values{}
	if since > 0 {
		q.Set("since", strconv.FormatUint(since, 10))
	}
	if follow {
		q.Set("follow", "1")
	}
	return stream(ctx, c, "/v1/events", q, visit)
}

// stream visits the lines of an answer.
func stream[T any](ctx context.Context, c *Client, path string, q url.Values, visit func(T) error) error {
	body, err := c.do(ctx, http.MethodGet, path, q, nil)
	if err != nil {
		return err
	}
	defer body.Close()
	for dec := json.NewDecoder(body); ; {
		var line T
		if err := dec.Decode(&line); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return unread(path, err)
		}
		if err := visit(line); err != nil {
			return err
		}
	}
}

func (c *Client) call(ctx context.Context, method, path string, q url.Values, send, into any) error {
	body, err := c.do(ctx, method, path, q, send)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := json.NewDecoder(body).Decode(into); err != nil {
		return unread(path, err)
	}
	return nil
}

// unread is an answer's error; that the daemon has ended says enough.
func unread(path string, err error) error {
	if errors.Is(err, ErrNoDaemon) {
		return err
	}
	return fmt.Errorf("answer of %s: %w", path, err)
}

// answer is a body whose end in the middle is told as what it is: the daemon was killed.
type answer struct {
	io.ReadCloser
	ctx context.Context // of the request: its end is no daemon's
}

func (a answer) Read(b []byte) (int, error) {
	n, err := a.ReadCloser.Read(b)
	var op *net.OpError
	if a.ctx.Err() == nil && (errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &op) && !errors.Is(err, net.ErrClosed)) {
		err = fmt.Errorf("%w any more: the daemon has ended in the middle of an answer: %w", ErrNoDaemon, err)
	}
	return n, err
}

// do returns the answer's body. A refused reload is an answer like any other: its body tells.
func (c *Client) do(ctx context.Context, method, path string, q url.Values, send any) (io.ReadCloser, error) {
	address := url.URL{Scheme: "http", Host: "tunlb", Path: path, RawQuery: q.Encode()}
	var content io.Reader
	if send != nil {
		b, err := json.Marshal(send)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, address.String(), content)
	if err != nil {
		return nil, err
	}
	var answered atomic.Bool
	req = req.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotFirstResponseByte: func() { answered.Store(true) }}))
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.explain(err, answered.Load() || ctx.Err() != nil)
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusUnprocessableEntity:
		return answer{resp.Body, ctx}, nil
	}
	defer resp.Body.Close()
	return nil, c.refused(method+" "+path, resp)
}

// refused reads what the server has against a request.
func (c *Client) refused(request string, resp *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	e := &Error{}
	if json.Unmarshal(text, e) != nil || e.Message == "" { // no tunlb, or one of another time
		e = &Error{Message: fmt.Sprintf("%s: %s: %s", request, resp.Status, strings.TrimSpace(string(text)))}
	}
	e.Status = resp.StatusCode
	if e.Status == http.StatusForbidden {
		return fmt.Errorf("control socket %s: %w: %w", c.socket, os.ErrPermission, e)
	}
	return e
}

// explain turns a failed connection into what to do about it. A daemon that is killed may still be connected to
// and then never answers: it is none any more, and it had no time to do what it was asked.
func (c *Client) explain(err error, answered bool) error {
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("control socket %s: %w; ask as the user that runs tunlb", c.socket, os.ErrPermission)
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return fmt.Errorf("%w: %s: %w; start it with `tunlb run -f FILE`, or name its socket with --socket", ErrNoDaemon, c.socket, op.Err)
	}
	if !answered { // a reset, an end, a broken pipe, or an error that net/http keeps to itself
		return fmt.Errorf("%w: %s: it has ended without an answer: %w; start it with `tunlb run -f FILE`", ErrNoDaemon, c.socket, err)
	}
	return err
}
