package sim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tunlb/tunlb/labnet/scenario"
	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/ipvs"
)

// TestNAT: who asks the VIP gets one server after the other, which sees who asked.
func TestNAT(t *testing.T) {
	l := nat(t)
	for _, test := range []struct{ vip, client string }{
		{vip, "198.51.100.7:"},
		{"[" + vip6 + "]", "[2001:db8:1::7]:"},
	} {
		seen := map[string]int{}
		for range 4 {
			p, err := get(l, "client", "http://"+test.vip+"/", 5*time.Second)
			if err != nil || p.status != 200 {
				t.Fatalf("%s: status %d, %v", test.vip, p.status, err)
			}
			seen[p.server]++
			if !strings.Contains(p.body, " from "+test.client) {
				t.Errorf("%s: got %q, want it from %s", test.vip, p.body, test.client)
			}
		}
		if seen["rs1"] != 2 || seen["rs2"] != 2 {
			t.Errorf("%s: got %v, want both servers twice", test.vip, seen)
		}
		for _, want := range []string{"rs1 hello", "rs2 hello"} {
			if got, err := exchange(l, "client", netip.MustParseAddrPort(test.vip+":7"), "hello"); got != want {
				t.Errorf("%s: got datagram %q, %v, want %q", test.vip, got, err, want)
			}
		}
	}
}

// TestReach: addresses answer or not as they would on a network of machines.
func TestReach(t *testing.T) {
	l := nat(t)
	for _, to := range []string{vip, vip6, "198.51.100.1", "2001:db8:1::1", "192.168.0.10", "2001:db8:c0::10", "127.0.0.1", "::1"} {
		ctx, cancel := l.After(context.Background(), 5*time.Second)
		if took, err := l.Ping(ctx, "client", netip.MustParseAddr(to)); err != nil || took <= 0 {
			t.Errorf("ping %s: %v, %v", to, took, err)
		}
		cancel()
	}
	for _, test := range []struct {
		to   string
		want error
	}{
		{"192.168.0.10:81", syscall.ECONNREFUSED},
		{"[2001:db8:c0::10]:81", syscall.ECONNREFUSED},
		{vip + ":81", syscall.ECONNREFUSED},
		{"198.51.100.99:80", syscall.EHOSTUNREACH},
		{"192.168.0.99:80", syscall.EHOSTUNREACH}, // the director says so
	} {
		ctx, cancel := l.After(context.Background(), 30*time.Second)
		conn, err := l.Dial(ctx, "client", "tcp", netip.MustParseAddrPort(test.to))
		if err == nil {
			conn.Close()
		}
		if !errors.Is(err, test.want) {
			t.Errorf("dial %s: got %v, want %v", test.to, err, test.want)
		}
		cancel()
	}
	if _, err := exchange(l, "client", netip.MustParseAddrPort("192.168.0.10:9"), "hello"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a closed UDP port: got %v, want %v", err, syscall.ECONNREFUSED)
	}
}

// directLab is direct routing; %s is the director.
const directLab = `
name: direct
networks: {clients: {}, servers: {}}
hosts:
  client:
    networks: {clients: [203.0.113.7/24, "2001:db8:113::7/64"]}
  rs1:
    networks: {%[1]s: [203.0.113.10/24, "2001:db8:113::10/64"]}
    loopback: &vips [203.0.113.22, "2001:db8:113::22"]
    services: &servers [{type: http, port: 80}, {type: udp-echo, port: 7}]
  rs2:
    networks: {%[1]s: [203.0.113.11/24, "2001:db8:113::11/64"]}
    loopback: *vips
    services: *servers
director:
  name: lb
  port: tap
  networks: {%[2]s}
  config:
    services:
      - {name: web, listen: 203.0.113.22:80/tcp, mode: dr, scheduler: rr, servers: [203.0.113.10, 203.0.113.11]}
      - {name: web6, listen: "[2001:db8:113::22]:80/tcp", mode: dr, scheduler: rr, servers: ["2001:db8:113::10", "2001:db8:113::11"]}
      - {name: echo, listen: 203.0.113.22:7/udp, mode: dr, scheduler: rr, servers: [203.0.113.10, 203.0.113.11]}
`

