package nft

import (
	"encoding/binary"
	"slices"

	"github.com/tunlb/tunlb/stack/packet"
	"golang.org/x/sys/unix"
)

// family is what differs between IPv4 and IPv6: offsets in the IP header, names.
type family struct {
	name      string
	digit     string // of sets' and chains' names
	ethertype uint16
	addr      field
	src, dst  int
	proto     uint8 // unix.NFPROTO_...
	icmp      byte
	echo      byte   // type of ICMP echo requests
	errors    []byte // types of ICMP errors
	header    int    // length without options
	next      int    // where the protocol is
}

// Package variables, but constant ones.
var (
	ipv4 = &family{
		name: "IPv4", digit: "4", ethertype: unix.ETH_P_IP, addr: fieldIPv4, src: 12, dst: 16, proto: unix.NFPROTO_IPV4,
		icmp: packet.ProtoICMP, echo: 8, errors: []byte{3, 11, 12}, header: 20, next: 9,
	}
	ipv6 = &family{
		name: "IPv6", digit: "6", ethertype: unix.ETH_P_IPV6, addr: fieldIPv6, src: 8, dst: 24, proto: unix.NFPROTO_IPV6,
		icmp: packet.ProtoICMPv6, echo: 128, errors: []byte{1, 2, 3, 4}, header: 40, next: 6,
	}
	families = [...]*family{ipv4, ipv6}
)

// received goes on with packets of the family for the interface's own MAC. The type is read from the frame, which has that of
// a VLAN: tagged packets are those of another interface.
func (f *family) received() []expression {
	return []expression{
		meta(unix.NFT_META_PKTTYPE, reg0), equal(reg0, unix.PACKET_HOST),
		load(ethernet, 12, 2, reg0), equal(reg0, be.AppendUint16(nil, f.ethertype)...),
	}
}

func (f *family) chain(name string) string { return name + f.digit }

// claimSets are the sets of one family; those without elements are not there.
type claimSets struct {
	vips, vipRanges, servers, serverRanges, fragments, pinged, own *set
}

// claim makes the sets and chains that drop what a claim takes.
func (b *batch) claim(claim *packet.Claim) {
	id := uint32(0)
	for _, f := range families {
		var s claimSets
		six := f == ipv6
		s.vips, s.vipRanges = b.endpoints(&id, "vips", f, claim.VIPs)
		s.servers, s.serverRanges = b.endpoints(&id, "servers", f, claim.Servers)
		var fragments, pinged, own [][]byte
		for _, e := range foreign(claim, six) {
			fragments = append(fragments, keyOf(e.Addr.AsSlice(), e.Proto))
		}
		for _, a := range pingedOf(claim, six) {
			pinged = append(pinged, keyOf(a.AsSlice()))
		}
		for _, a := range ownOf(claim, six) {
			own = append(own, keyOf(a.AsSlice()))
		}
		s.fragments = b.filled(&id, &set{name: "fragments" + f.digit, key: []field{f.addr, fieldProto}}, fragments)
		s.pinged = b.filled(&id, &set{name: "pinged" + f.digit, key: []field{f.addr}}, pinged)
		s.own = b.filled(&id, &set{name: "own" + f.digit, key: []field{f.addr}}, own)
		b.chain(f.chain("claimed"))
		b.chain(f.chain("errors"))
		b.fragments(f, &s)
		b.packets(f, &s)
		b.echoRequests(f, &s)
		b.icmpErrors(f, &s)
	}
}

// endpoints makes the sets of some endpoints of a family.
func (b *batch) endpoints(id *uint32, name string, f *family, list []packet.Endpoints) (single, ranges *set) {
	key := []field{f.addr, fieldProto, fieldPort}
	var ports, bounds [][]byte
	one, many := split(list, f == ipv6)
	for _, e := range one {
		ports = append(ports, keyOf(e.Addr.AsSlice(), e.Proto, e.First))
	}
	for _, e := range many {
		bounds = append(bounds, append(keyOf(e.Addr.AsSlice(), e.Proto, e.First), keyOf(e.Addr.AsSlice(), e.Proto, e.Last)...))
	}
	single = b.filled(id, &set{name: name + f.digit, key: key}, ports)
	ranges = b.filled(id, &set{name: name + f.digit + "_ranges", key: key, ranges: true}, bounds)
	return single, ranges
}

// filled makes a set with its elements; none without any.
func (b *batch) filled(id *uint32, s *set, keys [][]byte) *set {
	if len(keys) == 0 {
		return nil
	}
	*id++
	s.size = len(keys)
	b.set(*id, s)
	b.elements(*id, s, keys)
	return s
}

