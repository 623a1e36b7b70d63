package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"

	"github.com/tunlb/tunlb/tunlb"
)

// Client asks a daemon. Safe for concurrent use; needs no closing.
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

// Status asks for the state of everything.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	return s, c.call(ctx, http.MethodGet, "/v1/status", &s)
}

// Reload has the daemon read its file again. Errors in the result mean that nothing was changed.
func (c *Client) Reload(ctx context.Context) (ReloadResult, error) {
	var r ReloadResult
	return r, c.call(ctx, http.MethodPost, "/v1/reload", &r)
}

// Conns calls visit for each connection, at most limit (-1: all) of them.
func (c *Client) Conns(ctx context.Context, limit int, visit func(tunlb.Conn) error) error {
	path := "/v1/conns"
	if limit >= 0 {
		path += fmt.Sprintf("?limit=%d", limit)
	}
	body, err := c.do(ctx, http.MethodGet, path)
	if err != nil {
		return err
	}
	defer body.Close()
	for dec := json.NewDecoder(body); ; {
		var conn tunlb.Conn
		if err := dec.Decode(&conn); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("answer of %s: %w", path, err)
		}
		if err := visit(conn); err != nil {
			return err
		}
	}
}

func (c *Client) call(ctx context.Context, method, path string, into any) error {
	body, err := c.do(ctx, method, path)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := json.NewDecoder(body).Decode(into); err != nil {
		return fmt.Errorf("answer of %s: %w", path, err)
	}
	return nil
}

// do returns the answer's body. A refused reload is an answer like any other: its body tells.
func (c *Client) do(ctx context.Context, method, path string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://tunlb"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.explain(err)
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusUnprocessableEntity:
		return resp.Body, nil
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	return nil, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, strings.TrimSpace(string(text)))
}

// explain turns a failed connection into what to do about it.
func (c *Client) explain(err error) error {
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("control socket %s: %w; ask as the user that runs tunlb", c.socket, os.ErrPermission)
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return fmt.Errorf("%w: %s: %w; start it with `tunlb run -f FILE`, or name its socket with --socket", ErrNoDaemon, c.socket, op.Err)
	}
	return err
}
