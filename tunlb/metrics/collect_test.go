package metrics

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/gate"
	"github.com/tunlb/tunlb/tunlb/logging"
)

// fixed is a source that always says the same.
type fixed tunlb.Status

func (f *fixed) Status() tunlb.Status { return tunlb.Status(*f) }

// full is a status in which everything has a value, so that every metric has a series.
func full() *fixed {
	traffic := tunlb.Traffic{Conns: 3, InPackets: 30, OutPackets: 40, InBytes: 300, OutBytes: 400}
	vip := netip.MustParseAddr("203.0.113.22")
	return &fixed{
		Services: []tunlb.ServiceStatus{{
			Name: "web", Mode: "nat", Scheduler: "wlc", Owner: "tunlb", Traffic: traffic, UpWeight: 3, Quorum: 2,
			Listen: []policy.Listen{{Addr: vip, Proto: policy.TCP, First: 80, Last: 80}},
			Servers: []tunlb.ServerStatus{
				{Name: "rs1", Address: netip.MustParseAddrPort("192.168.0.10:8080"), Mode: "nat", Weight: 3, Configured: 3, Active: 2, Inactive: 1, Carried: 2, Traffic: traffic, Health: "up", Overloaded: true, Persistent: 4},
				{Name: "rs2", Address: netip.MustParseAddrPort("192.168.0.11:8080"), Mode: "nat", Configured: 1, Health: "down", Drained: true},
				{Name: "rs3", Address: netip.MustParseAddrPort("192.168.0.12:8080"), Mode: "nat", Weight: 5, Scale: 20, Configured: 1, Health: "checking"},
				{Name: "rs4", Address: netip.MustParseAddrPort("192.168.0.13:8080"), Mode: "nat", Weight: 1, Configured: 1, Down: "it does not answer", Sorry: true},
				{Name: "rs5", Address: netip.MustParseAddrPort("192.168.0.14:8080"), Mode: "nat", Weight: 1, Configured: 1},
			},
		}},
		Gateways: []tunlb.GatewayStatus{{Inside: netip.MustParsePrefix("192.168.0.0/24"), Masquerade: netip.MustParseAddr("198.51.100.1"), Mappings: 5}},
		Segments: []tunlb.SegmentStatus{{
			Ports: []string{"eth0", "eth1"}, Stations: 4, Moves: 1, Loops: 2, Foreign: 3, Pinned: 4, Asked: 5, Answered: 6, Announced: 7,
			Neighbours: []tunlb.NeighbourStatus{{State: "reachable"}, {State: "reachable"}, {State: "failed"}},
			Suppressed: map[string]uint64{"reply": 8},
			Conflicts:  []tunlb.ConflictStatus{{VIP: vip}},
		}},
		Ports:      []tunlb.PortStatus{{Name: "tunlb0", MTU: 1500, RxPackets: 1, RxBytes: 2, TxPackets: 3, TxBytes: 4, Segmented: 5, Overruns: 6, Unfit: 7, CPU: 1500 * time.Millisecond}},
		Flows:      tunlb.FlowStatus{Count: 9, Cap: 100, Opened: 20, Expired: 5, Evicted: 4, Deleted: 2},
		Fragments:  tunlb.FragmentStatus{Datagrams: 2, Parked: 3000},
		Drops:      map[string]uint64{packet.NoServer.String(): 7},
		ICMPErrors: 6, WatchLost: 11,
		Fastpath: &tunlb.FastpathStatus{Carried: 3, HalfOpen: 2, HandedOver: 40, TakenBack: 37, Missed: 1, Refused: map[string]uint64{"mtu": 5}, Packets: 60, Bytes: 7000, Errors: 8},
	}
}

var options = Options{
	Version: "v1.2.3", Started: time.Unix(1_700_000_000, 0),
	Log:     func() logging.Counts { return logging.Counts{Lost: 3, Suppressed: 4} },
	Control: func() gate.Counts { return gate.Counts{Open: 5, Cut: map[string]uint64{"busy": 1, "slow": 6}} },
	Scrape:  func() gate.Counts { return gate.Counts{Open: 2, Cut: map[string]uint64{"full": 7}} },
}

// series scrapes, as name{label="value",...} value, sorted, without the runtime's and the process's own.
func series(t *testing.T, source Source, o Options) map[string]float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(newCollector(source, o))
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			name := f.GetName()
			if len(labels) > 0 {
				name += "{" + strings.Join(labels, ",") + "}"
			}
			out[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return out
}

