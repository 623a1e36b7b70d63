// Package wiring turns a configuration into what the engine, the health checks and ipvsadm's listing are given.
//
// It owns that translation alone: it opens no port, starts nothing and keeps nothing, so that the daemon on a
// machine, a lab in memory and a replay do not each have a translation of their own.
package wiring

import (
	"github.com/tunlb/tunlb/stack/neigh"
	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/stack/port"
	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/config"
	"github.com/tunlb/tunlb/tunlb/ipvs"
)

// Config is what may change while an engine runs.
func Config(cfg *config.Config) tunlb.Config {
	out := tunlb.Config{Services: cfg.Services, Timeouts: cfg.Timeouts}
	for _, g := range cfg.Gateways {
		out.Gateways = append(out.Gateways, tunlb.Gateway(g))
	}
	return out
}

// Attachment is a configured port as the engine is to see it. mac is tunlb's own on its segment, and means nothing for
// a TUN.
func Attachment(p config.Port, dev port.Port, mac packet.MAC) tunlb.Attachment {
	if p.Box() {
		return tunlb.Attachment{Port: dev, Box: true} // the caller knows its index
	}
	a := tunlb.Attachment{Port: dev, NetNS: p.NetNS, Own: p.Router, Routes: p.Routes}
	for _, prefix := range p.Addresses {
		a.Subnets = append(a.Subnets, prefix.Masked())
	}
	if !p.Ethernet() {
		a.Kernel = p.NetNS == ""
		return a
	}
	a.MAC = mac
	a.Side = map[string]neigh.Side{config.Clients: neigh.Clients, config.Servers: neigh.Servers}[p.Side]
	for _, prefix := range p.Own {
		a.Own = append(a.Own, prefix.Addr())
		a.Subnets = append(a.Subnets, prefix.Masked())
	}
	for _, r := range p.Via {
		a.Via = append(a.Via, tunlb.Via{Prefix: r.Prefix, Router: r.Via})
	}
	return a
}

// Entries are an engine's counts as ipvsadm lists them.
func Entries(counts []tunlb.ServiceCounts) []ipvs.Entry {
	out := make([]ipvs.Entry, len(counts))
	for i, c := range counts {
		out[i] = ipvs.Entry{Stats: c.Stats, Rates: c.Rates, Servers: make([]ipvs.ServerEntry, len(c.Servers))}
		for k, s := range c.Servers {
			out[i].Servers[k] = ipvs.ServerEntry{Stats: s.Stats, Rates: s.Rates, Active: s.Active, Inactive: s.Inactive, Persistent: s.Persistent, Weight: &s.Weight}
		}
	}
	return out
}
