package trace

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"

	"github.com/tunlb/tunlb/stack/packet"
)

// ipPacket is a packet whose network header has been read.
type ipPacket struct {
	prefix   string // of its fields' names
	src, dst netip.Addr
	proto    uint8
	is6      bool
	later    bool   // a later fragment: there is no transport header
	length   int    // by the header
	body     []byte // what is kept of the transport
	size     int    // how long that was
	pseudo   []byte // addresses
}

// addresses tells source and destination, with ports where there are any.
func (h *headers) addresses(p ipPacket, body []byte) {
	h.Protocol = protocolName(p.proto)
	h.Src, h.Dst = p.src.String(), p.dst.String()
	if (p.proto == packet.ProtoTCP || p.proto == packet.ProtoUDP) && !p.later && len(body) >= 4 {
		h.Src = netip.AddrPortFrom(p.src, binary.BigEndian.Uint16(body)).String()
		h.Dst = netip.AddrPortFrom(p.dst, binary.BigEndian.Uint16(body[2:])).String()
	}
	h.set(p.prefix+"src", h.Src)
	h.set(p.prefix+"dst", h.Dst)
}

// readTransport reads the header behind IP's.
func (h *headers) readTransport(p ipPacket) {
	b := p.body
	h.Payload = p.size
	switch is := p.proto; {
	case p.later:
		h.blob(p.prefix+"payload", b, p.size)
	case is == packet.ProtoTCP && len(b) >= tcpLen:
		h.readTCP(p)
	case is == packet.ProtoTCP && h.quoted && len(b) >= 8:
		h.setf(p.prefix+"seq", "%d", binary.BigEndian.Uint32(b[4:]))
		h.blob(p.prefix+"payload", b[8:], p.size-8)
	case is == packet.ProtoUDP && len(b) >= udpLen:
		h.Payload = p.size - udpLen
		h.setf(p.prefix+"udp length", "%d", binary.BigEndian.Uint16(b[4:]))
		h.transportSum(p, "udp checksum", 6)
		h.blob(p.prefix+"payload", b[udpLen:], h.Payload)
	case (is == packet.ProtoICMP && !p.is6 || is == packet.ProtoICMPv6 && p.is6) && len(b) >= icmpLen:
		h.readICMP(p)
	case (is == packet.ProtoTCP || is == packet.ProtoUDP) && len(b) >= 4:
		h.blob(p.prefix+"transport", b[4:], p.size-4) // its ports have been read
	default:
		h.blob(p.prefix+"payload", b, p.size)
	}
}

func (h *headers) readTCP(p ipPacket) {
	b := p.body
	header := min(max(tcpLen, int(b[12]>>4)*4), len(b))
	t := &TCP{Flags: flagNames(b[13]), Seq: binary.BigEndian.Uint32(b[4:]), Ack: binary.BigEndian.Uint32(b[8:]), Window: binary.BigEndian.Uint16(b[14:])}
	h.TCP, h.Payload = t, p.size-header
	h.setf(p.prefix+"seq", "%d", t.Seq)
	h.setf(p.prefix+"ack", "%d", t.Ack)
	h.set(p.prefix+"flags", t.Flags)
	h.setf(p.prefix+"window", "%d", t.Window)
	h.setf(p.prefix+"tcp header length", "%d", int(b[12]>>4)*4)
	h.setf(p.prefix+"tcp reserved bits", "0x%x", b[12]&15)
	h.setf(p.prefix+"urgent", "%d", binary.BigEndian.Uint16(b[18:]))
	h.blob(p.prefix+"tcp options", b[tcpLen:header], int(b[12]>>4)*4-tcpLen)
	h.transportSum(p, "tcp checksum", 16)
	h.blob(p.prefix+"payload", b[header:], h.Payload)
}