// TestValues: each number of the status is where it belongs.
func TestValues(t *testing.T) {
	got := series(t, full(), options)
	for name, want := range map[string]float64{
		`tunlb_start_time_seconds`:                                            1_700_000_000,
		`tunlb_watch_lost_records_total`:                                      11,
		`tunlb_http_connections{server="control"}`:                            5,
		`tunlb_http_connections{server="metrics"}`:                            2,
		`tunlb_http_cut_connections_total{reason="busy",server="control"}`:    1,
		`tunlb_http_cut_connections_total{reason="slow",server="control"}`:    6,
		`tunlb_http_cut_connections_total{reason="idle",server="control"}`:    0,
		`tunlb_http_cut_connections_total{reason="full",server="metrics"}`:    7,
		`tunlb_http_cut_connections_total{reason="stalled",server="metrics"}`: 0,
		`tunlb_log_missing_lines_total{cause="lost"}`:                         3,
		`tunlb_log_missing_lines_total{cause="suppressed"}`:                   4,
		`tunlb_flows`:                                                                                             9,
		`tunlb_flows_limit`:                                                                                       100,
		`tunlb_flows_opened_total`:                                                                                20,
		`tunlb_flows_ended_total{cause="expired"}`:                                                                5,
		`tunlb_flows_ended_total{cause="evicted"}`:                                                                4,
		`tunlb_flows_ended_total{cause="deleted"}`:                                                                2,
		`tunlb_fragmented_datagrams`:                                                                              2,
		`tunlb_fastpath_connections`:                                                                              3,
		`tunlb_fastpath_half_open_connections`:                                                                    2,
		`tunlb_fastpath_handed_over_total`:                                                                        40,
		`tunlb_fastpath_taken_back_total`:                                                                         37,
		`tunlb_fastpath_missed_total`:                                                                             1,
		`tunlb_fastpath_refused_total{reason="mtu"}`:                                                              5,
		`tunlb_fastpath_refused_total{reason="kernel"}`:                                                           0,
		`tunlb_fastpath_packets_total`:                                                                            60,
		`tunlb_fastpath_bytes_total`:                                                                              7000,
		`tunlb_fastpath_errors_total`:                                                                             8,
		`tunlb_server_carried_connections{server="rs1",service="web"}`:                                            2,
		`tunlb_parked_fragments_bytes`:                                                                            3000,
		`tunlb_gateway_mappings{inside="192.168.0.0/24",masquerade="198.51.100.1"}`:                               5,
		`tunlb_service_connections_total{service="web"}`:                                                          3,
		`tunlb_service_packets_total{direction="in",service="web"}`:                                               30,
		`tunlb_service_packets_total{direction="out",service="web"}`:                                              40,
		`tunlb_service_bytes_total{direction="in",service="web"}`:                                                 300,
		`tunlb_service_bytes_total{direction="out",service="web"}`:                                                400,
		`tunlb_service_up_weight{service="web"}`:                                                                  3,
		`tunlb_service_quorum{service="web"}`:                                                                     2,
		`tunlb_service_below_quorum{service="web"}`:                                                               0,
		`tunlb_server_up{server="rs1",service="web"}`:                                                             1,
		`tunlb_server_up{server="rs2",service="web"}`:                                                             0,
		`tunlb_server_up{server="rs3",service="web"}`:                                                             0,
		`tunlb_server_up{server="rs4",service="web"}`:                                                             0,
		`tunlb_server_up{server="rs5",service="web"}`:                                                             1,
		`tunlb_server_drained{server="rs2",service="web"}`:                                                        1,
		`tunlb_server_drained{server="rs1",service="web"}`:                                                        0,
		`tunlb_server_overloaded{server="rs1",service="web"}`:                                                     1,
		`tunlb_server_sorry{server="rs4",service="web"}`:                                                          1,
		`tunlb_server_weight{server="rs1",service="web"}`:                                                         3,
		`tunlb_server_weight{server="rs3",service="web"}`:                                                         0.25,
		`tunlb_server_configured_weight{server="rs2",service="web"}`:                                              1,
		`tunlb_server_connections{server="rs1",service="web",state="active"}`:                                     2,
		`tunlb_server_connections{server="rs1",service="web",state="inactive"}`:                                   1,
		`tunlb_server_persistence_templates{server="rs1",service="web"}`:                                          4,
		`tunlb_server_connections_total{server="rs1",service="web"}`:                                              3,
		`tunlb_server_packets_total{direction="out",server="rs1",service="web"}`:                                  40,
		`tunlb_server_bytes_total{direction="in",server="rs1",service="web"}`:                                     300,
		`tunlb_dropped_packets_total{reason="no-server"}`:                                                         7,
		`tunlb_icmp_errors_total`:                                                                                 6,
		`tunlb_port_packets_total{direction="rx",netns="",port="tunlb0"}`:                                         1,
		`tunlb_port_packets_total{direction="tx",netns="",port="tunlb0"}`:                                         3,
		`tunlb_port_bytes_total{direction="rx",netns="",port="tunlb0"}`:                                           2,
		`tunlb_port_segmented_packets_total{netns="",port="tunlb0"}`:                                              5,
		`tunlb_port_lost_frames_total{cause="overrun",netns="",port="tunlb0"}`:                                    6,
		`tunlb_port_lost_frames_total{cause="unfit",netns="",port="tunlb0"}`:                                      7,
		`tunlb_port_mtu_bytes{netns="",port="tunlb0"}`:                                                            1500,
		`tunlb_lane_cpu_seconds_total{netns="",port="tunlb0"}`:                                                    1.5,
		`tunlb_segment_neighbours{netns="",segment="eth0+eth1",state="reachable"}`:                                2,
		`tunlb_segment_neighbours{netns="",segment="eth0+eth1",state="failed"}`:                                   1,
		`tunlb_segment_neighbours{netns="",segment="eth0+eth1",state="stale"}`:                                    0,
		`tunlb_segment_stations{netns="",segment="eth0+eth1"}`:                                                    4,
		`tunlb_segment_neighbour_messages_total{kind="asked",netns="",segment="eth0+eth1"}`:                       5,
		`tunlb_segment_neighbour_messages_total{kind="answered",netns="",segment="eth0+eth1"}`:                    6,
		`tunlb_segment_neighbour_messages_total{kind="announced",netns="",segment="eth0+eth1"}`:                   7,
		`tunlb_segment_suppressed_claims_total{form="reply",netns="",segment="eth0+eth1"}`:                        8,
		`tunlb_segment_disbelieved_claims_total{kind="unpinned",netns="",segment="eth0+eth1"}`:                    3,
		`tunlb_segment_disbelieved_claims_total{kind="pinned",netns="",segment="eth0+eth1"}`:                      4,
		`tunlb_segment_conflicts{netns="",segment="eth0+eth1"}`:                                                   1,
		`tunlb_segment_station_moves_total{netns="",segment="eth0+eth1"}`:                                         1,
		`tunlb_segment_looped_frames_total{netns="",segment="eth0+eth1"}`:                                         2,
		`tunlb_service_info{listen="203.0.113.22:80/tcp",mode="nat",owner="tunlb",scheduler="wlc",service="web"}`: 1,
		`tunlb_server_info{address="192.168.0.10:8080",mode="nat",server="rs1",service="web"}`:                    1,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s is %v (there: %t), want %v", name, v, ok, want)
		}
	}
	for name := range got {
		metric, _, _ := strings.Cut(name, "{")
		if !strings.HasPrefix(metric, "tunlb_") {
			t.Errorf("%s is not tunlb's", name)
		}
	}
}

