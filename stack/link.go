package stack

import (
	"sync"
	"sync/atomic"

	"github.com/tunlb/tunlb/stack/packet"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// link is the stack's end of the port: a layer-3 interface that speaks frames
// with virtio_net_hdr. Output goes out synchronously, so that nothing is queued
// twice; TCP hands over super-packets (HostGSO): seven times the throughput of
// packets of the MTU (BenchmarkTransfer). Safe for concurrent use, but
// for inject, which has one caller.
type link struct {
	output  func(frame []byte) error
	mtu     atomic.Uint32
	frames  sync.Pool // of *[]byte, capacity packet.VnetLen + packet.MaxPacket
	trusted atomic.Bool

	mu         sync.RWMutex // held for reading while output is called
	closed     bool
	dispatcher gstack.NetworkDispatcher
}

var (
	_ gstack.LinkEndpoint = (*link)(nil)
	_ gstack.GSOEndpoint  = (*link)(nil)
)

func newLink(mtu int, output func([]byte) error) *link {
	l := &link{output: output}
	l.mtu.Store(uint32(mtu))
	l.frames.New = func() any {
		b := make([]byte, 0, packet.VnetLen+packet.MaxPacket)
		return &b
	}
	return l
}

// inject hands an IP packet to the stack and takes view over. trusted says that
// its checksums need no verification.
func (l *link) inject(proto tcpip.NetworkProtocolNumber, view *buffer.View, trusted bool) {
	pkt := gstack.NewPacketBuffer(gstack.PacketBufferOptions{Payload: buffer.MakeWithView(view)})
	defer pkt.DecRef()
	l.mu.RLock()
	dispatcher := l.dispatcher
	l.mu.RUnlock()
	if dispatcher == nil {
		return
	}
	// The interface asks for Capabilities once per packet, in this goroutine.
	l.trusted.Store(trusted)
	dispatcher.DeliverNetworkPacket(proto, pkt)
}

// WritePackets implements stack.LinkWriter.
func (l *link) WritePackets(pkts gstack.PacketBufferList) (int, tcpip.Error) {
	l.mu.RLock()
	defer l.mu.RUnlock() // output may panic
	if l.closed {
		return 0, &tcpip.ErrClosedForSend{}
	}
	frame := l.frames.Get().(*[]byte)
	defer l.frames.Put(frame)
	for i, pkt := range pkts.AsSlice() {
		if err := l.output(appendFrame((*frame)[:0], pkt)); err != nil {
			return i, &tcpip.ErrNoBufferSpace{}
		}
	}
	return pkts.Len(), nil
}

// appendFrame appends pkt as one contiguous frame to b.
func appendFrame(b []byte, pkt *gstack.PacketBuffer) []byte {
	var vnet packet.Vnet
	// The stack completes the checksums of all packets without GSO options:
	// those are UDP, ICMP and TCP resets.
	if gso := pkt.GSOOptions; gso.Type != gstack.GSONone && gso.NeedsCsum {
		vnet.Flags = packet.FlagNeedsCsum
		vnet.CsumStart = gso.L3HdrLen
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
	var head [packet.VnetLen]byte
	vnet.Encode(head[:])
	b = append(b, head[:]...)
	views, offset := pkt.AsViewList()
	for v := views.Front(); v != nil; v = v.Next() {
		skip := min(offset, v.Size()) // unused room for headers
		b = append(b, v.AsSlice()[skip:]...)
		offset -= skip
	}
	return b
}

// close ends output; it returns when the last call to output has.
func (l *link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
}

// GSOMaxSize implements stack.GSOEndpoint; an IP packet cannot be larger.
func (*link) GSOMaxSize() uint32 { return packet.MaxPacket }

// SupportedGSO implements stack.GSOEndpoint.
func (*link) SupportedGSO() gstack.SupportedGSO { return gstack.HostGSOSupported }

// Capabilities implements stack.LinkEndpoint. Checksum offload for output is not
// claimed: it would leave UDP and ICMP without checksums, GSO covers TCP.
func (l *link) Capabilities() gstack.LinkEndpointCapabilities {
	if l.trusted.Load() {
		return gstack.CapabilityRXChecksumOffload
	}
	return 0
}

// Attach implements stack.LinkEndpoint; nil detaches.
func (l *link) Attach(dispatcher gstack.NetworkDispatcher) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dispatcher = dispatcher
}

// IsAttached implements stack.LinkEndpoint.
func (l *link) IsAttached() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.dispatcher != nil
}

// MTU implements stack.LinkEndpoint.
func (l *link) MTU() uint32 { return l.mtu.Load() }

// SetMTU implements stack.LinkEndpoint.
func (l *link) SetMTU(mtu uint32) { l.mtu.Store(mtu) }

// The rest of stack.LinkEndpoint concerns link-layer headers and addresses,
// which a layer-3 interface has not, and goroutines, which link has not.

func (*link) MaxHeaderLength() uint16                 { return 0 }
func (*link) LinkAddress() tcpip.LinkAddress          { return "" }
func (*link) SetLinkAddress(tcpip.LinkAddress)        {}
func (*link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }
func (*link) AddHeader(*gstack.PacketBuffer)          {}
func (*link) ParseHeader(*gstack.PacketBuffer) bool   { return true }
func (*link) Close()                                  {}
func (*link) Wait()                                   {}
func (*link) SetOnCloseAction(func())                 {}
