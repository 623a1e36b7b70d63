package tunlb

// Health checks over the engine's own stack, for servers that the box's kernel has no way to: those of a virtual
// router, and those on a segment where tunlb is a host of its own.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack"
	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/tunlb/flow"
)

// Dial connects to a server as its neighbour: from tunlb's own address on the link behind which it lies.
// network is "tcp" or "udp".
func (e *Engine) Dial(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error) {
	own, err := e.sourceTo(server.Addr())
	if err != nil {
		return nil, err
	}
	return e.host.Dial(ctx, network, server, netip.AddrPortFrom(own, 0))
}

// Ping asks a server for an echo, from where Dial would connect.
func (e *Engine) Ping(ctx context.Context, server netip.Addr) error {
	own, err := e.sourceTo(server)
	if err != nil {
		return err
	}
	return e.host.Ping(ctx, server, own)
}

// Reaches says whether tunlb itself is a neighbour of the server: it is not where only the box's kernel is.
func (e *Engine) Reaches(server netip.Addr) bool {
	out, ok := e.world.Load().route(server.As16())
	return ok && !e.lanes[out].ofBox()
}

func (e *Engine) sourceTo(server netip.Addr) (netip.Addr, error) {
	out, ok := e.world.Load().route(server.As16())
	if !ok {
		return netip.Addr{}, fmt.Errorf("no route to %s", server)
	}
	own := e.lanes[out].own(server.As16())
	if !own.IsValid() {
		return own, fmt.Errorf("port %s has no address of tunlb's own to speak to %s from", e.lanes[out].Port.Name(), server)
	}
	return own, nil
}

// Ports that DialDirect dials from, below those that translated connections have.
const (
	probeFirst = 20000
	probeLast  = 29999
	probeTries = 16
)

// DialDirect connects to a VIP at the MAC of one of its directly routed servers: what arrives there is
// addressed as a client's packets are, so that a server without the VIP does not answer. Between the host
// and the segment stands a flow: the host speaks to the server's address, the server hears the VIP.
func (e *Engine) DialDirect(ctx context.Context, network string, server, vip netip.AddrPort) (net.Conn, error) {
	own, err := e.sourceTo(server.Addr())
	if err != nil {
		return nil, err
	}
	proto, ok := policy.ParseProto(network)
	if !ok {
		return nil, fmt.Errorf("unknown protocol %q", network)
	}
	for range probeTries {
		var probe packet.Tuple
		var from netip.AddrPort
		if probe, from, err = e.openProbe(proto, own, server, vip); err != nil {
			return nil, err
		}
		var conn net.Conn
		if conn, err = e.host.Dial(ctx, network, server, from); err == nil {
			return conn, nil // the flow outlives the connection as any does: its end has to reach the server, too
		}
		e.closeProbe(probe)
		if !errors.Is(err, stack.ErrPortInUse) { // by a check of another server
			break
		}
	}
	return nil, err
}

// openProbe inserts the flow, at a port that no other has.
func (e *Engine) openProbe(proto uint8, own netip.Addr, server, vip netip.AddrPort) (packet.Tuple, netip.AddrPort, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	out, ok := e.world.Load().route(server.Addr().As16())
	if !ok || e.lanes[out].segment == nil {
		return packet.Tuple{}, netip.AddrPort{}, fmt.Errorf("%s is on no segment of tunlb's", server.Addr())
	}
	var err error
	for range probeTries {
		from := netip.AddrPortFrom(own, probeFirst+uint16(e.random(probeLast-probeFirst+1)))
		outer := packet.Tuple{Src: own.As16(), SrcPort: from.Port(), Dst: server.Addr().As16(), DstPort: server.Port(), Proto: proto}
		inner := outer
		inner.Dst, inner.DstPort = vip.Addr().As16(), vip.Port()
		var f *flow.Flow
		if f, err = e.flows.Insert(outer, inner, e.tick()); err == nil {
			e.setExits(f, out, exitHostPort)
			return outer, from, nil
		}
	}
	return packet.Tuple{}, netip.AddrPort{}, fmt.Errorf("no port to check %s from: %w", server, err)
}

// closeProbe forgets the flow of a check that came to nothing.
func (e *Engine) closeProbe(outer packet.Tuple) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if f, d := e.flows.Find(&outer); f != nil && d == flow.Forward && e.exitOf(f, flow.Reverse) == exitHostPort {
		e.flows.Delete(f)
	}
}

// probeFromHost turns a packet of the host's into one to the VIP, if it belongs to a check of the direct way.
// hop is the server's address.
func (e *Engine) probeFromHost(v *packet.View) (hop [16]byte, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f, d := e.flows.Find(&v.Tuple)
	if f == nil || d != flow.Forward || e.exitOf(f, flow.Reverse) != exitHostPort {
		return hop, false
	}
	e.flows.Track(f, d, v, e.tick())
	hop = v.Tuple.Dst
	edit := f.Edit(d)
	edit.Apply(v)
	return hop, true
}
