// Package metrics is an engine's status as Prometheus reads it: the list of metrics, the collector that fills them at
// each scrape, and the HTTP endpoint.
//
// It owns names, labels and how many series there may be, docs/metrics.md, which is made of the list, and the endpoint's
// bounds. It does not own what is counted (package tunlb), and keeps no numbers of its own: a scrape is one snapshot of the
// status, so an endpoint that comes and goes resets nothing.
package metrics