// TestDirectRouting: servers with the VIP on lo answer the client, and nobody but tunlb says that the VIP is its.
func TestDirectRouting(t *testing.T) {
	for name, where := range map[string][2]string{
		"one-arm": {"clients", `clients: [203.0.113.2/24, "2001:db8:113::2/64"]`},
		"inline":  {"servers", `clients: {side: clients, addresses: [203.0.113.2/24, "2001:db8:113::2/64"]}, servers: {side: servers}`},
	} {
		t.Run(name, func(t *testing.T) {
			text := fmt.Sprintf(directLab, where[0], where[1])
			if name == "one-arm" {
				text = strings.Replace(text, ", servers: {}}", "}", 1)
			}
			l := up(t, parse(t, text))
			for _, vip := range []string{vip, vip6} {
				url := "http://" + netip.AddrPortFrom(netip.MustParseAddr(vip), 80).String() + "/"
				seen := map[string]int{}
				for range 4 {
					p, err := get(l, "client", url, 5*time.Second)
					if err != nil {
						t.Fatal(err)
					}
					seen[p.server]++
				}
				if seen["rs1"] != 2 || seen["rs2"] != 2 {
					t.Errorf("%s: got %v, want both servers twice", vip, seen)
				}
				if got, want := neighbour(t, l.hosts["client"], vip), l.macs[0].String(); got != want {
					t.Errorf("the client has %s at %s, want %s: tunlb's", vip, got, want)
				}
			}
			if got, err := exchange(l, "client", netip.MustParseAddrPort(vip+":7"), "hello"); got != "rs1 hello" {
				t.Errorf("datagram: %q, %v", got, err)
			}
			status, err := l.Control().Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if s := status.Services[0]; s.Traffic.OutPackets != 0 || s.Traffic.InPackets == 0 {
				t.Errorf("%s has counted %d packets out and %d in, want none out", s.Name, s.Traffic.OutPackets, s.Traffic.InPackets)
			}
		})
	}
}

// neighbour is the MAC that a host has for an address.
func neighbour(t *testing.T, h *host, of string) string {
	t.Helper()
	addr := netip.MustParseAddr(of)
	known, err := h.stack.Neighbors(firstNIC, protocolOf(addr))
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range known {
		if k.Addr == address(addr) {
			return net.HardwareAddr(k.LinkAddr).String()
		}
	}
	return "none"
}

// TestOwnVIP: a host reaches its loopback address, like any of its own, without the network.
func TestOwnVIP(t *testing.T) {
	l := up(t, parse(t, strings.Replace(fmt.Sprintf(directLab, "clients", `clients: [203.0.113.2/24, "2001:db8:113::2/64"]`), ", servers: {}}", "}", 1)))
	for _, own := range []string{vip, vip6, "203.0.113.10", "2001:db8:113::10"} {
		ctx, cancel := l.After(context.Background(), time.Second)
		if _, err := l.Ping(ctx, "rs1", netip.MustParseAddr(own)); err != nil {
			t.Error(err)
		}
		cancel()
		p, err := get(l, "rs1", "http://"+netip.AddrPortFrom(netip.MustParseAddr(own), 80).String()+"/", 5*time.Second)
		if err != nil || p.server != "rs1" {
			t.Errorf("%s: got %q, %v", own, p.server, err)
		}
	}
}

