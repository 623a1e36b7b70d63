package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Exit codes of curl.
const (
	curlMisused  = 2
	curlProtocol = 1
	curlURL      = 3
	curlHost     = 6
	curlConnect  = 7
	curlTimeout  = 28
	curlEmpty    = 52
	curlReceive  = 56
	curlWrite    = 23
	curlHTTP     = 22 // with -f
	onlyFile     = "/dev/null"
)

// curl asks a web server for a page. It knows what a lab's users type and says of all else that it does not.
func curl(c *call) int {
	c.args = slices.Clone(c.args) // they are the caller's
	for i, arg := range c.args {
		if short, ok := longOptions()[arg]; ok {
			c.args[i] = short
		}
	}
	flags, operands, err := c.options("sSifI", "omwH")
	if err == nil && len(operands) != 1 {
		err = errors.New("want one URL")
	}
	if err == nil && len(flags['o']) > 0 && flags['o'][0] != onlyFile {
		err = errors.New("-o: a simulated host has no files but /dev/null")
	}
	if err != nil {
		c.misused(err.Error())
		return curlMisused
	}
	where := operands[0]
	if !strings.Contains(where, "://") {
		where = "http://" + where
	}
	u, err := url.Parse(where)
	switch {
	case err != nil || u.Host == "":
		return c.curlFailed(flags, curlURL, "URL rejected: "+operands[0])
	case u.Scheme != "http":
		return c.curlFailed(flags, curlProtocol, fmt.Sprintf("protocol %q is not supported here: simulated hosts speak http", u.Scheme))
	}
	to, err := c.lab.resolve(u.Hostname(), u.Port())
	if err != nil {
		return c.curlFailed(flags, curlHost, err.Error())
	}
	ctx := c.ctx
	if limit := flags['m']; len(limit) > 0 {
		seconds, err := strconv.ParseFloat(limit[0], 64)
		if err != nil || seconds <= 0 {
			c.misused(fmt.Sprintf("-m %q: want seconds", limit[0]))
			return curlMisused
		}
		var cancel context.CancelFunc
		ctx, cancel = c.lab.clock.WithTimeout(ctx, time.Duration(seconds*float64(time.Second)), context.DeadlineExceeded)
		defer cancel()
	}
	return c.fetch(ctx, flags, u, to)
}

// longOptions are other names of those that curl has here.
func longOptions() map[string]string {
	return map[string]string{
		"--silent": "-s", "--show-error": "-S", "--include": "-i", "--fail": "-f", "--head": "-I",
		"--output": "-o", "--max-time": "-m", "--write-out": "-w", "--header": "-H",
	}
}

// fetch asks, and prints the answer.
func (c *call) fetch(ctx context.Context, flags map[byte][]string, u *url.URL, to netip.AddrPort) int {
	method := http.MethodGet
	if flags['I'] != nil {
		method = http.MethodHead
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return c.curlFailed(flags, curlURL, err.Error())
	}
	for _, line := range flags['H'] {
		name, value, _ := strings.Cut(line, ":")
		if value = strings.TrimSpace(value); strings.EqualFold(name, "host") {
			req.Host = value
		} else {
			req.Header.Set(name, value)
		}
	}
	req.Header.Set("User-Agent", "curl")
	transport := &http.Transport{
		DisableKeepAlives: true, DisableCompression: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) { return c.host.dial(ctx, network, to) },
	}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return c.curlBroken(ctx, flags, to, err)
	}
	defer resp.Body.Close()
	if flags['f'] != nil && resp.StatusCode >= 400 {
		return c.curlFailed(flags, curlHTTP, "The requested URL returned error: "+strconv.Itoa(resp.StatusCode))
	}
	out := c.Out
	if len(flags['o']) > 0 {
		out = io.Discard
	}
	if flags['i'] != nil || flags['I'] != nil {
		fmt.Fprintf(out, "%s %s\r\n", resp.Proto, resp.Status)
		if err := resp.Header.Write(out); err != nil {
			return curlWrite
		}
		fmt.Fprint(out, "\r\n")
	}
	n, err := io.Copy(out, resp.Body)
	if formats := flags['w']; len(formats) > 0 {
		fmt.Fprint(c.Out, strings.NewReplacer(
			"%{http_code}", strconv.Itoa(resp.StatusCode), "%{response_code}", strconv.Itoa(resp.StatusCode),
			"%{size_download}", strconv.FormatInt(n, 10), `\n`, "\n", `\t`, "\t", "%%", "%",
		).Replace(formats[0]))
	}
	if err != nil {
		return c.curlBroken(ctx, flags, to, err)
	}
	return 0
}

// curlBroken says what became of a connection.
func (c *call) curlBroken(ctx context.Context, flags map[byte][]string, to netip.AddrPort, err error) int {
	var op *net.OpError
	switch {
	case errors.Is(context.Cause(ctx), context.DeadlineExceeded):
		return c.curlFailed(flags, curlTimeout, "Operation timed out")
	case c.ctx.Err() != nil:
		return exitEnded
	case errors.Is(err, syscall.ETIMEDOUT):
		return c.curlFailed(flags, curlTimeout, fmt.Sprintf("Failed to connect to %s: connection timed out", to))
	case errors.As(err, &op) && op.Op == "dial":
		return c.curlFailed(flags, curlConnect, fmt.Sprintf("Failed to connect to %s: %v", to, op.Err))
	case errors.Is(err, io.EOF):
		return c.curlFailed(flags, curlEmpty, "Empty reply from server")
	}
	return c.curlFailed(flags, curlReceive, "Recv failure: "+err.Error())
}

func (c *call) curlFailed(flags map[byte][]string, code int, why string) int {
	if flags['s'] == nil || flags['S'] != nil {
		fmt.Fprintf(c.Err, "curl: (%d) %s\n", code, why)
	}
	return code
}

// resolve reads an address and a port, "" being 80. A lab's hosts have names, too: that of one means its first
// address.
func (l *Lab) resolve(host, port string) (netip.AddrPort, error) {
	number, err := strconv.ParseUint(port, 10, 16)
	if port == "" {
		number, err = 80, nil
	}
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is no port", port)
	}
	a, err := netip.ParseAddr(host)
	if err == nil {
		return netip.AddrPortFrom(a, uint16(number)), nil
	}
	if h := l.hosts[host]; h != nil && len(h.addresses()) > 0 {
		return netip.AddrPortFrom(h.addresses()[0], uint16(number)), nil
	}
	return netip.AddrPort{}, fmt.Errorf("could not resolve host: %s", host)
}
