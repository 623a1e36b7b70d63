package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/tunlb/tunlb/labnet"
	"github.com/tunlb/tunlb/tunlb"
)

// explainConfig has a service for each way to be decided, of both families.
const explainConfig = `
services:
  - {name: rr, listen: "203.0.113.22:7/tcp", scheduler: rr, servers: [192.168.0.10, 192.168.0.11, 192.168.0.12]}
  - {name: wlc, listen: "203.0.113.22:80/tcp", scheduler: wlc, servers: [{address: 192.168.0.10, weight: 2}, 192.168.0.11, 192.168.0.12]}
  - {name: sh, listen: "203.0.113.22:8080/tcp", scheduler: sh, flags: port, servers: [192.168.0.10, 192.168.0.11, 192.168.0.12]}
  - {name: sticky, listen: "203.0.113.23:80/tcp", scheduler: rr, persistence: 5m, servers: [192.168.0.10, 192.168.0.11, 192.168.0.12]}
  - {name: rr6, listen: "[2001:db8:113::22]:7/tcp", scheduler: rr, servers: ["2001:db8:c0::10", "2001:db8:c0::11"]}
  - {name: sh6, listen: "[2001:db8:113::22]:80/tcp", scheduler: sh, flags: port, servers: ["2001:db8:c0::10", "2001:db8:c0::11", "2001:db8:c0::12"]}
`

// explained is what the command says, as JSON.
func (s *site) explained(args ...string) (x tunlb.Explanation) {
	s.t.Helper()
	s.must(json.Unmarshal([]byte(s.done(append([]string{"explain", "-o", "json"}, args...)...)), &x))
	return x
}

// TestExplain: the server that explain names is the one that the next connection gets, and that connection is found
// afterwards.
func TestExplain(t *testing.T) {
	needLab(t)
	s := openSite(t, labnet.StoryOptions{Clients: 2}, explainConfig)
	for v, vip := range []string{"203.0.113.22:7", "203.0.113.22:80", "203.0.113.22:8080", "203.0.113.23:80", "[2001:db8:113::22]:7", "[2001:db8:113::22]:80"} {
		servers, templates := map[string]bool{}, 0
		for i := range 8 {
			node, from := "client", netip.MustParseAddr("198.51.100.7")
			switch {
			case vip[0] == '[':
				from = netip.MustParseAddr("2001:db8:1::7")
			case i%2 == 1:
				node, from = "client2", netip.MustParseAddr("198.51.100.8")
			}
			client := netip.AddrPortFrom(from, uint16(20000+1000*v+37*i))
			x := s.explained("--client", client.String(), "--vip", vip)
			if x.Flow != nil || x.Server == "" || x.Mode != "nat" || x.SourceWhy != "" {
				t.Fatalf("%s -> %s: %+v", client, vip, x)
			}
			if servers[x.Server] = true; x.Template {
				templates++
			}
			conn := s.dialFrom(node, client, vip)
			after := s.explained("--client", client.String(), "--vip", vip)
			if f := after.Flow; f == nil || f.ServerName != x.Server || f.Server != x.Address {
				t.Errorf("%s -> %s: explained %s (%s), is %+v", client, vip, x.Server, x.Address, after.Flow)
			}
			if i%3 == 0 {
				s.must(conn.Close())
			}
		}
		if sticky := strings.HasPrefix(vip, "203.0.113.23"); len(servers) < 2 || sticky != (templates == 6) {
			t.Errorf("%s: servers %v, %d by template", vip, servers, templates)
		}
	}
	out := s.done("explain", "--client", "198.51.100.7", "--vip", "203.0.113.22:7", "--without", "rs1", "--weight", "192.168.0.11=0")
	if !strings.Contains(out, "with 192.168.0.11=0 and without rs1") || !strings.Contains(out, "excluded: left out, as asked") {
		t.Errorf("supposing:\n%s", out)
	}
	// A server that asks its own VIP would answer itself: its source is translated.
	if x := s.explained("--client", "192.168.0.10:20000", "--vip", "203.0.113.22:7"); !x.Source.IsValid() || x.SourceWhy == "" {
		t.Errorf("hairpin: %+v", x)
	}
}

// dialFrom opens a connection from a client's address and port, to be closed with the test.
func (s *site) dialFrom(node string, client netip.AddrPort, address string) net.Conn {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	var conn net.Conn
	err := s.lab.NS(node).Do(func() (err error) {
		conn, err = (&net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(client)}).DialContext(ctx, "tcp", address)
		return err
	})
	if err != nil {
		s.t.Fatal(fmt.Errorf("%s: dial %s from %s: %w", node, address, client, err))
	}
	s.t.Cleanup(func() { conn.Close() })
	return conn
}
