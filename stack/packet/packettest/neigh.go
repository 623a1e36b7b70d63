package packettest

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/tunlb/tunlb/stack/packet"
)

// Ask builds a station's question for an address on an Ethernet port: an ARP request to all, or a
// neighbour solicitation to the target's group.
func Ask(station packet.MAC, sender, target netip.Addr) []byte {
	if sender.Is4() {
		return arp(1, packet.Broadcast, station, sender, packet.MAC{}, target)
	}
	t := target.As16()
	group := netip.AddrFrom16([16]byte{0: 0xff, 1: 2, 11: 1, 12: 0xff, 13: t[13], 14: t[14], 15: t[15]})
	return nd(135, 0, packet.MAC{0x33, 0x33, 0xff, t[13], t[14], t[15]}, station, sender, group, target, 1, station)
}

// Tell builds a station's answer to another, or with to packet.Broadcast its announcement: address is at
// station.
func Tell(station, to packet.MAC, address, receiver netip.Addr) []byte {
	if address.Is4() {
		return arp(2, to, station, address, to, receiver)
	}
	if to == packet.Broadcast {
		return nd(136, 0x20000000, packet.MAC{0x33, 0x33, 0, 0, 0, 1}, station, address, netip.MustParseAddr("ff02::1"), address, 2, station)
	}
	return nd(136, 0x60000000, to, station, address, receiver, address, 2, station)
}

func onEthernet(dst, src packet.MAC, typ uint16, payload []byte) []byte {
	b := make([]byte, packet.VnetLen+packet.EthernetLen, packet.VnetLen+packet.EthernetLen+len(payload))
	packet.Ethernet{Dst: dst, Src: src, Type: typ}.Put(b)
	return append(b, payload...)
}

func arp(op uint16, dst, station packet.MAC, sender netip.Addr, targetMAC packet.MAC, target netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4}
	b = binary.BigEndian.AppendUint16(b, op)
	b = append(append(b, station[:]...), sender.AsSlice()...)
	b = append(append(b, targetMAC[:]...), target.AsSlice()...)
	return onEthernet(dst, station, packet.EtherARP, b)
}

func nd(typ uint8, flags uint32, dst, station packet.MAC, from, to, target netip.Addr, option uint8, mac packet.MAC) []byte {
	b := binary.BigEndian.AppendUint32([]byte{typ, 0, 0, 0}, flags)
	b = append(append(b, target.AsSlice()...), option, 1)
	b = append(b, mac[:]...)
	src, dest := tcpip.AddrFrom16(from.As16()), tcpip.AddrFrom16(to.As16())
	sum := checksum.Checksum(b, header.PseudoHeaderChecksum(header.ICMPv6ProtocolNumber, src, dest, uint16(len(b))))
	binary.BigEndian.PutUint16(b[2:], ^sum)
	ip := make([]byte, header.IPv6MinimumSize)
	header.IPv6(ip).Encode(&header.IPv6Fields{
		PayloadLength: uint16(len(b)), TransportProtocol: header.ICMPv6ProtocolNumber, HopLimit: 255, SrcAddr: src, DstAddr: dest,
	})
	return onEthernet(dst, station, packet.EtherIPv6, append(ip, b...))
}
