// Package packet owns the bytes of one frame: it parses and validates them once (View), names the
// endpoints (Tuple), rewrites them with precomputed checksum deltas (Edit), translates and writes
// ICMP errors, and does in software what the device may leave to us (checksums, segments, fragments).
//
// It does no I/O, keeps no state between packets, knows nothing of flows or services, starts no
// goroutine and reads no clock. Parse and Edit.Apply are the hot path and allocate nothing.
//
// A frame is always virtio_net_hdr (10 bytes, little endian) | packet. Ports that have no such
// header put a zero one there. Buffers keep Headroom free bytes in front of the frame, so that outer
// headers can be prepended in place.
package packet

const (
	// Headroom is what a buffer keeps free in front of the frame: room for Ethernet, outer IP, UDP
	// and GUE.
	Headroom = 128
	// VnetLen is the length of the virtio_net_hdr every frame starts with.
	VnetLen = 10
	// EthernetLen is the length of the Ethernet header on L2 ports.
	EthernetLen = 14
	// MaxPacket is the longest IP packet, a super-packet included.
	MaxPacket = 65535
	// BufferSize holds headroom and any frame.
	BufferSize = Headroom + VnetLen + EthernetLen + MaxPacket
)

// Link says what a port's packets start with.
type Link uint8

const (
	LinkIP       Link = iota // the packet starts with IP (TUN)
	LinkEthernet             // the packet starts with Ethernet (TAP, AF_PACKET)
)

// IP protocol numbers that Parse knows. Others have no ports.
const (
	ProtoICMP   = 1
	ProtoTCP    = 6
	ProtoUDP    = 17
	ProtoICMPv6 = 58
)

// TCP flags, as in View.TCPFlags.
const (
	TCPFin = 1 << iota
	TCPSyn
	TCPRst
	TCPPsh
	TCPAck
	TCPUrg
	TCPEce
	TCPCwr
)
