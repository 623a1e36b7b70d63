//go:build linux

package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// metric is a figure of a sample.
type metric struct {
	key   string // its name in files and targets
	name  string
	load  string
	of    func(sample) float64 // NaN where there is none
	lower bool                 // less is better
	form  string               // how it is printed
}

const gib = 1 << 30

func gbits(s sample) float64    { return float64(s.Bytes) * 8 / 1e9 / s.Seconds }
func requests(s sample) float64 { return float64(s.Requests) / 1000 / s.Seconds }
func conns(s sample) float64    { return float64(s.Conns) / 1000 / s.Seconds }

func cpuPer(unit float64, count func(sample) uint64) func(sample) float64 {
	return func(s sample) float64 {
		if s.CPU == nil {
			return math.NaN()
		}
		return *s.CPU / (float64(count(s)) / unit)
	}
}

var (
	perGiB     = cpuPer(gib, func(s sample) uint64 { return s.Bytes })
	perRequest = cpuPer(1e6, func(s sample) uint64 { return s.Requests })
	perConn    = cpuPer(1e6, func(s sample) uint64 { return s.Conns })
)

var rates = []metric{
	{key: "up", name: "up, Gbit/s", load: "up", of: gbits, form: "%.1f"},
	{key: "down", name: "down, Gbit/s", load: "down", of: gbits, form: "%.1f"},
	{key: "up8", name: "up, 8 streams", load: "up8", of: gbits, form: "%.1f"},
	{key: "down8", name: "down, 8 streams", load: "down8", of: gbits, form: "%.1f"},
	{key: "kept", name: "kept requests, k/s", load: "kept", of: requests, form: "%.1f"},
	{key: "new", name: "new conn., k/s", load: "new", of: conns, form: "%.1f"},
	{key: "idle p50", name: "idle p50, µs", load: "idle", of: func(s sample) float64 { return s.P50 }, lower: true, form: "%.0f"},
	{key: "idle p99", name: "idle p99, µs", load: "idle", of: func(s sample) float64 { return s.P99 }, lower: true, form: "%.0f"},
}

var costs = []metric{
	{key: "up s/GiB", name: "up, s/GiB", load: "up", of: perGiB, lower: true, form: "%.2f"},
	{key: "down s/GiB", name: "down, s/GiB", load: "down", of: perGiB, lower: true, form: "%.2f"},
	{key: "up8 s/GiB", name: "up, 8 streams, s/GiB", load: "up8", of: perGiB, lower: true, form: "%.2f"},
	{key: "down8 s/GiB", name: "down, 8 streams, s/GiB", load: "down8", of: perGiB, lower: true, form: "%.2f"},
	{key: "µs/kept", name: "µs/kept request", load: "kept", of: perRequest, lower: true, form: "%.1f"},
	{key: "µs/new", name: "µs/new conn.", load: "new", of: perConn, lower: true, form: "%.1f"},
}

// throughputs are compared by their ratios, latencies by their differences.
var (
	throughputs = slices.DeleteFunc(slices.Clone(rates), func(m metric) bool { return m.lower })
	latencies   = slices.DeleteFunc(slices.Clone(rates), func(m metric) bool { return !m.lower })
)

// short is the name without the unit, which a ratio has not.
func (m metric) short() string {
	return strings.NewReplacer(", k/s", "", ", Gbit/s", "", ", µs", "").Replace(m.name)
}

// metricOf finds a metric by its key.
func metricOf(key string) (metric, bool) {
	all := slices.Concat(rates, costs)
	i := slices.IndexFunc(all, func(m metric) bool { return m.key == key })
	if i < 0 {
		return metric{}, false
	}
	return all[i], true
}

// reference is the subject in the kernel that a subject is compared with: it goes the same way, and without a balancer's
// process.
func reference(name string) string {
	if isSegment(name) {
		return "bridge"
	}
	return "nft"
}

// bareLoop is the subject that shows what the way of the packets alone costs.
func bareLoop(name string) string {
	switch {
	case isSegment(name):
		return "bare-dr"
	case strings.HasSuffix(name, "-router"):
		return "bare-router"
	case strings.HasSuffix(name, "-packet"):
		return "bare-packet"
	}
	return "bare"
}

func isSegment(name string) bool {
	return slices.ContainsFunc(allSubjects, func(s subject) bool { return s.segment && s.name == name })
}

// series are a metric's figures over one subject by round; NaN where a round has none.
func (r *report) series(m metric, subject string) []float64 {
	values := make([]float64, r.Rounds)
	for i := range values {
		values[i] = math.NaN()
	}
	for _, s := range r.Samples {
		if s.Subject == subject && s.Load == m.load {
			values[s.Round-1] = m.of(s)
		}
	}
	return values
}

// ratios are taken within each round, where both figures are seconds apart.
func ratios(a, b []float64) []float64 {
	return pairwise(a, b, func(x, y float64) float64 { return x / y })
}

// differences are taken within each round, too.
func differences(a, b []float64) []float64 {
	return pairwise(a, b, func(x, y float64) float64 { return x - y })
}

func pairwise(a, b []float64, of func(x, y float64) float64) []float64 {
	out := make([]float64, len(a))
	for i := range a {
		out[i] = of(a[i], b[i])
	}
	return out
}

// spread gives median, least and greatest of the values that are numbers.
func spread(values []float64) (median, least, most float64) {
	v := slices.DeleteFunc(slices.Clone(values), func(x float64) bool { return math.IsNaN(x) || math.IsInf(x, 0) })
	if len(v) == 0 {
		return math.NaN(), math.NaN(), math.NaN()
	}
	slices.Sort(v)
	median = v[len(v)/2]
	if len(v)%2 == 0 {
		median = (v[len(v)/2-1] + median) / 2
	}
	return median, v[0], v[len(v)-1]
}

func cell(form string, values []float64) string {
	median, least, most := spread(values)
	switch {
	case math.IsNaN(median):
		return "-"
	case len(values) == 1:
		return fmt.Sprintf(form, median)
	}
	return fmt.Sprintf(form+" ("+form+"..."+form+")", median, least, most)
}
