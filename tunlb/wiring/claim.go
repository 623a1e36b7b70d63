package wiring

import (
	"net/netip"
	"slices"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/tunlb/config"
)

// Requests are where the services listen, in their order: of TCP and UDP, which are served.
func Requests(cfg *config.Config) (at []packet.Endpoints) {
	for i := range cfg.Services {
		for _, l := range cfg.Services[i].Listen {
			if l.Proto != policy.SCTP {
				at = append(at, packet.Endpoints{Addr: l.Addr, Proto: l.Proto, First: l.First, Last: l.Last})
			}
		}
	}
	return at
}

// Answers are where servers' answers come from that are to pass tunlb, none of them twice, and behind them kept: those
// of servers that are in no service any more, see Kept. Directly routed servers answer past tunlb.
func Answers(cfg *config.Config, kept []packet.Endpoints) (from []packet.Endpoints) {
	known := map[packet.Endpoints]bool{}
	add := func(e packet.Endpoints) {
		if !known[e] {
			known[e] = true
			from = append(from, e)
		}
	}
	eachAnswer(cfg, func(_ policy.ServerSpec, e packet.Endpoints) { add(e) })
	for _, e := range kept {
		add(e)
	}
	return from
}

// Kept are the servers that a change from old to cfg deletes and whose connections may go on: their answers are still
// to pass tunlb. known are those of earlier changes, which stay.
func Kept(old, cfg *config.Config, known []packet.Endpoints) []packet.Endpoints {
	kept := append([]packet.Endpoints(nil), known...)
	there := map[packet.Endpoints]bool{}
	for _, e := range kept {
		there[e] = true
	}
	eachAnswer(cfg, func(_ policy.ServerSpec, e packet.Endpoints) { there[e] = true })
	eachAnswer(old, func(srv policy.ServerSpec, e packet.Endpoints) {
		if srv.Keep && !there[e] {
			there[e] = true
			kept = append(kept, e)
		}
	})
	return kept
}

// Leaving is Kept of the servers that a predecessor deleted, see tunlb.Engine.Leaving.
func Leaving(servers []policy.Known, cfg *config.Config) (kept []packet.Endpoints) {
	there := map[packet.Endpoints]bool{}
	eachAnswer(cfg, func(_ policy.ServerSpec, e packet.Endpoints) { there[e] = true })
	for _, k := range servers {
		for _, l := range k.Listen {
			if e := answering(k.Server, l); translated(k.Server, l) && !there[e] {
				there[e] = true
				kept = append(kept, e)
			}
		}
	}
	return kept
}

// Claim is what tunlb takes from the box's interfaces. own are the box's addresses. A VIP that is one of them is the box's
// but for the services, any other is tunlb's as a whole: who connects to a port without a service is told so, and a
// ping is answered.
func Claim(cfg *config.Config, kept []packet.Endpoints, own []netip.Addr) packet.Claim {
	c := packet.Claim{Servers: Answers(cfg, kept)}
	for _, a := range own {
		if !a.IsLoopback() { // which nothing on a wire is for
			c.Own = append(c.Own, a)
		}
	}
	whole := map[netip.Addr]bool{}
	for _, at := range Requests(cfg) {
		switch {
		case slices.Contains(own, at.Addr):
			c.VIPs = append(c.VIPs, at)
		case !whole[at.Addr]:
			whole[at.Addr] = true
			echo := uint8(packet.ProtoICMP)
			if at.Addr.Is6() {
				echo = packet.ProtoICMPv6
			}
			for _, proto := range []uint8{policy.TCP, policy.UDP, echo} {
				c.VIPs = append(c.VIPs, packet.Endpoints{Addr: at.Addr, Proto: proto})
			}
		}
	}
	return c
}

// Servers are those of a service, with that of last resort.
func Servers(svc *policy.Spec) []policy.ServerSpec {
	if svc.Sorry == nil {
		return svc.Servers
	}
	return append(svc.Servers[:len(svc.Servers):len(svc.Servers)], *svc.Sorry)
}

// eachAnswer visits the servers whose answers are to be translated, once for each place that they may answer for.
func eachAnswer(cfg *config.Config, visit func(policy.ServerSpec, packet.Endpoints)) {
	for i := range cfg.Services {
		svc := &cfg.Services[i]
		for _, l := range svc.Listen {
			for _, srv := range Servers(svc) {
				if translated(srv, l) {
					visit(srv, answering(srv, l))
				}
			}
		}
	}
}

// translated says whether a server's answers to what came to l are.
func translated(srv policy.ServerSpec, l policy.Listen) bool {
	return l.Proto != policy.SCTP && (srv.Mode == policy.NAT || srv.Mode == policy.FullNAT)
}

// answering is where a server's answers to what came to l are from: its own port, or the client's where it has none.
func answering(srv policy.ServerSpec, l policy.Listen) packet.Endpoints {
	from := packet.Endpoints{Addr: srv.Address.Addr(), Proto: l.Proto, First: l.First, Last: l.Last}
	if port := srv.Address.Port(); port != 0 {
		from.First, from.Last = port, port
	}
	return from
}
