package tunlb

import (
	"net/netip"

	"github.com/gaissmai/bart"

	"github.com/tunlb/tunlb/stack/packet"
)

// Box is what the kernel of the box owns and reaches without a router. The zero value is right where
// no port leads into it (virtual router).
type Box struct {
	Local []netip.Addr   // own addresses, those of the TUN's kernel end included
	Links []netip.Prefix // prefixes on a link of the box
}

// world is an immutable snapshot of who owns which address and what lies where.
type world struct {
	own      map[[16]byte]struct{} // answered by the host
	local    map[[16]byte]struct{} // the box's
	locals   []netip.Addr          // the same, in the order in which the kernel has them
	links    bart.Table[netip.Prefix]
	routes   bart.Table[nextHop]
	gateways []netip.Prefix // the insides, in the order of the configuration
}

// nextHop is where a route leads: a port, and on a segment the router there; without one the destination
// itself is the next hop.
type nextHop struct {
	port uint8
	via  netip.Addr
}

func newWorld(lanes []*lane, cfg Config, box Box) *world {
	w := &world{own: map[[16]byte]struct{}{}, local: map[[16]byte]struct{}{}}
	for _, a := range box.Local {
		w.local[a.As16()] = struct{}{}
		w.locals = append(w.locals, a)
	}
	for _, p := range box.Links {
		w.links.Insert(p.Masked(), p.Masked())
	}
	alone := false // the box is reached by its interfaces alone: what is for a service is ours, whoever has the VIP
	for _, l := range lanes {
		if l.Box {
			alone = l.engine.box.tun == nil
			w.routes.Insert(netip.PrefixFrom(netip.IPv4Unspecified(), 0), nextHop{port: l.home})
			w.routes.Insert(netip.PrefixFrom(netip.IPv6Unspecified(), 0), nextHop{port: l.home})
		}
		for _, p := range append(append([]netip.Prefix(nil), l.Subnets...), l.Routes...) {
			w.routes.Insert(p.Masked(), nextHop{port: l.home})
		}
		for _, r := range l.Via {
			w.routes.Insert(r.Prefix.Masked(), nextHop{l.home, r.Router})
		}
		for _, a := range l.Own {
			w.addOwn(a)
		}
	}
	for _, s := range cfg.Services {
		for _, l := range s.Listen {
			if alone {
				w.own[l.Addr.As16()] = struct{}{}
			}
			w.addOwn(l.Addr)
		}
	}
	for _, g := range cfg.Gateways {
		w.gateways = append(w.gateways, g.Inside)
		w.addOwn(g.Masquerade)
	}
	return w
}

// addOwn makes an address ours unless it is the box's: there the kernel goes on answering for all of
// its ports but those of services.
func (w *world) addOwn(a netip.Addr) {
	if key := a.As16(); !w.isLocal(key) {
		w.own[key] = struct{}{}
	}
}

func (w *world) ownAddrs() []netip.Addr {
	addrs := make([]netip.Addr, 0, len(w.own))
	for a := range w.own {
		addrs = append(addrs, packet.Addr(a))
	}
	return addrs
}

func (w *world) owns(a [16]byte) bool {
	_, ok := w.own[a]
	return ok
}

func (w *world) isLocal(a [16]byte) bool {
	_, ok := w.local[a]
	return ok
}

// nearest is an address of the box to speak to another from: one on the same link, if there is one.
func (w *world) nearest(to [16]byte) (own netip.Addr) {
	for _, a := range w.locals {
		switch {
		case a.Is4() != packet.Addr(to).Is4() || a.IsLoopback() || a.IsLinkLocalUnicast():
		case w.sameLink(a.As16(), to):
			return a
		case !own.IsValid():
			own = a
		}
	}
	return own
}

// sameLink says whether two addresses reach each other on one link of the box, past it.
func (w *world) sameLink(a, b [16]byte) bool {
	pa, oka := w.links.Lookup(packet.Addr(a))
	pb, okb := w.links.Lookup(packet.Addr(b))
	return oka && okb && pa == pb
}

// route finds the port behind which an address lies: longest prefix.
func (w *world) route(a [16]byte) (port uint8, ok bool) {
	r, ok := w.routes.Lookup(packet.Addr(a))
	return r.port, ok
}

// hop finds the station to which packets for an address are sent.
func (w *world) hop(a [16]byte) (hop [16]byte, ok bool) {
	r, ok := w.routes.Lookup(packet.Addr(a))
	if r.via.IsValid() {
		a = r.via.As16()
	}
	return a, ok
}

// livesBehind says whether a packet from this address may come in by the lane. A segment may lead
// anywhere: direct routing needs no way back to the client.
func (w *world) livesBehind(l *lane, a [16]byte) bool {
	port, ok := w.route(a)
	return (ok && port == l.home || !ok && l.segment != nil) && !w.owns(a)
}

// onLink says whether the address belongs to the lane's own link.
func (w *world) onLink(l *lane, a [16]byte) bool {
	for _, p := range l.Subnets {
		if p.Contains(packet.Addr(a)) {
			return !w.isLocal(a)
		}
	}
	return false
}

// gateway finds the gateway that an inside address belongs to, or -1.
func (w *world) gateway(a [16]byte) int {
	for i, inside := range w.gateways {
		if inside.Contains(packet.Addr(a)) {
			return i
		}
	}
	return -1
}

// outbound says whether a destination lies outside, seen from a gateway: beyond all insides, not
// tunlb's own and not the box's.
func (w *world) outbound(from int, dst [16]byte) bool {
	return from >= 0 && w.gateway(dst) < 0 && !w.owns(dst) && !w.isLocal(dst)
}
