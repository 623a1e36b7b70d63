package top

import (
	"context"
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/rs/zerolog"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
	"github.com/tunlb/tunlb/stack/port"
	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/control"
)

var _ = flag.Bool("record", false, "write testdata/status.json anew")

func place(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// site is an engine between an IP port and a segment, with a clock that the test moves.
type site struct {
	t       *testing.T
	e       *tunlb.Engine
	clients port.Port // the far end of the IP port
	now     atomic.Int64
	ticks   chan time.Time
	sent    uint64
}

func openSite(t *testing.T, services []policy.Spec) *site {
	s := &site{t: t, ticks: make(chan time.Time)}
	near, far := port.Pipe("clients", packet.LinkIP, 1500)
	wire, other := port.Pipe("lan", packet.LinkEthernet, 1500)
	s.clients = far
	e, err := tunlb.New(tunlb.Options{
		MaxFlows: 65536, Log: zerolog.Nop(), Now: func() time.Duration { return time.Duration(s.now.Load()) }, Ticks: s.ticks,
		Attachments: []tunlb.Attachment{
			{Port: near, Own: []netip.Addr{netip.MustParseAddr("10.255.0.2")}, Routes: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}},
			{Port: wire, MAC: packet.MAC{2, 0, 0, 0, 0, 1}, Own: []netip.Addr{netip.MustParseAddr("192.168.0.2")}, Subnets: []netip.Prefix{netip.MustParsePrefix("192.168.0.0/24")}},
		},
	}, tunlb.Config{Services: services})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	drain := func(p port.Port) { // until the port is closed
		for b := make([]byte, 1<<17); ; {
			if _, err := p.Read(b); err != nil {
				return
			}
		}
	}
	go drain(far)
	go drain(other)
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		far.Close()
		other.Close()
		e.Close()
	})
	s.e = e
	return s
}

// send has packets go in, and waits until they have been dealt with.
func (s *site) send(frames ...[]byte) {
	s.t.Helper()
	for _, f := range frames {
		if err := s.clients.Write(f); err != nil {
			s.t.Fatal(err)
		}
	}
	s.sent += uint64(len(frames))
	s.until("the packets are counted", func() bool {
		status := s.e.Status()
		return status.Ports[0].RxPackets+status.Drops["land"] == s.sent // what is malformed is nobody's traffic
	})
}

func (s *site) until(what string, ok func() bool) {
	s.t.Helper()
	deadline, retry := time.After(15*time.Second), time.NewTicker(time.Millisecond)
	defer retry.Stop()
	for !ok() {
		select {
		case <-deadline:
			s.t.Fatalf("%s: not within 15 s", what)
		case <-retry.C:
		}
	}
}

// pass lets a second pass.
func (s *site) pass() {
	for range 10 {
		s.now.Add(int64(100 * time.Millisecond))
		s.ticks <- time.Time{}
	}
}

// open has a client open a connection, and send n packets of 1000 bytes.
func (s *site) open(from uint16, to string, n int) {
	s.t.Helper()
	client := netip.AddrPortFrom(netip.MustParseAddr("198.51.100.7"), from)
	s.send(pt.TCP(s.t, client, place(to), pt.Flags(packet.TCPSyn)))
	for range n {
		s.send(pt.TCP(s.t, client, place(to), pt.Flags(packet.TCPAck), pt.PayloadLen(1000)))
	}
}

func server(name, at string, weight int, edit ...func(*policy.ServerSpec)) policy.ServerSpec {
	s := policy.ServerSpec{Name: name, Address: place(at), Weight: weight}
	for _, e := range edit {
		e(&s)
	}
	return s
}

