package tunlb

// Ports that are the box's own interfaces (Attachment.Box). Like the ports of a segment they are one in routes and
// flows, named by the first of them: which interface a packet leaves by, the kernel's routes say. The TUN of the same
// box, if there is one, is one of them, and takes what the box itself gets: its own clients, and what is no service's.

import (
	"net/netip"

	"github.com/tunlb/tunlb/stack/packet"
)

// box is the machine that the engine runs on, as far as ports are its interfaces.
type box struct {
	ports []*lane
	tun   *lane // the way into the box's kernel; nil if there is none
}

// findBox finds the ports that are the box's; nil if there are none, as with a TUN alone.
func findBox(lanes []*lane) *box {
	b := &box{}
	for _, l := range lanes {
		switch {
		case l.Box:
			b.ports = append(b.ports, l)
		case l.Kernel:
			b.tun = l
		}
	}
	if len(b.ports) == 0 {
		return nil
	}
	for _, l := range b.ports {
		l.home = b.ports[0].id
	}
	if b.tun != nil {
		b.tun.home = b.ports[0].id
	}
	return b
}

// port finds the port that is an interface, nil if none is.
func (b *box) port(link int) *lane {
	if b != nil {
		for _, l := range b.ports {
			if l.Index == link {
				return l
			}
		}
	}
	return nil
}

// wayOut turns a verdict to leave by the box into one for the interface that its destination is behind.
func (l *lane) wayOut(v *packet.View) packet.Reason {
	out, tun := &l.out, l.engine.box.tun
	if l == tun {
		out.port = tun.id // as it came: its kernel routes, and nothing is copied for an Ethernet header
		return packet.None
	}
	out.hop = v.Tuple.Dst
	if out.edited {
		out.hop = out.edit.To.Dst
	}
	r := l.directWay()
	if tun != nil && l.way.Local {
		out.port = tun.id
		return packet.None
	}
	out.exit = exitDirect
	return r
}

// leave sends a packet of the host's own by the interface that its destination is behind.
func (b *box) leave(from *sender, d Direct, frame []byte, dst [16]byte) packet.Reason {
	way, known := d.Way(dst)
	switch {
	case known && way.Local && b.tun != nil:
		return from.write(b.tun, frame)
	case way.Down, way.Local:
		return packet.Unresolved
	}
	frame = packet.AppendEthernet(nil, frame, way.MAC, way.Source)
	if !known {
		return b.ports[0].engine.hold(from, dst, frame)
	}
	return from.writeDirect(d, frame, way.Link)
}

// handBack gives the box's kernel a packet that is none of ours, just as it came.
func (l *lane) handBack(v *packet.View) packet.Reason {
	if !l.Box {
		return l.write(l, v.Frame)
	}
	l.hurry()
	return l.write(l.engine.box.tun, packet.StripEthernet(v.Frame))
}

// foreign says that the packet is not what a service's port takes: the socket's filter may let more through, and the
// kernel has it as well.
func (l *lane) foreign(v *packet.View) bool {
	claim := l.engine.claim.Load()
	return l.Box && claim != nil && !claim.Takes(v)
}

// SetClaim tells what the ports take that are the box's interfaces: nothing else that comes in there is looked at.
func (e *Engine) SetClaim(c packet.Claim) { e.claim.Store(packet.NewTaker(c)) }

// source is an address of tunlb's own to speak to server from, for a connection to vip whose answers would not come
// back otherwise. An address of the box would not do: its kernel takes what is for it. So it is the TUN's, or the VIP
// unless the box has that.
func (l *lane) source(w *world, server, vip [16]byte) netip.Addr {
	if !l.Box {
		return l.own(server)
	}
	if own := l.own(server); own.IsValid() {
		return own
	}
	if to := packet.Addr(vip); to.Is4() == packet.Addr(server).Is4() && w.owns(vip) && !w.isLocal(vip) {
		return to
	}
	return netip.Addr{}
}
