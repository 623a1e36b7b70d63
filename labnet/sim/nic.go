package sim

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/tunlb/tunlb/stack/packet"
)

// maxSuper is the longest super-packet that TCP is to make: with its headers it fits the largest buffer that gVisor keeps
// for reuse.
const maxSuper = 65000

// nic is a host's interface: the stack's end of a link. TCP leaves it as super-packets with partial checksums, as from a
// veth device. Safe for concurrent use, but for run.
type nic struct {
	name  string
	mac   packet.MAC
	mtu   uint32
	queue *queue
	link  *link
	// quiet are addresses that the host has, like a VIP on its loopback interface, and does not speak of on the
	// link: what Linux does with arp_ignore 1 and arp_announce 2.
	quiet []netip.Addr
	own   netip.Addr // in ARP requests, instead of a quiet one
	own6  netip.Addr // likewise in neighbour solicitations

	trusted atomic.Bool // the packet being delivered is vouched for by its sender

	mu         sync.RWMutex
	dispatcher gstack.NetworkDispatcher
}

var (
	_ gstack.LinkEndpoint = (*nic)(nil)
	_ gstack.GSOEndpoint  = (*nic)(nil)
)

// run delivers frames to the stack until the queue is closed. Delivering on the sender's goroutine instead would have
// stacks wait for each other's locks.
func (n *nic) run() {
	var empty []*buffer.View
	for {
		frames, ok := n.queue.take(empty)
		if !ok {
			return
		}
		for i, frame := range frames {
			n.deliver(frame)
			frames[i] = nil
			n.queue.done()
		}
		empty = frames
	}
}

// deliver takes over a frame.
func (n *nic) deliver(frame *buffer.View) {
	b := frame.AsSlice()
	h, ok := packet.DecodeEthernet(b)
	if !ok || h.Dst != n.mac && !h.Dst.IsGroup() || n.asksForQuiet(b) {
		frame.Release()
		return
	}
	n.mu.RLock()
	dispatcher := n.dispatcher
	n.mu.RUnlock()
	if dispatcher == nil {
		frame.Release()
		return
	}
	// Only TCP leaves a stack with a partial checksum. All others are whole, and verified.
	n.trusted.Store(packet.DecodeVnet(b).Flags&packet.FlagNeedsCsum != 0)
	frame.TrimFront(packet.VnetLen)
	pkt := gstack.NewPacketBuffer(gstack.PacketBufferOptions{Payload: buffer.MakeWithView(frame)})
	defer pkt.DecRef()
	if !n.ParseHeader(pkt) {
		return
	}
	switch {
	case h.Dst == packet.Broadcast:
		pkt.PktType = tcpip.PacketBroadcast
	case h.Dst.IsGroup():
		pkt.PktType = tcpip.PacketMulticast
	default:
		pkt.PktType = tcpip.PacketHost
	}
	dispatcher.DeliverNetworkPacket(tcpip.NetworkProtocolNumber(h.Type), pkt)
}

// WritePackets implements stack.LinkWriter.
func (n *nic) WritePackets(pkts gstack.PacketBufferList) (int, tcpip.Error) {
	for _, pkt := range pkts.AsSlice() {
		frame := frameOf(pkt)
		if len(n.quiet) > 0 {
			n.hushSender(frame.AsSlice())
		}
		n.link.send(frame)
	}
	return pkts.Len(), nil
}

// frameOf makes a frame of a packet, in one piece.
func frameOf(pkt *gstack.PacketBuffer) *buffer.View {
	var vnet packet.Vnet
	// The stack completes the checksums of all packets without GSO options: UDP, ICMP and resets.
	if gso := pkt.GSOOptions; gso.Type != gstack.GSONone && gso.NeedsCsum {
		vnet.Flags = packet.FlagNeedsCsum
		vnet.CsumStart = packet.EthernetLen + gso.L3HdrLen
		vnet.CsumOffset = gso.CsumOffset
		if pkt.Data().Size() > int(gso.MSS) {
			vnet.HdrLen = uint16(pkt.HeaderSize())
			vnet.GSOSize = gso.MSS
			vnet.GSOType = packet.GSOTCPv4
			if gso.Type == gstack.GSOTCPv6 {
				vnet.GSOType = packet.GSOTCPv6
			}
		}
	}
	frame := buffer.NewViewSize(packet.VnetLen + pkt.Size())
	b := frame.AsSlice()
	vnet.Encode(b)
	b = b[packet.VnetLen:]
	views, offset := pkt.AsViewList()
	for v := views.Front(); v != nil; v = v.Next() {
		skip := min(offset, v.Size()) // unused room for headers
		b = b[copy(b, v.AsSlice()[skip:]):]
		offset -= skip
	}
	return frame
}

