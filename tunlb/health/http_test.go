package health

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"github.com/tunlb/tunlb/policy"
)

// web is a real server.
func web(t *testing.T, addr netip.Addr, secure *tls.Config, handler http.HandlerFunc) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().(*net.TCPAddr).AddrPort()
	if secure != nil {
		l = tls.NewListener(l, secure)
	}
	s := &http.Server{Handler: handler, ErrorLog: log.New(io.Discard, "", 0)}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close(); <-ended })
	return at
}

func TestHTTP(t *testing.T) {
	page := func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/":
			fmt.Fprintf(w, "host %s agent %s query %s", r.Host, r.UserAgent(), r.URL.RawQuery)
		case "/moved":
			http.Redirect(w, r, "/busy", http.StatusFound)
		case "/busy":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "/early":
			w.WriteHeader(http.StatusEarlyHints)
			io.WriteString(w, "fine")
		case "/large":
			io.WriteString(w, strings.Repeat("x", maxBody-4)+"1234"+"yes")
		case "/chunks":
			for range 1000 {
				io.WriteString(w, "x")
				w.(http.Flusher).Flush()
			}
			io.WriteString(w, "yes")
		}
	}
	for _, test := range []struct {
		name   string
		health policy.Health
		want   string
	}{
		{"default", policy.Health{}, ""},
		{"redirect", policy.Health{Path: "/moved"}, ""},
		{"redirect not wanted", policy.Health{Path: "/moved", Statuses: []policy.StatusRange{{First: 200, Last: 299}}}, "status 302, want 200-299"},
		{"busy", policy.Health{Path: "/busy"}, "status 503, want 200-399"},
		{"busy wanted", policy.Health{Path: "/busy", Statuses: []policy.StatusRange{{First: 503, Last: 503}}}, ""},
		{"several", policy.Health{Path: "/busy", Statuses: []policy.StatusRange{{First: 200, Last: 204}, {First: 301, Last: 301}}}, "status 503, want 200-204,301"},
		{"host", policy.Health{Host: "web.example", Body: "^host web.example agent tunlb query $"}, ""},
		{"query", policy.Health{Path: "/?a=b&c=%20", Body: "query a=b&c=%20$"}, ""},
		{"body differs", policy.Health{Body: "tunnel"}, "body does not match /tunnel/"},
		{"interim answer", policy.Health{Path: "/early", Body: "^fine$"}, ""},
		{"end of a large body", policy.Health{Path: "/large", Body: "x1234$"}, ""},
		{"beyond a large body", policy.Health{Path: "/large", Body: "yes"}, "body does not match /yes/"},
		{"chunks", policy.Health{Path: "/chunks", Body: "^x{1000}yes$"}, ""},
		{"no path", policy.Health{Path: "healthz"}, `path "healthz": want one like /healthz`},
		{"a space", policy.Health{Path: "/a b\r\nX: y"}, `path "/a b\r\nX: y": want one like /healthz`},
		{"bad pattern", policy.Health{Body: "("}, "body: error parsing regexp: missing closing ): `(`"},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, loopback netip.Addr) {
				test.health.Type = "http"
				if got := once(web(t, loopback, nil, page), test.health); got != test.want {
					t.Errorf("http: got %q, want %q", got, test.want)
				}
				test.health.Type, test.health.Insecure = "https", true
				if got := once(web(t, loopback, &tls.Config{Certificates: []tls.Certificate{trusted}}, page), test.health); got != test.want {
					t.Errorf("https: got %q, want %q", got, test.want)
				}
			})
		})
	}
}

func TestHTTPS(t *testing.T) {
	other, err := certificate("")
	if err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "linux" {
		t.Skip("roots from SSL_CERT_FILE are read on Linux")
	}
	for _, test := range []struct {
		name        string
		certificate tls.Certificate
		health      policy.Health
		want        string
	}{
		{"by address", trusted, policy.Health{}, ""},
		{"by name", trusted, policy.Health{Host: "web.example", Body: "^web.example$"}, ""},
		{"by name and port", trusted, policy.Health{Host: "web.example:443", Body: "^web.example$"}, ""},
		{"another name", trusted, policy.Health{Host: "mail.example"},
			"tls: failed to verify certificate: x509: certificate is valid for web.example, not mail.example"},
		{"another name, insecure", trusted, policy.Health{Host: "mail.example", Insecure: true, Body: "^mail.example$"}, ""},
		{"unknown root", other, policy.Health{Host: "web.example"},
			"tls: failed to verify certificate: x509: certificate signed by unknown authority"},
		{"unknown root, insecure", other, policy.Health{Host: "web.example", Insecure: true}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, loopback netip.Addr) {
				at := web(t, loopback, &tls.Config{Certificates: []tls.Certificate{test.certificate}}, func(w http.ResponseWriter, r *http.Request) {
					io.WriteString(w, r.TLS.ServerName) // SNI; there is none for an address
				})
				test.health.Type = "https"
				got := once(at, test.health)
				if cut, _, ok := strings.Cut(got, " (possibly"); ok {
					got = cut // a hint that names the subject
				}
				if got != test.want {
					t.Errorf("cause: got %q, want %q", got, test.want)
				}
			})
		})
	}
}

