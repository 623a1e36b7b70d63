package port

import (
	"cmp"
	"fmt"
	"maps"
	"math/bits"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/stack/packet"
)

// grain says how precise a filter is. All take what the claim takes at least, as claims are looked at again by those who
// get the packets.
type grain struct {
	bits4, bits6 int  // of the addresses
	ports, own   bool // are looked at
}

// grains, the finest first: one that needs no more than a program may have is taken.
var grains = [...]grain{
	{32, 128, true, true},
	{32, 128, false, true},
	{24, 64, false, false},
	{16, 48, false, false},
	{8, 32, false, false},
	{0, 0, false, false},
}

// What a packet is looked for by, beside an address: its protocol and port. What shows no port has one of the others.
const (
	keyFragment = 1 << 24 // of a protocol: a later fragment
	keyAny      = 1 << 25 // all that has the address: what it is stands behind IPv6 options
)

func keyOf(proto uint8, port uint16) uint32 { return uint32(proto)<<16 | uint32(port) }

// Words of scratch memory. A packet is looked for twice: as one for a VIP by address and key 1, and as one from a
// server by 2. What an ICMP error quotes went the other way.
const (
	mAddress1 = iota // where in the frame it is
	mKey1
	mAddress2
	mKey2
	mProto
)

// family is what differs between IPv4 and IPv6 frames: offsets from the Ethernet header on.
type family struct {
	src, dst int
	words    int // of an address
	icmp     uint8
	echo     uint32   // type of ICMP echo requests
	errors   []uint32 // types of ICMP errors
}

const l3 = packet.EthernetLen // where the IP header is

var (
	family4 = family{src: l3 + 12, dst: l3 + 16, words: 1, icmp: packet.ProtoICMP, echo: 8, errors: []uint32{3, 11, 12}}
	family6 = family{src: l3 + 8, dst: l3 + 24, words: 4, icmp: packet.ProtoICMPv6, echo: 128, errors: []uint32{1, 2, 3, 4}}

	// extensions of IPv6 that may stand before the transport header: hop-by-hop and destination options, routing, fragment.
	extensions = []uint32{0, 43, 44, 60}
)

// claimFilter takes frames for the interface's own MAC that the claim takes.
func claimFilter(c packet.Claim, g grain) []unix.SockFilter {
	a, drop, accept := newAssembler()
	start := claimBody(a, c, g, drop, accept)
	start = a.branch(ifEqual, unix.PACKET_HOST, start, drop)
	a.to(start)
	start = a.put(loadByte, packetType)
	a.untagged(drop, start)
	return a.program()
}

// claimBody is the part that looks at the frame alone.
func claimBody(a *assembler, c packet.Claim, g grain, drop, accept label) label {
	six := a.packets6(a.claimed(&family6, c, g, drop, accept), drop)
	four := a.packets4(a.claimed(&family4, c, g, drop, accept), drop)
	six = a.branch(ifEqual, packet.EtherIPv6, six, drop)
	a.branch(ifEqual, packet.EtherIPv4, four, six)
	return a.put(loadHalf, 12)
}

// packets4 prepares the look-up of an IPv4 packet, which is at next.
func (a *assembler) packets4(next, drop label) label {
	f := &family4
	fragment := a.fragment(f, l3+9, next, drop)

	// An ICMP error at X: what it quotes.
	quoted := a.quoted(next, drop)
	a.to(quoted)
	a.put(copyAtoX, 0)
	a.put(add, 8)
	a.put(addX, 0)
	a.put(shiftLeft, 2)
	a.put(and, 15)
	a.put(loadByteX, 8) // the quoted header's length
	a.put(storeM, mAddress2)
	a.put(add, 8+16)
	a.put(copyXtoA, 0)
	a.put(storeM, mAddress1)
	a.put(add, 8+12)
	a.put(copyXtoA, 0)
	a.put(storeM, mProto)
	quoted = a.put(loadByteX, 8+9)
	a.branch(ifAnyBit, 0x1fff, drop, quoted) // a later fragment
	a.put(loadHalfX, 8+6)
	quoted = a.here()

	start := a.transport(f, quoted, next, drop, nil)
	a.to(start)
	a.put(loadByte, l3+9)
	a.put(copyAtoX, 0)
	a.put(add, l3)
	a.put(copyXtoA, 0)
	start = a.put(setXLength, l3)
	a.branch(ifAnyBit, 0x1fff, fragment, start)
	a.put(loadHalf, l3+6)
	return a.addresses(f)
}

