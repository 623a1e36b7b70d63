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
// way to everywhere. kept are servers that are in no service any more, and still answer. On an Ethernet port tunlb is a station of its own, which no kernel leads anything to.
func kernelState(cfg *config.Config, n *network, kept []kernel.Server) kernel.State {
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
	known := map[kernel.Server]bool{}
	for i := range cfg.Services {
		svc := &cfg.Services[i]
		for _, l := range svc.Listen {
			if l.Proto == policy.SCTP {
				continue
			}
			// A directly routed service's clients may come by this box, too; the answers do not.
			s.VIPs = addVIP(s.VIPs, l)
			for _, srv := range servers(svc) {
				if server := answering(srv, l); !known[server] && (srv.Mode == policy.NAT || srv.Mode == policy.FullNAT) {
					known[server] = true
					s.Servers = append(s.Servers, server)
				}
			}
		}
	}
	for _, server := range kept {
		if !known[server] {
			known[server] = true
			s.Servers = append(s.Servers, server)
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
			direct := slices.ContainsFunc(servers(&svc), func(srv policy.ServerSpec) bool {
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

// servers are those of a service, with that of last resort.
func servers(svc *policy.Spec) []policy.ServerSpec {
	if svc.Sorry == nil {
		return svc.Servers
	}
	return append(slices.Clip(svc.Servers), *svc.Sorry)
}

// answering is where a server's answers to what came to l are from.
func answering(srv policy.ServerSpec, l policy.Listen) kernel.Server {
	server := kernel.Server{Addr: srv.Address.Addr(), Proto: l.Proto, First: l.First, Last: l.Last}
	if port := srv.Address.Port(); port != 0 {
		server.First, server.Last = port, port
	}
	return server
}

func addVIP(vips []kernel.VIP, l policy.Listen) []kernel.VIP {
	port := kernel.PortProto{Proto: l.Proto, First: l.First, Last: l.Last}
	for i := range vips {
		if vips[i].Addr == l.Addr {
			vips[i].Ports = append(vips[i].Ports, port)
			return vips
		}
	}
	return append(vips, kernel.VIP{Addr: l.Addr, Ports: []kernel.PortProto{port}})
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
