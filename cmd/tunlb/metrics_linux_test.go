package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tunlb/tunlb/labnet"
	"github.com/tunlb/tunlb/stack/packet"
)

// scrape is what lb's endpoint says, by name{labels}; nil if there is none at the address.
func (s *site) scrape(address string) (map[string]float64, error) {
	client := s.lab.NS("lb").HTTPClient()
	if path := address; strings.HasPrefix(path, "/") {
		client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}}}
		address = "socket"
	}
	client.Timeout = patience
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://" + address + "/metrics")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s, %v: %s", resp.Status, err, body)
	}
	out := map[string]float64{}
	for line := range strings.Lines(string(body)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		i := strings.LastIndexByte(line, ' ')
		if out[line[:i]], err = strconv.ParseFloat(strings.TrimSpace(line[i:]), 64); err != nil {
			return nil, fmt.Errorf("line %q: %w", line, err)
		}
	}
	return out, nil
}

// scraped is scrape that has to succeed.
func (s *site) scraped(address string) map[string]float64 {
	s.t.Helper()
	got, err := s.scrape(address)
	s.must(err)
	return got
}

const metricsAddress = "127.0.0.1:9474"

func metricsAt(listen string) string { return fmt.Sprintf("metrics: {listen: %q}\n", listen) }

// TestMetrics: what clients do raises the right numbers, by as much as there was of it, over both families.
func TestMetrics(t *testing.T) {
	needLab(t)
	s := openSite(t, labnet.StoryOptions{}, metricsAt(metricsAddress)+storyConfig)
	before := s.scraped(metricsAddress)
	for _, reason := range packet.Reasons() {
		if _, ok := before[fmt.Sprintf("tunlb_dropped_packets_total{reason=%q}", reason)]; !ok {
			t.Errorf("the drops for %s are missing", reason)
		}
	}
	for range 6 {
		s.get("client", "http://203.0.113.22:8080/") // wrr, 3:2:1
		s.get("client", "http://[2001:db8:113::22]/")
	}
	if conn, err := dialIn(context.Background(), s.lab.NS("client"), "tcp", "203.0.113.22:81"); err == nil { // has no server
		conn.Close()
		t.Error("a service without servers takes connections")
	}
	// The numbers of both are compared when the last connection's last packet has passed.
	var status, after = s.status(), map[string]float64(nil)
	s.until("nothing passes any more", func() error {
		status = s.status()
		after = s.scraped(metricsAddress)
		if again := s.status(); again.Ports[0].RxPackets != status.Ports[0].RxPackets || again.Ports[0].TxPackets != status.Ports[0].TxPackets {
			return fmt.Errorf("from %+v to %+v", status.Ports, again.Ports)
		}
		return nil
	})
	for name, want := range map[string]float64{
		`tunlb_flows_opened_total`:                                                12,
		`tunlb_service_connections_total{service="weighted"}`:                     6,
		`tunlb_service_connections_total{service="web6"}`:                         6,
		`tunlb_service_connections_total{service="echo"}`:                         0,
		`tunlb_server_connections_total{server="rs1",service="weighted"}`:         3,
		`tunlb_server_connections_total{server="rs2",service="weighted"}`:         2,
		`tunlb_server_connections_total{server="rs3",service="weighted"}`:         1,
		`tunlb_server_connections_total{server="rs1",service="web6"}`:             2,
		`tunlb_dropped_packets_total{reason="no-server"}`:                         1,
		`tunlb_dropped_packets_total{reason="no-route"}`:                          0,
		`tunlb_icmp_errors_total`:                                                 1,
		`tunlb_flows_ended_total{cause="evicted"}`:                                0,
		`tunlb_service_packets_total{direction="in",service="drained"}`:           0,
		`tunlb_server_connections{server="rs1",service="tcpecho",state="active"}`: 0,
	} {
		if _, ok := after[name]; !ok || after[name]-before[name] != want {
			t.Errorf("%s has risen by %v (there: %t), want %v", name, after[name]-before[name], ok, want)
		}
	}
	// The rest is what status says.
	for _, svc := range status.Services {
		for _, srv := range svc.Servers {
			for name, want := range map[string]uint64{
				"tunlb_server_packets_total{direction=\"in\"":  srv.Traffic.InPackets,
				"tunlb_server_packets_total{direction=\"out\"": srv.Traffic.OutPackets,
				"tunlb_server_bytes_total{direction=\"in\"":    srv.Traffic.InBytes,
				"tunlb_server_bytes_total{direction=\"out\"":   srv.Traffic.OutBytes,
			} {
				name = fmt.Sprintf("%s,server=%q,service=%q}", name, srv.Name, svc.Name)
				if got, ok := after[name]; !ok || got != float64(want) {
					t.Errorf("%s is %v (there: %t), want %d", name, got, ok, want)
				}
			}
		}
	}
	if got := after[`tunlb_server_bytes_total{direction="out",server="rs1",service="weighted"}`]; got < 300 {
		t.Errorf("%v bytes from rs1, want those of three answers at least", got)
	}
	if got, want := after[`tunlb_port_packets_total{direction="rx",netns="",port="tunlb0"}`], float64(status.Ports[0].RxPackets); got != want || got < 40 {
		t.Errorf("%v packets came in, want %v", got, want)
	}
	lane := `tunlb_lane_cpu_seconds_total{netns="",port="tunlb0"}`
	if after[lane] <= before[lane] || after[lane] > 10 {
		t.Errorf("the lane has used %v s and then %v s", before[lane], after[lane])
	}
	if got := after["tunlb_start_time_seconds"]; int64(got) != status.Daemon.Started.Unix() {
		t.Errorf("started at %v, want %v", got, status.Daemon.Started)
	}
	if after[`tunlb_service_up_weight{service="weighted"}`] != 6 || after[`tunlb_server_up{server="rs1",service="web"}`] != 1 || after["go_goroutines"] < 1 {
		t.Error("weight, health or the runtime's are not there")
	}
	for name := range after {
		if strings.Contains(name, "198.51.100.7") || strings.Contains(name, "2001:db8:1::7") {
			t.Errorf("%s names a client", name)
		}
	}
}

