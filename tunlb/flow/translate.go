package flow

import (
	"encoding/binary"
	"hash/fnv"

	"github.com/tunlb/tunlb/stack/packet"
)

// portProbes bounds the search for a source port: at nine ports in ten taken for one server, one
// search in 700 000 fails.
const portProbes = 128

// InsertTranslated adds a flow whose source is translated: inner has the local source address, and the
// source port (the identifier of an ICMP echo) is chosen: the client's own if it is in the range and
// free, else a random one from first to last. Beyond Insert's errors, it fails with ErrPorts.
func (t *Table) InsertTranslated(outer, inner packet.Tuple, first, last uint16, now Tick) (*Flow, error) {
	outerHash := t.index.hash(&outer)
	if t.known(&outer, outerHash) {
		t.stats.Collisions++
		return nil, ErrCollision
	}
	inner.SrcPort = outer.SrcPort
	free := first <= outer.SrcPort && outer.SrcPort <= last
	// Keyed by the index's seed, the sequence cannot be told from outside (RFC 6056). It is Knuth's
	// linear congruential one, whose upper bits are good enough to spread ports.
	random := outerHash
	if t.seed != 0 {
		random = t.draw(&outer)
	}
	for probe := 0; ; probe++ {
		answer := inner.Reverse()
		if free && outer != answer {
			if hash := t.index.hash(&answer); !t.known(&answer, hash) {
				return t.insert(&outer, &inner, outerHash, hash, 0, now)
			}
		}
		if probe == portProbes || first > last {
			t.stats.PortsExhausted++
			return nil, ErrPorts
		}
		random = random*6364136223846793005 + 1442695040888963407
		inner.SrcPort, free = portAt(first, last, probe, random), true
	}
}

// draw is what the seed makes of a tuple, for runs that are to be repeated: anybody can tell it.
func (t *Table) draw(tu *packet.Tuple) uint64 {
	h := fnv.New64a()
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], t.seed)
	h.Write(b[:])
	h.Write(tu.Src[:])
	h.Write(tu.Dst[:])
	h.Write([]byte{tu.Proto, byte(tu.SrcPort), byte(tu.SrcPort >> 8), byte(tu.DstPort), byte(tu.DstPort >> 8)})
	return h.Sum64()
}

// portAt is the port to probe. A range that is small enough is gone through one by one, so that
// none is missed.
func portAt(first, last uint16, probe int, random uint64) uint16 {
	size := uint64(last-first) + 1
	if size <= portProbes {
		return first + uint16(uint64(probe)%size)
	}
	return first + uint16(random>>32*size>>32)
}
