package policy

import (
	"encoding/binary"
	"math/bits"
)

// fold is an address as the 32-bit number that hashes take: that of IPv4, the XOR of the four words of IPv6.
func fold(addr [16]byte) uint32 {
	high, low := binary.BigEndian.Uint64(addr[:8]), binary.BigEndian.Uint64(addr[8:])
	if high == 0 && low>>32 == 0xffff {
		return uint32(low) // v4-mapped
	}
	words := high ^ low
	return uint32(words>>32) ^ uint32(words)
}

// clientKey is what sh and mh hash of a client.
func clientKey(c *Client, flags Flags) uint32 {
	key := fold(c.Src)
	if flags&HashPort != 0 {
		key += uint32(c.SrcPort)
	}
	return key
}

// buckets is the table of sh and dh: indexes in the list of servers, which is not empty.
type buckets [256]int32

// multiplied is the kernel's multiplicative hash, of which bucket takes the highest 8 bits.
func multiplied(key uint32) uint32 { return key * 0x61C88647 }

func bucket(key uint32) uint8 { return uint8(multiplied(key) >> 24) }

// fill walks the list round and round until every bucket has its server. times says how many in a row are one
// server's; less than 1 is 1.
func (b *buckets) fill(list []*Server, times func(*Server) int) {
	if len(list) == 0 {
		return
	}
	at, count := 0, 0
	for i := range b {
		b[i] = int32(at)
		if count++; count >= times(list[at]) {
			at, count = (at+1)%len(list), 0
		}
	}
}

// destinationHash picks by the hash of the destination, each server having one bucket in turn: weights
// matter only as zero or not. A bucket whose server is not available refuses.
type destinationHash struct{ buckets buckets }

func (d *destinationHash) start(list []*Server) {
	d.buckets.fill(list, func(*Server) int { return 1 })
}
func (d *destinationHash) update(_, list []*Server) { d.start(list) }
func (d *destinationHash) changed(*Server)          {}

func (d *destinationHash) pick(list []*Server, c Client) *Server {
	if len(list) > 0 {
		if s := list[d.buckets[bucket(fold(c.Dst))]]; s.available() {
			return s
		}
	}
	return nil
}

// sourceHash picks by the hash of the source. A server has as many buckets as its weight; one of weight 0
// keeps one, whose clients are refused unless Fallback finds another.
type sourceHash struct {
	flags   Flags
	buckets buckets
	up      pool      // available servers; empty without Fallback, as open is
	open    [4]uint64 // bits of the buckets of available servers
}

func (h *sourceHash) start(list []*Server) {
	h.buckets.fill(list, func(s *Server) int { return s.Weight })
	if h.flags&Fallback == 0 {
		return
	}
	h.up, h.open = newPool(list, (*Server).available), [4]uint64{}
	for i, at := range h.buckets {
		if len(list) > 0 && list[at].available() {
			h.open[i/64] |= 1 << (i % 64)
		}
	}
}

func (h *sourceHash) update(_, list []*Server) { h.start(list) }

func (h *sourceHash) changed(s *Server) {
	if h.flags&Fallback == 0 || !h.up.set(s.at, s.available()) {
		return
	}
	for i, at := range h.buckets {
		if int(at) == s.at {
			h.open[i/64] ^= 1 << (i % 64)
		}
	}
}

func (h *sourceHash) pick(list []*Server, c Client) *Server {
	if len(list) == 0 {
		return nil
	}
	hash := bucket(clientKey(&c, h.flags))
	s := list[h.buckets[hash]]
	for !s.available() {
		// The kernel tries bucket hash+offset for all offsets, beginning with hash.
		h.changed(s)
		next := h.next(2 * hash)
		if next < 0 {
			return nil
		}
		s = list[h.buckets[next]]
	}
	return s
}

// next is the first open bucket from one on and round, -1 if there is none.
func (h *sourceHash) next(from uint8) int {
	word := int(from / 64)
	open := h.open[word] >> (from % 64) << (from % 64)
	for i := range 5 { // the first word once more, for what is in front of from
		if open != 0 {
			return (word+i)%4*64 + bits.TrailingZeros64(open)
		}
		open = h.open[(word+i+1)%4]
	}
	return -1
}
