package metrics

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/gate"
)

// Metric is one of the list. A plain value.
type Metric struct {
	Name   string
	Type   prometheus.ValueType // prometheus.CounterValue or GaugeValue
	Help   string
	Labels []string
	read   reader
}

// Kind is the type as people call it.
func (m Metric) Kind() string {
	if m.Type == prometheus.CounterValue {
		return "counter"
	}
	return "gauge"
}

// Section is a part of the list.
type Section struct {
	Title   string
	Metrics []Metric
}

// Sets of labels.
var (
	byService = []string{"service"}
	byServer  = []string{"service", "server"}
	byPort    = []string{"port", "netns"}
	bySegment = []string{"segment", "netns"}
)

func and(labels []string, more ...string) []string {
	return append(labels[:len(labels):len(labels)], more...)
}

func counter(name, help string, labels []string, read reader) Metric {
	return Metric{name, prometheus.CounterValue, help, labels, read}
}

func gauge(name, help string, labels []string, read reader) Metric {
	return Metric{name, prometheus.GaugeValue, help, labels, read}
}

// Catalogue lists all metrics of tunlb's own, in the order of docs/metrics.md.
func Catalogue() []Section {
	return []Section{
		{"The process", process()},
		{"Its clients and its log", doorsAndLog()},
		{"The connection table", table()},
		{"The fast path", fastpath()},
		{"Services", ofServices()},
		{"Servers", ofServers()},
		{"Drops and errors", drops()},
		{"Ports and lanes", ofPorts()},
		{"Ethernet segments", ofSegments()},
	}
}

