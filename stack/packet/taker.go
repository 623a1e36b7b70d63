package packet

import (
	"cmp"
	"slices"
)

// Taker is a Claim made ready to be asked for each packet. It never changes: safe for concurrent use.
type Taker struct {
	vips, servers claimed
	pinged, own   addresses // pinged are those of VIPs whose echo requests are taken
}

type addresses map[[16]byte]struct{}

// claimed are the ports of addresses, sorted and apart from each other.
type claimed map[place][]span

type place struct {
	addr  [16]byte
	proto uint8
}

type span struct{ first, last uint16 }

// NewTaker prepares c, which may be changed afterwards.
func NewTaker(c Claim) *Taker {
	t := &Taker{vips: newClaimed(c.VIPs), servers: newClaimed(c.Servers), pinged: addresses{}, own: make(addresses, len(c.Own))}
	for _, e := range c.VIPs {
		if e.Echo() {
			t.pinged[e.Addr.As16()] = struct{}{}
		}
	}
	for _, a := range c.Own {
		t.own[a.As16()] = struct{}{}
	}
	return t
}

// Takes tells whether the claim takes the packet of v, which Parse has let through. It allocates nothing: two or three
// look-ups in a map.
func (t *Taker) Takes(v *View) bool {
	p := &v.Tuple
	if v.ICMPError {
		return t.vips.has(v.Quote.Src, v.Quote.Proto, v.Quote.SrcPort) ||
			t.servers.has(v.Quote.Dst, v.Quote.Proto, v.Quote.DstPort) && !t.own.has(p.Dst)
	}
	if p.Proto != ProtoTCP && p.Proto != ProtoUDP {
		return v.mayPing() && t.pinged.has(p.Dst)
	}
	if v.laterFragment() {
		return t.vips.any(p.Dst, p.Proto) || t.servers.any(p.Src, p.Proto) && !t.own.has(p.Dst)
	}
	return t.vips.has(p.Dst, p.Proto, p.DstPort) || t.servers.has(p.Src, p.Proto, p.SrcPort) && !t.own.has(p.Dst)
}

// mayPing tells whether v is an echo request, or a later fragment that may be of one.
func (v *View) mayPing() bool {
	if !v.laterFragment() {
		return v.ports == portsRequest
	}
	return v.Tuple.Proto == ProtoICMP && !v.Is6 || v.Tuple.Proto == ProtoICMPv6 && v.Is6
}

func (a addresses) has(addr [16]byte) bool {
	_, ok := a[addr]
	return ok
}

func newClaimed(list []Endpoints) claimed {
	c := make(claimed, len(list))
	for _, e := range list {
		if !e.Addr.IsValid() || e.Proto != ProtoTCP && e.Proto != ProtoUDP {
			continue
		}
		first, last := e.Ports()
		at := place{e.Addr.As16(), e.Proto}
		c[at] = append(c[at], span{first, last})
	}
	for at, spans := range c {
		c[at] = joined(spans)
	}
	return c
}

// joined sorts spans and makes one of those that overlap.
func joined(spans []span) []span {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.first, b.first) })
	out := spans[:0]
	for _, s := range spans {
		if n := len(out); n > 0 && s.first <= out[n-1].last {
			out[n-1].last = max(out[n-1].last, s.last)
		} else if s.first <= s.last {
			out = append(out, s)
		}
	}
	return out
}

func (c claimed) any(addr [16]byte, proto uint8) bool { return len(c[place{addr, proto}]) > 0 }

func (c claimed) has(addr [16]byte, proto uint8, port uint16) bool {
	spans := c[place{addr, proto}]
	for len(spans) > 1 { // the one that port is in is among these
		if mid := len(spans) / 2; port < spans[mid].first {
			spans = spans[:mid]
		} else {
			spans = spans[mid:]
		}
	}
	return len(spans) == 1 && spans[0].first <= port && port <= spans[0].last
}
