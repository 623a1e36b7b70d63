package health

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/tunlb/tunlb/policy"
)

const (
	maxHeader = 64 << 10 // of an answer, interim ones among it
	maxBody   = 64 << 10 // that is matched
	// maxWire bounds the bytes that maxBody may come in: a chunk of one byte takes six.
	maxWire = 1 << 20
)

var defaultStatuses = []policy.StatusRange{{First: 200, Last: 399}}

// httpCheck asks for a page. It speaks HTTP/1.1 on a connection of its own instead of going through an
// http.Transport: nothing is pooled, followed or retried, no goroutine outlives the probe, and the connection's
// deadline bounds all of it.
type httpCheck struct {
	target   *Target
	tls      *tls.Config // nil: http
	request  *http.Request
	statuses []policy.StatusRange
	body     *regexp.Regexp // nil: not read
}

func compileHTTP(t *Target) (func(context.Context) error, error) {
	h := &t.Health
	path := h.Path
	if path == "" {
		path = "/"
	}
	to, err := url.ParseRequestURI(path)
	if err != nil || !strings.HasPrefix(path, "/") {
		return nil, fmt.Errorf("path %q: want one like /healthz", path)
	}
	body, err := compilePattern(h.Body)
	if err != nil {
		return nil, fmt.Errorf("body: %w", err)
	}
	c := &httpCheck{target: t, statuses: h.Statuses, body: body}
	if len(c.statuses) == 0 {
		c.statuses = defaultStatuses
	}
	host, name := h.Host, h.Host
	if host == "" {
		host, name = t.Address.String(), t.Address.Addr().WithZone("").String()
	} else if bare, _, err := net.SplitHostPort(host); err == nil {
		name = bare
	}
	if h.Type == "https" {
		c.tls = &tls.Config{ServerName: name, InsecureSkipVerify: h.Insecure, NextProtos: []string{"http/1.1"}}
	}
	c.request = &http.Request{
		Method: http.MethodGet, URL: to, Host: host, Close: true,
		Header: http.Header{"User-Agent": {"tunlb"}, "Accept": {"*/*"}},
	}
	return c.run, nil
}

func (c *httpCheck) run(ctx context.Context) error {
	conn, done, err := open(ctx, c.target, "tcp")
	if err != nil {
		return err
	}
	defer done()
	reset(conn) // nothing is worth being sent any more when this returns
	if c.tls != nil {
		secured := tls.Client(conn, c.tls)
		if err := secured.Handshake(); err != nil {
			return failed(ctx, "tls", err)
		}
		conn = secured
	}
	if err := c.request.Write(conn); err != nil {
		return failed(ctx, "send", err)
	}
	return c.read(ctx, conn)
}

// read judges the answer. Where no body is wanted the status is enough, and the rest is not waited for.
func (c *httpCheck) read(ctx context.Context, conn io.Reader) error {
	wire := &io.LimitedReader{R: conn, N: maxHeader}
	answer, err := c.readHeader(bufio.NewReader(wire))
	switch {
	case err != nil && wire.N <= 0:
		return fmt.Errorf("header of more than %d KiB", maxHeader>>10)
	case err == io.ErrUnexpectedEOF || err == io.EOF:
		return errors.New("closed without an answer")
	case err != nil:
		return failedRead(ctx, err)
	}
	if !slices.ContainsFunc(c.statuses, func(r policy.StatusRange) bool {
		return r.First <= answer.StatusCode && answer.StatusCode <= r.Last
	}) {
		return fmt.Errorf("status %d, want %s", answer.StatusCode, statuses(c.statuses))
	}
	if c.body == nil {
		return nil
	}
	wire.N = maxWire
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxBody))
	if err != nil {
		return failed(ctx, "body", err)
	}
	if !c.body.Match(body) {
		return fmt.Errorf("body does not match /%s/", c.body)
	}
	return nil
}

// readHeader skips interim answers. 101 is none.
func (c *httpCheck) readHeader(r *bufio.Reader) (*http.Response, error) {
	for {
		answer, err := http.ReadResponse(r, c.request)
		if err != nil || answer.StatusCode/100 != 1 || answer.StatusCode == http.StatusSwitchingProtocols {
			return answer, err
		}
	}
}
