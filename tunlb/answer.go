package tunlb

import (
	"time"

	"golang.org/x/time/rate"

	"github.com/tunlb/tunlb/stack/packet"
)

// icmpPerSecond and icmpBurst bound the errors that tunlb originates (RFC 1812, 4.3.2.8), with the
// rate that Linux uses.
const (
	icmpPerSecond = 1000
	icmpBurst     = 100
)

// newICMPLimit makes the limiter that all lanes share.
func newICMPLimit() *rate.Limiter { return rate.NewLimiter(icmpPerSecond, icmpBurst) }

// reject tells the sender of a dropped packet why, for those reasons of which a router or the VIP
// has to tell. The packet is still as it came.
func (l *lane) reject(v *packet.View, r packet.Reason) {
	var kind packet.ErrorKind
	own, mtu := l.own(v.Tuple.Src), 0
	switch r {
	case packet.NoServer:
		// As IPVS does, for TCP too, and from the VIP: the client is refused at once.
		kind, own = packet.PortUnreachable, packet.Addr(v.Tuple.Dst)
	case packet.TTLExceeded:
		kind = packet.TimeExceeded
	case packet.NoRoute:
		kind = packet.NetUnreachable
	case packet.TooBig:
		kind, mtu = packet.FragmentationNeeded, l.fits
	case packet.Unresolved:
		if l.out.asIs {
			return // its server is down, and the next try goes to another
		}
		kind = packet.HostUnreachable
	default:
		return
	}
	if !own.IsValid() && l.Box {
		own = l.engine.world.Load().nearest(v.Tuple.Src)
	}
	if !own.IsValid() {
		return // the port has no address of this family to speak from
	}
	frame := packet.AppendError(l.answer[:0], v, kind, own.As16(), mtu)
	if frame == nil {
		return
	}
	if !l.engine.limit.AllowN(time.Unix(0, int64(l.engine.now())), 1) {
		l.engine.dropOwn(packet.RateLimited, l.link, frame)
		return
	}
	if r := l.write(l, frame); r != packet.None {
		l.engine.dropOwn(r, l.link, frame)
		return
	}
	l.engine.rejected.Add(1)
}
