package packet_test

import (
	"net/netip"
	"testing"

	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
)

func TestAppendReset(t *testing.T) {
	for _, c := range [][2]string{{"203.0.113.22:80", "198.51.100.7:40000"}, {"[2001:db8::22]:80", "[2001:db8:100::7]:40000"}} {
		src, dst := netip.MustParseAddrPort(c[0]), netip.MustParseAddrPort(c[1])
		tu := packet.Tuple{Src: src.Addr().As16(), SrcPort: src.Port(), Dst: dst.Addr().As16(), DstPort: dst.Port(), Proto: packet.ProtoTCP}
		pt.Check(t, packet.AppendReset([]byte{1, 2}, &tu, 0xfffffff0, 7)[2:], pt.SrcDst(src, dst),
			pt.HasFlags(packet.TCPRst|packet.TCPAck), pt.HasSeq(0xfffffff0), pt.HasAck(7), pt.HasTOS(0), pt.HasTTL(64))
	}
}
