package labnet

import (
	"encoding/binary"
	"net/netip"
)

const (
	etherIPv6 = 0x86dd
	etherARP  = 0x0806
)

// resolution reads a message of ARP (RFC 826) or neighbour discovery (RFC 4861); false for
// whatever else. Names and fate are left to Conversation.
func resolution(p Packet) (e Exchange, ok bool) {
	switch p.EtherType() {
	case etherARP:
		return arp(p.Payload())
	case etherIPv6:
		e, ok = discovery(p.Payload())
		if e.MAC == (MAC{}) { // an advertisement may go without
			e.MAC, _, _ = p.MACs()
		}
	}
	return e, ok
}

func arp(b []byte) (e Exchange, ok bool) {
	const header = 0x0001_0800_0604 // Ethernet, IPv4, 6 and 4 bytes
	if len(b) < 28 || binary.BigEndian.Uint64(b)>>16 != header {
		return e, false
	}
	sender, target := netip.AddrFrom4([4]byte(b[14:])), netip.AddrFrom4([4]byte(b[24:]))
	e = Exchange{Sender: sender, Target: target, MAC: MAC(b[8:])}
	switch op := binary.BigEndian.Uint16(b[6:]); {
	case op == 1 && sender.IsUnspecified(): // RFC 5227
		e.Says = Probes
	case op == 1 && sender == target:
		e.Says = Announces
	case op == 1:
		e.Says = Asks
	case op == 2 && sender == target:
		e.Says = Announces
	case op == 2:
		e.Says, e.Target = Answers, sender
	default:
		return e, false
	}
	return e, true
}

func discovery(b []byte) (e Exchange, ok bool) {
	const (
		header, message = 40, 24
		icmpv6          = 58
		solicitation    = 135
		advertisement   = 136
		solicited       = 0x40
	)
	if len(b) < header+message || b[6] != icmpv6 || b[7] != 255 {
		return e, false
	}
	src, icmp := netip.AddrFrom16([16]byte(b[8:])), b[header:]
	e = Exchange{Sender: src, Target: netip.AddrFrom16([16]byte(icmp[8:]))}
	switch {
	case icmp[0] == solicitation && src.IsUnspecified(): // duplicate address detection, RFC 4862
		e.Says = Probes
	case icmp[0] == solicitation:
		e.Says = Asks
	case icmp[0] == advertisement && icmp[4]&solicited != 0:
		e.Says = Answers
	case icmp[0] == advertisement:
		e.Says = Announces
	default:
		return e, false
	}
	// Options: type, length in units of 8 bytes. The link-layer addresses are 1 and 2.
	for o := icmp[message:]; len(o) >= 8 && o[1] > 0 && len(o) >= int(o[1])*8; o = o[int(o[1])*8:] {
		if o[0] == 1 || o[0] == 2 {
			e.MAC = MAC(o[2:])
		}
	}
	return e, true
}
