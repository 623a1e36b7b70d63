package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"github.com/tunlb/tunlb/policy"
)

// What tunlb and the box have in common: addresses, ports, links.

// checkAcceptLocal is about sources that are the box's own addresses, IPv4's only: ICMP of the box with itself, by a VIP of
// its own, goes through tunlb and comes back with them. TCP and UDP from there are let in anyway, since tunlb's rules lead
// their ports away and the kernel so does not take the source for its own.
func checkAcceptLocal(f *facts) []Finding {
	if !f.running() || f.boxTUN() == nil {
		return nil
	}
	var l findings
	tun, box := f.boxTUN().Name, f.box()
	own := slices.IndexFunc(vips(f.routed()), func(vip netip.Addr) bool { return vip.Is4() && box.owner(vip) != "" })
	if own < 0 || box.link(tun) == nil {
		return nil
	}
	if box.effective(tun, "accept_local") == 0 {
		l.add(Warn, tun, sysctl("ipv4/conf/"+tun+"/accept_local", 1), "accept_local is 0: this box's own pings of %s, an address of its own, are lost; tunlb had set 1", vips(f.routed())[own])
	}
	return l.orOK(tun, "lets the box's own addresses in")
}

// checkTranslation tells of clients whose answers would go past tunlb, and what it does about that.
func checkTranslation(f *facts) []Finding {
	var l findings
	told := map[string]bool{}
	const text = "clients on %s are on the servers' own link, where answers go straight to them: tunlb translates their source as well, so %s sees an address of tunlb's or of this box instead of theirs"
	tell := func(where string, s fmt.Stringer) {
		if !told[where] {
			told[where] = true
			l.add(Note, where, "", text, where, s)
		}
	}
	for _, s := range f.servers {
		for _, i := range f.ingress {
			if !s.direct && s.route.err == nil && !s.route.gateway.IsValid() && i.device == s.route.device && family(i.from) == family(s.addr.Addr()) {
				tell(i.device, s)
			}
		}
	}
	for _, svc := range f.services() {
		for _, srv := range svc.Servers {
			if own := f.segmentOwn(srv.Address.Addr()); srv.Mode == policy.NAT && own.IsValid() {
				tell(f.segmentName(own), server{service: svc.Name, name: srv.Name})
			}
		}
	}
	translated := 0
	for _, c := range f.conns {
		if c.Source.IsValid() && c.Service != "" && f.mode(c.Service, c.ServerName) == policy.NAT {
			translated++
		}
	}
	if translated > 0 {
		l.add(Note, "sources", "", "%s now with a translated source, since the answers would not come back otherwise: of clients on the servers' link, of the servers themselves, or of this box", count(translated, "connection"))
	}
	return l
}

// segmentName is that of the port with an address.
func (f *facts) segmentName(own netip.Addr) string {
	for _, p := range f.ports() {
		for _, have := range p.Own {
			if have.Addr() == own {
				return p.Name
			}
		}
	}
	return ""
}

// mode is that of a server.
func (f *facts) mode(service, name string) policy.Mode {
	for _, svc := range f.services() {
		for _, srv := range svc.Servers {
			if svc.Name == service && srv.Name == name {
				return srv.Mode
			}
		}
	}
	return policy.FullNAT
}

// checkLocalPorts finds ports that the gateway gives away and the box takes for itself.
func checkLocalPorts(f *facts) []Finding {
	if f.config == nil || len(f.config.Gateways) == 0 || f.boxTUN() == nil {
		return nil
	}
	var l findings
	var first, last int
	if n, _ := fmt.Sscan(f.box().sysctls["ipv4/ip_local_port_range"], &first, &last); n != 2 {
		return nil
	}
	for _, g := range f.config.Gateways {
		if f.box().owner(g.Masquerade) == "" || int(g.LastPort) < first || last < int(g.FirstPort) {
			continue
		}
		fix := fmt.Sprintf("write ports: outside of %d-%d for gateway %s into %s, then: tunlb reload", first, last, g.Inside, f.here())
		if int(g.FirstPort) > first+1 {
			fix = fmt.Sprintf("sysctl -w net.ipv4.ip_local_port_range='%d %d'", first, g.FirstPort-1)
		}
		l.add(Warn, g.Masquerade.String(), fix, "the gateway has its ports %d-%d, of which this box takes some for its own connections (net.ipv4.ip_local_port_range %d-%d): answers to those would be the gateway's",
			g.FirstPort, g.LastPort, first, last)
	}
	return l.orOK("ports", "the gateway's are none of the box's own")
}

// endpoint is where metrics are, or are to be.
type endpoint struct {
	asked bool
	err   error // of listening there before the start, of connecting later
}

// checkMetrics is about the endpoint of metrics.
func checkMetrics(f *facts) []Finding {
	if f.config == nil || f.config.Metrics.Listen == "" || !f.metrics.asked {
		return nil
	}
	var l findings
	where := f.config.Metrics.Listen
	ap, _ := netip.ParseAddrPort(where)
	another := fmt.Sprintf("write another address for metrics: {listen: ...} into %s, then: tunlb check %[1]s", f.here())
	switch err := f.metrics.err; {
	case err == nil:
	case f.running():
		l.add(Warn, where, "tunlb reload", "metrics are not to be had here: %v", err)
	case errors.Is(err, syscall.EADDRINUSE):
		l.add(Fail, where, fmt.Sprintf("ss -ltnp 'sport = :%d'  # shows the program to stop", ap.Port()), "is taken by another program, so tunlb cannot start; or %s", another)
	case errors.Is(err, fs.ErrPermission):
		l.add(Fail, where, sysctl("ipv4/ip_unprivileged_port_start", int(ap.Port())), "ports below 1024 need CAP_NET_BIND_SERVICE, which this process does not have")
	default:
		l.add(Fail, where, another, "cannot be listened on: %s", strings.TrimPrefix(err.Error(), "listen "))
	}
	return l.orOK(where, "%s", map[bool]string{true: "answers", false: "is free for metrics"}[f.running()])
}
