package neigh

import "github.com/tunlb/tunlb/stack/packet"

// Bridges that snoop hand solicitations only to ports where somebody has reported the target's group
// (RFC 4541, 3), and with a querier on the segment they do so at once. Reports come unasked, more often
// than a group is forgotten, so that queries need no answer.

// An MLDv2 report of one group (RFC 3810, 5.2) behind the hop-by-hop header with the router alert that it
// has to have.
const (
	mldOption = l3 + 40
	mldType   = mldOption + 8
	mldSum    = mldType + 2
	mldCount  = mldType + 6
	mldRecord = mldType + 8
	mldGroup  = mldRecord + 4
	mldEnd    = mldGroup + 16

	mldReport      = 143
	mldExcludeMode = 2 // MODE_IS_EXCLUDE of nobody: all senders are welcome
)

// allRouters is ff02::16, every router and bridge that keeps count of groups.
var allRouters = [16]byte{0: 0xff, 1: 2, 15: 0x16}

// putReport writes that we listen to a group. It has no sender, as from a host without a link-local
// address: snooping bridges take that (RFC 3810, 5.2.13; RFC 4541, 3).
func (f *Frame) putReport(src packet.MAC, group [16]byte) {
	b := f.reset(mldEnd)
	packet.Ethernet{Dst: groupMAC(allRouters), Src: src, Type: packet.EtherIPv6}.Put(b)
	b[l3] = 6 << 4
	be.PutUint16(b[ip6Length:], mldEnd-mldOption)
	b[ip6Next], b[ip6Hop] = 0, 1
	copy(b[ip6Dst:], allRouters[:])
	copy(b[mldOption:], []byte{packet.ProtoICMPv6, 0, 5, 2, 0, 0, 1, 0})
	b[mldType] = mldReport
	b[mldCount+1] = 1
	b[mldRecord] = mldExcludeMode
	copy(b[mldGroup:], group[:])
	sum := uint32(packet.ProtoICMPv6) + uint32(mldEnd-mldType)
	for at := ip6Src; at < mldEnd; at += 2 {
		if at < mldOption || at >= mldType { // the pseudo-header has no options
			sum += uint32(be.Uint16(b[at:]))
		}
	}
	sum = sum>>16 + sum&0xffff
	be.PutUint16(b[mldSum:], ^uint16(sum>>16+sum))
}