// TestMetricsReload: a reload takes a removed server's series away, moves the endpoint without resetting anything, and
// where the new address cannot be had is refused and leaves all as it was.
func TestMetricsReload(t *testing.T) {
	needLab(t)
	s := openSite(t, labnet.StoryOptions{}, metricsAt(metricsAddress)+storyConfig)
	s.sequence("client", "http://203.0.113.22/", 6)
	const rs1, rs3 = `tunlb_server_connections_total{server="rs1",service="web"}`, `tunlb_server_connections_total{server="rs3",service="web"}`
	if got := s.scraped(metricsAddress); got[rs1] != 2 || got[rs3] != 2 {
		t.Fatalf("connections: %v and %v, want 2 and 2", got[rs1], got[rs3])
	}
	without := strings.Replace(storyConfig, "      - {name: rs3, address: 192.168.0.12:8080}\n", "", 1)
	if without == storyConfig {
		t.Fatal("the configuration has no rs3 to be removed")
	}
	socket := filepath.Join(t.TempDir(), "m.sock")
	last := metricsAddress
	for _, next := range []string{metricsAddress, "[::1]:9474", "[::]:9474", "0.0.0.0:9475", socket, metricsAddress} {
		s.write(metricsAt(next) + without)
		out := s.done("reload")
		if moved := next != last; strings.Contains(out, "~ metrics") != moved {
			t.Errorf("reload to %s: %s", next, out)
		}
		at := strings.NewReplacer("[::]", "[::1]", "0.0.0.0", "127.0.0.1").Replace(next)
		got, err := s.scrape(at)
		if err != nil {
			t.Fatalf("%s: %v\n%s", next, err, s.log)
		}
		if _, there := got[rs3]; there || got[rs1] != 2 {
			t.Errorf("%s: rs3 is there: %t; rs1 has had %v connections, want 2", next, there, got[rs1])
		}
		if last != next && last != "[::1]:9474" { // which [::] includes
			if _, err := s.scrape(last); err == nil {
				t.Errorf("%s still answers after the move to %s", last, next)
			}
		}
		last = at
	}

	taken, err := s.lab.NS("lb").Listen("tcp", "127.0.0.1:9476")
	s.must(err)
	defer taken.Close()
	for listen, want := range map[string]string{"127.0.0.1:9476": "another program has it, see ss -ltnp 'sport = :9476'", "192.0.2.1:9474": "it is no address of this machine"} {
		s.write(metricsAt(listen) + storyConfig)
		if _, stderr, code := s.tunlb("reload"); code != exitFailed || !strings.Contains(stderr, want) || !strings.Contains(stderr, "nothing was changed") {
			t.Errorf("reload to %s: exit %d, %s", listen, code, stderr)
		}
		if got := s.scraped(metricsAddress); got[rs1] != 2 || slices.Contains(slices.Collect(maps.Keys(got)), rs3) {
			t.Errorf("after a refused reload: %v connections of rs1, want 2 and no rs3", got[rs1])
		}
	}
	s.write(storyConfig)
	s.done("reload")
	if _, err := s.scrape(metricsAddress); err == nil {
		t.Error("the endpoint is there without being configured")
	}
}

