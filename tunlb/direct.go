package tunlb

import (
	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/stack/port"
)

// Direct is the way out of the box's own interfaces, to next hops that its kernel knows: to directly routed
// servers, and to everybody from ports that are such interfaces (Attachment.Box). Safe for concurrent use; neither
// Way nor Write blocks.
type Direct interface {
	// Way is how an address is reached; false as long as that is not known.
	Way(addr [16]byte) (Way, bool)
	// NewBurst is for the goroutine that asks for it: frames that leave together.
	NewBurst() port.Burst
	// Write sends a frame, vnet header | Ethernet | IP, out of the interface with this index. The frame is
	// borrowed until Write returns, and may be changed.
	Write(frame []byte, link int) error
}

// Way is an interface of the box and the station behind it.
type Way struct {
	Link        int // index of the interface
	MTU         int // of IP
	Source, MAC packet.MAC
	Local       bool // the server is the box itself: nothing else is valid
	Down        bool // nobody answers for the address
}

// exitDirectPort stands for the box's interfaces where flows and routes name a port.
const exitDirectPort = 255

// exitHostPort stands for the host.
const exitHostPort = 254

// maxPorts is how many ports leave these two free.
const maxPorts = 254

// directWay finds the way of a verdict that leaves by the box's interfaces. Without one yet the packet is to wait.
func (l *lane) directWay() packet.Reason {
	var known bool
	l.way, known = l.engine.direct.Way(l.out.hop)
	switch {
	case !known:
		l.way = Way{MTU: packet.MaxPacket}
	case l.way.Down, l.way.Local: // it was not the box itself when the flow was opened
		return packet.Unresolved
	}
	return packet.None
}

// emitDirect sends a frame of this lane's kind by the way that directWay has found.
func (l *lane) emitDirect(frame []byte) packet.Reason {
	if l.link == packet.LinkIP {
		l.convert = packet.AppendEthernet(l.convert[:0], frame, l.way.MAC, l.way.Source)
		frame = l.convert
	} else {
		packet.SetMACs(frame, l.way.MAC, l.way.Source)
	}
	if l.way.Link == 0 {
		return l.engine.hold(&l.sender, l.out.hop, frame)
	}
	return l.writeDirect(l.engine.direct, frame, l.way.Link)
}

// writeDirect hands a frame to an interface of the box.
func (from *sender) writeDirect(d Direct, frame []byte, link int) packet.Reason {
	from.witness.wroteDirect(link, frame)
	if from.bursts != nil && from.bursts.inPlace {
		if from.bursts.direct == nil {
			from.bursts.direct = d.NewBurst()
		}
		from.bursts.put(from.bursts.direct, frame, link)
		return packet.None
	}
	if err := d.Write(frame, link); err != nil {
		from.witness.refused()
		return packet.PortWrite
	}
	return packet.None
}
