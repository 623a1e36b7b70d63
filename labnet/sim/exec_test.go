package sim

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tunlb/tunlb/labnet/scenario"
)

// execute runs a command line on a host.
func execute(t *testing.T, l *Lab, host, in, line string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	std := scenario.Stdio{Out: &o, Err: &e}
	if in != "" {
		std.In = strings.NewReader(in)
	}
	code, err := l.Exec(context.Background(), host, strings.Fields(line), std)
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return code, o.String(), e.String()
}

// TestCommands: what people type on a host does what they know from a real one.
func TestCommands(t *testing.T) {
	l := nat(t)
	if err := l.Behave("rs2", 8080, scenario.Behaviour{Silent: true}); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		host, in, line string
		code           int
		out, errs      string // that it contains
	}{
		{"client", "", "curl -s http://192.168.0.10:8080/path", 0, "rs1 GET /path from 198.51.100.7", ""},
		{"client", "", "curl -s rs1:8080/", 0, "rs1 GET / from 198.51.100.7", ""},
		{"client", "", "curl -s http://[2001:db8:c0::10]:8080/", 0, "from [2001:db8:1::7]", ""},
		{"client", "", "curl -so /dev/null -w %{http_code}:%{size_download} http://192.168.0.10:8080/bytes/1234", 0, "200:1234", ""},
		{"client", "", "curl -si http://192.168.0.10:8080/", 0, "Server: rs1", ""},
		{"client", "", "curl -m 3 http://192.168.0.11:8080/", 28, "", "timed out"},
		{"client", "", "curl --max-time 3 http://192.168.0.11:8080/", 28, "", "timed out"},
		{"client", "", "curl http://192.168.0.10:81/", 7, "", "connection refused"},
		{"client", "", "curl -s http://192.168.0.10:81/", 7, "", ""},
		{"client", "", "curl http://nobody/", 6, "", "resolve"},
		{"client", "", "curl https://rs1/", 1, "", "not supported"},
		{"client", "", "curl -x proxy http://rs1/", 2, "", "there is no -x"},
		{"client", "", "curl -o file http://rs1/", 2, "", "no files"},
		{"client", "", "ping -c 2 " + vip, 0, "2 sent, 2 answered, 0% lost", ""},
		{"client", "", "ping -c 2 " + vip6, 0, "2 sent, 2 answered, 0% lost", ""},
		{"client", "", "ping -c 2 198.51.100.99", 1, "2 sent, 0 answered, 100% lost", ""},
		{"client", "", "ping -c none " + vip, 2, "", "want a number"},
		{"client", "hello\n", "nc " + vip + " 7", 0, "hello\n", ""},
		{"client", "hello", "nc -u 192.168.0.10 7", 0, "rs1 hello", ""},
		{"client", "", "nc 192.168.0.10 81", 1, "", "connection refused"},
		{"client", "", "nc " + vip, 2, "", "usage: nc"},
		{"rs1", "", "ip addr", 0, "    inet 192.168.0.10/24\n    inet6 2001:db8:c0::10/64\n", ""},
		{"rs1", "", "ip route", 0, "default via 192.168.0.100 dev eth0\n", ""},
		{"client", "", "ip neigh", 0, "198.51.100.1 dev eth0 lladdr 02:00:c6:33:64:01", ""},
		{"rs1", "", "ip link", 2, "", "usage: ip"},
		{"rs1", "", "help", 0, "[-w FORMAT] [-m SECONDS]", ""},
		{"rs1", "", "bash", 127, "", "curl, ping, nc, ip and help"},
		{"lb", "", "bash", 127, "", "no program but tunlb"},
		{"lb", "", "tunlb status", 127, "", "command not found"},
	} {
		code, out, errs := execute(t, l, test.host, test.in, test.line)
		if code != test.code || !strings.Contains(out, test.out) || !strings.Contains(errs, test.errs) {
			t.Errorf("%s$ %s\n got %d, %q, %q\nwant %d, %q, %q", test.host, test.line, code, out, errs, test.code, test.out, test.errs)
		}
		if test.errs == "" && errs != "" {
			t.Errorf("%s$ %s: says %q", test.host, test.line, errs)
		}
	}
	if _, err := l.Exec(context.Background(), "nobody", []string{"help"}, scenario.Stdio{}); err == nil || !strings.Contains(err.Error(), "client, rs1, rs2") {
		t.Errorf("a host that is none: %v", err)
	}
	if _, err := l.Exec(context.Background(), "rs1", nil, scenario.Stdio{}); err == nil {
		t.Error("no command is one")
	}
}

// TestInterrupted: a command ends with its context.
func TestInterrupted(t *testing.T) {
	l := nat(t)
	if err := l.Behave("rs1", 8080, scenario.Behaviour{Silent: true}); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"curl -s http://192.168.0.10:8080/", "ping -c 1000000 198.51.100.99", "nc " + vip + " 7"} {
		ctx, cancel := l.After(context.Background(), 3*time.Second)
		code, err := l.Exec(ctx, "client", strings.Fields(line), scenario.Stdio{})
		cancel()
		if err != nil || code == 0 {
			t.Errorf("%s: %d, %v", line, code, err)
		}
	}
}

// TestTunlb: the director's command line is whose the driver was told.
func TestTunlb(t *testing.T) {
	run := func(_ context.Context, socket string, args []string, std scenario.Stdio) int {
		fmt.Fprintf(std.Out, "%v at %s", args, socket)
		return 42
	}
	l, err := New(Options{Tunlb: run}).Up(t.Context(), parse(t, fmt.Sprintf(natLab, "")))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	code, out, _ := execute(t, l.(*Lab), "lb", "", "tunlb status -o json")
	if want := "[status -o json] at " + l.Control().Socket(); code != 42 || out != want {
		t.Errorf("got %d, %q, want 42, %q", code, out, want)
	}
}
