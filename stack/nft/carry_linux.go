package nft

import (
	"encoding/binary"
	"fmt"

	"github.com/tunlb/tunlb/stack/packet"
	"golang.org/x/sys/unix"
)

// A connection is two elements of its family's map. The key is what is at these registers, as it is in the packet:
//
//	source and destination address | source and destination port | protocol
//
// and the data, which are written over it:
//
//	both new addresses | both new ports | next hop | interface index

// connections is the map of a family's connections. Each element counts its packets.
func (f *family) connections(limit int) *set {
	return &set{
		name: f.chain("connections"), size: 2 * limit, counts: []string{"counter"},
		key:  []field{f.addr, f.addr, fieldMark, fieldProto},
		data: []field{f.addr, f.addr, fieldMark, f.addr, fieldIndex},
	}
}

func (f *family) keyLength() int  { return 2*f.addr.bytes + 4 + 4 }
func (f *family) dataLength() int { return 3*f.addr.bytes + 4 + 4 }

// ordinary goes on with packets whose TTL is more than 1 and whose transport header is all that is behind a plain header.
func (f *family) ordinary() []expression {
	if f == ipv6 { // the next header is a matter of carry
		return []expression{load(network, 7, 1, reg0), compare(reg0, unix.NFT_CMP_GT, 1)}
	}
	return []expression{
		load(network, 0, 1, reg0), equal(reg0, 0x45),
		load(network, 6, 2, reg0), mask(reg0, 0x3f, 0xff), equal(reg0, 0, 0),
		load(network, 8, 1, reg0), compare(reg0, unix.NFT_CMP_GT, 1),
	}
}

// carry writes the rules: for TCP, for the answer to what opens a connection, for UDP, and for UDP without a checksum, which is to stay without (IPv4 only).
func (f *family) carry(b *batch) {
	const tcpSum, udpSum = 16, 6
	b.rule(f.chain("carry"), "carry TCP (CONFIG_NFT_FWD_NETDEV)", f.translate(packet.ProtoTCP, tcpSum,
		load(transport, 13, 1, reg0), mask(reg0, packet.TCPFin|packet.TCPSyn|packet.TCPRst), equal(reg0, 0))...)
	b.rule(f.chain("carry"), "carry TCP's answers", f.translate(packet.ProtoTCP, tcpSum,
		load(transport, 13, 1, reg0), mask(reg0, packet.TCPFin|packet.TCPSyn|packet.TCPRst|packet.TCPAck), equal(reg0, packet.TCPSyn|packet.TCPAck))...)
	b.rule(f.chain("carry"), "carry UDP", f.translate(packet.ProtoUDP, udpSum,
		load(transport, udpSum, 2, reg0), compare(reg0, unix.NFT_CMP_NEQ, 0, 0))...)
	if f == ipv4 {
		b.rule(f.chain("carry"), "carry UDP without checksum", f.translate(packet.ProtoUDP, 0,
			load(transport, udpSum, 2, reg0), equal(reg0, 0, 0))...)
	}
}

// carryEnds writes the rule for what ends TCP connections: carried like the others, and told of to the group.
func (f *family) carryEnds(b *batch, group uint16) {
	const tcpSum = 16
	b.rule(f.chain("carry"), "carry TCP's ends (CONFIG_NFT_LOG)", f.translated(packet.ProtoTCP, tcpSum, []expression{tell(group)},
		load(transport, 13, 1, reg0), mask(reg0, packet.TCPSyn), equal(reg0, 0),
		load(transport, 13, 1, reg0), mask(reg0, packet.TCPFin|packet.TCPRst), compare(reg0, unix.NFT_CMP_NEQ, 0))...)
}

// translate is a rule for one protocol, whose checksum is at sum; 0 is none.
func (f *family) translate(proto uint8, sum int, conditions ...expression) []expression {
	return f.translated(proto, sum, nil, conditions...)
}

// translated is translate with something to be done with what is found before it is changed.
func (f *family) translated(proto uint8, sum int, before []expression, conditions ...expression) []expression {
	rule := []expression{load(network, f.next, 1, reg0), equal(reg0, proto)}
	rule = append(rule, conditions...)

	ports := reg0.past(2 * f.addr.bytes)
	rule = append(rule,
		load(network, f.src, 2*f.addr.bytes, reg0), load(transport, 0, 4, ports), load(network, f.next, 1, ports+1),
		find(f.chain("connections"), reg0, reg0))
	rule = append(rule, before...)

	next := ports + 1
	device := next.past(f.addr.bytes)
	return append(rule,
		store(network, f.src, 2*f.addr.bytes, reg0, sums{at: f.headerSum(), pseudo: sum > 0}),
		store(transport, 0, 4, ports, sums{at: sum}),
		forward(f.proto, next, device),
		drop) // the interface is gone, and the packet is no longer what came in
}