// packets6 is packets4's twin.
func (a *assembler) packets6(next, drop label) label {
	f := &family6
	fragment := a.fragment(f, l3+40, next, drop)
	opaque := a.keys(keyAny, next)

	quoted := a.quoted(next, drop)
	quoted = a.oneOf(extensions, opaque, quoted)
	a.to(quoted)
	a.put(loadM, mProto)
	a.put(copyAtoX, 0)
	a.put(add, 8+40)
	a.put(copyXtoA, 0)
	a.put(storeM, mAddress2)
	a.put(add, 8+24)
	a.put(copyXtoA, 0)
	a.put(storeM, mAddress1)
	a.put(add, 8+8)
	a.put(copyXtoA, 0)
	a.put(storeM, mProto)
	quoted = a.put(loadByteX, 8+6)

	// Behind a fragment header: the first of a datagram, or all of it.
	first := a.transport(f, quoted, next, drop, func(drop label) label { return a.oneOf(extensions, opaque, drop) })
	a.to(first)
	a.put(loadByte, l3+40)
	first = a.put(setX, l3+48)
	a.branch(ifAnyBit, 0xfff8, fragment, first)
	fragment = a.put(loadHalf, l3+42)

	start := a.transport(f, quoted, next, drop, func(drop label) label {
		return a.branch(ifEqual, 44, fragment, a.oneOf(extensions, opaque, drop))
	})
	a.to(start)
	a.put(loadByte, l3+6)
	a.put(setX, l3+40)
	return a.addresses(f)
}

// addresses says where they are in a packet that is no ICMP error.
func (a *assembler) addresses(f *family) label {
	a.put(storeM, mAddress2)
	a.put(loadNumber, uint32(f.src))
	a.put(storeM, mAddress1)
	return a.put(loadNumber, uint32(f.dst))
}

// keys has one key for both look-ups.
func (a *assembler) keys(key uint32, next label) label {
	a.to(next)
	a.put(storeM, mKey2)
	a.put(storeM, mKey1)
	return a.put(loadNumber, key)
}

// fragment prepares the look-up of a later fragment, whose protocol is at proto.
func (a *assembler) fragment(f *family, proto uint32, next, drop label) label {
	icmp := a.keys(keyFragment|uint32(f.icmp), next)
	udp := a.keys(keyFragment|packet.ProtoUDP, next)
	tcp := a.keys(keyFragment|packet.ProtoTCP, next)
	a.branch(ifEqual, packet.ProtoTCP, tcp,
		a.branch(ifEqual, packet.ProtoUDP, udp,
			a.branch(ifEqual, uint32(f.icmp), icmp, drop)))
	return a.put(loadByte, proto)
}

// transport prepares the look-up of a packet of the protocol in A whose transport header is at X. other says what to do
// with other protocols, if not to drop them.
func (a *assembler) transport(f *family, quoted, next, drop label, other func(drop label) label) label {
	echo := a.keys(keyOf(f.icmp, 0), next)
	a.to(a.oneOf(f.errors, quoted, a.branch(ifEqual, f.echo, echo, drop)))
	icmp := a.put(loadByteX, 0)
	tcp, udp := a.ports(packet.ProtoTCP, 2, 0, next), a.ports(packet.ProtoUDP, 2, 0, next)
	if other != nil {
		drop = other(drop)
	}
	return a.branch(ifEqual, packet.ProtoTCP, tcp,
		a.branch(ifEqual, packet.ProtoUDP, udp,
			a.branch(ifEqual, uint32(f.icmp), icmp, drop)))
}

// quoted is transport for a quoted packet. It begins where A is its protocol, as mProto is.
func (a *assembler) quoted(next, drop label) label {
	tcp, udp := a.ports(packet.ProtoTCP, 0, 2, next), a.ports(packet.ProtoUDP, 0, 2, next)
	a.branch(ifEqual, packet.ProtoTCP, tcp, a.branch(ifEqual, packet.ProtoUDP, udp, drop))
	return a.put(loadM, mProto)
}

// ports makes keys of the ports at X + one and X + two.
func (a *assembler) ports(proto uint8, one, two uint32, next label) label {
	a.to(next)
	a.put(storeM, mKey2)
	a.put(or, keyOf(proto, 0))
	a.put(loadHalfX, two)
	a.put(storeM, mKey1)
	a.put(or, keyOf(proto, 0))
	return a.put(loadHalfX, one)
}

// claimed looks a packet up: as a VIP's, and then as a server's unless it is for one of the own addresses.
func (a *assembler) claimed(f *family, c packet.Claim, g grain, drop, accept label) label {
	next := drop
	if servers := a.endpoints(f, slices.DeleteFunc(slices.Clone(c.Servers), packet.Endpoints.Echo), g, mKey2, drop, accept); len(servers) > 0 {
		next = a.search(f, g, servers, 0, drop)
		a.to(next)
		next = a.put(setXFromM, mAddress2)
		if own := a.own(f, c, g, drop); len(own) > 0 {
			a.to(a.search(f, g, own, 0, next))
			next = a.put(setX, uint32(f.dst))
		}
	}
	if vips := a.endpoints(f, c.VIPs, g, mKey1, next, accept); len(vips) > 0 {
		a.to(a.search(f, g, vips, 0, next))
		next = a.put(setXFromM, mAddress1)
	}
	return next
}

