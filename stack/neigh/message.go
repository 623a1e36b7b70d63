package neigh

import (
	"encoding/binary"

	"github.com/tunlb/tunlb/stack/packet"
)

// be reads and writes network byte order.
var be = binary.BigEndian

// l3 is where ARP or IPv6 starts in a frame.
const l3 = packet.VnetLen + packet.EthernetLen

// Form is what a message is for. ARP and neighbour discovery have the same four.
type Form uint8

const (
	Request      Form = iota // asks for an address and says its own: ARP request, neighbour solicitation
	Probe                    // asks whether an address is free (RFC 5227, 2.1.1; RFC 4862, 5.4): no sender
	Reply                    // ARP reply, solicited neighbour advertisement
	Announcement             // says an address to all, unasked: gratuitous ARP, unsolicited advertisement
	forms
)

var formNames = [forms]string{Request: "request", Probe: "probe", Reply: "reply", Announcement: "announcement"}

// String is the name in counters and reports.
func (f Form) String() string {
	if f < forms {
		return formNames[f]
	}
	return "unknown"
}

// Message is a parsed ARP packet, neighbour solicitation or advertisement. Addresses are as in
// packet.Tuple: IPv4 as v4-mapped. It is a plain value; the zero value is no message.
type Message struct {
	Form Form
	Is6  bool

	EtherDst, EtherSrc packet.MAC

	Sender [16]byte // ARP's sender, the IPv6 source; unspecified iff Form is Probe
	Target [16]byte // what is asked for; what an advertisement is about; an ARP reply's receiver
	Dest   [16]byte // the IPv6 destination; zero for ARP

	// MAC is ARP's sender hardware address, or the link-layer address option, zero if there is none.
	// It may differ from EtherSrc: bonding, VRRP and proxies do that, so it is no reason to refuse.
	MAC packet.MAC

	Solicited, Override bool // valid iff it is an advertisement
}

// Solicits says whether the message wants an answer.
func (m *Message) Solicits() bool { return m.Form == Request || m.Form == Probe }

// Claim is the binding that the message wants others to believe. A probe claims nothing yet. Where
// there is no link-layer address option, the station that sent the frame means itself.
func (m *Message) Claim() (addr [16]byte, mac packet.MAC, ok bool) {
	addr, mac = m.Sender, m.station()
	if m.Is6 && !m.Solicits() {
		addr = m.Target
	}
	return addr, mac, m.Form != Probe
}

// station is the MAC that the sender says it has.
func (m *Message) station() packet.MAC {
	if m.MAC.IsZero() {
		return m.EtherSrc
	}
	return m.MAC
}

// Is says whether a frame of an Ethernet port is ARP, a neighbour solicitation or advertisement, and
// thus for Parse and Handle. It also takes what hides one from switches (RFC 6980, 7113): extension
// headers, fragments, and the priority tag that receivers ignore. Router discovery and redirects are
// ordinary packets.
func Is(frame []byte) bool {
	if len(frame) < l3 {
		return false
	}
	switch be.Uint16(frame[l3-2:]) {
	case packet.EtherIPv4:
		return false
	case packet.EtherARP:
		return true
	case packet.EtherIPv6:
		return discovery(frame) != ndNone
	}
	is, _ := tagged(frame)
	return is
}

// tagged looks behind tags of VLAN 0 (IEEE 802.1Q, 9.6): they carry a priority only, so the station
// behind treats the frame like an untagged one. What has a VLAN is on another segment.
func tagged(frame []byte) (is, arp bool) {
	for len(frame) >= l3+4 {
		if t := be.Uint16(frame[l3-2:]); t != 0x8100 && t != 0x88a8 || be.Uint16(frame[l3:])&0xfff != 0 {
			return false, false
		}
		frame = frame[4:]
		switch be.Uint16(frame[l3-2:]) {
		case packet.EtherARP:
			return true, true
		case packet.EtherIPv6:
			return discovery(frame) != ndNone, false
		}
	}
	return false, false
}

// Parse reads a frame of which Is is true: None, BadARP or BadND. It is strict, since what it takes is
// believed and may be passed on: RFC 4861, 7.1, and for ARP what the field has learned to refuse.
// It allocates nothing and never panics.
func (m *Message) Parse(frame []byte) packet.Reason {
	*m = Message{}
	h, ok := packet.DecodeEthernet(frame)
	if !ok {
		return packet.BadARP
	}
	m.EtherDst, m.EtherSrc = h.Dst, h.Src
	reason := packet.BadARP
	switch h.Type {
	case packet.EtherARP:
		ok = m.parseARP(frame)
	case packet.EtherIPv6:
		reason, ok = packet.BadND, m.parseND(frame)
	default:
		ok = false
		if is, arp := tagged(frame); is && !arp {
			reason = packet.BadND
		}
	}
	if !ok || !station(h.Src) {
		return reason
	}
	return packet.None
}

// station says whether a MAC can be one station's.
func station(mac packet.MAC) bool { return !mac.IsGroup() && !mac.IsZero() }

// unicast says whether one host can have the address.
func unicast(a [16]byte) bool {
	if is4(a) {
		return a[12] != 0 && a[12] != 127 && a[12] < 224 // this network, loopback, multicast and reserved
	}
	return a[0] != 0xff && !(be.Uint64(a[:]) == 0 && be.Uint64(a[8:]) <= 1)
}

// is4 says whether a stands for an IPv4 address.
func is4(a [16]byte) bool { return be.Uint64(a[:]) == 0 && be.Uint32(a[8:]) == 0xffff }

// unspecified is the address of who has none yet.
func unspecified(is6 bool) (a [16]byte) {
	if !is6 {
		a[10], a[11] = 0xff, 0xff
	}
	return a
}
