package trace

import (
	"fmt"
	"strings"

	"github.com/tunlb/tunlb/stack/packet"
)

// Packet is what a frame's headers say, as far as they are kept. A plain value.
type Packet struct {
	SrcMAC   string  `json:"src_mac,omitempty"` // Ethernet ports only
	DstMAC   string  `json:"dst_mac,omitempty"`
	Src      string  `json:"src,omitempty"` // address, or address:port
	Dst      string  `json:"dst,omitempty"`
	Protocol string  `json:"protocol,omitempty"` // tcp, udp, icmp, icmpv6, arp, or proto-47
	Length   int     `json:"length,omitempty"`   // by the IP header
	TTL      int     `json:"ttl,omitempty"`      // or hop limit
	Fragment string  `json:"fragment,omitempty"` // "offset 1480, more"
	Offload  string  `json:"offload,omitempty"`  // what is left to the device
	TCP      *TCP    `json:"tcp,omitempty"`
	ICMP     *ICMP   `json:"icmp,omitempty"`
	Quote    *Packet `json:"quote,omitempty"`   // what an ICMP error is about
	Payload  int     `json:"payload,omitempty"` // bytes behind the headers
	Text     string  `json:"text"`              // the same in a line, without the addresses
}

// TCP is a TCP header.
type TCP struct {
	Flags  string `json:"flags"` // "SYN ACK"
	Seq    uint32 `json:"seq"`
	Ack    uint32 `json:"ack"`
	Window uint16 `json:"window"`
}

// ICMP is a header of ICMP or ICMPv6. ID and Seq are valid iff it is an echo.
type ICMP struct {
	Type uint8  `json:"type"`
	Code uint8  `json:"code"`
	Name string `json:"name"`
	ID   uint16 `json:"id,omitempty"`
	Seq  uint16 `json:"seq,omitempty"`
}

// describe writes Text.
func (p *Packet) describe() {
	var words []string
	add := func(format string, args ...any) { words = append(words, fmt.Sprintf(format, args...)) }
	switch {
	case p.TCP != nil:
		add("%s seq %d", p.TCP.Flags, p.TCP.Seq)
		if strings.Contains(p.TCP.Flags, "ACK") {
			add("ack %d", p.TCP.Ack)
		}
		add("len %d win %d", p.Payload, p.TCP.Window)
	case p.ICMP != nil && p.Quote != nil:
		add("%s, about %s %s -> %s", p.ICMP.Name, p.Quote.Protocol, p.Quote.Src, p.Quote.Dst)
	case p.ICMP != nil && isEcho(p.Protocol, p.ICMP.Type):
		add("%s id %d seq %d len %d", p.ICMP.Name, p.ICMP.ID, p.ICMP.Seq, p.Payload)
	case p.ICMP != nil:
		add("%s", p.ICMP.Name)
	case p.Protocol != "" && p.Protocol != "arp":
		add("len %d", p.Payload)
	}
	if p.Fragment != "" {
		add("fragment %s", p.Fragment)
	}
	if p.Offload != "" {
		add("(%s)", p.Offload)
	}
	p.Text = strings.TrimSpace(p.Text + " " + strings.Join(words, " "))
}

// flagNames are those of a TCP header's flags, as people say them.
func flagNames(flags uint8) string {
	var names []string
	for _, f := range []struct {
		bit  uint8
		name string
	}{
		{packet.TCPSyn, "SYN"}, {packet.TCPFin, "FIN"}, {packet.TCPRst, "RST"}, {packet.TCPPsh, "PSH"},
		{packet.TCPAck, "ACK"}, {packet.TCPUrg, "URG"}, {packet.TCPEce, "ECE"}, {packet.TCPCwr, "CWR"},
	} {
		if flags&f.bit != 0 {
			names = append(names, f.name)
		}
	}
	if names == nil {
		return "no flags"
	}
	return strings.Join(names, " ")
}

// protocolName is an IP protocol's.
func protocolName(n uint8) string {
	switch n {
	case packet.ProtoTCP:
		return "tcp"
	case packet.ProtoUDP:
		return "udp"
	case packet.ProtoICMP:
		return "icmp"
	case packet.ProtoICMPv6:
		return "icmpv6"
	}
	return fmt.Sprintf("proto-%d", n)
}

func isEcho(protocol string, typ uint8) bool {
	if protocol == "icmpv6" {
		return typ == 128 || typ == 129
	}
	return typ == 0 || typ == 8
}

// isError says whether an ICMP message quotes the packet that it is about.
func isError(protocol string, typ uint8) bool {
	if protocol == "icmpv6" {
		return typ < 128
	}
	return typ == 3 || typ == 4 || typ == 5 || typ == 11 || typ == 12
}

// icmpName is what a message says (RFC 792, 1122, 1812; RFC 4443, 4861).
func icmpName(protocol string, typ, code uint8) string {
	names, codes := map[uint8]string{
		0: "echo reply", 3: "unreachable", 4: "source quench", 5: "redirect", 8: "echo request", 11: "time exceeded", 12: "parameter problem",
	}, map[[2]uint8]string{
		{3, 0}: "net unreachable", {3, 1}: "host unreachable", {3, 2}: "protocol unreachable", {3, 3}: "port unreachable",
		{3, 4}: "fragmentation needed", {3, 13}: "administratively prohibited", {11, 0}: "ttl exceeded", {11, 1}: "reassembly time exceeded",
	}
	if protocol == "icmpv6" {
		names, codes = map[uint8]string{
			1: "unreachable", 2: "packet too big", 3: "time exceeded", 4: "parameter problem", 128: "echo request", 129: "echo reply",
			133: "router solicitation", 134: "router advertisement", 135: "neighbour solicitation", 136: "neighbour advertisement", 137: "redirect",
			143: "multicast listener report",
		}, map[[2]uint8]string{
			{1, 0}: "net unreachable", {1, 1}: "administratively prohibited", {1, 3}: "host unreachable", {1, 4}: "port unreachable",
			{3, 0}: "hop limit exceeded", {3, 1}: "reassembly time exceeded",
		}
	}
	if name, ok := codes[[2]uint8{typ, code}]; ok {
		return name
	}
	name, ok := names[typ]
	if !ok {
		name = fmt.Sprintf("type %d", typ)
	}
	if code != 0 {
		name += fmt.Sprintf(" code %d", code)
	}
	return name
}
