package metrics

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/metrics.md anew")

const docPath = "../../docs/metrics.md"

// TestDocs: docs/metrics.md is what the code says. `go test ./tunlb/metrics -update` writes it.
func TestDocs(t *testing.T) {
	want := document()
	if *update {
		if err := os.WriteFile(docPath, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(docPath)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what the code says: go test ./tunlb/metrics -update", docPath)
	}
}

// document is all of docs/metrics.md.
func document() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `# Metrics

This page is made from the code: `+"`go test ./tunlb/metrics -update`"+`.

`+"```yaml"+`
metrics:
  listen: 127.0.0.1:9474     # or "[::1]:9474", or a Unix socket: /run/tunlb/metrics.sock
  max_servers: %d          # the default
`+"```"+`

tunlb answers at `+"`/metrics`"+` there, in Prometheus' text format, OpenMetrics or protobuf. There is no password: an address
that others reach shows them the names and addresses of services and servers. %d scrapes at once are served, and 64
connections, 32 of one address, of which the longest idle one makes room for a new one; a scrape that takes longer than %v is given up,
and so is an answer of which 64 KiB are not read within 10 s. A reload moves the endpoint; if the new address cannot be had,
the reload is refused and the old one stays.

A scrape is one snapshot of what `+"`tunlb status`"+` shows. Nothing is reset by a scrape, by `+"`ipvsadm -Z`"+` or by a reload, only by a
restart. The series of a server that a reload removes are gone with it.

Labels have names of the configuration, of ports and of reasons, and never an address of a client. `+"`max_servers`"+` bounds how
many servers have series of their own, in the order of the file; the others of a service are summed up as
`+"`server=\"%[4]s\"`"+`, flags too, so that there `+"`tunlb_server_up`"+` is the number of those that are up. As many services have names, the others
are `+"`service=\"%[4]s\"`"+`. When servers move between both by a reload, counters of `+"`%[4]s`"+` may fall, which Prometheus takes for a restart.

[grafana.json](grafana.json) is a dashboard for Grafana: import it and choose the data source.

`, DefaultMaxServers, inFlight, scrapeTimeout, other)
	for _, s := range Catalogue() {
		fmt.Fprintf(&b, "## %s\n\n| metric | type | labels | |\n|---|---|---|---|\n", s.Title)
		for _, m := range s.Metrics {
			var labels []string
			for _, l := range m.Labels {
				labels = append(labels, "`"+l+"`")
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", m.Name, m.Kind(), strings.Join(labels, ", "), m.Help)
		}
		b.WriteByte('\n')
	}
	fmt.Fprint(&b, `Besides there are `+"`go_*` and `process_*`"+`, those of Go's runtime and of the process.

## Questions

| | |
|---|---|
| how long it has been up | `+"`time() - tunlb_start_time_seconds`"+` |
| new connections a second, by service | `+"`rate(tunlb_service_connections_total[1m])`"+` |
| bits a second to the clients | `+"`8 * rate(tunlb_service_bytes_total{direction=\"out\"}[1m])`"+` |
| which packets are dropped, and why | `+"`rate(tunlb_dropped_packets_total[1m]) > 0`"+` |
| how busy a lane is, of 1 | `+"`rate(tunlb_lane_cpu_seconds_total[1m])`"+` |
| how full the connection table is, of 1 | `+"`tunlb_flows / tunlb_flows_limit`"+` |
| servers that are down, and are not drained | `+"`tunlb_server_up == 0 and tunlb_server_drained == 0`"+` |
| services below their quorum | `+"`tunlb_service_below_quorum == 1`"+` |
| somebody else answers for a VIP | `+"`tunlb_segment_conflicts > 0`"+` |
`)
	return b.Bytes()
}

// TestHelp: a metric of the list says what it is, in a sentence that fits a table.
func TestHelp(t *testing.T) {
	var names []string
	for _, s := range Catalogue() {
		for _, m := range s.Metrics {
			names = append(names, m.Name)
			if !strings.HasSuffix(m.Help, ".") || strings.ContainsAny(m.Help, "|\n") {
				t.Errorf("%s: help %q", m.Name, m.Help)
			}
		}
	}
	slices.Sort(names)
	if len(slices.Compact(names)) != len(names) {
		t.Error("a metric is there twice")
	}
}
