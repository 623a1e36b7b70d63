package netns

import "net"

// MAC is an Ethernet address; the zero value is none.
type MAC [6]byte

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// IsGroup tells whether it is broadcast or multicast.
func (m MAC) IsGroup() bool { return m[0]&1 != 0 }

// etherLen is the length of an Ethernet header: destination, source, type.
const etherLen = 14

// MACs are the stations that a packet goes from and to; ok is false without an Ethernet header.
func (p Packet) MACs() (src, dst MAC, ok bool) {
	if !p.Ethernet || len(p.Data) < etherLen {
		return MAC{}, MAC{}, false
	}
	return MAC(p.Data[6:12]), MAC(p.Data[:6]), true
}

// EtherType is 0x0800 for IPv4, 0x0806 for ARP, 0x86dd for IPv6; 0 without an Ethernet header.
func (p Packet) EtherType() uint16 {
	if !p.Ethernet || len(p.Data) < etherLen {
		return 0
	}
	return uint16(p.Data[12])<<8 | uint16(p.Data[13])
}

// Payload is what follows the Ethernet header, or the whole of a packet that has none. It shares
// memory with Data.
func (p Packet) Payload() []byte {
	switch {
	case !p.Ethernet:
		return p.Data
	case len(p.Data) < etherLen:
		return nil
	}
	return p.Data[etherLen:]
}
