package capture

import "encoding/binary"

// A pcapng file is blocks: type (4), length (4), body, length again (4), all padded to 4 bytes. What we write is
// little endian; what we read says which it is.
const (
	blockSection   = 0x0a0d0d0a // SHB: a section begins
	blockInterface = 1          // IDB
	blockPacketOld = 2          // the obsolete packet block
	blockSimple    = 3          // SPB: a packet without time or interface
	blockStats     = 5          // ISB
	blockPacket    = 6          // EPB

	byteOrder       = 0x1a2b3c4d
	byteOrderTurned = 0x4d3c2b1a
	blockOverhead   = 12
)

// Codes of options.
const (
	optEnd     = 0
	optComment = 1

	shbHardware = 2
	shbOS       = 3
	shbUserAppl = 4

	ifName    = 2
	ifTSResol = 9

	epbFlags    = 2
	epbPacketID = 5

	isbStart   = 2
	isbEnd     = 3
	isbIfRecv  = 4
	isbIfDrop  = 5
	isbDeliver = 8
)

// Link types that are written, and those that are read besides (https://www.tcpdump.org/linktypes.html).
const (
	LinkNull     = 0
	LinkEthernet = 1
	LinkRaw      = 101
	LinkLoop     = 108
	LinkSLL      = 113 // Linux cooked
	LinkIPv4     = 228
	LinkIPv6     = 229
	LinkSLL2     = 276 // Linux cooked, version 2
)

var le = binary.LittleEndian

// openBlock appends the head of a block; closeBlock, given where that was, its lengths.
func openBlock(b []byte, kind uint32) []byte {
	return append(le.AppendUint32(b, kind), 0, 0, 0, 0)
}

func closeBlock(b []byte, at int) []byte {
	n := uint32(len(b) - at + 4)
	le.PutUint32(b[at+4:], n)
	return le.AppendUint32(b, n)
}

// appendOption appends an option, cut to what its length can say, and padded.
func appendOption(b []byte, code uint16, value []byte) []byte {
	value = value[:min(len(value), maxOption)]
	b = le.AppendUint16(le.AppendUint16(b, code), uint16(len(value)))
	return pad(append(b, value...), len(value))
}

// maxOption is the longest value that stays within 16 bits when it is padded.
const maxOption = 1<<16 - 4

func appendText(b []byte, code uint16, text string) []byte {
	text = text[:min(len(text), maxOption)]
	b = le.AppendUint16(le.AppendUint16(b, code), uint16(len(text)))
	return pad(append(b, text...), len(text))
}

func appendNumber(b []byte, code uint16, n uint64) []byte {
	return le.AppendUint64(append(le.AppendUint16(b, code), 8, 0), n)
}

// appendTime appends a time as options have it: the upper 32 bits first.
func appendTime(b []byte, code uint16, ns uint64) []byte {
	b = append(le.AppendUint16(b, code), 8, 0)
	return le.AppendUint32(le.AppendUint32(b, uint32(ns>>32)), uint32(ns))
}

func endOptions(b []byte) []byte { return append(b, 0, 0, 0, 0) }

// pad fills up to 4 bytes what is n bytes long.
func pad(b []byte, n int) []byte { return append(b, make([]byte, -n&3)...) }
