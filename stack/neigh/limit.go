package neigh

import (
	"hash/maphash"
	"time"

	"github.com/tunlb/tunlb/stack/packet"
)

// bucket is a token bucket as a single time: that at which it will be full again (GCRA). The zero value
// is a full one.
type bucket time.Duration

// take takes one of burst tokens, of which one comes back every interval.
func (b *bucket) take(now, interval time.Duration, burst int) bool {
	full := max(time.Duration(*b), now)
	if full-now > interval*time.Duration(burst-1) {
		return false
	}
	*b = bucket(full + interval)
	return true
}

const (
	answerInterval = time.Second / 50 // answers to one station
	answerBurst    = 20
	newInterval    = time.Second / 200 // neighbours asked for, or learnt
	newBurst       = 200
	reportBurst    = 16 // events about conflicts, then one a second
	reseed         = 10 * time.Second
)

// limiter bounds the answers by station, so that a storm from one leaves the others theirs. Stations
// share 256 buckets by a random hash; the seed changes, so that nobody shares one with a storm for long.
type limiter struct {
	buckets [256]bucket
	seed    maphash.Seed
	seeded  time.Duration
	fixed   uint64 // instead of seed, unless it is 0
}

func (l *limiter) allow(mac packet.MAC, now time.Duration) bool {
	if now-l.seeded >= reseed {
		l.seed, l.seeded = maphash.MakeSeed(), now
	}
	return l.buckets[l.hash(mac)].take(now, answerInterval, answerBurst)
}

func (l *limiter) hash(mac packet.MAC) uint8 {
	if l.fixed == 0 {
		return uint8(maphash.Bytes(l.seed, mac[:]))
	}
	h := l.fixed + uint64(l.seeded)
	for _, b := range mac {
		h = (h ^ uint64(b)) * 0x100000001b3 // FNV-1a
	}
	return uint8(h >> 32)
}
