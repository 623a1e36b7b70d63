package policy

import (
	"math/bits"
	"slices"
)

// maglevSize is how many slots the ring of mh has, a prime: the kernel's.
const maglevSize = 4093

// The keys of mh's two hashes, each given twice: the kernel's.
const (
	maglevKey1 = 2654435761
	maglevKey2 = 2654446892
)

// maglev picks from a ring of slots by the hash of the source. The ring is filled so that the loss of a
// server moves few clients of others: see newRing. A client whose server is not available is refused unless
// Fallback finds another.
type maglev struct {
	size  uint32
	flags Flags
	ring  []int32 // index in the list of the server that a slot belongs to; empty: no server has had a weight
	built []share // what the ring is of
	up    pool    // available servers; empty without Fallback
}

// share is a server with its part in a ring. It goes by the last weight above 0: a server that is quiesced
// and comes back moves nobody else's clients.
type share struct {
	server *Server
	weight int
}

func (m *maglev) start(list []*Server) {
	if m.flags&Fallback != 0 {
		m.up = newPool(list, (*Server).available)
	}
	shares := make([]share, len(list))
	for i, s := range list {
		shares[i] = share{s, s.lastWeight}
	}
	if !slices.Equal(shares, m.built) {
		m.built, m.ring = shares, newRing(m.size, walks(m.size, shares))
	}
}

func (m *maglev) update(_, list []*Server) { m.start(list) }

func (m *maglev) changed(s *Server) {
	if m.flags&Fallback != 0 {
		m.up.set(s.at, s.available())
	}
}

func (m *maglev) pick(list []*Server, c Client) *Server {
	if len(m.ring) == 0 {
		return nil
	}
	key := clientKey(&c, m.flags)
	slot := siphash(key, maglevKey1) % m.size
	if s := list[m.ring[slot]]; s.available() {
		return s
	}
	if len(m.up.members) == 0 {
		return nil
	}
	s, _, _ := m.fallback(list, key, slot)
	return s
}

// fallback finds another server, at another slot, for a key whose slot's takes none, and how many hashes it took; nil
// if there is none.
func (m *maglev) fallback(list []*Server, key, slot uint32) (s *Server, at uint32, hashes int) {
	// The kernel hashes anew with every offset there is, beginning with the slot. With a share p of the ring
	// available it takes 1/p hashes.
	for offset := slot; ; {
		hashes++
		at = siphash(key+offset, maglevKey1) % m.size
		if i := m.ring[at]; m.up.places[i] > 0 && list[i].available() {
			return list[i], at, hashes
		}
		if offset++; offset == m.size {
			offset = 0
		}
		if offset == slot {
			return nil, 0, hashes
		}
	}
}

// walk is how a server goes over a ring in search of free slots: it begins at offset, proceeds by skip, and
// takes so many slots each time that it has its turn.
type walk struct {
	offset, skip uint32
	turns        int
}

// walks are the servers' ways over a ring as the kernel's, each by two hashes of address and port.
func walks(size uint32, shares []share) []walk {
	divisor, largest := 0, 0
	for _, s := range shares {
		if s.weight > 0 {
			divisor, largest = gcd(s.weight, divisor), max(largest, s.weight)
		}
	}
	walks := make([]walk, len(shares))
	if divisor == 0 {
		return walks
	}
	// Weights of many bits are cut to half as many as the size has, so that a turn does not fill the ring.
	shift := max(0, bits.Len(uint(largest/divisor))-bits.Len32(size)/2)
	for i, s := range shares {
		key := fold(s.server.Address.Addr().As16()) + uint32(s.server.Address.Port())
		walks[i] = walk{offset: siphash(key, maglevKey1) % size, skip: siphash(key, maglevKey2)%(size-1) + 1}
		if s.weight > 0 {
			walks[i].turns = max(1, s.weight/divisor>>shift)
		}
	}
	return walks
}

// newRing fills a ring as in the paper on Maglev (NSDI 2016): the servers take turns, each taking the next
// free slots of its walk, until none is free. The size is a prime, so that every walk comes to every slot.
// The result has the index of each slot's walk; it is empty if nobody has turns.
func newRing(size uint32, walks []walk) []int32 {
	if !slices.ContainsFunc(walks, func(w walk) bool { return w.turns > 0 }) {
		return nil
	}
	ring, next := make([]int32, size), make([]uint32, len(walks))
	for i := range ring {
		ring[i] = -1
	}
	for i, w := range walks {
		next[i] = w.offset
	}
	for free := size; ; {
		for i, w := range walks {
			slot := next[i]
			for range w.turns {
				for ring[slot] >= 0 {
					if slot += w.skip; slot >= size {
						slot -= size
					}
				}
				ring[slot] = int32(i)
				if free--; free == 0 {
					return ring
				}
			}
			next[i] = slot
		}
	}
}
