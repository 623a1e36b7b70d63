package health

import (
	"bufio"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/tunlb/tunlb/policy"
)

// say writes and waits for the other end to close.
func say(parts ...string) func(net.Conn) {
	return func(c net.Conn) {
		for _, p := range parts {
			if _, err := io.WriteString(c, p); err != nil {
				return
			}
		}
		_, _ = io.Copy(io.Discard, c)
	}
}

// hush answers nothing.
func hush(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

// finish says nothing and no more. A server that closes before it has read all resets instead.
func finish(c net.Conn) {
	_ = c.(*net.TCPConn).CloseWrite()
	hush(c)
}

// hangUp resets the connection.
func hangUp(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) }

// endless writes the same for ever.
func endless(first, again string) func(net.Conn) {
	return func(c net.Conn) {
		_, err := io.WriteString(c, first)
		for again = strings.Repeat(again, 1+1000/len(again)); err == nil; {
			_, err = io.WriteString(c, again)
		}
	}
}

func TestTCP(t *testing.T) {
	pong := func(c net.Conn) {
		if line, _ := bufio.NewReader(c).ReadString('\n'); line == "PING\r\n" {
			say("+PO", "NG\r\n")(c)
		}
	}
	for _, test := range []struct {
		name   string
		serve  func(net.Conn) // nil: nothing listens
		health policy.Health
		want   string
	}{
		{"open", hush, policy.Health{}, ""},
		{"closed", nil, policy.Health{}, "connect: connection refused"},
		{"banner", say("220 ready\r\n"), policy.Health{Reply: "^220 "}, ""},
		{"banner in pieces", say("2", "2", "0 ", "ready\r\n"), policy.Health{Reply: `^220 .*\r\n$`}, ""},
		{"answer", pong, policy.Health{Send: "PING\r\n", Reply: `^\+PONG`}, ""},
		{"sent only", hush, policy.Health{Send: "QUIT\r\n"}, ""},
		{"wrong banner, closed", func(c net.Conn) { _, _ = io.WriteString(c, "554 no\r\n") }, policy.Health{Reply: "^220 "},
			`reply "554 no\r\n" does not match /^220 /`},
		{"wrong banner, open", say("554 no\r\n"), policy.Health{Reply: "^220 ", Timeout: short},
			`reply "554 no\r\n" does not match /^220 /`},
		{"mute", hush, policy.Health{Reply: "^220 ", Timeout: short}, "no answer in 50ms"},
		{"closes", finish, policy.Health{Reply: "^220 "}, "closed without an answer"},
		{"resets", func(c net.Conn) { _, _ = c.Read(make([]byte, 1)); hangUp(c) }, policy.Health{Send: "x", Reply: "y"},
			"read: connection reset by peer"},
		{"babbles", endless("", "no\n"), policy.Health{Reply: "yes"}, `reply "no\nno\nno\nno\nno\nno\nno\nno\nno\nno\nno\nno\nno\nn" does not match /yes/`},
		{"bad pattern", hush, policy.Health{Reply: "("}, "reply: error parsing regexp: missing closing ): `(`"},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, loopback netip.Addr) {
				at := closed(t, loopback)
				if test.serve != nil {
					at = serveTCP(t, loopback, test.serve)
				}
				test.health.Type = "tcp"
				if got := once(at, test.health); got != test.want {
					t.Errorf("cause: got %q, want %q", got, test.want)
				}
			})
		})
	}
}