func (h *headers) readICMP(p ipPacket) {
	b, protocol := p.body, protocolName(p.proto)
	m := &ICMP{Type: b[0], Code: b[1], Name: icmpName(protocol, b[0], b[1])}
	h.ICMP, h.Payload = m, p.size-icmpLen
	h.setf(p.prefix+"icmp type", "%s (%d/%d)", m.Name, m.Type, m.Code)
	h.transportSum(p, protocol+" checksum", 2)
	rest := binary.BigEndian.Uint32(b[4:])
	switch {
	case isEcho(protocol, m.Type):
		m.ID, m.Seq = uint16(rest>>16), uint16(rest)
		h.setf(p.prefix+"echo id", "%d", m.ID)
		h.setf(p.prefix+"echo seq", "%d", m.Seq)
	case !p.is6 && m.Type == 3 && m.Code == 4, p.is6 && m.Type == 2:
		h.setf(p.prefix+"mtu", "%d", rest)
		m.Name = fmt.Sprintf("%s, mtu %d", m.Name, rest)
	default:
		h.setf(p.prefix+"icmp rest", "0x%08x", rest)
	}
	if h.quoted || !isError(protocol, m.Type) {
		h.neighbour(p, m)
		h.blob(p.prefix+"payload", b[icmpLen:], h.Payload)
		return
	}
	quote := &headers{quoted: true}
	quote.readIP("quoted ", b[icmpLen:], h.Payload)
	quote.describe()
	h.Quote = &quote.Packet
	h.fields = append(h.fields, quote.fields...)
	h.sums = append(h.sums, quote.sums...)
	h.opaque = append(h.opaque, quote.opaque...)
}

// neighbour adds to a message of neighbour discovery whom it is about (RFC 4861, 4.3, 4.4).
func (h *headers) neighbour(p ipPacket, m *ICMP) {
	if p.is6 && (m.Type == 135 || m.Type == 136) && len(p.body) >= icmpLen+16 {
		m.Name += " of " + netip.AddrFrom16([16]byte(p.body[icmpLen:])).String()
	}
}

// transportSum notes the transport's checksum, which covers a pseudo-header as well, but for ICMPv4.
func (h *headers) transportSum(p ipPacket, name string, at int) {
	c := checksum{value: binary.BigEndian.Uint16(p.body[at:]), body: without(p.body, at), size: p.size}
	if p.proto != packet.ProtoICMP {
		c.pseudo = append(p.pseudo, 0, p.proto, byte(p.size>>24), byte(p.size>>16), byte(p.size>>8), byte(p.size))
	}
	c.none = p.proto == packet.ProtoUDP && c.value == 0
	c.partial = !h.quoted && h.vnet.Flags&packet.FlagNeedsCsum != 0
	trusted := h.quoted || h.Fragment != "" || h.vnet.Flags&packet.FlagDataValid != 0
	h.addSum(p.prefix+name, c, !trusted)
}

// readARP reads a question or an answer (RFC 826).
func (h *headers) readARP(b []byte, length int) {
	const size = 28
	h.Protocol = "arp"
	if len(b) < size {
		h.Text = "cut off"
		h.blob("arp", b, length)
		return
	}
	h.arpOp = binary.BigEndian.Uint16(b[6:])
	sender, target := netip.AddrFrom4([4]byte(b[14:])), netip.AddrFrom4([4]byte(b[24:]))
	h.Src, h.Dst = sender.String(), target.String()
	h.set("arp format", hex.EncodeToString(b[:6]))
	h.setf("arp operation", "%d", h.arpOp)
	h.set("sender mac", packet.MAC(b[8:]).String())
	h.set("sender", h.Src)
	h.set("target mac", packet.MAC(b[18:]).String())
	h.set("target", h.Dst)
	switch {
	case sender == target:
		h.Text = fmt.Sprintf("%s announces itself at %s", sender, packet.MAC(b[8:]))
	case h.arpOp == 1:
		h.Text = fmt.Sprintf("who has %s? tell %s", target, sender)
	case h.arpOp == 2:
		h.Text = fmt.Sprintf("%s is at %s", sender, packet.MAC(b[8:]))
	default:
		h.Text = fmt.Sprintf("operation %d", h.arpOp)
	}
	h.blob("padding", b[size:], length-size)
}
