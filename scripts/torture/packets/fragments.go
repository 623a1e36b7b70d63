package packets

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
)

// maxFragmentBytes is what all fragments together may take. What else the heap grows by is the connections that first pieces open.
const maxFragmentBytes, slack = 4 << 20, 8 << 20

// Fragments floods an engine with n fragments of each kind while honest datagrams pass in pieces, in any order; and sends
// datagrams that overlap, and those that hide or rewrite a TCP header.
func Fragments(ctx context.Context, n int, seed uint64) (*Result, error) {
	r := &Result{}
	random := rand.New(rand.NewPCG(seed, 5))
	floods := []struct {
		name         string
		first, spoof bool
		honest       float64 // share of honest datagrams that get through
	}{
		{"later pieces, one source", false, false, 1},
		{"first pieces, one source", true, false, 1},
		{"later pieces, made-up sources", false, true, .99},
		{"first pieces, made-up sources", true, true, .99},
	}
	for _, f := range floods {
		s, err := newNAT(1<<14, seed)
		if err != nil {
			return nil, err
		}
		err = s.flood(ctx, r, f.name, f.first, f.spoof, f.honest, n, random)
		if s.engine.Close(); err != nil {
			return nil, err
		}
	}
	s, err := newNAT(1000, seed)
	if err != nil {
		return nil, err
	}
	defer s.engine.Close()
	return r, s.malformed(r, min(n, 10_000))
}

// flood is one kind of flood, 100 pieces for each honest datagram of which the pieces are as far apart.
func (s *site) flood(ctx context.Context, r *Result, name string, first, spoof bool, share float64, n int, random *rand.Rand) error {
	k := &casts[0]
	body := make([]byte, 1400)
	copy(body, []byte{0x23, 0x28, 0, 53, 0x0f, 0xa0, 0, 0}) // as a first piece a UDP header
	piece := pt.Raw(tb, packet.ProtoUDP, k.other, k.vip, pt.Fragment(1, 8000, true), pt.Payload(body))
	if first {
		piece = pt.Raw(tb, packet.ProtoUDP, k.other, k.vip, pt.Fragment(1, 0, true), pt.Payload(body))
	}
	left, most, honest := 0, 0, 0
	s.see = func(frame []byte) {
		if p, err := pt.Decode(frame); err == nil && p.Src.Addr() == k.client {
			left++
		}
	}
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var pieces [][]byte
	for i := range n {
		if i%4096 == 0 {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			s.advance(80*time.Millisecond, 80*time.Millisecond) // 50,000 a second
		}
		disguise(piece, uint32(i), spoof)
		if err := s.inject(0, piece); err != nil {
			return err
		}
		if i%2048 == 0 {
			most = max(most, s.engine.Status().Fragments.Parked)
		}
		if i%33 != 0 {
			continue
		}
		if len(pieces) == 0 {
			honest++
			pieces = pt.Fragments(tb, pt.UDP(tb, at(k.client, 40000), at(k.vip, 53), pt.PayloadLen(4000)), 1500, uint32(honest))
			random.Shuffle(len(pieces), func(a, b int) { pieces[a], pieces[b] = pieces[b], pieces[a] })
		}
		if err := s.inject(0, pieces[0]); err != nil {
			return err
		}
		pieces = pieces[1:]
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	drops := s.engine.Drops()
	r.prove(name+": fragments beyond the limit", float64(drops[packet.FragmentLimit.String()]), float64(n)/4*boolean(!first), "")
	r.prove(name+": datagrams in flight", float64(s.engine.Status().Fragments.Datagrams), 100, "")
	r.atMost(name+": bytes parked", float64(most), maxFragmentBytes, "bytes")
	r.atMost(name+": heap grown", float64(after.HeapAlloc)-float64(before.HeapAlloc), maxFragmentBytes+slack, "bytes")
	r.atLeast(name+": honest pieces that got through", float64(left), share*float64(3*honest-len(pieces)-3), "")
	s.advance(20*time.Minute, time.Second)
	s.left(r)
	return nil
}

// disguise gives a piece another identification, and if spoof another source.
func disguise(piece []byte, i uint32, spoof bool) {
	h := header.IPv4(piece[packet.VnetLen:])
	h.SetID(uint16(i))
	if spoof {
		binary.BigEndian.PutUint32(h[12:], 0x0b000000|i&0xffffff)
	}
	h.SetChecksum(0)
	h.SetChecksum(^h.CalculateChecksum())
}

// malformed sends overlapping and tiny fragments: each datagram is refused from the first offence on.
func (s *site) malformed(r *Result, n int) error {
	for i := range casts {
		k := &casts[i]
		s.now += 20 * time.Minute
		s.engine.Advance()
		left, before := 0, s.engine.Drops()
		s.see = func([]byte) { left++ }
		send := func(proto uint8, id uint32, offset, size int, more bool) error {
			body := make([]byte, size)
			copy(body, []byte{0x9c, 0x40, 0, 53, 0x0f, 0xa0, 0, 0})
			return s.inject(0, pt.Raw(tb, proto, k.client, k.vip, pt.Fragment(id, offset, more), pt.Payload(body)))
		}
		for id := range uint32(n) {
			for _, p := range []struct {
				proto        uint8
				offset, size int
				more         bool
			}{
				{packet.ProtoUDP, 0, 800, true}, {packet.ProtoUDP, 792, 800, true}, {packet.ProtoUDP, 800, 800, false}, // overlaps; the rest is lost as well
				{packet.ProtoTCP, 0, 8, true},                                   // without flags (RFC 1858)
				{packet.ProtoTCP, 8, 64, true}, {packet.ProtoTCP, 8, 64, false}, // would rewrite them (RFC 3128)
			} {
				if err := send(p.proto, id, p.offset, p.size, p.more); err != nil {
					return err
				}
			}
		}
		drops := s.engine.Drops()
		name := fmt.Sprintf("malformed %v: ", netip.Prefix(k.outer).Addr().BitLen())
		r.prove(name+"overlapping", float64(drops[packet.OverlappingFragment.String()]-before[packet.OverlappingFragment.String()]), float64(2*n), "")
		r.prove(name+"tiny", float64(drops[packet.TinyFragment.String()]-before[packet.TinyFragment.String()]), float64(3*n), "")
		r.atMost(name+"pieces that left", float64(left), float64(n), "(the first ones)")
	}
	return nil
}
