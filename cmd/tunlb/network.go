package main

import (
	"net/netip"
	"slices"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/kernel"
	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/tunlb/config"
	"github.com/tunlb/tunlb/tunlb/wiring"
)

// kernelState says what the kernel at a port is to be told. A port without a namespace is the box's
// own: its kernel leads services, servers and gateways to it. One in a namespace is that namespace's
// way to everywhere. kept are servers that are in no service any more, and still answer.
// On an Ethernet port tunlb is a station of its own, which no kernel leads anything to; and from an interface of the box's
// own it takes what it needs by itself.
func kernelState(cfg *config.Config, n *network, kept []packet.Endpoints) kernel.State {
	p := n.port
	switch p.Type {
	case config.TAP:
		return kernel.State{Device: n.device, Silent: true, Absent: claimed(cfg, p)}
	case config.Packet:
		return kernel.State{Device: n.device, Foreign: true, Absent: claimed(cfg, p), Alone: p.Side != ""}
	}
	s := kernel.State{Device: n.device, Addresses: p.Addresses}
	if p.NetNS != "" {
		s.Routes = defaultRoutes(p)
		return s
	}
	s.Routed = true
	for _, at := range wiring.Requests(cfg) {
		s.VIPs = addVIP(s.VIPs, at)
	}
	for _, from := range wiring.Answers(cfg, kept) {
		s.Servers = append(s.Servers, kernel.Server(from))
	}
	for _, g := range cfg.Gateways {
		s.Gateways = append(s.Gateways, kernel.Gateway(g))
	}
	return s
}

// claimed are the addresses that tunlb has on the port's segment, and nobody else there may have: its own, and
// the VIPs of the services that it routes directly.
func claimed(cfg *config.Config, p config.Port) (addrs []netip.Addr) {
	for _, segment := range cfg.Segments() {
		if !slices.ContainsFunc(segment.Ports, func(i int) bool { return cfg.Ports[i].Name == p.Name && cfg.Ports[i].NetNS == p.NetNS }) {
			continue
		}
		for _, own := range segment.Own {
			addrs = append(addrs, own.Addr())
		}
		for _, svc := range cfg.Services {
			direct := slices.ContainsFunc(wiring.Servers(&svc), func(srv policy.ServerSpec) bool {
				return srv.Mode == policy.DR && segment.OnLink(srv.Address.Addr())
			})
			for _, l := range svc.Listen {
				if direct && !slices.Contains(addrs, l.Addr) {
					addrs = append(addrs, l.Addr)
				}
			}
		}
	}
	return addrs
}

func addVIP(vips []kernel.VIP, at packet.Endpoints) []kernel.VIP {
	port := kernel.PortProto{Proto: at.Proto, First: at.First, Last: at.Last}
	for i := range vips {
		if vips[i].Addr == at.Addr {
			vips[i].Ports = append(vips[i].Ports, port)
			return vips
		}
	}
	return append(vips, kernel.VIP{Addr: at.Addr, Ports: []kernel.PortProto{port}})
}

// defaultRoutes are those of the families that the port has.
func defaultRoutes(p config.Port) (routes []netip.Prefix) {
	for _, a := range p.Addresses {
		everywhere := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if a.Addr().Is6() {
			everywhere = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		if !slices.Contains(routes, everywhere) {
			routes = append(routes, everywhere)
		}
	}
	return routes
}