// TestBehaviours: what a server program is told to do shows.
func TestBehaviours(t *testing.T) {
	l := nat(t)
	ask := func() (page, error) { return get(l, "client", "http://192.168.0.10:8080/", 20*time.Second) }
	behave := func(b scenario.Behaviour) {
		t.Helper()
		if err := l.Behave("rs1", 8080, b); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	behave(scenario.Behaviour{Slow: 5 * time.Second})
	before := l.Now()
	if p, err := ask(); err != nil || p.status != 200 {
		t.Errorf("slow: %v, %v", p, err)
	}
	if took := l.Now() - before; took < 5*time.Second || took > 7*time.Second {
		t.Errorf("slow: took %v, want 5s", took)
	}
	behave(scenario.Behaviour{Fail: 503})
	if p, err := ask(); err != nil || p.status != 503 {
		t.Errorf("fail: %v, %v", p, err)
	}
	behave(scenario.Behaviour{Silent: true})
	if p, err := ask(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("silent: %v, %v", p, err)
	}
	behave(scenario.Behaviour{Stopped: true})
	if p, err := ask(); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("stopped: %v, %v", p, err)
	}
	behave(scenario.Behaviour{})
	if p, err := ask(); err != nil || p.status != 200 {
		t.Errorf("well again: %v, %v", p, err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("25 s of the lab's took %v of ours", took)
	}
	if err := l.Behave("rs1", 9, scenario.Behaviour{}); err == nil {
		t.Error("there is a server program at a port that has none")
	}
}

// TestHealth: checks go by the lab's clock, and see what has happened to servers.
func TestHealth(t *testing.T) {
	l := up(t, parse(t, fmt.Sprintf(natLab, "\n        health: {type: http, interval: 1s, timeout: 500ms, fall: 3, rise: 2}")))
	state := func() string {
		status, err := l.Control().Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return status.Services[0].Servers[0].Health
	}
	began := time.Now()
	within(t, l, 5*time.Second, "rs1 is up", func() bool { return state() == "up" })
	if err := l.Behave("rs1", 8080, scenario.Behaviour{Silent: true}); err != nil {
		t.Fatal(err)
	}
	within(t, l, 10*time.Second, "rs1 is down", func() bool { return state() == "down" })
	for range 4 {
		if p, err := get(l, "client", "http://"+vip+"/", time.Second); err != nil || p.server != "rs2" {
			t.Errorf("got %v, %v, want rs2", p, err)
		}
	}
	if err := l.Behave("rs1", 8080, scenario.Behaviour{}); err != nil {
		t.Fatal(err)
	}
	within(t, l, 10*time.Second, "rs1 is up again", func() bool { return state() == "up" })
	t.Logf("%v of the lab's clock took %v", l.Now(), time.Since(began))
}

// TestChecksOverBadLink: tunlb's own stack repeats what is lost, by the lab's clock, as often as a check's time allows.
func TestChecksOverBadLink(t *testing.T) {
	f := parse(t, fmt.Sprintf(natLab, "\n        health: {type: http, interval: 30s, timeout: 30s, fall: 1}"))
	l := up(t, f)
	within(t, l, 40*time.Second, "both servers are up", func() bool { return bothUp(t, l) })
	last := lastEvent(t, l)
	if err := l.Impair("lb", "inside", scenario.Impairment{Loss: 0.1}); err != nil {
		t.Fatal(err)
	}
	pass(l, 10*time.Minute)
	var failures []string
	l.director.engine.Events(t.Context(), last, false, func(e tunlb.Event) bool {
		if e.Kind == "down" { // by a check; that ARP went unanswered six times in a row may happen
			failures = append(failures, e.Cause)
		}
		return true
	})
	// Every third check needs something sent again. That a reset is lost, and met by a later connection, is rare.
	if len(failures) > 3 {
		t.Errorf("of 40 checks %d failed: %q", len(failures), failures)
	}
	lost := uint64(0)
	link := l.links[member{"lb", "inside"}]
	for _, d := range [...]*direction{&link.up, &link.down} {
		d.mu.Lock()
		lost += d.lost
		d.mu.Unlock()
	}
	if lost == 0 {
		t.Error("nothing was lost")
	}
}

// TestControl: the director's tunlb answers as any, but for what a lab has not.
func TestControl(t *testing.T) {
	l := nat(t)
	c := l.Control()
	if _, err := c.Order(t.Context(), tunlb.ServerOrder{Service: "web", Server: "rs9", Do: "drain"}); err == nil {
		t.Error("a server that is none can be drained")
	}
	if r, err := c.Reload(t.Context(), false); err != nil || len(r.Errors) != 1 || !strings.Contains(r.Errors[0], "lab's file") {
		t.Errorf("reload: %+v, %v", r, err)
	}
	if table, err := c.LVS(t.Context()); err != nil || len(table.Specs) != 4 || len(table.Entries) != 4 {
		t.Errorf("ipvsadm -L: %+v, %v", table, err)
	}
	err := c.LVSCommand(t.Context(), ipvs.Command{Verb: ipvs.ZeroCounters})
	if refused := new(ipvs.Error); !errors.As(err, &refused) || !strings.Contains(refused.Message, "lab's file") {
		t.Errorf("ipvsadm -Z: %v", err)
	}
}

// TestUpFails: what is wrong with a file is told, and leaves nothing (goleak looks in TestMain).
func TestUpFails(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	for what, spoil := range map[string]func(*scenario.File){
		"lab.yaml": func(f *scenario.File) {
			f.Name, f.Director.Text = "lab.yaml", "services: [{}]\n"
			f.Director.Indent = 0
		},
		"network": func(f *scenario.File) { f.Hosts[1].Attachments[0].Network = "nowhere" },
		"gateway": func(f *scenario.File) { f.Hosts[1].Gateways = []netip.Addr{netip.MustParseAddr("192.0.2.1")} },
		"8080":    func(f *scenario.File) { f.Hosts[1].Services = append(f.Hosts[1].Services, f.Hosts[1].Services[0]) },
	} {
		f := parse(t, fmt.Sprintf(natLab, ""))
		spoil(f)
		l, err := New(Options{}).Up(t.Context(), f)
		if err == nil {
			l.Close()
			t.Errorf("%s: no error", what)
		} else if !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := New(Options{}).Up(ctx, parse(t, fmt.Sprintf(natLab, ""))); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestClose: a lab that is taken down ends all that waits in it, and leaves nothing.
func TestClose(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	l := nat(t)
	if err := l.Behave("rs1", 8080, scenario.Behaviour{Slow: time.Hour}); err != nil {
		t.Fatal(err)
	}
	conn, err := l.Dial(context.Background(), "client", "tcp", netip.MustParseAddrPort(vip+":7"))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 3)
	go func() {
		_, err := conn.Read(make([]byte, 1))
		ended <- err
	}()
	go func() {
		_, err := l.Ping(context.Background(), "client", netip.MustParseAddr("198.51.100.99"))
		ended <- err
	}()
	limited, cancel := l.After(context.Background(), 1000*time.Hour)
	defer cancel()
	go func() {
		<-limited.Done()
		ended <- context.Cause(limited)
	}()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	for range 3 {
		if err := <-ended; err == nil {
			t.Error("something has come to a good end in a lab that is down")
		}
	}
	conn.Close()
	if _, err := l.Dial(context.Background(), "client", "tcp", netip.MustParseAddrPort(vip+":7")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("dial in a lab that is down: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
