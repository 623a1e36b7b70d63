package doctor

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb"
)

func checkNeighbours(f *facts) []Finding {
	var l findings
	seen := map[netip.Addr]bool{}
	known := false
	for _, s := range f.servers {
		hop := s.nextHop()
		known = known || s.state != ""
		if seen[hop] || s.route.err != nil || !s.down() {
			continue
		}
		seen[hop] = true
		protocol := map[int]string{4: "ARP", 6: "neighbour discovery"}[family(hop)]
		if s.route.gateway.IsValid() {
			l.add(Fail, hop.String(), fmt.Sprintf("%s route get %s", ip(family(hop)), s.addr.Addr()), "the router on the way to %s does not answer %s on %s (%s)", s, protocol, s.route.device, s.state)
			continue
		}
		l.add(Fail, s.String(), fmt.Sprintf("%s addr show to %s  # on %s: its interface has to be up and have the address", ip(family(hop)), hop, s.name),
			"%s does not answer %s on %s (%s): it is off, or has another address, or is on another link", hop, protocol, s.route.device, s.state)
	}
	l = append(l, f.segmentNeighbours()...)
	for _, segment := range f.segments() {
		known = known || f.watched() && len(segment.Neighbours) > 0
	}
	if len(l) == 0 && !known {
		return nil
	}
	return l.orOK("servers", "answer on their links")
}

// checkServers goes by a connection from the box to each server's port.
func checkServers(f *facts) []Finding {
	var l findings
	taken, dialed, hidden := 0, 0, 0
	for _, s := range f.servers {
		if s.dialed && !s.anyPort {
			dialed++
		}
		if !s.dialed || s.anyPort || s.proto != policy.TCP || s.down() || s.route.err != nil {
			continue
		}
		listens := fmt.Sprintf("ss -ltn 'sport = :%d'  # on %s", s.addr.Port(), s.name)
		switch err := s.dialErr; {
		case err == nil:
			taken++
		case s.hidden && timedOut(err):
			hidden++
		case errors.Is(err, syscall.ECONNREFUSED):
			l.add(Warn, s.String(), listens, "refuses connections to %s: nothing listens there", s.addr)
		case timedOut(err):
			l.add(Warn, s.String(), listens, "does not answer on %s within %v: a packet filter, or it is overloaded", s.addr, dialPatience)
		case errors.Is(err, syscall.EHOSTUNREACH):
			l.add(Warn, s.String(), listens, "a connection to %s fails: %v", s.addr, err)
		}
	}
	if hidden > 0 {
		// ip_forward drops what early demultiplexing has found a socket for.
		l.add(Note, "this box", sysctl("ipv4/tcp_early_demux", 0), "its own connections to the ports of %s get no answer, since answers are led to tunlb first; clients' connections are not concerned", count(hidden, "server"))
	}
	if taken == 0 {
		return l
	}
	return l.orOK("servers", "%d of %d asked take connections from this box", taken, dialed)
}

func timedOut(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// checkGateway finds servers that get requests and whose answers do not come back.
func checkGateway(f *facts) []Finding {
	if !f.running() {
		return nil
	}
	var l findings
	seen := map[netip.Addr]bool{} // one server may serve several services
	answered := false
	for _, svc := range f.status.Services {
		if slices.ContainsFunc(svc.Listen, func(l policy.Listen) bool { return l.Proto != policy.TCP }) {
			continue // answers are not always expected
		}
		for _, srv := range svc.Servers {
			if srv.Mode == policy.DR.String() {
				continue // nor seen
			}
			answered = answered || srv.Traffic.OutPackets > 0
			addr := srv.Address.Addr()
			waiting, answers := f.unanswered(svc, srv)
			silent := srv.Traffic.OutPackets == 0 && srv.Traffic.InPackets >= 2
			if !silent && (answers || waiting < 2) || seen[addr] || f.isDown(addr) {
				continue
			}
			seen[addr] = true
			got := fmt.Sprintf("has got %s and answered none", count(srv.Traffic.InPackets, "packet"))
			if !silent {
				got = fmt.Sprintf("has not answered any of its last %s", count(waiting, "connection"))
			}
			fix, way := f.defaultRoute(srv.Name, addr)
			l.add(Fail, svc.Name+"/"+srv.Name, fix, "%s: %s", got, way)
		}
	}
	if (!answered || !f.watched()) && len(l) == 0 {
		return nil // nobody has asked yet, or can
	}
	return l.orOK("servers", "answer through this box")
}

// synLen is more than one SYN, and less than two: a connection with more bytes and no answer has been
// waiting for a second at least.
const synLen = 100

// unanswered counts the connections to a server that wait for its first packet, and says whether any has got it.
func (f *facts) unanswered(svc tunlb.ServiceStatus, srv tunlb.ServerStatus) (waiting int, answers bool) {
	for _, c := range f.conns {
		if c.Service != svc.Name || c.Server.Addr() != srv.Address.Addr() || srv.Address.Port() != 0 && c.Server.Port() != srv.Address.Port() {
			continue
		}
		switch {
		case c.OutBytes > 0:
			answers = true
		case c.InBytes > synLen:
			waiting++
		}
	}
	return waiting, answers
}

// isDown says that a server is silent on its link, which is another finding.
func (f *facts) isDown(addr netip.Addr) bool {
	return slices.ContainsFunc(f.servers, func(s server) bool { return s.addr.Addr() == addr && s.down() })
}

// defaultRoute is the command that makes this box the gateway of a server.
func (f *facts) defaultRoute(name string, addr netip.Addr) (fix, why string) {
	for _, s := range f.servers {
		switch {
		case s.addr.Addr() != addr || s.route.err != nil:
		case s.route.gateway.IsValid():
			return fmt.Sprintf("%s route get %s  # on %s and on %s: has to lead here", ip(family(addr)), f.someClient(addr), name, s.route.gateway),
				"its way back to the clients probably does not lead through this box"
		case s.route.source.IsValid():
			return fmt.Sprintf("%s route replace default via %s  # on %s", ip(family(addr)), s.route.source, name),
				"its default gateway is probably not this box"
		}
	}
	if own := f.segmentOwn(addr); own.IsValid() {
		return fmt.Sprintf("%s route replace default via %s  # on %s", ip(family(addr)), own, name), "its default gateway is probably not tunlb"
	}
	return fmt.Sprintf("%s route  # on %s: the default route has to lead to tunlb", ip(family(addr)), name), "its default gateway is probably not tunlb"
}

// someClient is an address of a client.
func (f *facts) someClient(like netip.Addr) string {
	for _, i := range f.ingress {
		if i.real && family(i.from) == family(like) {
			return i.from.String()
		}
	}
	return "CLIENT"
}
