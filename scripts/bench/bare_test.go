//go:build linux

package main

import (
	"bytes"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/tunlb/tunlb/stack/packet"
)

// tcpFrame builds a frame with its checksums as the kernel leaves them: complete or, with partial, the
// pseudo-header's sum.
func tcpFrame(src, dst netip.AddrPort, partial bool) []byte {
	payload := []byte("an odd payload.")
	s, d := tcpip.AddrFromSlice(src.Addr().AsSlice()), tcpip.AddrFromSlice(dst.Addr().AsSlice())
	frame := make([]byte, packet.VnetLen+header.IPv4MinimumSize+header.TCPMinimumSize+len(payload))
	ip := header.IPv4(frame[packet.VnetLen:])
	ip.Encode(&header.IPv4Fields{TotalLength: uint16(len(ip)), TTL: 64, Protocol: uint8(header.TCPProtocolNumber), SrcAddr: s, DstAddr: d})
	ip.SetChecksum(^ip.CalculateChecksum())
	tcp := header.TCP(ip.Payload())
	tcp.Encode(&header.TCPFields{SrcPort: src.Port(), DstPort: dst.Port(), SeqNum: 7, DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagAck})
	copy(tcp.Payload(), payload)
	sum := header.PseudoHeaderChecksum(header.TCPProtocolNumber, s, d, uint16(len(tcp)))
	if partial {
		packet.Vnet{Flags: packet.FlagNeedsCsum, CsumStart: header.IPv4MinimumSize, CsumOffset: 16}.Encode(frame)
		tcp.SetChecksum(sum)
	} else {
		tcp.SetChecksum(^tcp.CalculateChecksum(checksum.Checksum(payload, sum)))
	}
	return frame
}

// A wrong checksum passes veth pairs unnoticed, and the bare loop would look better than it is.
func TestBareTranslates(t *testing.T) {
	client := netip.MustParseAddrPort("198.51.100.7:40001")
	b := newBare(vip, server)
	for _, partial := range []bool{false, true} {
		for _, tt := range []struct {
			name                       string
			src, dst, wantSrc, wantDst netip.AddrPort
		}{
			{"to the VIP", client, vip, client, server},
			{"from the server", server, client, vip, client},
			{"neither", client, netip.MustParseAddrPort("192.0.2.1:80"), client, netip.MustParseAddrPort("192.0.2.1:80")},
		} {
			got, want := tcpFrame(tt.src, tt.dst, partial), tcpFrame(tt.wantSrc, tt.wantDst, partial)
			b.frame(got)
			if !bytes.Equal(got, want) {
				t.Errorf("%s, partial %t:\ngot  % x\nwant % x", tt.name, partial, got, want)
			}
		}
	}
	b.frame(make([]byte, packet.VnetLen+8)) // too short for anything: no panic
}
