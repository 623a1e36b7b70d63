package port

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/tunlb/tunlb/stack/packet"
)

// udpFrame builds a UDP frame: with a full checksum if gso is 0, else a
// super-packet of gso bytes a datagram, its checksum partial.
func udpFrame(src, dst netip.AddrPort, payload []byte, gso int) []byte {
	s, d := tcpip.AddrFromSlice(src.Addr().AsSlice()), tcpip.AddrFromSlice(dst.Addr().AsSlice())
	udpLen := header.UDPMinimumSize + len(payload)
	l3 := header.IPv4MinimumSize
	if src.Addr().Is6() {
		l3 = header.IPv6MinimumSize
	}
	frame := make([]byte, packet.VnetLen+l3+udpLen)
	pkt := frame[packet.VnetLen:]
	if src.Addr().Is6() {
		header.IPv6(pkt).Encode(&header.IPv6Fields{
			PayloadLength: uint16(udpLen), TransportProtocol: header.UDPProtocolNumber, HopLimit: 64, SrcAddr: s, DstAddr: d,
		})
	} else {
		ip := header.IPv4(pkt)
		ip.Encode(&header.IPv4Fields{TotalLength: uint16(len(pkt)), TTL: 64, Protocol: uint8(header.UDPProtocolNumber), SrcAddr: s, DstAddr: d})
		ip.SetChecksum(^ip.CalculateChecksum())
	}
	udp := header.UDP(pkt[l3:])
	udp.Encode(&header.UDPFields{SrcPort: src.Port(), DstPort: dst.Port(), Length: uint16(udpLen)})
	copy(udp.Payload(), payload)
	pseudo := header.PseudoHeaderChecksum(header.UDPProtocolNumber, s, d, uint16(udpLen))
	if gso == 0 {
		udp.SetChecksum(^udp.CalculateChecksum(checksum.Checksum(payload, pseudo)))
		return frame
	}
	udp.SetChecksum(pseudo)
	packet.Vnet{
		Flags: packet.FlagNeedsCsum, GSOType: packet.GSOUDPL4,
		HdrLen: uint16(l3 + header.UDPMinimumSize), GSOSize: uint16(gso), CsumStart: uint16(l3), CsumOffset: 6,
	}.Encode(frame)
	return frame
}

// udpDestination returns where a UDP packet goes, and its transport header.
// It does not know IP options: the kernel sends none here.
func udpDestination(pkt []byte) (dst netip.AddrPort, udp header.UDP, ok bool) {
	switch {
	case pkt[0]>>4 == 4 && header.IPv4(pkt).Protocol() == uint8(header.UDPProtocolNumber):
		udp = header.UDP(pkt[header.IPv4MinimumSize:])
		dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte(pkt[16:20])), udp.DestinationPort())
	case pkt[0]>>4 == 6 && header.IPv6(pkt).NextHeader() == uint8(header.UDPProtocolNumber):
		udp = header.UDP(pkt[header.IPv6MinimumSize:])
		dst = netip.AddrPortFrom(netip.AddrFrom16([16]byte(pkt[24:40])), udp.DestinationPort())
	default:
		return dst, nil, false
	}
	return dst, udp, true
}

// checkUDP verifies lengths and checksums of a plain UDP packet.
func checkUDP(pkt []byte) error {
	_, udp, ok := udpDestination(pkt)
	if !ok {
		return fmt.Errorf("not UDP: % x", pkt)
	}
	var src, dst tcpip.Address
	if pkt[0]>>4 == 4 {
		ip := header.IPv4(pkt)
		if !ip.IsChecksumValid() || int(ip.TotalLength()) != len(pkt) {
			return fmt.Errorf("bad IPv4 header: % x", pkt[:20])
		}
		src, dst = ip.SourceAddress(), ip.DestinationAddress()
	} else {
		ip := header.IPv6(pkt)
		src, dst = ip.SourceAddress(), ip.DestinationAddress()
	}
	if int(binary.BigEndian.Uint16(udp[4:])) != len(udp) {
		return fmt.Errorf("UDP length %d, want %d", udp.Length(), len(udp))
	}
	if !udp.IsChecksumValid(src, dst, checksum.Checksum(udp.Payload(), 0)) {
		return fmt.Errorf("bad UDP checksum: % x", pkt)
	}
	return nil
}