// fragments drops the later ones to VIPs that are nobody else's, and leaves all others to the kernel: what is behind their
// header would be taken for ports.
func (b *batch) fragments(f *family, s *claimSets) {
	proto := reg0.past(f.addr.bytes)
	later := []expression{load(network, 6, 2, reg0), mask(reg0, 0x1f, 0xff), compare(reg0, unix.NFT_CMP_NEQ, 0, 0)}
	if f == ipv6 {
		const fragment = 44
		later = []expression{extension(fragment, 2, 2, reg0), mask(reg0, 0xff, 0xf8), compare(reg0, unix.NFT_CMP_NEQ, 0, 0)}
	}
	if s.fragments != nil {
		b.rule(f.chain("claimed"), "later fragments to VIPs", slices.Concat(later, []expression{
			load(network, f.dst, f.addr.bytes, reg0), meta(unix.NFT_META_L4PROTO, proto), in(s.fragments.name, reg0), drop})...)
	}
	b.rule(f.chain("claimed"), "later fragments", append(later, leave)...)
}

// packets drops those to VIPs and those from servers that are not for the box. The transport header is found behind options
// and extension headers.
func (b *batch) packets(f *family, s *claimSets) {
	proto := reg0.past(f.addr.bytes)
	port := proto + 1
	for _, vips := range []*set{s.vips, s.vipRanges} {
		if vips != nil {
			b.rule(f.chain("claimed"), "to VIPs", load(network, f.dst, f.addr.bytes, reg0), meta(unix.NFT_META_L4PROTO, proto),
				load(transport, 2, 2, port), in(vips.name, reg0), drop)
		}
	}
	for _, servers := range []*set{s.servers, s.serverRanges} {
		if servers != nil {
			b.rule(f.chain("claimed"), "from servers", append(f.notOwn(s), load(network, f.src, f.addr.bytes, reg0),
				meta(unix.NFT_META_L4PROTO, proto), load(transport, 0, 2, port), in(servers.name, reg0), drop)...)
		}
	}
}

// echoRequests drops those that are claimed, and no other ICMP message: the kernel's neighbours need theirs.
func (b *batch) echoRequests(f *family, s *claimSets) {
	if s.pinged != nil {
		b.rule(f.chain("claimed"), "echo requests", meta(unix.NFT_META_L4PROTO, reg0), equal(reg0, f.icmp),
			load(transport, 0, 1, reg0), equal(reg0, f.echo), load(network, f.dst, f.addr.bytes, reg0), in(s.pinged.name, reg0), drop)
	}
}

// notOwn goes on with packets that are not for the box itself.
func (f *family) notOwn(s *claimSets) []expression {
	if s.own == nil {
		return nil
	}
	return []expression{load(network, f.dst, f.addr.bytes, reg0), notIn(s.own.name, reg0)}
}

// icmpErrors drops those about a packet whose answers are dropped: it went the other way. The quoted packet starts
// behind 8 bytes, and ports are found behind an IP header without options.
func (b *batch) icmpErrors(f *family, s *claimSets) {
	for _, typ := range f.errors {
		version := []expression{load(transport, 8, 1, reg0), mask(reg0, 0xf0), equal(reg0, 0x60)}
		if f == ipv4 {
			version = []expression{
				load(transport, 8, 1, reg0), equal(reg0, 0x45),
				load(transport, 8+6, 2, reg0), mask(reg0, 0x1f, 0xff), equal(reg0, 0, 0),
			}
		}
		icmp := []expression{
			meta(unix.NFT_META_L4PROTO, reg0), equal(reg0, f.icmp),
			load(transport, 0, 1, reg0), equal(reg0, typ),
		}
		b.rule(f.chain("claimed"), "ICMP errors", append(append(icmp, version...), jump(f.chain("errors")))...)
	}
	proto := reg0.past(f.addr.bytes)
	port, ports := proto+1, 8+f.header
	for _, vips := range []*set{s.vips, s.vipRanges} {
		if vips != nil {
			b.rule(f.chain("errors"), "errors for VIPs", load(transport, 8+f.src, f.addr.bytes, reg0), load(transport, 8+f.next, 1, proto),
				load(transport, ports, 2, port), in(vips.name, reg0), drop)
		}
	}
	for _, servers := range []*set{s.servers, s.serverRanges} {
		if servers != nil {
			b.rule(f.chain("errors"), "errors about servers", append(f.notOwn(s), load(transport, 8+f.dst, f.addr.bytes, reg0),
				load(transport, 8+f.next, 1, proto), load(transport, ports+2, 2, port), in(servers.name, reg0), drop)...)
		}
	}
}

// keyOf concatenates values of fixed size as fields of a key: each padded to 4 bytes.
func keyOf(values ...any) (key []byte) {
	for _, v := range values {
		key, _ = binary.Append(key, be, v) // fails for what has no fixed size
		for len(key)%4 != 0 {
			key = append(key, 0)
		}
	}
	return key
}
