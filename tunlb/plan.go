package tunlb

import (
	"net/netip"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/packet"
)

// translatedFirst and translatedLast bound the source ports of translated connections. They lie above
// the ports that the host dials from.
const (
	translatedFirst = 32768
	translatedLast  = 65535
)

// plan says what a new connection's packets carry towards the server; the answers carry its reverse.
// A mode is data: the difference between modes is a case here and nothing on the packet's way.
func plan(srv *policy.Server, outer packet.Tuple, source netip.Addr) packet.Tuple {
	inner := outer
	switch srv.Mode {
	case policy.DR: // the frame's destination differs, the packet does not
	case policy.NAT, policy.FullNAT:
		inner.Dst = srv.Address.Addr().As16()
		if port := srv.Address.Port(); port != 0 { // else the one that the client asked for
			inner.DstPort = port
		}
	}
	if source.IsValid() {
		inner.Src = source.As16()
	}
	return inner
}

// wouldBypass says why the server's answers would reach the client past tunlb if they were
// addressed to it, so that the source has to be translated, too; "" if they would not. The cases are those in which people
// find that LVS "hangs": a server calls its own VIP, a client sits in the servers' subnet or on the
// director itself.
func (w *world) wouldBypass(in, out *lane, client, server [16]byte) (why string) {
	const sameLink = "client and server share a link"
	switch {
	case client == server:
		return "the client is the server itself"
	case in.segment != nil && in.segment == out.segment:
		if in.segment.reaches(client) && in.segment.reaches(server) { // else the server's gateway is us
			return sameLink
		}
	case !in.ofBox() || !out.ofBox():
		if in == out {
			return "client and server are behind one port"
		}
	case w.isLocal(client): // by a TUN: it does not come in by the box's interfaces
		return "the client is this box"
	case w.sameLink(client, server):
		return sameLink
	}
	return ""
}

// ofBox says whether behind the port is the box that the engine runs on, whose routes lead everywhere else.
func (l *lane) ofBox() bool { return l.Kernel || l.Box }