// TestMetricsStart: an address that cannot be had keeps tunlb from starting, and leaves nothing.
func TestMetricsStart(t *testing.T) {
	needLab(t)
	s := openLab(t, labnet.Story(labnet.StoryOptions{Servers: 1}), metricsAt("192.0.2.1:9474")+demoConfig)
	if _, stderr, code := s.tunlb("run", "-f", s.config); code != exitFailed || !strings.Contains(stderr, "192.0.2.1:9474: bind: cannot assign requested address: it is no address of this machine") {
		t.Errorf("exit %d: %s", code, stderr)
	}
	s.unchanged()
}

// TestMetricsSegment: an Ethernet segment's neighbours, questions and answers.
func TestMetricsSegment(t *testing.T) {
	needLab(t)
	o := labnet.DROptions{Shape: labnet.Inline}
	s := openLab(t, labnet.DR(o), metricsAt(metricsAddress)+drConfig(o))
	s.start()
	t.Cleanup(s.stop)
	s.untilUp()
	s.get("client", "http://203.0.113.22/")
	got := s.scraped(metricsAddress)
	for name, least := range map[string]float64{
		`tunlb_segment_neighbours{netns="",segment="tap0+tap1",state="reachable"}`:              6, // three servers, both families
		`tunlb_segment_neighbour_messages_total{kind="asked",netns="",segment="tap0+tap1"}`:     6,
		`tunlb_segment_neighbour_messages_total{kind="answered",netns="",segment="tap0+tap1"}`:  1,
		`tunlb_segment_neighbour_messages_total{kind="announced",netns="",segment="tap0+tap1"}`: 2,
		`tunlb_segment_stations{netns="",segment="tap0+tap1"}`:                                  4,
		`tunlb_server_connections_total{server="rs1",service="web"}`:                            1,
	} {
		if v, ok := got[name]; !ok || v < least {
			t.Errorf("%s is %v (there: %t), want %v at least", name, v, ok, least)
		}
	}
}

// TestMetricsOfClients: who is connected to the control socket and to the endpoint is counted, and who sends no whole request is cut.
func TestMetricsOfClients(t *testing.T) {
	needLab(t)
	s := openSite(t, labnet.StoryOptions{}, metricsAt(metricsAddress)+storyConfig)
	const open, slow = `tunlb_http_connections{server="control"}`, `tunlb_http_cut_connections_total{reason="slow",server=%q}`
	before := s.scraped(metricsAddress)
	if before[`tunlb_http_connections{server="metrics"}`] < 1 {
		t.Error("the scrape itself is not counted")
	}
	for _, name := range []string{fmt.Sprintf(slow, "control"), `tunlb_log_missing_lines_total{cause="suppressed"}`, `tunlb_log_missing_lines_total{cause="lost"}`} {
		if v, ok := before[name]; !ok || v != 0 {
			t.Errorf("%s is %v at first (there: %t), want 0", name, v, ok)
		}
	}
	for range 3 {
		conn, err := dialIn(context.Background(), s.lab.NS("lb"), "unix", "@tunlb")
		s.must(err)
		defer conn.Close()
		_, err = conn.Write([]byte("GET /v1/status HTTP/1.1\r\n"))
		s.must(err)
	}
	conn, err := dialIn(context.Background(), s.lab.NS("lb"), "tcp", metricsAddress)
	s.must(err)
	defer conn.Close()
	_, err = conn.Write([]byte("GET /metrics HTTP/1.1\r\n"))
	s.must(err)
	s.until("three are connected", func() error {
		if now := s.scraped(metricsAddress)[open]; now != before[open]+3 {
			return fmt.Errorf("%v connections, and %v before", now, before[open])
		}
		return nil
	})
	s.until("all have been cut", func() error {
		now := s.scraped(metricsAddress)
		if c, m := now[fmt.Sprintf(slow, "control")], now[fmt.Sprintf(slow, "metrics")]; c != 3 || m != 1 {
			return fmt.Errorf("%v and %v", c, m)
		}
		return nil
	})
}
