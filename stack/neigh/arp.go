package neigh

import "github.com/tunlb/tunlb/stack/packet"

// ARP for IPv4 on Ethernet (RFC 826): hardware type, protocol type, lengths, operation, sender MAC and
// address, target MAC and address.
const (
	arpOp        = l3 + 6
	arpSenderMAC = l3 + 8
	arpSender    = l3 + 14
	arpTargetMAC = l3 + 18
	arpTarget    = l3 + 24
	arpEnd       = l3 + 28

	arpRequest = 1
	arpReply   = 2
)

// arpHead is Ethernet (1), IPv4, lengths 6 and 4.
const arpHead = 1<<48 | packet.EtherIPv4<<32 | 6<<24 | 4<<16

// parseARP reads ARP. Bytes behind it pad the frame to Ethernet's minimum.
func (m *Message) parseARP(frame []byte) bool {
	if len(frame) < arpEnd || be.Uint64(frame[l3:])&^0xffff != arpHead {
		return false
	}
	// Were the kernel told to put a checksum in or to cut the frame, others would get another message
	// than the one read here.
	if frame[0]&packet.FlagNeedsCsum != 0 || frame[1] != packet.GSONone {
		return false
	}
	m.MAC = packet.MAC(frame[arpSenderMAC:])
	m.Sender, m.Target = mapped(frame[arpSender:]), mapped(frame[arpTarget:])
	probe := m.Sender == unspecified(false)
	if !station(m.MAC) || !probe && !unicast(m.Sender) {
		return false // RFC 1812, 3.3.2: a group's MAC is not to be believed
	}
	switch be.Uint16(frame[arpOp:]) {
	case arpRequest:
		switch {
		case !unicast(m.Target):
			return false
		case probe:
			m.Form = Probe
		case m.Sender == m.Target:
			m.Form = Announcement
		}
		return true
	case arpReply:
		m.Form = Reply
		if m.Sender == m.Target {
			m.Form = Announcement
		}
		return !probe
	}
	return false
}

// mapped is the IPv4 address at b as v4-mapped.
func mapped(b []byte) (a [16]byte) {
	a[10], a[11] = 0xff, 0xff
	copy(a[12:], b[:4])
	return a
}

// putARP writes an ARP frame: from the station src, which is the sender, to the station dst.
func (f *Frame) putARP(op uint16, src, dst packet.MAC, sender [16]byte, targetMAC packet.MAC, target [16]byte) {
	b := f.reset(arpEnd)
	packet.Ethernet{Dst: dst, Src: src, Type: packet.EtherARP}.Put(b)
	be.PutUint64(b[l3:], arpHead|uint64(op))
	copy(b[arpSenderMAC:], src[:])
	copy(b[arpSender:], sender[12:])
	copy(b[arpTargetMAC:], targetMAC[:])
	copy(b[arpTarget:], target[12:])
}

// setSenderARP puts another sender address into an ARP frame that Parse has taken.
func setSenderARP(frame []byte, sender [16]byte) { copy(frame[arpSender:arpTargetMAC], sender[12:]) }
