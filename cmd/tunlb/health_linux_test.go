package main

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/tunlb/tunlb/labnet"
	"github.com/tunlb/tunlb/tunlb"
)

// server finds a server in the status.
func (s *site) server(service, name string) tunlb.ServerStatus {
	s.t.Helper()
	for _, svc := range s.status().Services {
		for _, srv := range svc.Servers {
			if svc.Name == service && srv.Name == name {
				return srv
			}
		}
	}
	s.t.Fatalf("no server %s/%s", service, name)
	return tunlb.ServerStatus{}
}

// healthy waits for a server's health to be as said.
func (s *site) healthy(service, name, want string) tunlb.ServerStatus {
	s.t.Helper()
	var srv tunlb.ServerStatus
	s.until(fmt.Sprintf("%s/%s is %s", service, name, want), func() error {
		if srv = s.server(service, name); srv.Health != want {
			return fmt.Errorf("it is %q: %s", srv.Health, srv.Cause)
		}
		return nil
	})
	return srv
}

// only asks until the servers that answer are those, and no others for as many requests.
func (s *site) only(node, url string, want ...string) {
	s.t.Helper()
	s.until(fmt.Sprintf("%v alone answer", want), func() error {
		seen := map[string]bool{}
		for range 4 * len(want) {
			_, server, err := s.fetch(node, http.MethodGet, url, nil)
			if err != nil {
				return err
			}
			seen[server] = true
		}
		for server := range seen {
			if !slices.Contains(want, server) {
				return fmt.Errorf("%s answers", server)
			}
		}
		if len(seen) != len(want) {
			return fmt.Errorf("only %v answer", seen)
		}
		return nil
	})
}

// block ends a service on a node, as if its process had died, and unblock brings it back.
func (s *site) block(node string, port uint16) (unblock func()) {
	s.t.Helper()
	restart, err := s.lab.Stop(node, port)
	s.must(err)
	return func() { s.must(restart()) }
}

const healthConfig = `
services:
  - name: web
    listen: 203.0.113.22:80/tcp
    scheduler: rr
    health: {type: http, path: /, interval: 100ms, timeout: 100ms, rise: 2, fall: 2}
    servers: [192.168.0.10:8080, 192.168.0.11:8080]
  - name: web6
    listen: "[2001:db8:113::22]:80/tcp"
    scheduler: rr
    health: {type: tcp, interval: 100ms, timeout: 100ms, rise: 1, fall: 1}
    on_failure: remove
    sorry_server: "[2001:db8:c0::12]:80"
    servers: ["[2001:db8:c0::10]:8080", "[2001:db8:c0::11]:8080"]
`

// TestHealth: servers that die take no new connections and say why, what lives goes on; the last resort serves
// when nobody else does; health outlives a reload.
func TestHealth(t *testing.T) {
	needLab(t)
	s := openSite(t, labnet.StoryOptions{}, healthConfig)
	for _, name := range []string{"rs1", "rs2"} {
		s.healthy("web", name, "up")
		s.healthy("web6", name, "up")
	}
	s.only("client", "http://203.0.113.22/", "rs1", "rs2")
	s.only("client", "http://[2001:db8:113::22]/", "rs1", "rs2")

	start := s.block("rs1", 8080)
	s.healthy("web", "rs1", "down")
	s.only("client", "http://203.0.113.22/", "rs2")
	if srv := s.server("web", "rs1"); !strings.Contains(srv.Cause, "refused") || srv.Weight != 0 || srv.Configured != 1 {
		t.Errorf("down: %+v", srv)
	}
	s.healthy("web6", "rs1", "down")
	s.only("client", "http://[2001:db8:113::22]/", "rs2")
	s.write(healthConfig + "  - {name: more, listen: 203.0.113.22:81/tcp, servers: [192.168.0.12:80]}\n")
	if out, errOut, code := s.tunlb("reload"); code != 0 {
		t.Fatalf("reload: exit %d: %s%s", code, out, errOut)
	}
	if srv := s.server("web", "rs1"); srv.Health != "down" {
		t.Errorf("after a reload: %+v", srv)
	}
	if srv := s.server("web", "rs2"); srv.Health != "up" || srv.Weight != 1 {
		t.Errorf("after a reload: %+v", srv)
	}
	s.only("client", "http://203.0.113.22/", "rs2")

	startOther := s.block("rs2", 8080)
	s.healthy("web6", "rs2", "down")
	s.only("client", "http://[2001:db8:113::22]/", "rs3") // the last resort
	s.healthy("web", "rs2", "down")
	if _, _, err := s.fetch("client", http.MethodGet, "http://203.0.113.22/", nil); err == nil {
		t.Error("a service without a healthy server answers")
	}
	start()
	startOther()
	s.only("client", "http://203.0.113.22/", "rs1", "rs2")
	s.only("client", "http://[2001:db8:113::22]/", "rs1", "rs2")

	out, errOut, code := s.tunlb("events")
	if code != 0 {
		t.Fatalf("events: exit %d: %s", code, errOut)
	}
	for _, want := range []string{"refused", "up", "down", "sorry"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in the events:\n%s", want, out)
		}
	}
}