func (f *family) headerSum() int {
	if f == ipv4 {
		return 10
	}
	return 0
}

// check says whether a connection can be carried.
func (c *Conn) check() error {
	six := c.Outer.Is6()
	switch {
	case c.Outer.Proto != packet.ProtoTCP && c.Outer.Proto != packet.ProtoUDP, c.Outer.Proto != c.Inner.Proto:
		return fmt.Errorf("%s as %s: only TCP and UDP are carried by the kernel", c.Outer, c.Inner)
	case c.Inner.Is6() != six, !c.Forward.fits(six), !c.Reverse.fits(six):
		return fmt.Errorf("%s as %s by %v and %v: addresses and next hops of one family, and interfaces, are carried by the kernel", c.Outer, c.Inner, c.Forward, c.Reverse)
	}
	return nil
}

func (h *Hop) fits(six bool) bool {
	a := h.Next.Unmap()
	return h.Link > 0 && a.IsValid() && a.Is6() == six
}

// add writes a message that adds a connection.
func (b *batch) add(c *Conn) {
	f := familyOf(&c.Outer)
	list := b.connection(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE|unix.NLM_F_EXCL, f)
	answer, translated := c.Inner.Reverse(), c.Outer.Reverse()
	b.element(f, &c.Outer, &c.Inner, &c.Forward)
	b.element(f, &answer, &translated, &c.Reverse)
	b.end(list)
}

// remove writes a message that removes it, and one that tells of it if flags have NLM_F_ECHO.
func (b *batch) remove(e *entry, flags uint16) {
	b.keys(b.connection(unix.NFT_MSG_DELSETELEM, flags, familyOf(&e.outer)), e)
}

// look writes a message that asks for it.
func (b *batch) look(e *entry) {
	b.keys(b.connection(unix.NFT_MSG_GETSETELEM, 0, familyOf(&e.outer)), e)
}

// keys writes the elements of a connection, to end the list.
func (b *batch) keys(list int, e *entry) {
	f, answer := familyOf(&e.outer), e.inner.Reverse()
	for _, t := range [...]*packet.Tuple{&e.outer, &answer} {
		one := b.nest(unix.NFTA_LIST_ELEM)
		b.key(f, t)
		b.end(one)
	}
	b.end(list)
}

func (b *batch) connection(typ, flags uint16, f *family) (list int) {
	b.plain(typ, flags)
	b.text(unix.NFTA_SET_ELEM_LIST_SET, f.chain("connections"))
	return b.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
}

func familyOf(t *packet.Tuple) *family {
	if t.Is6() {
		return ipv6
	}
	return ipv4
}

// element writes a direction: what comes with one tuple is to leave with another.
func (b *batch) element(f *family, from, to *packet.Tuple, hop *Hop) {
	one := b.nest(unix.NFTA_LIST_ELEM)
	b.key(f, from)
	n := f.dataLength()
	b.attribute(unix.NFTA_SET_ELEM_DATA|unix.NLA_F_NESTED, 4+n)
	b.attribute(unix.NFTA_DATA_VALUE, n)
	b.ends(f, to)
	next := hop.Next.As16()
	b.buf = append(b.buf, next[16-f.addr.bytes:]...)
	b.buf = binary.NativeEndian.AppendUint32(b.buf, uint32(hop.Link))
	b.end(one)
}

func (b *batch) key(f *family, t *packet.Tuple) {
	n := f.keyLength()
	b.attribute(unix.NFTA_SET_ELEM_KEY|unix.NLA_F_NESTED, 4+n)
	b.attribute(unix.NFTA_DATA_VALUE, n)
	b.ends(f, t)
	b.buf = append(b.buf, t.Proto, 0, 0, 0)
}

// ends writes addresses and ports as they are in a packet.
func (b *batch) ends(f *family, t *packet.Tuple) {
	b.buf = append(b.buf, t.Src[16-f.addr.bytes:]...)
	b.buf = append(b.buf, t.Dst[16-f.addr.bytes:]...)
	b.buf = be.AppendUint16(b.buf, t.SrcPort)
	b.buf = be.AppendUint16(b.buf, t.DstPort)
}