// TestDropsFromTheStart: rates need a zero before the first drop.
func TestDropsFromTheStart(t *testing.T) {
	got := series(t, &fixed{}, options)
	reasons := packet.Reasons()
	for _, r := range reasons {
		if _, ok := got[fmt.Sprintf("tunlb_dropped_packets_total{reason=%q}", r)]; !ok {
			t.Errorf("%s is missing", r)
		}
	}
	n := 0
	for name := range got {
		if strings.HasPrefix(name, "tunlb_dropped_packets_total{") {
			n++
		}
	}
	if n != len(reasons) {
		t.Errorf("%d series of drops, want %d: the reasons bound them", n, len(reasons))
	}
}

// TestEverySeries: the full status has a series of every metric in the list, and all of them pass Prometheus' linter.
func TestEverySeries(t *testing.T) {
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(newCollector(full(), options))
	problems, err := testutil.GatherAndLint(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var there, want []string
	for _, f := range families {
		there = append(there, f.GetName())
	}
	for _, s := range Catalogue() {
		for _, m := range s.Metrics {
			want = append(want, m.Name)
		}
	}
	slices.Sort(want)
	if !slices.Equal(there, want) {
		t.Errorf("got %v, want %v", there, want)
	}
}

// many is a status of so many services with so many servers each; every server has one connection.
func many(services, servers int) *fixed {
	f := &fixed{}
	for i := range services {
		svc := tunlb.ServiceStatus{Name: fmt.Sprintf("s%d", i)}
		for k := range servers {
			svc.Servers = append(svc.Servers, tunlb.ServerStatus{
				Name: fmt.Sprintf("rs%d", k), Weight: 2, Traffic: tunlb.Traffic{Conns: 1},
				Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i), byte(k)}), 80),
			})
			svc.Traffic.Conns++
		}
		f.Services = append(f.Services, svc)
	}
	return f
}

