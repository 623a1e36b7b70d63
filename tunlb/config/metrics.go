package config

import (
	"fmt"
	"net/netip"
	"path"
	"strings"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb/config/wording"
)

// Metrics is the endpoint that Prometheus asks.
type Metrics struct {
	Listen     string // IP:port, or the absolute path of a Unix socket; "" is no endpoint
	MaxServers int    // servers, and services, with series of their own; above zero iff Listen is not empty
}

// DefaultMaxServers bounds how many series a file makes that does not say otherwise: some fifteen for each server.
const DefaultMaxServers = 1000

func (d *decoder) decodeMetrics(n *node) {
	const mostServers = 100_000
	d.metrics.MaxServers = DefaultMaxServers
	ok := d.decode(n, `"metrics"`, []key{
		{name: "listen", decode: d.decodeMetricsListen},
		{name: "max_servers", decode: func(n *node) {
			if v, ok := d.number(n, "max_servers", 1, mostServers); ok {
				d.metrics.MaxServers = v
			}
		}},
	})
	if ok && n.field("listen") == nil {
		d.fail(n.at, "metrics without listen", "there is no endpoint without an address", "write listen: 127.0.0.1:9474")
	}
}

func (d *decoder) decodeMetricsListen(n *node) {
	const instead = `write it like 127.0.0.1:9474, "[::1]:9474" or /run/tunlb/metrics.sock`
	s, ok := d.str(n, "listen")
	if !ok {
		return
	}
	d.metricsAt = n.at
	if strings.HasPrefix(s, "/") {
		if len(s) > longestSocket {
			d.fail(n.at, fmt.Sprintf("socket %s is too long", wording.Quote(s)), fmt.Sprintf("a socket's path has at most %d bytes", longestSocket), "write a shorter one")
			return
		}
		d.metrics.Listen = path.Clean(s)
		return
	}
	ap, err := netip.ParseAddrPort(s)
	switch {
	case err != nil && strings.HasPrefix(s, ":"):
		d.fail(n.at, fmt.Sprintf("listen %s has no address", wording.Quote(s)), "all addresses would be open to everybody", fmt.Sprintf(`write 127.0.0.1%s, or "[::]%[1]s" if all are meant`, s))
	case err != nil:
		d.notAddress(n.at, "listen", s, instead)
	case ap.Port() == 0:
		d.fail(n.at, fmt.Sprintf("listen %s has port 0", wording.Quote(s)), "nobody would know where to ask", instead)
	default:
		d.metrics.Listen = ap.String()
	}
}

// checkMetrics finds an endpoint in a service's place: requests to it would be balanced.
func (d *decoder) checkMetrics() {
	ap, err := netip.ParseAddrPort(d.metrics.Listen)
	if err != nil {
		return // none, or a path
	}
	for _, p := range d.places() {
		if p.Proto == policy.TCP && p.Addr == ap.Addr().Unmap() && p.Has(ap.Port()) {
			d.fail(d.metricsAt, fmt.Sprintf("listen %s is the VIP of %s in line %d", ap, p.Listen, p.at.line),
				"requests for metrics would be balanced", "write an address of the box, such as 127.0.0.1, or another port")
			return
		}
	}
}
