package packet

import "encoding/binary"

// Virtio_net_hdr flags and gso types (linux/virtio_net.h).
const (
	FlagNeedsCsum = 1 // the checksum field holds the pseudo-header sum only; complete it from CsumStart on
	FlagDataValid = 2 // the kernel has verified the checksum; ignored on write

	GSONone  = 0
	GSOTCPv4 = 1
	GSOTCPv6 = 4
	GSOUDPL4 = 5
	GSOECN   = 0x80 // a bit beside the type: the super-packet carries CWR
)

// Vnet is a decoded virtio_net_hdr. The zero value is that of a plain packet whose checksum nobody
// has verified. It is a plain value.
type Vnet struct {
	Flags, GSOType                         uint8
	HdrLen, GSOSize, CsumStart, CsumOffset uint16 // offsets count from the packet's start, not the frame's
}

// Encode writes the header into b[:VnetLen].
func (h Vnet) Encode(b []byte) {
	_ = b[VnetLen-1]
	b[0], b[1] = h.Flags, h.GSOType
	binary.LittleEndian.PutUint16(b[2:], h.HdrLen)
	binary.LittleEndian.PutUint16(b[4:], h.GSOSize)
	binary.LittleEndian.PutUint16(b[6:], h.CsumStart)
	binary.LittleEndian.PutUint16(b[8:], h.CsumOffset)
}

// DecodeVnet reads the header from b[:VnetLen]; it panics if b is shorter.
func DecodeVnet(b []byte) Vnet {
	_ = b[VnetLen-1]
	return Vnet{
		Flags: b[0], GSOType: b[1],
		HdrLen:     binary.LittleEndian.Uint16(b[2:]),
		GSOSize:    binary.LittleEndian.Uint16(b[4:]),
		CsumStart:  binary.LittleEndian.Uint16(b[6:]),
		CsumOffset: binary.LittleEndian.Uint16(b[8:]),
	}
}
