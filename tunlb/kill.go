package tunlb

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/tunlb/flow"
)

// Kill ends a connection by its ID: both its ends get a reset, if it is TCP. Of a directly routed one only the
// server's half is known: the client gets its reset when it sends the next time. It fails with ErrNoConn.
func (e *Engine) Kill(id string) error {
	outer, err := parseConnID(id)
	if err != nil {
		return err
	}
	e.mu.Lock()
	f, d := e.flows.Find(&outer)
	if f == nil || d != flow.Forward {
		e.mu.Unlock()
		return fmt.Errorf("%w: %s", ErrNoConn, id)
	}
	resets := e.resetsLocked(f)
	e.flows.Delete(f)
	e.mu.Unlock()
	for _, r := range resets {
		e.sendReset(r)
	}
	return nil
}

// parseConnID is the inverse of Conn.ID.
func parseConnID(id string) (tu packet.Tuple, err error) {
	parts := strings.SplitN(id, "/", 3)
	if len(parts) != 3 {
		return tu, fmt.Errorf("%w: %q: want protocol/client/VIP, like tcp/198.51.100.7:40000/203.0.113.22:80", ErrNoConn, id)
	}
	proto, ok := policy.ParseProto(parts[0])
	client, clientErr := netip.ParseAddrPort(parts[1])
	vip, vipErr := netip.ParseAddrPort(parts[2])
	switch {
	case parts[0] == "icmp" && vip.Addr().Is4():
		proto = packet.ProtoICMP
	case parts[0] == "icmp":
		proto = packet.ProtoICMPv6
	case !ok:
		return tu, fmt.Errorf("%w: %q: unknown protocol", ErrNoConn, id)
	}
	if clientErr != nil || vipErr != nil {
		return tu, fmt.Errorf("%w: %q: want protocol/client/VIP, like tcp/198.51.100.7:40000/203.0.113.22:80", ErrNoConn, id)
	}
	return packet.Tuple{
		Src: client.Addr().As16(), SrcPort: client.Port(), Dst: vip.Addr().As16(), DstPort: vip.Port(), Proto: proto,
	}, nil
}

// reset is one to be sent.
type reset struct {
	frame []byte
	exit  uint8    // where it leaves
	hop   [16]byte // of a directly routed connection: its server
}

// resetsLocked are those that end a flow for both its ends.
func (e *Engine) resetsLocked(f *flow.Flow) (resets []reset) {
	for _, d := range []flow.Direction{flow.Forward, flow.Reverse} {
		if tu, seq, ack, ok := f.Reset(d); ok {
			r := reset{frame: packet.AppendReset(nil, &tu, seq, ack), exit: e.exitOf(f, d)}
			if srv := e.services.Server(f.Server()); f.OneWay() && srv != nil {
				r.hop = srv.Address.Addr().As16()
			}
			resets = append(resets, r)
		}
	}
	return resets
}

// sendReset sends one as the flow's packets are sent.
func (e *Engine) sendReset(r reset) {
	if r.exit == exitHostPort {
		return
	}
	e.sendOwn(r.frame, func(from *sender, frame []byte) packet.Reason {
		switch {
		case r.exit == exitDirectPort:
			way, ok := e.direct.Way(r.hop)
			if !ok || way.Down || way.Local {
				return packet.Unresolved
			}
			return from.writeDirect(e.direct, packet.AppendEthernet(nil, frame, way.MAC, way.Source), way.Link)
		case r.hop != [16]byte{} && e.lanes[r.exit].segment != nil:
			return e.lanes[r.exit].segment.transmitFromHost(from, packet.AppendEthernet(nil, frame, packet.MAC{}, packet.MAC{}), r.hop)
		}
		return e.routeOwn(from, frame)
	})
}
