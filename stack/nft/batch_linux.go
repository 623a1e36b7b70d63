package nft

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// be is the byte order of nf_tables' own integers; netlink's headers are in the machine's.
var be = binary.BigEndian

// batch is messages being written: a transaction, which the kernel carries out as a whole or not at all (start, finish), or
// questions (begin). Its zero value is ready for either. Not safe for concurrent use.
type batch struct {
	table string
	buf   []byte
	first uint32 // number (nlmsg_seq) of the first message, the batch's beginning
	count uint32 // of messages so far, the beginning included
	open  int    // where the last message starts
	about []string
}

// begin forgets what was written before and uses its memory again. Messages that follow are about a table and have
// numbers from first on.
func (b *batch) begin(table string, first uint32) {
	b.table, b.buf, b.first, b.count, b.about = table, b.buf[:0], first, 0, b.about[:0]
}

// start begins a transaction.
func (b *batch) start(table string, first uint32) {
	b.begin(table, first)
	b.header(unix.NFNL_MSG_BATCH_BEGIN, unix.NLM_F_REQUEST, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
}

// finish ends the batch. The last message is acknowledged, so that success can be told from silence.
func (b *batch) finish() {
	b.endMessage()
	flags := binary.NativeEndian.Uint16(b.buf[b.open+6:])
	binary.NativeEndian.PutUint16(b.buf[b.open+6:], flags|unix.NLM_F_ACK)
	b.header(unix.NFNL_MSG_BATCH_END, unix.NLM_F_REQUEST, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
	b.endMessage()
}

// message begins a message about the table. Errors of the kernel about it name what.
func (b *batch) message(typ, flags uint16, what string) {
	b.plain(typ, flags)
	for uint32(len(b.about)) < b.count {
		b.about = append(b.about, "")
	}
	b.about[b.count-1] = what
}

// plain begins a message that is known by its number alone.
func (b *batch) plain(typ, flags uint16) {
	b.header(unix.NFNL_SUBSYS_NFTABLES<<8|typ, unix.NLM_F_REQUEST|flags, unix.NFPROTO_NETDEV, 0)
	b.text(1, b.table) // the table's name is attribute 1 of every kind
}

// header writes struct nlmsghdr, whose length endMessage knows, and struct nfgenmsg.
func (b *batch) header(typ, flags uint16, family uint8, resource uint16) {
	b.endMessage()
	b.open = len(b.buf)
	b.buf = append(b.buf, 0, 0, 0, 0)
	b.buf = binary.NativeEndian.AppendUint16(b.buf, typ)
	b.buf = binary.NativeEndian.AppendUint16(b.buf, flags)
	b.buf = binary.NativeEndian.AppendUint32(b.buf, b.first+b.count)
	b.buf = append(b.buf, 0, 0, 0, 0) // to the kernel
	b.buf = append(b.buf, family, unix.NFNETLINK_V0)
	b.buf = be.AppendUint16(b.buf, resource)
	b.count++
}

func (b *batch) endMessage() {
	if b.count > 0 {
		binary.NativeEndian.PutUint32(b.buf[b.open:], uint32(len(b.buf)-b.open))
	}
}

// attribute writes the header of an attribute of n bytes. They, and the padding up to a multiple of 4, are the caller's.
func (b *batch) attribute(typ uint16, n int) {
	b.buf = binary.NativeEndian.AppendUint16(b.buf, uint16(4+n))
	b.buf = binary.NativeEndian.AppendUint16(b.buf, typ)
}

func (b *batch) pad() {
	for len(b.buf)%4 != 0 {
		b.buf = append(b.buf, 0)
	}
}

// text writes a string, with its zero.
func (b *batch) text(typ uint16, s string) {
	b.attribute(typ, len(s)+1)
	b.buf = append(append(b.buf, s...), 0)
	b.pad()
}

func (b *batch) u32(typ uint16, v uint32) {
	b.attribute(typ, 4)
	b.buf = be.AppendUint32(b.buf, v)
}

// nest begins an attribute made of others; end ends it.
func (b *batch) nest(typ uint16) (at int) {
	at = len(b.buf)
	b.attribute(typ|unix.NLA_F_NESTED, 0)
	return at
}

func (b *batch) end(at int) {
	binary.NativeEndian.PutUint16(b.buf[at:], uint16(len(b.buf)-at))
}

// data writes a value as nf_tables wants it (struct nft_data).
func (b *batch) data(typ uint16, value ...byte) {
	at := b.nest(typ)
	b.attribute(unix.NFTA_DATA_VALUE, len(value))
	b.buf = append(b.buf, value...)
	b.pad()
	b.end(at)
}
