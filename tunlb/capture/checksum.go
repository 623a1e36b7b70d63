package capture

import "encoding/binary"

// vnet is what a file wants to know of the virtio_net_hdr in front of a frame, which no file has.
type vnet struct {
	partial       bool // the checksum was left to a device
	start, offset int  // valid iff partial: where the sum begins, and where in there it is kept
	segment       int  // length of the segments that it stands for; 0: it is a packet by itself
}

func decodeVnet(b []byte) vnet {
	const needsChecksum = 1
	v := vnet{segment: int(le.Uint16(b[4:])), start: int(le.Uint16(b[6:])), offset: int(le.Uint16(b[8:]))}
	v.partial = b[0]&needsChecksum != 0
	if b[1] == 0 {
		v.segment = 0
	}
	return v
}

// finish writes a checksum that was left to a device, as that would: the field holds the pseudo-header's sum and is
// summed with the rest. It is false where the frame was cut or the header makes no sense.
func finish(data []byte, v vnet, length int) bool {
	switch {
	case !v.partial:
		return true
	case len(data) < length, v.start+v.offset+2 > len(data):
		return false
	}
	var sum uint64
	rest := data[v.start:]
	for ; len(rest) >= 4; rest = rest[4:] {
		sum += uint64(binary.BigEndian.Uint32(rest))
	}
	var tail [4]byte
	copy(tail[:], rest)
	sum += uint64(binary.BigEndian.Uint32(tail[:]))
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	if sum = ^sum & 0xffff; sum == 0 {
		sum = 0xffff // 0 would say none in UDP; elsewhere it means the same
	}
	binary.BigEndian.PutUint16(data[v.start+v.offset:], uint16(sum))
	return true
}