// TestRecord makes an engine do all that the view has a place for, and looks at it; -record keeps what it says.
func TestRecord(t *testing.T) {
	mac := func(n byte) func(*policy.ServerSpec) {
		return func(s *policy.ServerSpec) { s.MAC = [6]byte{2, 0, 0, 0, 1, n} }
	}
	sorry := server("sorry", "192.168.0.99:80", 1)
	check := policy.Health{Type: "tcp", Interval: time.Second, Timeout: time.Second, Rise: 1, Fall: 1}
	s := openSite(t, []policy.Spec{
		{Name: "web", Listen: policy.On(place("203.0.113.22:80"), policy.TCP), Scheduler: "rr", Health: check, Servers: []policy.ServerSpec{
			server("rs1", "192.168.0.10:8080", 2, mac(1)), server("rs2", "192.168.0.11:8080", 4, mac(2)), server("rs3", "192.168.0.12:8080", 1, mac(3)),
			server("服务器四", "192.168.0.13:8080", 1, mac(4), func(s *policy.ServerSpec) { s.Upper = 2 }), server("rs5", "192.168.0.14:8080", 1), server("rs6", "192.168.0.15:8080", 1, mac(8))}},
		{Name: "shop", Listen: append(policy.On(place("203.0.113.23:443"), policy.TCP), policy.On(place("203.0.113.24:443"), policy.TCP)...), Scheduler: "wlc",
			Health: check, Sorry: &sorry, Servers: []policy.ServerSpec{server("shop-backend-with-a-long-name", "192.168.0.20:8443", 1, mac(5))}},
		{Name: "dns", Listen: policy.On(place("203.0.113.22:53"), policy.UDP), Mode: policy.DR, Scheduler: "rr", Servers: []policy.ServerSpec{
			server("ns1", "192.168.0.30:53", 1, mac(6)), server("ns2", "192.168.0.31:53", 0, mac(7))}},
	})
	report := func(service, at string, ok bool, cause string) { s.e.Report(service, place(at), ok, cause) }
	report("web", "192.168.0.10:8080", true, "")
	report("web", "192.168.0.11:8080", true, "")
	report("web", "192.168.0.12:8080", true, "")
	report("web", "192.168.0.13:8080", true, "")
	s.pass()
	report("web", "192.168.0.12:8080", false, "connection refused")
	report("shop", "192.168.0.20:8443", false, "status 503 Service Unavailable, want 200-399\x1b[2J")
	for range 8 {
		s.pass() // rs5 has no MAC, and answers nobody
	}
	s.until("the neighbour has failed", func() bool {
		for _, n := range s.e.Status().Segments[0].Neighbours {
			if n.State == "failed" {
				return true
			}
		}
		return false
	})
	var statuses []control.Status
	started := clock(-3723)
	record := func() {
		status := s.e.Status()
		for i := range status.Services {
			for k := range status.Services[i].Servers {
				if srv := &status.Services[i].Servers[k]; !srv.Since.IsZero() {
					srv.Since = clock(-42).Truncate(time.Second)
				}
			}
		}
		statuses = append(statuses, control.Status{Daemon: control.Info{Version: "v0.5.0", PID: 4711, Config: "/etc/tunlb/tunlb.yaml", Started: started}, Status: status})
	}
	record()
	if _, err := s.e.Order(tunlb.ServerOrder{Service: "web", Server: "rs2", Do: tunlb.Drain}); err != nil {
		t.Fatal(err)
	}
	for round := range 4 {
		for i := range 3 + 4*round {
			s.open(uint16(40000+100*round+i), "203.0.113.22:80", 3+round*i)
		}
		s.send(pt.UDP(t, place("198.51.100.7:50000"), place("203.0.113.22:53"), pt.PayloadLen(100*(1+round))))
		if round != 2 {
			s.send(pt.TCP(t, place("198.51.100.7:60000"), place("203.0.113.22:80"), pt.Flags(packet.TCPAck))) // of no connection
			s.send(pt.TCP(t, place("198.51.100.7:60000"), place("198.51.100.7:60000"), pt.Flags(packet.TCPSyn)))
		}
		s.pass()
		record()
	}
	if flag.Lookup("record").Value.String() == "true" {
		b, err := json.MarshalIndent(statuses, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile("testdata/status.json", append(b, '\n'), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m := New(time.Second)
	m.Update(tea.WindowSizeMsg{Width: 160, Height: 45})
	for i, status := range statuses {
		m.Update(pollMsg{at: clock(i), status: status})
	}
	got := text(m)
	for _, want := range []string{"web", "rs1", "drained", "down", "checking", "overloaded", "sorry", "quiesced", "unchecked", "0/4", "服务器四", "connection refused",
		"▲ land", "failed", "static", "02:00:00:00:01:01", "203.0.113.23:443/tcp +1", "busiest"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	// In the last of the four seconds 15 connections were opened, and that to dns went on.
	if conns := statuses[4].Services[0].Traffic.Conns; conns != 3+7+11+15 || !strings.Contains(got, "conn/s 15 ") {
		t.Errorf("%d connections, and no 15 a second in\n%s", conns, got)
	}
}
