package packet

import "fmt"

// Complete turns a partial checksum (NEEDS_CSUM) into a full one in place and clears the vnet header,
// in the frame and in v. A TCP super-packet becomes one long packet, which suits a stack that takes
// it whole. It does nothing without NEEDS_CSUM, and nothing to a UDP super-packet, since that would
// make many datagrams one: Segment it.
func Complete(v *View) {
	if v.Vnet.Flags&FlagNeedsCsum == 0 || v.Vnet.GSOType == GSOUDPL4 {
		return
	}
	start := VnetLen + int(v.Vnet.CsumStart)
	at := start + int(v.Vnet.CsumOffset)
	// The field holds the pseudo-header's sum and is summed with the rest.
	sum := ^sumBytes(v.Frame[start:], 0)
	if sum == 0 && v.Tuple.Proto != ProtoTCP {
		sum = 0xffff // UDP, or UDP inside what we don't know; elsewhere it means the same as 0
	}
	be.PutUint16(v.Frame[at:], sum)
	v.clearVnet()
}

// clearVnet says that the packet is a plain one with a full checksum.
func (v *View) clearVnet() {
	v.Vnet = Vnet{}
	clear(v.Frame[:VnetLen])
	v.sum, _ = checksumOf(v.Is6, v.Tuple.Proto)
}

// Segment is generic segmentation offload in software: it emits a super-packet's segments one by one,
// with full checksums and a zero vnet header. A frame without GSO is emitted once, its checksum
// completed in place. Apart from that frame is left as it is. What emit gets is borrowed during the
// call. Segment stops at emit's first error and returns it.
func Segment(link Link, frame []byte, emit func(frame []byte) error) error {
	if len(frame) < VnetLen {
		return fmt.Errorf("segment: %s", Truncated)
	}
	if h := DecodeVnet(frame); h.Flags&FlagNeedsCsum == 0 && h.GSOType&^GSOECN == GSONone {
		return emit(frame)
	}
	var v View
	if r := v.ParseOn(link, frame); r != None {
		return fmt.Errorf("segment: %s", r)
	}
	if v.Vnet.GSOType == GSONone {
		Complete(&v)
		return emit(v.Frame)
	}
	size, payload := int(v.Vnet.GSOSize), v.Frame[v.Payload:]
	scratch := make([]byte, 0, v.Payload+min(size, len(payload)))
	for i := range v.Segments() {
		part := payload[i*size : min((i+1)*size, len(payload))]
		b := append(append(scratch, v.Frame[:v.Payload]...), part...)
		v.finishSegment(b, i)
		if err := emit(b); err != nil {
			return err
		}
	}
	return nil
}

// finishSegment makes b, which has the super-packet's headers, its i-th segment.
func (v *View) finishSegment(b []byte, i int) {
	clear(b[:VnetLen])
	ip, l4 := b[v.L3:], b[v.L4:]
	if !v.Is6 {
		be.PutUint16(ip[ip4ID:], be.Uint16(ip[ip4ID:])+uint16(i))
	}
	setLength(ip, v.Is6, len(ip))
	if v.Tuple.Proto == ProtoUDP {
		be.PutUint16(l4[udpLen:], uint16(len(l4)))
	} else {
		be.PutUint32(l4[tcpSeq:], v.Seq+uint32(i)*uint32(v.Vnet.GSOSize))
		if i > 0 {
			l4[tcpFlags] &^= TCPCwr // congestion window reduced is said once (RFC 3168)
		}
		if i < v.Segments()-1 {
			l4[tcpFlags] &^= TCPFin | TCPPsh
		}
	}
	writeChecksum(b, v.L3, v.L4, v.sumAt)
}