// TestHealthDirect: in direct routing a server without the VIP is found, though its port answers.
func TestHealthDirect(t *testing.T) {
	needLab(t)
	topology := labnet.DR(labnet.DROptions{Quiet: true, VIPOn: "none", Servers: 2})
	s := openLab(t, topology, `
ports: [{name: tap0, type: tap, bridge: br0, addresses: [203.0.113.2/24, "2001:db8:113::2/64"]}]
services:
  - {name: web, listen: 203.0.113.22:80/tcp, mode: dr, scheduler: rr, health: {type: http, interval: 200ms, timeout: 200ms}, servers: [203.0.113.10, 203.0.113.11]}
  - {name: web6, listen: "[2001:db8:113::22]:80/tcp", mode: dr, scheduler: rr, health: {type: tcp, interval: 200ms, timeout: 200ms}, servers: ["2001:db8:113::10", "2001:db8:113::11"]}
`)
	s.must(s.lab.NS("rs1").AddAddress("lo", netip.MustParsePrefix(labnet.VIP+"/32")))
	s.must(s.lab.NS("rs1").AddAddress("lo", netip.MustParsePrefix(labnet.VIP6+"/128")))
	s.start()
	t.Cleanup(s.stop)
	for _, service := range []string{"web", "web6"} {
		s.healthy(service, "rs1", "up")
		s.healthy(service, "rs2", "down")
	}
	s.only("client", "http://203.0.113.22/", "rs1")
	s.only("client", "http://[2001:db8:113::22]/", "rs1")
	s.must(s.lab.NS("rs2").AddAddress("lo", netip.MustParsePrefix(labnet.VIP+"/32")))
	s.healthy("web", "rs2", "up")
	s.only("client", "http://203.0.113.22/", "rs1", "rs2")
}

// TestHealthRouter: a virtual router has no kernel of its own to dial with.
func TestHealthRouter(t *testing.T) {
	needLab(t)
	s := openRouter(t, `services:
  - {name: web, listen: 203.0.113.22:80/tcp, scheduler: rr, health: {type: http, interval: 200ms, timeout: 200ms}, servers: [192.168.0.10:8080, 192.168.1.10:8080]}
  - {name: ping6, listen: "[2001:db8:113::22]:80/tcp", scheduler: rr, health: {type: icmp, interval: 200ms, timeout: 200ms}, servers: ["[2001:db8:c0::10]:8080", "[2001:db8:c1::99]:8080"]}
`)
	for _, name := range []string{"rs1", "rs2"} {
		s.healthy("web", name, "up")
	}
	s.healthy("ping6", "rs1", "up")
	s.healthy("ping6", "rs2", "down")
	s.block("rs1", 8080)
	s.healthy("web", "rs1", "down")
	s.only("client", "http://203.0.113.22/", "rs2")
}

// TestDrain: a drained server keeps what it has and gets nothing new; --wait waits for it to be idle.
func TestDrain(t *testing.T) {
	needLab(t)
	s := openSite(t, labnet.StoryOptions{Servers: 2}, `
services:
  - {name: echo, listen: 203.0.113.22:7/tcp, scheduler: rr, servers: [192.168.0.10, 192.168.0.11]}
  - {name: web, listen: 203.0.113.22:80/tcp, scheduler: rr, servers: [192.168.0.10, 192.168.0.11], timeouts: {time_wait: 100ms, close: 100ms}}
`)
	held := s.dial("client", "tcp", "203.0.113.22:7") // to rs1
	s.echo(held, []byte("before"))
	if out, errOut, code := s.tunlb("drain", "rs1"); code != 0 {
		t.Fatalf("drain: exit %d: %s%s", code, out, errOut)
	}
	s.only("client", "http://203.0.113.22/", "rs2")
	s.echo(held, []byte("still there"))
	if _, errOut, code := s.tunlb("drain", "rs1", "--service", "echo", "--wait", "--timeout", "300ms"); code != 1 || !strings.Contains(errOut, "1 connection") {
		t.Errorf("drain --wait with a connection left: exit %d, %s", code, errOut)
	}
	if out, errOut, code := s.tunlb("kill", "--server", "rs1", "--service", "echo"); code != 0 {
		t.Errorf("kill: exit %d: %s%s", code, out, errOut)
	}
	if _, err := held.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("a killed connection: %v, want a reset", err)
	}
	if _, errOut, code := s.tunlb("drain", "echo/rs1", "--wait"); code != 0 {
		t.Errorf("drain --wait of an idle server: exit %d, %s", code, errOut)
	}
	if _, errOut, code := s.tunlb("reload"); code != 0 || !s.server("web", "rs1").Drained {
		t.Errorf("a reload has undone the drain: exit %d, %s", code, errOut)
	}
	if _, errOut, code := s.tunlb("undrain", "rs1"); code != 0 {
		t.Errorf("undrain: exit %d: %s", code, errOut)
	}
	s.only("client", "http://203.0.113.22/", "rs1", "rs2")
	if _, errOut, code := s.tunlb("weight", "web/rs1", "0"); code != 0 {
		t.Errorf("weight: exit %d: %s", code, errOut)
	}
	s.only("client", "http://203.0.113.22/", "rs2")
	for _, bad := range [][]string{{"drain", "nobody"}, {"weight", "web/rs1", "-1"}, {"weight", "web/rs9", "1"}, {"kill", "tcp/1/2"}} {
		if _, errOut, code := s.tunlb(bad...); code == 0 || errOut == "" {
			t.Errorf("%v: exit %d, %q", bad, code, errOut)
		}
	}
}
