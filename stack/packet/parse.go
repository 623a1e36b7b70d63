package packet

import "encoding/binary"

// Parse validates frame and fills in v, once per packet:
//
//  1. network header (parse4, parse6): version, lengths, header checksum, options, addresses, fragments;
//  2. transport header (parseTransport): ports, flags, lengths; for ICMP errors the quote;
//  3. virtio_net_hdr (checkVnet), if it says anything.
//
// It never panics, allocates nothing, and keeps frame until the next Parse. Bytes behind the IP total
// length (link padding) are cut off in v.Frame. It does not verify transport checksums, except those
// of ICMP errors. It changes frame in one case: a vnet hdr_len that the kernel would refuse on write
// is corrected.
func (v *View) Parse(frame []byte) Reason { return v.parse(frame, VnetLen) }

// ParseEthernet is Parse for a frame of an Ethernet port. What is neither IPv4 nor IPv6 is BadVersion.
func (v *View) ParseEthernet(frame []byte) Reason {
	h, ok := DecodeEthernet(frame)
	if !ok {
		v.Frame, v.Tuple = frame, Tuple{}
		return Truncated
	}
	r := v.parse(frame, VnetLen+EthernetLen)
	if r == None && h.Type != EtherTypeOf(v.Is6) {
		return BadVersion
	}
	return r
}

// ParseOn is Parse or ParseEthernet, as the port's frames are.
func (v *View) ParseOn(link Link, frame []byte) Reason {
	if link == LinkEthernet {
		return v.ParseEthernet(frame)
	}
	return v.Parse(frame)
}

// parse is Parse with the IP header at l3: behind the vnet header, or behind Ethernet on L2 ports.
func (v *View) parse(frame []byte, l3 int) Reason {
	v.Frame, v.L3 = frame, l3
	v.Tuple = Tuple{}
	v.Fragment, v.FragMore, v.FragOffset, v.ICMPError = false, false, 0, false
	v.ports, v.sum = portsNone, sumNone
	if len(frame) < l3+ip4Min {
		return Truncated
	}
	r := BadVersion
	switch frame[l3] >> 4 {
	case 4:
		r = v.parse4()
	case 6:
		r = v.parse6()
	}
	if r != None {
		return r
	}
	if r = v.parseTransport(); r != None {
		return r
	}
	// One look at all ten bytes: most frames that are no super-packets say nothing here.
	if binary.LittleEndian.Uint64(frame)|uint64(binary.LittleEndian.Uint16(frame[8:])) == 0 {
		v.Vnet = Vnet{}
		return None
	}
	return v.checkVnet()
}

// checkVnet checks the virtio_net_hdr against the packet. What it lets through, the kernel takes back
// on write (drivers/net/tun.c, include/linux/virtio_net.h), and Complete and Segment can rely on.
func (v *View) checkVnet() Reason {
	v.Vnet = DecodeVnet(v.Frame)
	h := &v.Vnet
	h.GSOType &^= GSOECN
	if h.Flags&FlagNeedsCsum != 0 {
		if !v.checkPartial() {
			return BadVnet
		}
		switch v.sum {
		case sumFull, sumUDP:
			v.sum = sumPartial
		case sumPorts: // the whole ICMPv4 sum is still to be made, nothing of it is in the field
			v.sum = sumNone
		}
	}
	if h.GSOType == GSONone {
		v.fixHdrLen(0)
		return None
	}
	if !v.checkGSO() {
		return BadVnet
	}
	// The kernel gives the length of an skb's linear part, which is anything from the headers on; a
	// value cut short by other software is corrected rather than dropped.
	v.fixHdrLen(v.Payload - VnetLen)
	return None
}

// checkPartial checks that NEEDS_CSUM means this packet's transport checksum.
func (v *View) checkPartial() bool {
	start, at := VnetLen+int(v.Vnet.CsumStart), int(v.Vnet.CsumOffset)
	switch {
	case v.Fragment: // its checksum covers bytes that are elsewhere; the kernel completes before it fragments
		return false
	case v.sum == sumNone: // a protocol we don't know: in bounds, so that Complete can't go astray
		return start >= v.L4 && start+at+2 <= len(v.Frame)
	case start != v.L4 || start+at != v.sumAt:
		return false
	case v.Tuple.Proto == ProtoUDP: // the kernel sums to the packet's end
		return int(be.Uint16(v.Frame[v.L4+4:])) == len(v.Frame)-v.L4
	}
	return true
}

func (v *View) checkGSO() bool {
	h := &v.Vnet
	if h.GSOSize == 0 || h.Flags&FlagNeedsCsum == 0 {
		return false
	}
	switch h.GSOType {
	case GSOTCPv4:
		return v.Tuple.Proto == ProtoTCP && !v.Is6
	case GSOTCPv6:
		return v.Tuple.Proto == ProtoTCP && v.Is6
	case GSOUDPL4:
		return v.Tuple.Proto == ProtoUDP
	}
	return false
}

// fixHdrLen writes hdrLen into the frame if what stands there is less, or more than the packet has:
// the kernel answers a write of the latter with EINVAL.
func (v *View) fixHdrLen(hdrLen int) {
	if n := int(v.Vnet.HdrLen); n < hdrLen || n > len(v.Frame)-VnetLen {
		v.Vnet.HdrLen = uint16(hdrLen)
		binary.LittleEndian.PutUint16(v.Frame[2:], v.Vnet.HdrLen)
	}
}
