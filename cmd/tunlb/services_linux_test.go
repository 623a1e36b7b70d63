package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/tunlb/tunlb/labnet"
)

// TestPersistence: a client stays with its server over all ports of a VIP, and its whole network with it; ssh to
// the box's own VIP is the service's too, as in LVS, and another VIP's ports are not.
func TestPersistence(t *testing.T) {
	offloads(t, func(t *testing.T, off bool) {
		s := openSite(t, labnet.StoryOptions{Clients: 3, NoOffload: off}, `
services:
  - name: all
    listen: ["203.0.113.22:0/tcp", "203.0.113.22:0/udp"]
    scheduler: rr
    persistence: {timeout: 5m, mask: 31}
    servers: [192.168.0.10, 192.168.0.11, 192.168.0.12]
  - name: all6
    listen: ["[2001:db8:113::22]:0/tcp"]
    scheduler: rr
    persistence: 5m
    servers: ["2001:db8:c0::10", "2001:db8:c0::11"]
`)
		// 198.51.100.7 is alone, .8 and .9 are one network.
		for i, c := range []struct{ node, want string }{{"client", "rs1"}, {"client2", "rs2"}, {"client3", "rs2"}} {
			for _, port := range []int{80, 8080} {
				if got := s.sequence(c.node, fmt.Sprintf("http://203.0.113.22:%d/", port), 3); got != strings.Repeat(c.want+" ", 2)+c.want {
					t.Errorf("%s, port %d: %s, want %s alone", c.node, port, got, c.want)
				}
			}
			if got := s.echo(s.dial(c.node, "tcp", "203.0.113.22:7"), []byte("x")); got != "" && got != c.want {
				t.Errorf("%s: echo from %s", c.node, got)
			}
			if got := s.sequence(c.node, "http://[2001:db8:113::22]:8080/", 2); got != []string{"rs1 rs1", "rs2 rs2", "rs1 rs1"}[i] {
				t.Errorf("%s over IPv6: %s", c.node, got)
			}
		}
		// A datagram of a UDP service is another protocol's, with a template of its own.
		if got := s.echo(s.dial("client", "udp", "203.0.113.22:7"), []byte("x")); got != "rs3" {
			t.Errorf("UDP went to %s, want rs3: the next in turn", got)
		}
		out, errOut, code := s.tunlb("conns", "--templates", "--service", "all")
		if code != 0 || strings.Count(out, "203.0.113.22:0") != 3 || !strings.Contains(out, "198.51.100.8:0") {
			t.Errorf("conns --templates: exit %d %s\n%s", code, errOut, out)
		}
	})
}

// TestThresholds: a server that has its fill is passed over, and gets connections again when it is down to the
// lower bound; with all of them full clients are refused.
func TestThresholds(t *testing.T) {
	needLab(t)
	s := openSite(t, labnet.StoryOptions{Servers: 2}, `
services:
  - name: echo
    listen: 203.0.113.22:7/tcp
    scheduler: rr
    timeouts: {time_wait: 100ms, close: 100ms, last_ack: 100ms, fin_wait: 100ms, close_wait: 100ms}
    servers:
      - {name: rs1, address: 192.168.0.10, upper: 2, lower: 1}
      - {name: rs2, address: 192.168.0.11, upper: 1}
`)
	var held []interface{ Close() error }
	for range 3 {
		held = append(held, s.dial("client", "tcp", "203.0.113.22:7"))
	}
	for name, want := range map[string]int{"rs1": 2, "rs2": 1} {
		if srv := s.server("echo", name); srv.Active != want || !srv.Overloaded {
			t.Errorf("%s: %d active, overloaded %v; want %d and overloaded", name, srv.Active, srv.Overloaded, want)
		}
	}
	if _, err := s.lab.NS("client").DialContext(t.Context(), "tcp", "203.0.113.22:7"); err == nil {
		t.Error("a connection was taken though all servers are full")
	}
	held[0].Close()
	s.until("one of rs1's connections is forgotten", func() error {
		if n := s.server("echo", "rs1").Active + s.server("echo", "rs1").Inactive; n != 1 {
			return fmt.Errorf("it has %d", n)
		}
		return nil
	})
	if _, err := s.lab.NS("client").DialContext(t.Context(), "tcp", "203.0.113.22:7"); err == nil {
		t.Error("rs1 took a connection before it had fewer than its lower bound")
	}
	held[2].Close()
	s.until("rs1 takes connections again", func() error {
		c, err := s.lab.NS("client").DialContext(t.Context(), "tcp", "203.0.113.22:7")
		if err == nil {
			c.Close()
		}
		return err
	})
}

// TestRanges: ports of a range go where the server has them, others are the box's; a server with a port of its
// own has all of them there. The VIP is the box's own, and a second one belongs to the same service.
func TestRanges(t *testing.T) {
	offloads(t, func(t *testing.T, off bool) {
		for _, own := range []bool{false, true} {
			t.Run(fmt.Sprintf("own VIP %v", own), func(t *testing.T) {
				s := openSite(t, labnet.StoryOptions{NoOffload: off, OwnVIP: own}, `
services:
  - {name: range, listen: ["203.0.113.22:8000-8100/tcp", "203.0.113.23:80/tcp"], scheduler: rr, servers: [192.168.0.10:80, 192.168.0.11:80]}
  - {name: kept, listen: ["203.0.113.22:7-80/tcp"], servers: [192.168.0.12]}
  - {name: range6, listen: "[2001:db8:113::22]:8000-8100/tcp", servers: ["2001:db8:c0::12"]}
`)
				for _, c := range []struct{ url, want string }{
					{"http://203.0.113.22:8000/", "rs1 rs2"}, {"http://203.0.113.22:8100/", "rs1 rs2"}, {"http://203.0.113.23/", "rs1 rs2"},
					{"http://203.0.113.22/", "rs3 rs3"}, {"http://[2001:db8:113::22]:8080/", "rs3 rs3"},
				} {
					if got := s.sequence("client", c.url, 2); got != c.want {
						t.Errorf("%s: %s, want %s", c.url, got, c.want)
					}
				}
				s.echo(s.dial("client", "tcp", "203.0.113.22:7"), []byte("kept"))
				for _, closed := range []string{"http://203.0.113.22:8101/", "http://203.0.113.22:7999/", "http://203.0.113.22:81/"} {
					if _, _, err := s.fetch("client", http.MethodGet, closed, nil); err == nil {
						t.Errorf("%s answers", closed)
					}
				}
			})
		}
	})
}
