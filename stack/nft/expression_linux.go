package nft

import "golang.org/x/sys/unix"

// expression writes one expression of a rule.
type expression func(*batch)

// register is one of the 16 that hold 4 bytes each; what is longer goes on in those that follow.
type register uint32

// The first register: what a rule needs starts there.
const reg0 register = unix.NFT_REG32_00

// past is the register behind n bytes.
func (r register) past(n int) register { return r + register((n+3)/4) }

// base is what payload offsets count from.
type base uint32

const (
	ethernet  base = unix.NFT_PAYLOAD_LL_HEADER
	network   base = unix.NFT_PAYLOAD_NETWORK_HEADER
	transport base = unix.NFT_PAYLOAD_TRANSPORT_HEADER // in later fragments what is there instead
)

// What golang.org/x/sys/unix lacks, from linux/netfilter.h and linux/netfilter/nf_tables.h.
const (
	nfDrop = 0 // NF_DROP

	nftaFwdSregDev  = 1 // NFTA_FWD_SREG_DEV
	nftaFwdSregAddr = 2 // NFTA_FWD_SREG_ADDR
	nftaFwdNfproto  = 3 // NFTA_FWD_NFPROTO
)

// expression writes a name and attributes, which fill writes.
func (b *batch) expression(typ uint16, name string, fill func()) {
	outer := b.nest(typ)
	b.text(unix.NFTA_EXPR_NAME, name)
	inner := b.nest(unix.NFTA_EXPR_DATA)
	fill()
	b.end(inner)
	b.end(outer)
}

func named(name string, fill func(*batch)) expression {
	return func(b *batch) {
		b.expression(unix.NFTA_LIST_ELEM, name, func() { fill(b) })
	}
}

// load reads n bytes of the packet into r.
func load(from base, offset, n int, r register) expression {
	return named("payload", func(b *batch) {
		b.u32(unix.NFTA_PAYLOAD_DREG, uint32(r))
		b.u32(unix.NFTA_PAYLOAD_BASE, uint32(from))
		b.u32(unix.NFTA_PAYLOAD_OFFSET, uint32(offset))
		b.u32(unix.NFTA_PAYLOAD_LEN, uint32(n))
	})
}

// extension reads n bytes of an IPv6 extension header into r, and ends the rule if there is none of the type.
func extension(typ uint8, offset, n int, r register) expression {
	return named("exthdr", func(b *batch) {
		b.u32(unix.NFTA_EXTHDR_DREG, uint32(r))
		b.attribute(unix.NFTA_EXTHDR_TYPE, 1)
		b.buf = append(b.buf, typ)
		b.pad()
		b.u32(unix.NFTA_EXTHDR_OFFSET, uint32(offset))
		b.u32(unix.NFTA_EXTHDR_LEN, uint32(n))
	})
}

// sums says which checksums change with what store writes.
type sums struct {
	at     int  // of the header's own checksum; 0 is none
	pseudo bool // the transport's checksum, too, which covers what is written by its pseudo header
}

// store writes n bytes from r into the packet and brings checksums along, partial ones (the hardware's) too.
func store(to base, offset, n int, r register, s sums) expression {
	return named("payload", func(b *batch) {
		b.u32(unix.NFTA_PAYLOAD_SREG, uint32(r))
		b.u32(unix.NFTA_PAYLOAD_BASE, uint32(to))
		b.u32(unix.NFTA_PAYLOAD_OFFSET, uint32(offset))
		b.u32(unix.NFTA_PAYLOAD_LEN, uint32(n))
		if s.at > 0 {
			b.u32(unix.NFTA_PAYLOAD_CSUM_TYPE, unix.NFT_PAYLOAD_CSUM_INET)
			b.u32(unix.NFTA_PAYLOAD_CSUM_OFFSET, uint32(s.at))
		}
		if s.pseudo {
			b.u32(unix.NFTA_PAYLOAD_CSUM_FLAGS, unix.NFT_PAYLOAD_L4CSUM_PSEUDOHDR)
		}
	})
}

