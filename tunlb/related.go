package tunlb

import (
	"time"

	"golang.org/x/time/rate"

	"github.com/tunlb/tunlb/stack/packet"
)

// ICMP errors are easily made up: they come from any router's address, and one that is believed ends a connection or makes
// its packets small (RFC 5927). So one that concerns a flow is passed on only if its sender has seen that flow, as far as
// can be told, and errors at a bounded rate: those of a flow (shares.go) and all of them. The ends judge once more.
const (
	// No path is narrower: RFC 1122, 3.3.2 and RFC 8200, 5.
	leastMTU4, leastMTU6 = 576, 1280
	// What a change of the path of ten thousand connections causes in a second.
	relatedPerSecond, relatedBurst = 10_000, 2_000
)

// newRelatedLimit makes the limiter of the errors about flows that all lanes share.
func newRelatedLimit() *rate.Limiter { return rate.NewLimiter(relatedPerSecond, relatedBurst) }

// related decides on an ICMP error. It belongs to the flow of the packet that it quotes, and travels
// against that packet; so it goes where the quoted packet's answer would go, translated as that would
// be, with the quote turned back into what its sender had sent. Path MTU discovery depends on it.
func (l *lane) related(v *packet.View) packet.Reason {
	e := l.engine
	answer := v.Quote.Reverse()
	f, dir := e.flows.Find(&answer)
	if f == nil {
		if l.foreign(v) {
			return packet.OtherHost
		}
		if e.concernsLocked(&v.Quote) {
			return packet.ICMPUnmatched
		}
		// About our own packets, the box's, or those that pass.
		return l.pass(e.world.Load(), v)
	}
	if v.Tuple.Dst != v.Quote.Src || e.exitOf(f, dir^1) != l.home {
		// An error goes to who sent what it quotes, by the way that the answer would come.
		return packet.BadICMP
	}
	if v.Quote.Proto == packet.ProtoTCP && !f.InFlight(dir^1, v.QuoteSeq()) {
		return packet.BlindICMP
	}
	if mtu, ok := v.PathMTU(); ok && mtu < leastMTU(v.Is6) {
		return packet.SmallMTU
	}
	srv := e.services.Server(f.Server())
	if f.OneWay() && srv == nil {
		return packet.ServerGone
	}
	outer := f.Outer()
	if !e.shares.slot(&outer).allow(e.tick()) || !e.related.AllowN(time.Unix(0, int64(e.now())), 1) {
		return packet.RateLimited
	}
	l.out.follow(f, dir, e.exitOf(f, dir), srv)
	l.witness.belongs(f, dir, e.tick())
	l.out.server = nil // not counted as the connection's
	return packet.None
}

func leastMTU(is6 bool) int {
	if is6 {
		return leastMTU6
	}
	return leastMTU4
}

// concernsLocked says whether one end of a quoted packet is a service's or a gateway's: without a flow nobody has sent it.
// On an address of the box's it may still be the box's own.
func (e *Engine) concernsLocked(quote *packet.Tuple) bool {
	w := e.world.Load()
	return w.owns(quote.Src) && (e.services.Service(quote.Proto, quote.Src, quote.SrcPort) != nil || quote.SrcPort != 0 && e.mappingsOf(quote.Src, quote.SrcPort) != nil) ||
		w.owns(quote.Dst) && e.services.Service(quote.Proto, quote.Dst, quote.DstPort) != nil
}
