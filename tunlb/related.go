package tunlb

import (
	"github.com/tunlb/tunlb/stack/packet"
)

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
		// About our own packets, the box's, or those that pass.
		return l.pass(e.world.Load(), v)
	}
	if v.Tuple.Dst != v.Quote.Src || f.Exit(dir^1) != l.home {
		// An error goes to who sent what it quotes, by the way that the answer would come.
		return packet.BadICMP
	}
	srv := e.services.Server(f.Server())
	if f.OneWay() && srv == nil {
		return packet.ServerGone
	}
	l.out.follow(f, dir, srv)
	l.witness.belongs(f, dir, e.tick())
	l.out.server = nil // not counted as the connection's
	return packet.None
}