// Servers that do not keep to the protocol are bounded by what is read and by the timeout.
func TestHTTPHostile(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\n"
	asked := func(then func(net.Conn)) func(net.Conn) {
		return func(c net.Conn) {
			if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
				then(c)
			}
		}
	}
	for _, test := range []struct {
		name   string
		serve  func(net.Conn) // nil: nothing listens
		health policy.Health
		want   string
	}{
		{"closed", nil, policy.Health{Type: "http"}, "connect: connection refused"},
		{"mute", hush, policy.Health{Type: "http", Timeout: short}, "no answer in 50ms"},
		{"mute in the header", asked(say(ok + "X: ")), policy.Health{Type: "http", Timeout: short}, "no answer in 50ms"},
		{"mute in the body", asked(say(ok + "Content-Length: 100\r\n\r\nyes")), policy.Health{Type: "http", Body: "yes", Timeout: short}, "body: no answer in 50ms"},
		{"the status is enough", asked(say(ok + "Content-Length: 100\r\n\r\nyes")), policy.Health{Type: "http"}, ""},
		{"closes at once", finish, policy.Health{Type: "http"}, "closed without an answer"},
		{"closes", asked(func(net.Conn) {}), policy.Health{Type: "http"}, "closed without an answer"},
		{"closes in the header", asked(func(c net.Conn) { io.WriteString(c, ok+"X: ") }), policy.Health{Type: "http"}, "closed without an answer"},
		{"closes in the body", asked(func(c net.Conn) { io.WriteString(c, ok+"Content-Length: 100\r\n\r\nyes") }), policy.Health{Type: "http", Body: "yes"}, "body: connection closed"},
		{"resets", asked(hangUp), policy.Health{Type: "http"}, "read: connection reset by peer"},
		{"no HTTP", asked(say("SSH-2.0-x\r\n\r\n")), policy.Health{Type: "http"}, `read: malformed HTTP response "SSH-2.0-x"`},
		{"escapes", asked(say("\x1b[31mred\a\r\n\r\n")), policy.Health{Type: "http"}, `read: malformed HTTP response "\x1b[31mred\a"`},
		{"endless line", asked(endless(ok+"X: ", "x")), policy.Health{Type: "http"}, "header of more than 64 KiB"},
		{"endless header", asked(endless(ok, "X: y\r\n")), policy.Health{Type: "http"}, "header of more than 64 KiB"},
		{"endless interim answers", asked(endless("", "HTTP/1.1 103 Early Hints\r\n\r\n")), policy.Health{Type: "http"}, "header of more than 64 KiB"},
		{"endless body", asked(endless(ok+"\r\n", "no ")), policy.Health{Type: "http", Body: "yes"}, "body does not match /yes/"},
		{"endless body, status", asked(endless(ok+"\r\n", "no ")), policy.Health{Type: "http"}, ""},
		{"endless chunk extension", asked(endless(ok+"Transfer-Encoding: chunked\r\n\r\n1;", "x")), policy.Health{Type: "http", Body: "yes"}, "body: header line too long"},
		{"http for https", say(ok + "\r\n"), policy.Health{Type: "https"}, "tls: first record does not look like a TLS handshake"},
		{"banner for https", say("220 ready\r\n"), policy.Health{Type: "https"}, "tls: first record does not look like a TLS handshake"},
		{"mute for https", hush, policy.Health{Type: "https", Timeout: short}, "tls: no answer in 50ms"},
		{"closes for https", finish, policy.Health{Type: "https"}, "tls: connection closed"},
		{"endless for https", endless("\x16\x03\x03\x40\x00", "\x01"), policy.Health{Type: "https"}, "tls: handshake message of length 65793 bytes exceeds maximum of 65536 bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, loopback netip.Addr) {
				at := closed(t, loopback)
				if test.serve != nil {
					at = serveTCP(t, loopback, test.serve)
				}
				if got := once(at, test.health); got != test.want {
					t.Errorf("cause: got %q, want %q", got, test.want)
				}
			})
		})
	}
}
