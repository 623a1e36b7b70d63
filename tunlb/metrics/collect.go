package metrics

import (
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/gate"
	"github.com/tunlb/tunlb/tunlb/logging"
)

// DefaultMaxServers is how many servers have series of their own, and how many services, unless the options say
// otherwise.
const DefaultMaxServers = 1000

// other is the server, and the service, that stands for all that are beyond the limit.
const other = "_other"

// Source is whose status is shown: an engine, or a daemon's wrapping of one.
type Source interface{ Status() tunlb.Status }

// Options say what the status does not. The zero value is useful.
type Options struct {
	Version    string
	Started    time.Time
	MaxServers int // 0 means DefaultMaxServers
	// What the status does not have; without them there are no such metrics. Safe for concurrent use.
	Log             func() logging.Counts
	Control, Scrape func() gate.Counts // of connections: to the control socket, and to the endpoint
}

// collector takes a snapshot at each scrape. It keeps nothing between two.
type collector struct {
	Options
	source Source
	list   []described
}

type described struct {
	Metric
	desc *prometheus.Desc
}

func newCollector(source Source, o Options) *collector {
	if o.MaxServers <= 0 {
		o.MaxServers = DefaultMaxServers
	}
	c := &collector{Options: o, source: source}
	for _, section := range Catalogue() {
		for _, m := range section.Metrics {
			c.list = append(c.list, described{m, prometheus.NewDesc(m.Name, m.Help, m.Labels, nil)})
		}
	}
	return c
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(into chan<- *prometheus.Desc) {
	for _, m := range c.list {
		into <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(into chan<- prometheus.Metric) {
	s := c.snapshot()
	for _, m := range c.list {
		m.read(s, func(v float64, labels ...string) {
			for i := range labels {
				labels[i] = strings.ToValidUTF8(labels[i], "�") // paths of namespaces may be anything
			}
			into <- prometheus.MustNewConstMetric(m.desc, m.Type, v, labels...)
		})
	}
}

// snapshot is the status, ordered by the labels that its parts have.
type snapshot struct {
	Options
	status   tunlb.Status
	took     time.Duration
	services []group[tunlb.ServiceStatus]
	servers  []group[tunlb.ServerStatus]
	ports    []group[tunlb.PortStatus]
	segments []group[tunlb.SegmentStatus]
}

// group is what has one set of labels, of which a metric is the sum: one thing, or all that are beyond the limit.
type group[T any] struct {
	labels []string
	of     []*T
}

func (c *collector) snapshot() *snapshot {
	began := time.Now()
	s := &snapshot{Options: c.Options, status: c.source.Status()}
	s.took = time.Since(began)
	services, servers := grouping[tunlb.ServiceStatus]{}, grouping[tunlb.ServerStatus]{}
	for i := range s.status.Services {
		svc := &s.status.Services[i]
		name := svc.Name
		if len(services.list) >= c.MaxServers && !services.has(name) {
			name = other
		}
		services.add(svc, name)
		for k := range svc.Servers {
			srv := &svc.Servers[k]
			if len(servers.list) >= c.MaxServers && !servers.has(name, srv.Name) {
				servers.add(srv, name, other)
			} else {
				servers.add(srv, name, srv.Name)
			}
		}
	}
	s.services, s.servers = services.list, servers.list
	var ports grouping[tunlb.PortStatus]
	for i := range s.status.Ports {
		p := &s.status.Ports[i]
		ports.add(p, p.Name, p.NetNS)
	}
	var segments grouping[tunlb.SegmentStatus]
	for i := range s.status.Segments {
		segment := &s.status.Segments[i]
		segments.add(segment, strings.Join(segment.Ports, "+"), segment.NetNS)
	}
	s.ports, s.segments = ports.list, segments.list
	return s
}

// grouping puts things with the same labels together, in the order in which they come. The zero value is empty.
type grouping[T any] struct {
	list  []group[T]
	index map[[2]string]int
}

func key(labels []string) (k [2]string) {
	copy(k[:], labels)
	return k
}

func (g *grouping[T]) has(labels ...string) bool {
	_, ok := g.index[key(labels)]
	return ok
}

func (g *grouping[T]) add(item *T, labels ...string) {
	i, known := g.index[key(labels)]
	if !known {
		if g.index == nil {
			g.index = map[[2]string]int{}
		}
		i = len(g.list)
		g.index[key(labels)] = i
		g.list = append(g.list, group[T]{labels: labels})
	}
	g.list[i].of = append(g.list[i].of, item)
}

// reader puts a metric's values.
type reader func(*snapshot, put)

// put takes the value for one set of labels, which it may change.
type put func(value float64, labels ...string)

// one is a metric without labels.
func one(value func(*snapshot) float64) reader {
	return func(s *snapshot, put put) { put(value(s)) }
}

// part is a value of T's, and the label that it has besides those of its group; "" is none.
type part[T any] struct {
	label string
	value func(*T) float64
}

func value[T any](f func(*T) float64) part[T] { return part[T]{"", f} }

func labelled[T any](label string, f func(*T) float64) part[T] { return part[T]{label, f} }

// each puts every part's sum for every group.
func each[T any](groups func(*snapshot) []group[T], parts ...part[T]) reader {
	return func(s *snapshot, put put) {
		for _, g := range groups(s) {
			for _, p := range parts {
				sum, labels := 0.0, slices.Clone(g.labels)
				for _, item := range g.of {
					sum += p.value(item)
				}
				if p.label != "" {
					labels = append(labels, p.label)
				}
				put(sum, labels...)
			}
		}
	}
}

// doors puts what of says for each server of HTTP that there is.
func doors(of func(c gate.Counts, put put)) reader {
	return func(s *snapshot, put put) {
		for _, door := range []struct {
			name   string
			counts func() gate.Counts
		}{{"control", s.Control}, {"metrics", s.Scrape}} {
			if door.counts != nil {
				of(door.counts(), func(v float64, labels ...string) { put(v, append([]string{door.name}, labels...)...) })
			}
		}
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// up says whether nothing is known against a server. One that nobody checks is up unless it is silent.
func up(s *tunlb.ServerStatus) bool { return (s.Health == "" || s.Health == "up") && s.Down == "" }

// weight is that in force, without the scale of slow start.
func weight(s *tunlb.ServerStatus) float64 {
	if s.Scale > 1 {
		return float64(s.Weight) / float64(s.Scale)
	}
	return float64(s.Weight)
}

// maxListens is how many places a service's label names; ranges of ports and several VIPs make more of them.
const maxListens = 4

func listens(svc *tunlb.ServiceStatus) string {
	var names []string
	for i, l := range svc.Listen {
		if i == maxListens {
			names = append(names, "...")
			break
		}
		names = append(names, l.String())
	}
	return strings.Join(names, ",")
}