// meta reads what the kernel knows of the packet into r.
func meta(key uint32, r register) expression {
	return named("meta", func(b *batch) {
		b.u32(unix.NFTA_META_DREG, uint32(r))
		b.u32(unix.NFTA_META_KEY, key)
	})
}

// mask keeps of r what is set in bits.
func mask(r register, bits ...byte) expression {
	return named("bitwise", func(b *batch) {
		b.u32(unix.NFTA_BITWISE_SREG, uint32(r))
		b.u32(unix.NFTA_BITWISE_DREG, uint32(r))
		b.u32(unix.NFTA_BITWISE_LEN, uint32(len(bits)))
		b.data(unix.NFTA_BITWISE_MASK, bits...)
		b.data(unix.NFTA_BITWISE_XOR, make([]byte, len(bits))...)
	})
}

// compare ends the rule unless r compares with value as op (unix.NFT_CMP_...) says, in network byte order.
func compare(r register, op uint32, value ...byte) expression {
	return named("cmp", func(b *batch) {
		b.u32(unix.NFTA_CMP_SREG, uint32(r))
		b.u32(unix.NFTA_CMP_OP, op)
		b.data(unix.NFTA_CMP_DATA, value...)
	})
}

func equal(r register, value ...byte) expression { return compare(r, unix.NFT_CMP_EQ, value...) }

// in ends the rule unless the set has the key at r.
func in(set string, key register) expression { return lookup(set, key, 0, 0) }

// notIn ends the rule if the set has the key at r.
func notIn(set string, key register) expression {
	return lookup(set, key, 0, unix.NFT_LOOKUP_F_INV)
}

// find is in for a map: what it has for the key goes to data on.
func find(set string, key, data register) expression { return lookup(set, key, data, 0) }

func lookup(set string, key, data register, flags uint32) expression {
	return named("lookup", func(b *batch) {
		b.text(unix.NFTA_LOOKUP_SET, set)
		b.u32(unix.NFTA_LOOKUP_SREG, uint32(key))
		if data != 0 {
			b.u32(unix.NFTA_LOOKUP_DREG, uint32(data))
		}
		if flags != 0 {
			b.u32(unix.NFTA_LOOKUP_FLAGS, flags)
		}
	})
}

func drop(b *batch) { verdict(nfDrop, "")(b) }

// leave goes back to the rule behind the jump that led here.
func leave(b *batch) {
	code := int32(unix.NFT_RETURN)
	verdict(uint32(code), "")(b)
}

func jump(chain string) expression {
	code := int32(unix.NFT_JUMP)
	return verdict(uint32(code), chain)
}

func verdict(code uint32, chain string) expression {
	return named("immediate", func(b *batch) {
		b.u32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT)
		data := b.nest(unix.NFTA_IMMEDIATE_DATA)
		v := b.nest(unix.NFTA_DATA_VERDICT)
		b.u32(unix.NFTA_VERDICT_CODE, code)
		if chain != "" {
			b.text(unix.NFTA_VERDICT_CHAIN, chain)
		}
		b.end(v)
		b.end(data)
	})
}

// tell copies the packet's headers to who has the group.
func tell(group uint16) expression {
	return named("log", func(b *batch) {
		b.attribute(unix.NFTA_LOG_GROUP, 2)
		b.buf = be.AppendUint16(b.buf, group)
		b.pad()
		b.u32(unix.NFTA_LOG_SNAPLEN, copied)
	})
}

// forward sends the packet to the neighbour whose address is at next, by the interface whose index is at device; its TTL
// is one less. The rule goes on only if there is no such interface.
func forward(family uint8, next, device register) expression {
	return named("fwd", func(b *batch) {
		b.u32(nftaFwdSregDev, uint32(device))
		b.u32(nftaFwdSregAddr, uint32(next))
		b.u32(nftaFwdNfproto, uint32(family))
	})
}
