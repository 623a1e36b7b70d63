package main

import (
	"net/netip"
	"slices"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/kernel"
	"github.com/tunlb/tunlb/tunlb/config"
)

// kernelState says what the kernel at a port is to be told. A port without a namespace is the box's
// own: its kernel leads services, servers and gateways to it. One in a namespace is that namespace's
// way to everywhere. On an Ethernet port tunlb is a station of its own, which no kernel leads anything to.
func kernelState(cfg *config.Config, n *network) kernel.State {
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
	for _, svc := range cfg.Services {
		// A directly routed service's clients may come by this box, too; the answers do not.
		s.VIPs = addVIP(s.VIPs, svc.Listen, svc.Proto)
		if svc.Mode == policy.DR {
			continue
		}
		for _, srv := range svc.Servers {
			server := kernel.Server{Addr: srv.Address, Proto: svc.Proto}
			if !slices.Contains(s.Servers, server) {
				s.Servers = append(s.Servers, server)
			}
		}
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
			vip := svc.Listen.Addr()
			if svc.Mode == policy.DR && !slices.Contains(addrs, vip) &&
				slices.ContainsFunc(svc.Servers, func(srv policy.ServerSpec) bool { return segment.OnLink(srv.Address.Addr()) }) {
				addrs = append(addrs, vip)
			}
		}
	}
	return addrs
}

func addVIP(vips []kernel.VIP, listen netip.AddrPort, proto uint8) []kernel.VIP {
	port := kernel.PortProto{Proto: proto, Port: listen.Port()}
	for i := range vips {
		if vips[i].Addr == listen.Addr() {
			vips[i].Ports = append(vips[i].Ports, port)
			return vips
		}
	}
	return append(vips, kernel.VIP{Addr: listen.Addr(), Ports: []kernel.PortProto{port}})
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