// Where things are in a frame of ARP (RFC 826) and of neighbour discovery (RFC 4861), from its start.
const (
	l3         = packet.VnetLen + packet.EthernetLen
	arpSender  = l3 + 14
	arpTarget  = l3 + 24
	arpLen     = l3 + 28
	ip6Next    = l3 + 6
	ip6Src     = l3 + 8
	ndType     = l3 + 40
	ndTarget   = ndType + 8
	ndLen      = ndTarget + 16
	arpRequest = 1
	solicit    = 135
)

// asksForQuiet says whether a frame asks the link who has a quiet address.
func (n *nic) asksForQuiet(b []byte) bool {
	if len(n.quiet) == 0 {
		return false
	}
	var target netip.Addr
	switch {
	case isARPRequest(b):
		target = netip.AddrFrom4([4]byte(b[arpTarget:]))
	case isSolicitation(b):
		target = netip.AddrFrom16([16]byte(b[ndTarget:]))
	}
	return slices.Contains(n.quiet, target)
}

// hushSender puts an address of the link itself in the place of a quiet one that asks.
func (n *nic) hushSender(b []byte) {
	switch {
	case isARPRequest(b):
		if slices.Contains(n.quiet, netip.AddrFrom4([4]byte(b[arpSender:]))) && n.own.IsValid() {
			copy(b[arpSender:], n.own.AsSlice())
		}
	case isSolicitation(b):
		if slices.Contains(n.quiet, netip.AddrFrom16([16]byte(b[ip6Src:]))) && n.own6.IsValid() {
			copy(b[ip6Src:], n.own6.AsSlice())
			ip, icmp := header.IPv6(b[l3:]), header.ICMPv6(b[ndType:])
			icmp.SetChecksum(0)
			icmp.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{
				Header: icmp, Src: ip.SourceAddress(), Dst: ip.DestinationAddress(),
			}))
		}
	}
}

func isARPRequest(b []byte) bool {
	return len(b) >= arpLen && binary.BigEndian.Uint16(b[l3-2:]) == packet.EtherARP && binary.BigEndian.Uint16(b[l3+6:]) == arpRequest
}

func isSolicitation(b []byte) bool {
	return len(b) >= ndLen && binary.BigEndian.Uint16(b[l3-2:]) == packet.EtherIPv6 && b[ip6Next] == packet.ProtoICMPv6 && b[ndType] == solicit
}

// GSOMaxSize implements stack.GSOEndpoint.
func (*nic) GSOMaxSize() uint32 { return maxSuper }

// SupportedGSO implements stack.GSOEndpoint.
func (*nic) SupportedGSO() gstack.SupportedGSO { return gstack.HostGSOSupported }

// Capabilities implements stack.LinkEndpoint. It is asked for what the stack need not verify once per packet, by
// deliver's goroutine. Checksum offload for output is not claimed: it would leave UDP and ICMP without
// checksums, GSO covers TCP.
func (n *nic) Capabilities() gstack.LinkEndpointCapabilities {
	if n.trusted.Load() {
		return gstack.CapabilityResolutionRequired | gstack.CapabilityRXChecksumOffload
	}
	return gstack.CapabilityResolutionRequired
}

// Attach implements stack.LinkEndpoint; nil detaches.
func (n *nic) Attach(dispatcher gstack.NetworkDispatcher) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dispatcher = dispatcher
}

// IsAttached implements stack.LinkEndpoint.
func (n *nic) IsAttached() bool {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.dispatcher != nil
}

// AddHeader implements stack.LinkEndpoint.
func (n *nic) AddHeader(pkt *gstack.PacketBuffer) {
	eth := header.Ethernet(pkt.LinkHeader().Push(header.EthernetMinimumSize))
	eth.Encode(&header.EthernetFields{
		SrcAddr: pkt.EgressRoute.LocalLinkAddress, DstAddr: pkt.EgressRoute.RemoteLinkAddress, Type: pkt.NetworkProtocolNumber,
	})
}

// ParseHeader implements stack.LinkEndpoint.
func (*nic) ParseHeader(pkt *gstack.PacketBuffer) bool {
	_, ok := pkt.LinkHeader().Consume(header.EthernetMinimumSize)
	return ok
}

// The rest of stack.LinkEndpoint is an Ethernet interface's, which stays as it is.

func (n *nic) MTU() uint32                           { return n.mtu }
func (*nic) SetMTU(uint32)                           {}
func (*nic) MaxHeaderLength() uint16                 { return header.EthernetMinimumSize }
func (n *nic) LinkAddress() tcpip.LinkAddress        { return tcpip.LinkAddress(n.mac[:]) }
func (*nic) SetLinkAddress(tcpip.LinkAddress)        {}
func (*nic) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }
func (*nic) Close()                                  {}
func (*nic) Wait()                                   {}
func (*nic) SetOnCloseAction(func())                 {}