// entry is an address and where to go on with it.
type entry struct {
	words [4]uint32 // of IPv4 the first
	to    label
}

func (a *assembler) own(f *family, c packet.Claim, g grain, drop label) (own []entry) {
	if !g.own {
		return nil
	}
	for _, addr := range c.Own {
		if w, ok := f.wordsOf(packet.Endpoints{Addr: addr}, g); ok {
			own = append(own, entry{w, drop})
		}
	}
	slices.SortFunc(own, func(x, y entry) int { return compareWords(x.words, y.words) })
	return slices.Compact(own)
}

// endpoints puts the code that compares keys, once for all addresses with the same. The entries lead there, in order.
func (a *assembler) endpoints(f *family, list []packet.Endpoints, g grain, mKey uint32, miss, hit label) (entries []entry) {
	keys := make(map[[4]uint32][]bound)
	for _, e := range list {
		words, ok := f.wordsOf(e, g)
		first, last := e.Ports()
		switch {
		case !ok:
			continue
		case e.Echo():
			first, last = 0, 0
		case e.Proto != packet.ProtoTCP && e.Proto != packet.ProtoUDP:
			continue
		}
		fragment := keyFragment | uint32(e.Proto)
		keys[words] = append(keys[words], bound{keyOf(e.Proto, first), keyOf(e.Proto, last)}, bound{fragment, fragment}, bound{keyAny, keyAny})
	}
	same := make(map[string]label)
	for _, words := range slices.SortedFunc(maps.Keys(keys), compareWords) {
		if !g.ports {
			entries = append(entries, entry{words, hit})
			continue
		}
		pieces := cover(keys[words], miss, hit)
		name := fmt.Sprint(pieces)
		to, ok := same[name]
		if !ok {
			a.to(a.decide(pieces))
			to = a.put(loadM, mKey)
			same[name] = to
		}
		entries = append(entries, entry{words, to})
	}
	return entries
}

// bound is a range of keys.
type bound struct{ first, last uint32 }

// cover is the pieces that lead to hit within bounds.
func cover(bounds []bound, miss, hit label) []piece {
	slices.SortFunc(bounds, func(x, y bound) int { return cmp.Compare(x.first, y.first) })
	pieces := []piece{{0, miss}}
	for _, b := range bounds {
		if b.first <= b.last {
			pieces = extend(pieces, b.first, b.last, hit, miss)
		}
	}
	return pieces
}

// extend appends a piece from first to last, which ends a range that overlaps or adjoins it and leads to the same.
func extend(pieces []piece, first, last uint32, to, miss label) []piece {
	n := len(pieces) - 1
	switch ended := pieces[n]; {
	case n > 0 && pieces[n-1].to == to && first <= ended.from && ended.to == miss:
		if last < ended.from {
			return pieces
		}
		pieces = pieces[:n]
	case first == ended.from:
		pieces[n].to = to
	default:
		pieces = append(pieces, piece{first, to})
	}
	if last == 1<<32-1 {
		return pieces
	}
	return append(pieces, piece{last + 1, miss})
}

// search finds the address at X, from the word on that is given: all entries are the same up to it.
func (a *assembler) search(f *family, g grain, entries []entry, word int, miss label) label {
	if word == f.words || f.mask(word, g) == 0 {
		return entries[0].to
	}
	mask := f.mask(word, g)
	step := uint32(1) << bits.TrailingZeros32(mask)
	pieces := []piece{{0, miss}}
	for len(entries) > 0 {
		value := entries[0].words[word]
		n := slices.IndexFunc(entries, func(e entry) bool { return e.words[word] != value })
		if n < 0 {
			n = len(entries)
		}
		pieces = extend(pieces, value, value|(step-1), a.search(f, g, entries[:n], word+1, miss), miss)
		entries = entries[n:]
	}
	a.to(a.decide(pieces))
	return a.put(loadWordX, uint32(4*word))
}

// mask is what is looked at of a word of an address.
func (f *family) mask(word int, g grain) uint32 {
	n := g.bits4
	if f.words == 4 {
		n = g.bits6
	}
	return ^uint32(0) << (32 - min(32, max(0, n-32*word)))
}

// wordsOf is the address as far as it is looked at; ok says whether it is of the family.
func (f *family) wordsOf(e packet.Endpoints, g grain) (words [4]uint32, ok bool) {
	addr := e.Addr.Unmap()
	if !addr.IsValid() || addr.Is4() != (f.words == 1) {
		return words, false
	}
	b := addr.AsSlice()
	for i := range f.words {
		words[i] = (uint32(b[4*i])<<24 | uint32(b[4*i+1])<<16 | uint32(b[4*i+2])<<8 | uint32(b[4*i+3])) & f.mask(i, g)
	}
	return words, true
}

func compareWords(x, y [4]uint32) int { return slices.Compare(x[:], y[:]) }
