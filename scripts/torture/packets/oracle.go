package packets

import (
	"fmt"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/tunlb/tunlb/stack"
	"github.com/tunlb/tunlb/stack/neigh"
	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
)

// oracle is a stack of gVisor's that takes every packet for its own and says which it finds malformed. Not safe for
// concurrent use. Close it.
type oracle struct {
	stack *gstack.Stack
	link  *channel.Endpoint
	clock *stack.SteppedClock
}

func newOracle() (*oracle, error) {
	o := &oracle{link: channel.New(64, packet.MaxPacket, ""), clock: stack.NewSteppedClock()}
	o.stack = gstack.New(gstack.Options{
		NetworkProtocols:   []gstack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []gstack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
		Clock:              o.clock,
	})
	const nic = 1
	if err := o.stack.CreateNIC(nic, o.link); err != nil {
		return nil, fmt.Errorf("oracle: %v", err)
	}
	if err := o.stack.SetPromiscuousMode(nic, true); err != nil {
		return nil, fmt.Errorf("oracle: %v", err)
	}
	if err := o.stack.SetSpoofing(nic, true); err != nil {
		return nil, fmt.Errorf("oracle: %v", err)
	}
	o.stack.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nic}, {Destination: header.IPv6EmptySubnet, NIC: nic}})
	return o, nil
}

func (o *oracle) close() {
	o.link.Close()
	o.stack.Close()
	o.stack.Wait()
}

// malformed counts what was found so of IP, and of what it carries.
func (o *oracle) malformed() (ip, transport uint64) {
	s := o.stack.Stats()
	return s.IP.MalformedPacketsReceived.Value() + s.IP.MalformedFragmentsReceived.Value(), s.NICs.MalformedL4RcvdPackets.Value()
}

// refuses says whether gVisor finds a packet (from IP on) malformed. whole: its transport checksum is right, or else gVisor
// would find that malformed, which is its receiver's business.
func (o *oracle) refuses(ip []byte, whole bool) bool {
	beforeIP, beforeL4 := o.malformed()
	proto := tcpip.NetworkProtocolNumber(header.IPv4ProtocolNumber)
	switch {
	case len(ip) == 0:
		return true
	case ip[0]>>4 == 6:
		proto = header.IPv6ProtocolNumber
	}
	pkt := gstack.NewPacketBuffer(gstack.PacketBufferOptions{Payload: buffer.MakeWithData(ip)})
	o.link.InjectInbound(proto, pkt)
	pkt.DecRef()
	for answer := o.link.Read(); answer != nil; answer = o.link.Read() {
		answer.DecRef()
	}
	afterIP, afterL4 := o.malformed()
	return afterIP != beforeIP || whole && afterL4 != beforeL4
}

// verdict is what is wrong with a frame (vnet header | IP) that has left; "" is nothing.
func verdict(frame []byte) string {
	var v packet.View
	r := v.Parse(append([]byte(nil), frame...)) // which may correct hdr_len
	if r != packet.None && r != packet.BadICMP {
		return "it does not parse: " + r.String()
	}
	ip := frame[packet.VnetLen:]
	switch header.IPVersion(ip) {
	case 4:
		h := header.IPv4(ip)
		if !h.IsValid(len(ip)) || int(h.TotalLength()) != len(ip) {
			return "its IPv4 header is invalid"
		}
		if !h.IsChecksumValid() {
			return "its IPv4 header checksum is wrong"
		}
	case 6:
		if h := header.IPv6(ip); !h.IsValid(len(ip)) || int(h.PayloadLength())+header.IPv6MinimumSize != len(ip) {
			return "its IPv6 header is invalid"
		}
	}
	return offloads(&v, ip)
}

// offloads is what is wrong with the vnet header of a frame that parses.
func offloads(v *packet.View, ip []byte) string {
	h := packet.DecodeVnet(v.Frame)
	switch {
	case h.Flags&packet.FlagNeedsCsum != 0 && int(h.CsumStart)+int(h.CsumOffset)+2 > len(ip):
		return "NEEDS_CSUM points outside"
	case int(h.HdrLen) > len(ip):
		return "hdr_len is longer than the packet"
	case h.GSOType != packet.GSONone && (h.GSOSize == 0 || h.Flags&packet.FlagNeedsCsum == 0):
		return "a super-packet without size or partial checksum"
	}
	return ""
}

// sums says whether a packet's transport checksum is right; whole is false where that can't be told: of fragments, and of
// datagrams that end before their packet does.
func sums(frame []byte) (right, whole bool) {
	p, err := pt.Decode(frame)
	if err != nil || p.Fragment || p.Proto == packet.ProtoUDP && int(header.UDP(p.L4).Length()) != len(p.L4) {
		return false, false
	}
	return pt.ValidChecksums()(p) == "", true
}

// isND says whether a frame (with Ethernet) is ARP or neighbour discovery, of tunlb's own making.
func isND(frame []byte) bool { return neigh.Is(frame) }
