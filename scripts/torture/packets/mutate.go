package packets

import (
	"encoding/binary"
	"math/rand/v2"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/tunlb/tunlb/stack/packet"
)

// mutator makes invalid packets of valid ones. Not safe for concurrent use.
type mutator struct {
	random *rand.Rand
	buf    []byte
}

func newMutator(seed uint64) *mutator {
	return &mutator{random: rand.New(rand.NewPCG(seed, 2)), buf: make([]byte, 0, packet.BufferSize)}
}

// mutate returns a changed copy, valid until the next call. One in ten is not changed at all, so that there are flows to
// run into.
func (m *mutator) mutate(frame []byte) []byte {
	b := append(m.buf[:0], frame...)
	if m.random.IntN(10) == 0 {
		return b
	}
	for range 1 + m.random.IntN(3) {
		if len(b) <= packet.VnetLen+header.IPv4MinimumSize {
			break
		}
		b = m.once(b)
	}
	if len(b) >= packet.VnetLen+header.IPv4MinimumSize && b[packet.VnetLen]>>4 == 4 && m.random.IntN(4) > 0 {
		fixHeader(b[packet.VnetLen:]) // else most of them would go no further
	}
	return b
}

func (m *mutator) once(b []byte) []byte {
	ip := b[packet.VnetLen:]
	head := min(len(ip), 100)
	switch m.random.IntN(12) {
	case 0, 1, 2: // bits of the headers
		for range 1 + m.random.IntN(4) {
			ip[m.random.IntN(head)] ^= 1 << m.random.IntN(8)
		}
	case 3: // a byte of interest
		ip[m.random.IntN(head)] = []byte{0, 1, 6, 17, 44, 58, 127, 128, 255}[m.random.IntN(9)]
	case 4: // truncation
		return b[:packet.VnetLen+header.IPv4MinimumSize+m.random.IntN(len(ip)-header.IPv4MinimumSize)]
	case 5: // bytes behind the end
		return append(b, make([]byte, m.random.IntN(64))...)
	case 6: // total or payload length
		at := 2
		if ip[0]>>4 == 6 {
			at = 4
		}
		binary.BigEndian.PutUint16(ip[at:], m.lie(len(ip)))
	case 7: // a length of the transport header, or what stands there
		if l4 := m.transport(ip); l4+14 < len(ip) {
			if m.random.IntN(2) == 0 {
				binary.BigEndian.PutUint16(ip[l4+4:], m.lie(len(ip)-l4))
			} else {
				ip[l4+12] = byte(m.random.Uint32())
			}
		}
	case 8: // fragment field
		if ip[0]>>4 == 4 {
			few, some := m.random.Uint32(), m.random.Uint32()
			binary.BigEndian.PutUint16(ip[6:], uint16(few&some))
		} else {
			ip[6] = []byte{0, 43, 44, 60, 51, 50, 59}[m.random.IntN(7)]
		}
	case 9: // headers twice
		n := min(8*(1+m.random.IntN(8)), len(ip))
		from := 8 * m.random.IntN(max(1, head/8))
		if from+n <= len(ip) && len(b)+n <= packet.VnetLen+packet.MaxPacket {
			tail := append([]byte(nil), ip[from:]...)
			return append(b[:packet.VnetLen+from+n], tail...)
		}
	case 10: // vnet header, made up
		h := packet.Vnet{Flags: byte(m.random.IntN(4)), GSOType: []byte{0, 1, 3, 4, 5, 0x81, 77}[m.random.IntN(7)],
			HdrLen: m.lie(54), GSOSize: m.lie(1400), CsumStart: m.lie(34), CsumOffset: m.lie(16)}
		h.Encode(b)
	default: // vnet header, nearly right
		binary.LittleEndian.PutUint16(b[2+2*m.random.IntN(4):], m.lie(20))
	}
	return b
}

// transport guesses where the transport header is.
func (m *mutator) transport(ip []byte) int {
	if ip[0]>>4 == 6 {
		return header.IPv6MinimumSize
	}
	return int(ip[0]&15) * 4
}

// lie is a length that is not n, or hardly.
func (m *mutator) lie(n int) uint16 {
	switch m.random.IntN(4) {
	case 0:
		return uint16(n + m.random.IntN(17) - 8)
	case 1:
		return 0
	case 2:
		return 0xffff
	}
	return uint16(m.random.Uint32())
}

// fixHeader writes a right IPv4 header checksum, where the header says it is.
func fixHeader(ip []byte) {
	n := max(int(ip[0]&15)*4, header.IPv4MinimumSize)
	if n > len(ip) {
		return
	}
	h := header.IPv4(ip[:n])
	h.SetChecksum(0)
	h.SetChecksum(^h.CalculateChecksum())
}
