package flow

import (
	"encoding/binary"
	"testing"

	"github.com/tunlb/tunlb/stack/packet"
)

// tcpView is a parsed TCP segment, its addresses arbitrary.
func tcpView(flags uint8, seq, ack uint32, payload int) *packet.View {
	ip := make([]byte, 40+payload)
	ip[0], ip[8], ip[9] = 0x45, 64, packet.ProtoTCP
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	copy(ip[12:], []byte{198, 51, 100, 7, 203, 0, 113, 22})
	binary.BigEndian.PutUint16(ip[10:], checksum(ip[:20]))
	tcp := ip[20:]
	binary.BigEndian.PutUint16(tcp, 40000)
	binary.BigEndian.PutUint16(tcp[2:], 80)
	binary.BigEndian.PutUint32(tcp[4:], seq)
	binary.BigEndian.PutUint32(tcp[8:], ack)
	tcp[12], tcp[13] = 5<<4, flags
	v := new(packet.View)
	if r := v.Parse(append(make([]byte, packet.VnetLen), ip...)); r != packet.None {
		panic(r.String())
	}
	return v
}

// checksum is the Internet checksum.
func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// udpView is what Track needs of a datagram.
func udpView(payload int) *packet.View {
	return &packet.View{Frame: make([]byte, packet.VnetLen+28+payload), L3: packet.VnetLen}
}

func mustInsert(tb testing.TB, t *Table, outer, inner packet.Tuple, now Tick) *Flow {
	tb.Helper()
	f, err := t.Insert(outer, inner, now)
	if err != nil {
		tb.Fatalf("insert %v, %v: %v", outer, inner, err)
	}
	return f
}
