package sim

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tunlb/tunlb/labnet/scenario"
	"github.com/tunlb/tunlb/tunlb"
)

// TestMain lets the process be a hog (see besideHogs), and wants nothing left of the labs in the end.
func TestMain(m *testing.M) {
	if os.Getenv(hogVariable) != "" {
		hog()
	}
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// natLab is a box between a client and two servers; %s is the health check of the service web.
const natLab = `
name: nat
networks: {outside: {}, inside: {}}
hosts:
  client:
    networks: {outside: [198.51.100.7/24, "2001:db8:1::7/64"]}
    gateway: [198.51.100.1, "2001:db8:1::1"]
  rs1:
    networks: {inside: [192.168.0.10/24, "2001:db8:c0::10/64"]}
    gateway: [192.168.0.100, "2001:db8:c0::100"]
    services: &servers [{type: http, port: 8080}, {type: tcp-echo, port: 7}, {type: udp-echo, port: 7}]
  rs2:
    networks: {inside: [192.168.0.11/24, "2001:db8:c0::11/64"]}
    gateway: [192.168.0.100, "2001:db8:c0::100"]
    services: *servers
director:
  name: lb
  port: tun
  networks:
    outside: [198.51.100.1/24, "2001:db8:1::1/64"]
    inside: [192.168.0.100/24, "2001:db8:c0::100/64"]
  config:
    services:
      - name: web
        listen: 203.0.113.22:80/tcp
        scheduler: rr%s
        servers: [192.168.0.10:8080, 192.168.0.11:8080]
      - name: web6
        listen: "[2001:db8:113::22]:80/tcp"
        scheduler: rr
        servers: ["[2001:db8:c0::10]:8080", "[2001:db8:c0::11]:8080"]
      - {name: echo, listen: [203.0.113.22:7/tcp, 203.0.113.22:7/udp], scheduler: rr, servers: [192.168.0.10, 192.168.0.11]}
      - {name: echo6, listen: ["[2001:db8:113::22]:7/tcp", "[2001:db8:113::22]:7/udp"], scheduler: rr, servers: ["2001:db8:c0::10", "2001:db8:c0::11"]}
`

const (
	vip  = "203.0.113.22"
	vip6 = "2001:db8:113::22"
)

func parse(t testing.TB, text string) *scenario.File {
	t.Helper()
	f, err := scenario.Parse("lab.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// up brings a lab up, until the test ends.
func up(t testing.TB, f *scenario.File) *Lab {
	t.Helper()
	l, err := New(Options{Seed: 1}).Up(context.Background(), f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l.(*Lab)
}

func nat(t testing.TB) *Lab { return up(t, parse(t, fmt.Sprintf(natLab, ""))) }

// page is what a web server has answered.
type page struct {
	server string
	status int
	body   string
}

// get asks from a host, and waits for the answer as long as is given on the lab's clock.
func get(l *Lab, host, url string, patience time.Duration) (p page, err error) {
	ctx, cancel := l.After(context.Background(), patience)
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
		return l.Dial(ctx, host, "tcp", netip.MustParseAddrPort(address))
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return p, err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return p, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return page{resp.Header.Get("Server"), resp.StatusCode, string(body)}, err
}

// pass waits on the lab's clock.
func pass(l *Lab, d time.Duration) {
	ctx, cancel := l.After(context.Background(), d)
	defer cancel()
	<-ctx.Done()
}

// within waits on the lab's clock until something is true.
func within(t *testing.T, l *Lab, d time.Duration, what string, holds func() bool) {
	t.Helper()
	for end := l.Now() + d; !holds(); pass(l, 50*time.Millisecond) {
		if l.Now() > end {
			t.Fatalf("after %v it is not so that %s", d, what)
		}
	}
}

// exchange sends a datagram and gives what comes back.
func exchange(l *Lab, host string, to netip.AddrPort, what string) (string, error) {
	conn, err := l.Dial(context.Background(), host, "udp", to)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, what); err != nil {
		return "", err
	}
	if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return "", err
	}
	buf := make([]byte, 2048)
	n, err := conn.Read(buf)
	return string(buf[:n]), err
}

func netAddr(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// eventNumber notes the number of each event.
func eventNumber(last *uint64) func(tunlb.Event) bool {
	return func(e tunlb.Event) bool {
		*last = e.Seq
		return true
	}
}
