package replay

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/tunlb/capture"
)

var be = binary.BigEndian

// layers are the headers of a captured packet. The slices share its memory.
type layers struct {
	ethernet []byte // the frame from its Ethernet header on; nil if the file has none
	ip       []byte // the IP packet; nil if it is none
}

// Types of Ethernet frames that have another type behind a tag.
const (
	etherVLAN    = 0x8100
	etherService = 0x88a8
)

// linkNames are link types that people meet and that are not read.
var linkNames = map[int]string{
	9: "PPP", 50: "PPP", 105: "802.11", 127: "802.11 with radiotap", 147: "a user's own", 189: "USB", 192: "PPI", 220: "USB", 253: "netlink",
}

// peel finds the layers of a packet by its link type.
func peel(link int, data []byte) (l layers, err error) {
	switch link {
	case capture.LinkEthernet:
		l.ethernet = data
		l.ip = behindEthernet(data)
	case capture.LinkRaw, capture.LinkIPv4, capture.LinkIPv6:
		l.ip = ipOf(data)
	case capture.LinkNull, capture.LinkLoop: // four bytes that name the family, in anybody's byte order
		l.ip = ipOf(data[min(4, len(data)):])
	case capture.LinkSLL:
		if len(data) >= 16 {
			l.ip = ofType(be.Uint16(data[14:]), data[16:])
		}
	case capture.LinkSLL2:
		if len(data) >= 20 {
			l.ip = ofType(be.Uint16(data), data[20:])
		}
	default:
		name := ""
		if known := linkNames[link]; known != "" {
			name = " (" + known + ")"
		}
		return l, fmt.Errorf("its link type is %d%s", link, name)
	}
	return l, nil
}

// behindEthernet is the IP packet behind an Ethernet header and its tags.
func behindEthernet(frame []byte) []byte {
	const macs, tag = 12, 4
	for at := macs; at+2 <= len(frame); at += tag {
		switch kind := be.Uint16(frame[at:]); kind {
		case etherVLAN, etherService:
		default:
			return ofType(kind, frame[at+2:])
		}
	}
	return nil
}

func ofType(ethernet uint16, data []byte) []byte {
	if ethernet != packet.EtherIPv4 && ethernet != packet.EtherIPv6 {
		return nil
	}
	return ipOf(data)
}

func ipOf(data []byte) []byte {
	if len(data) == 0 || data[0]>>4 != 4 && data[0]>>4 != 6 {
		return nil
	}
	return data
}

// source is the address that a packet says it is from, and destination that which it goes to; of ARP the sender's and
// the target's. They are the zero Addr where there is none.
func (l layers) source() netip.Addr      { return l.address(12, 8, 14) }
func (l layers) destination() netip.Addr { return l.address(16, 24, 24) }

// address reads an address at its place in IPv4, IPv6 or ARP.
func (l layers) address(at4, at6, atARP int) netip.Addr {
	switch {
	case len(l.ip) >= 20 && l.ip[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(l.ip[at4:]))
	case len(l.ip) >= 40 && l.ip[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(l.ip[at6:]))
	case l.isARP():
		return netip.AddrFrom4([4]byte(l.ethernet[packet.EthernetLen+atARP:]))
	}
	return netip.Addr{}
}

func (l layers) isARP() bool {
	const arpLen = 28
	return len(l.ethernet) >= packet.EthernetLen+arpLen && be.Uint16(l.ethernet[12:]) == packet.EtherARP
}

// macs are the stations of an Ethernet frame.
func (l layers) macs() (to, from packet.MAC, ok bool) {
	if len(l.ethernet) < packet.EthernetLen {
		return to, from, false
	}
	return packet.MAC(l.ethernet), packet.MAC(l.ethernet[6:]), true
}