// TestLimit: beyond the limit servers, and services, are one, and nothing is lost of the sums.
func TestLimit(t *testing.T) {
	got := series(t, many(8, 10), Options{MaxServers: 5})
	sums, counts := map[string]float64{}, map[string]int{}
	for name, v := range got {
		metric, _, _ := strings.Cut(name, "{")
		sums[metric] += v
		counts[metric]++
	}
	if sums["tunlb_server_connections_total"] != 80 || sums["tunlb_server_weight"] != 160 || sums["tunlb_service_connections_total"] != 80 {
		t.Errorf("sums are %v and %v and %v, want 80, 160 and 80", sums["tunlb_server_connections_total"], sums["tunlb_server_weight"], sums["tunlb_service_connections_total"])
	}
	for name, want := range map[string]float64{
		`tunlb_server_connections_total{server="rs4",service="s0"}`:        1,
		`tunlb_server_connections_total{server="_other",service="s0"}`:     5,
		`tunlb_server_connections_total{server="_other",service="s4"}`:     10,
		`tunlb_server_connections_total{server="_other",service="_other"}`: 30,
		`tunlb_service_connections_total{service="_other"}`:                30,
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
	// Five by name, and one for the rest of each of six services: those by name and the other ones.
	if n := counts["tunlb_server_weight"]; n != 5+6 {
		t.Errorf("%d servers have series, want 11", n)
	}
	if n := counts["tunlb_server_info"]; n != 5 {
		t.Errorf("%d servers have their address shown, want 5", n)
	}
}

// TestSameNames: things that cannot be told apart by their labels are one, where Prometheus would refuse all.
func TestSameNames(t *testing.T) {
	f := many(1, 2)
	f.Services[0].Servers[1].Name = f.Services[0].Servers[0].Name
	f.Services = append(f.Services, f.Services[0])
	f.Segments = []tunlb.SegmentStatus{{Ports: []string{"eth0"}, Asked: 1}, {Ports: []string{"eth0"}, NetNS: "\xff", Asked: 2}}
	got := series(t, f, options)
	if v := got[`tunlb_server_connections_total{server="rs0",service="s0"}`]; v != 4 {
		t.Errorf("connections of namesakes: %v, want 4", v)
	}
	if v := got["tunlb_segment_neighbour_messages_total{kind=\"asked\",netns=\"�\",segment=\"eth0\"}"]; v != 2 {
		t.Errorf("a segment of another namespace has asked %v times, want 2: %v", v, got)
	}
}

// TestNoLaneTime: where the system does not tell, there is no series; 0 would be a lie.
func TestNoLaneTime(t *testing.T) {
	f := full()
	f.Ports[0].CPU = 0
	for name := range series(t, f, options) {
		if strings.HasPrefix(name, "tunlb_lane_cpu_seconds_total") {
			t.Errorf("%s is there", name)
		}
	}
}

// TestGone: a server that is no longer in the status has no series.
func TestGone(t *testing.T) {
	f := full()
	c := newCollector(f, options)
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(c)
	count := func() int {
		n, err := testutil.GatherAndCount(r, "tunlb_server_up")
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := count(); n != 5 {
		t.Errorf("%d servers, want 5", n)
	}
	f.Services[0].Servers = f.Services[0].Servers[:2]
	if n := count(); n != 2 {
		t.Errorf("%d servers after three are gone, want 2", n)
	}
}

// BenchmarkGather is a scrape's work besides the engine's, of 100 services with 100 servers each.
func BenchmarkGather(b *testing.B) {
	r := NewRegistry(many(100, 100), Options{MaxServers: 10_000})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Gather(); err != nil {
			b.Fatal(err)
		}
	}
}