func process() []Metric {
	return []Metric{
		gauge("tunlb_build_info", "What is running; always 1.", []string{"version", "goversion", "goos", "goarch"}, func(s *snapshot, put put) {
			put(1, s.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		}),
		gauge("tunlb_start_time_seconds", "When it has started, in seconds since 1970: its uptime is time() less this.", nil, one(func(s *snapshot) float64 {
			return float64(s.Started.UnixMilli()) / 1000
		})),
		gauge("tunlb_snapshot_duration_seconds", "How long taking the status for this scrape has taken.", nil, one(func(s *snapshot) float64 {
			return s.took.Seconds()
		})),
		counter("tunlb_watch_lost_records_total", "Records of packets that trace or capture was too slow to take; the packets are not concerned.", nil, one(func(s *snapshot) float64 {
			return float64(s.status.WatchLost)
		})),
	}
}

// doorsAndLog are what the clients of the control socket and of the metrics' endpoint were denied, and what the log was.
func doorsAndLog() []Metric {
	return []Metric{
		gauge("tunlb_http_connections", "Connections of clients: to control (the control socket), to metrics (the endpoint that says this).", []string{"server"},
			doors(func(c gate.Counts, put put) { put(float64(c.Open)) })),
		counter("tunlb_http_cut_connections_total", "Connections that were refused: busy (their user or address had too many), full (all had); or ended: idle (made room for another), slow (did not send their request), stalled (did not read their answer).",
			[]string{"server", "reason"}, doors(func(c gate.Counts, put put) {
				for _, why := range gate.Reasons() {
					put(float64(c.Cut[why.String()]), why.String())
				}
			})),
		counter("tunlb_log_missing_lines_total", "Lines that are not in the log: suppressed (too many of their kind, which the log says), lost (what the log is written to was too slow, or full).",
			[]string{"cause"}, func(s *snapshot, put put) {
				if s.Log != nil {
					c := s.Log()
					put(float64(c.Suppressed), "suppressed")
					put(float64(c.Lost), "lost")
				}
			}),
	}
}

func table() []Metric {
	return []Metric{
		gauge("tunlb_flows", "Connections that are remembered.", nil, one(func(s *snapshot) float64 { return float64(s.status.Flows.Count) })),
		gauge("tunlb_flows_limit", "Connections that are remembered at most.", nil, one(func(s *snapshot) float64 { return float64(s.status.Flows.Cap) })),
		counter("tunlb_flows_opened_total", "Connections opened.", nil, one(func(s *snapshot) float64 { return float64(s.status.Flows.Opened) })),
		counter("tunlb_flows_ended_total", "Connections forgotten: expired (closed, or silent for too long), evicted (half-open, made room), deleted (killed, or their server was gone).",
			[]string{"cause"}, func(s *snapshot, put put) {
				put(float64(s.status.Flows.Expired), "expired")
				put(float64(s.status.Flows.Evicted), "evicted")
				put(float64(s.status.Flows.Deleted), "deleted")
			}),
		gauge("tunlb_fragmented_datagrams", "Datagrams of which not all fragments have come yet.", nil, one(func(s *snapshot) float64 { return float64(s.status.Fragments.Datagrams) })),
		gauge("tunlb_parked_fragments_bytes", "Fragments that wait for the first of their datagram.", nil, one(func(s *snapshot) float64 { return float64(s.status.Fragments.Parked) })),
		gauge("tunlb_gateway_mappings", "Endpoints of the inside that have a port of the masquerade address. Gateways that share an address and its ports share these.",
			[]string{"inside", "masquerade"}, func(s *snapshot, put put) {
				for _, g := range s.status.Gateways {
					put(float64(g.Mappings), g.Inside.String(), g.Masquerade.String())
				}
			}),
	}
}

// fastpath is there only where the kernel carries connections.
func fastpath() []Metric {
	read := func(value func(s *tunlb.FastpathStatus) float64) reader {
		return func(s *snapshot, put put) {
			if s.status.Fastpath != nil {
				put(value(s.status.Fastpath))
			}
		}
	}
	type fast = *tunlb.FastpathStatus
	return []Metric{
		gauge("tunlb_fastpath_connections", "Connections that the kernel carries. There are no metrics of the fast path where it is not in use.", nil, read(func(s fast) float64 { return float64(s.Carried) })),
		gauge("tunlb_fastpath_half_open_connections", "Connections of these, and of those that are about to be, that were handed over with their first packet and have not shown yet that both sides take part.", nil, read(func(s fast) float64 { return float64(s.HalfOpen) })),
		counter("tunlb_fastpath_handed_over_total", "Connections handed over to the kernel.", nil, read(func(s fast) float64 { return float64(s.HandedOver) })),
		counter("tunlb_fastpath_taken_back_total", "Connections taken back: ended, or no longer the kernel's to carry.", nil, read(func(s fast) float64 { return float64(s.TakenBack) })),
		counter("tunlb_fastpath_missed_total", "Hand-overs put off since too many waited.", nil, read(func(s fast) float64 { return float64(s.Missed) })),
		counter("tunlb_fastpath_refused_total", "Connections that the kernel does not carry: kernel (it has said so), local (client or server is the box), no-way (to one of both, out of an Ethernet interface), resolving (a MAC was not known yet), mtu (packets may be too big for the way out), full.", []string{"reason"}, func(s *snapshot, put put) {
			if s.status.Fastpath != nil {
				for _, r := range tunlb.Refusals() {
					put(float64(s.status.Fastpath.Refused[r.String()]), r.String())
				}
			}
		}),
		counter("tunlb_fastpath_packets_total", "Packets carried by the kernel as it counts: a super-packet is one. They are in the services' counters as well.", nil, read(func(s fast) float64 { return float64(s.Packets) })),
		counter("tunlb_fastpath_bytes_total", "Bytes of IP carried by the kernel. They are in the services' counters as well.", nil, read(func(s fast) float64 { return float64(s.Bytes) })),
		counter("tunlb_fastpath_errors_total", "Errors of the kernel, when it was asked what it carries or told to stop.", nil, read(func(s fast) float64 { return float64(s.Errors) })),
	}
}

func ofServices() []Metric {
	each := func(parts ...part[tunlb.ServiceStatus]) reader {
		return each(func(s *snapshot) []group[tunlb.ServiceStatus] { return s.services }, parts...)
	}
	type service = *tunlb.ServiceStatus
	return []Metric{
		gauge("tunlb_service_info", "How a service is configured; always 1. Its owner is who answers for the VIP: tunlb or the box.", and(byService, "listen", "mode", "scheduler", "owner"), func(s *snapshot, put put) {
			for _, g := range s.services {
				if svc := g.of[0]; g.labels[0] != other {
					put(1, svc.Name, listens(svc), svc.Mode, svc.Scheduler, svc.Owner)
				}
			}
		}),
		counter("tunlb_service_connections_total", "Connections opened.", byService, each(value(func(s service) float64 { return float64(s.Traffic.Conns) }))),
		counter("tunlb_service_packets_total", "Packets as on the wire: in from clients, out to them.", and(byService, "direction"), each(
			labelled("in", func(s service) float64 { return float64(s.Traffic.InPackets) }),
			labelled("out", func(s service) float64 { return float64(s.Traffic.OutPackets) }))),
		counter("tunlb_service_bytes_total", "Bytes of IP: in from clients, out to them.", and(byService, "direction"), each(
			labelled("in", func(s service) float64 { return float64(s.Traffic.InBytes) }),
			labelled("out", func(s service) float64 { return float64(s.Traffic.OutBytes) }))),
		gauge("tunlb_service_up_weight", "Sum of the weights of the servers that are up and not drained.", byService, each(value(func(s service) float64 { return float64(s.UpWeight) }))),
		gauge("tunlb_service_quorum", "What tunlb_service_up_weight should be at least.", byService, each(value(func(s service) float64 { return float64(s.Quorum) }))),
		gauge("tunlb_service_below_quorum", "1: the quorum is missed, and the sorry server serves if there is one.", byService, each(value(func(s service) float64 { return truth(s.Below) }))),
	}
}

func ofServers() []Metric {
	each := func(parts ...part[tunlb.ServerStatus]) reader {
		return each(func(s *snapshot) []group[tunlb.ServerStatus] { return s.servers }, parts...)
	}
	type server = *tunlb.ServerStatus
	return []Metric{
		gauge("tunlb_server_info", "Where a server is and how packets get there; always 1.", and(byServer, "address", "mode"), func(s *snapshot, put put) {
			for _, g := range s.servers {
				if srv := g.of[0]; g.labels[1] != other {
					put(1, g.labels[0], srv.Name, srv.Address.String(), srv.Mode)
				}
			}
		}),
		gauge("tunlb_server_up", "1: neither its health check nor silence for its address stands against it. 0: it is down, or not checked yet.", byServer, each(value(func(s server) float64 { return truth(up(s)) }))),
		gauge("tunlb_server_drained", "1: an operator has drained it.", byServer, each(value(func(s server) float64 { return truth(s.Drained) }))),
		gauge("tunlb_server_overloaded", "1: it has its upper number of connections, and not yet fewer than the lower one again.", byServer, each(value(func(s server) float64 { return truth(s.Overloaded) }))),
		gauge("tunlb_server_sorry", "1: it is the server of last resort, and serves.", byServer, each(value(func(s server) float64 { return truth(s.Sorry) }))),
		gauge("tunlb_server_weight", "Weight in force: 0 while it is down or drained, a part of the configured one while it rises.", byServer, each(value(weight))),
		gauge("tunlb_server_configured_weight", "Weight by the file, or by the operator who has changed it.", byServer, each(value(func(s server) float64 { return float64(s.Configured) }))),
		gauge("tunlb_server_connections", "Connections: active (ESTABLISHED or SYN_RECV) and inactive.", and(byServer, "state"), each(
			labelled("active", func(s server) float64 { return float64(s.Active) }),
			labelled("inactive", func(s server) float64 { return float64(s.Inactive) }))),
		gauge("tunlb_server_carried_connections", "Connections of these that the kernel carries.", byServer, each(value(func(s server) float64 { return float64(s.Carried) }))),
		gauge("tunlb_server_persistence_templates", "Clients that are kept with it.", byServer, each(value(func(s server) float64 { return float64(s.Persistent) }))),
		counter("tunlb_server_connections_total", "Connections opened.", byServer, each(value(func(s server) float64 { return float64(s.Traffic.Conns) }))),
		counter("tunlb_server_packets_total", "Packets as on the wire: in from clients, out to them. In direct routing answers pass tunlb only if it is the server's gateway.", and(byServer, "direction"), each(
			labelled("in", func(s server) float64 { return float64(s.Traffic.InPackets) }),
			labelled("out", func(s server) float64 { return float64(s.Traffic.OutPackets) }))),
		counter("tunlb_server_bytes_total", "Bytes of IP: in from clients, out to them.", and(byServer, "direction"), each(
			labelled("in", func(s server) float64 { return float64(s.Traffic.InBytes) }),
			labelled("out", func(s server) float64 { return float64(s.Traffic.OutBytes) }))),
	}
}

func drops() []Metric {
	return []Metric{
		counter("tunlb_dropped_packets_total", "Packets dropped, by the reason that trace and status name as well. All reasons are there from the start.", []string{"reason"}, func(s *snapshot, put put) {
			for _, r := range packet.Reasons() {
				put(float64(s.status.Drops[r.String()]), r.String())
			}
		}),
		counter("tunlb_icmp_errors_total", "ICMP errors that tunlb itself has sent. Those held back by its limit are drops with the reason rate-limited.", nil, one(func(s *snapshot) float64 {
			return float64(s.status.ICMPErrors)
		})),
	}
}

func ofPorts() []Metric {
	each := func(parts ...part[tunlb.PortStatus]) reader {
		return each(func(s *snapshot) []group[tunlb.PortStatus] { return s.ports }, parts...)
	}
	type port = *tunlb.PortStatus
	return []Metric{
		counter("tunlb_port_packets_total", "Packets as on the wire: rx came in by the port, tx left by it.", and(byPort, "direction"), each(
			labelled("rx", func(p port) float64 { return float64(p.RxPackets) }),
			labelled("tx", func(p port) float64 { return float64(p.TxPackets) }))),
		counter("tunlb_port_bytes_total", "Bytes of IP: rx came in by the port, tx left by it.", and(byPort, "direction"), each(
			labelled("rx", func(p port) float64 { return float64(p.RxBytes) }),
			labelled("tx", func(p port) float64 { return float64(p.TxBytes) }))),
		counter("tunlb_port_segmented_packets_total", "Super-packets cut in software, since the kernel took them no other way.", byPort, each(value(func(p port) float64 { return float64(p.Segmented) }))),
		counter("tunlb_port_lost_frames_total", "Frames lost before tunlb saw them: overrun (a packet socket's queue was full), unfit (longer than any packet may be).", and(byPort, "cause"), each(
			labelled("overrun", func(p port) float64 { return float64(p.Overruns) }),
			labelled("unfit", func(p port) float64 { return float64(p.Unfit) }))),
		gauge("tunlb_port_mtu_bytes", "The port's MTU.", byPort, each(value(func(p port) float64 { return float64(p.MTU) }))),
		counter("tunlb_lane_cpu_seconds_total", "Processor time of the port's lane, the one thread that handles what comes in by it: its rate is the lane's utilisation, 1 at most. Linux only.", byPort, func(s *snapshot, put put) {
			for _, g := range s.ports {
				if busy := g.of[0].CPU; busy > 0 {
					put(busy.Seconds(), g.labels...)
				}
			}
		}),
	}
}

func ofSegments() []Metric {
	each := func(parts ...part[tunlb.SegmentStatus]) reader {
		return each(func(s *snapshot) []group[tunlb.SegmentStatus] { return s.segments }, parts...)
	}
	type segment = *tunlb.SegmentStatus
	var states, forms []part[tunlb.SegmentStatus]
	for _, state := range []string{"reachable", "stale", "probing", "incomplete", "failed", "static"} {
		states = append(states, labelled(state, func(s segment) (n float64) {
			for _, neighbour := range s.Neighbours {
				n += truth(neighbour.State == state)
			}
			return n
		}))
	}
	for _, form := range []string{"request", "probe", "reply", "announcement"} {
		forms = append(forms, labelled(form, func(s segment) float64 { return float64(s.Suppressed[form]) }))
	}
	return []Metric{
		gauge("tunlb_segment_neighbours", "Stations that tunlb sends to, by what is known of their MAC.", and(bySegment, "state"), each(states...)),
		gauge("tunlb_segment_stations", "MACs heard of late.", bySegment, each(value(func(s segment) float64 { return float64(s.Stations) }))),
		counter("tunlb_segment_neighbour_messages_total", "ARP and neighbour discovery: asked (tunlb's requests), answered (others' requests), announced (VIPs and own addresses, unasked).", and(bySegment, "kind"), each(
			labelled("asked", func(s segment) float64 { return float64(s.Asked) }),
			labelled("answered", func(s segment) float64 { return float64(s.Answered) }),
			labelled("announced", func(s segment) float64 { return float64(s.Announced) }))),
		counter("tunlb_segment_suppressed_claims_total", "Servers' claims to VIPs that went no further, by form.", and(bySegment, "form"), each(forms...)),
		counter("tunlb_segment_disbelieved_claims_total", "Claims to a neighbour's address by another MAC: unpinned, and pinned by `mac:` of the file.", and(bySegment, "kind"), each(
			labelled("unpinned", func(s segment) float64 { return float64(s.Foreign) }),
			labelled("pinned", func(s segment) float64 { return float64(s.Pinned) }))),
		gauge("tunlb_segment_conflicts", "Stations that claim an address of tunlb's. `tunlb doctor` names them and what mends it.", bySegment, each(value(func(s segment) float64 { return float64(len(s.Conflicts)) }))),
		counter("tunlb_segment_station_moves_total", "Stations heard at another port than before.", bySegment, each(value(func(s segment) float64 { return float64(s.Moves) }))),
		counter("tunlb_segment_looped_frames_total", "Frames of tunlb's own that came back.", bySegment, each(value(func(s segment) float64 { return float64(s.Loops) }))),
	}
}
