package tunlb

import (
	"time"

	"github.com/tunlb/tunlb/stack/packet"
)

// What a segment remembers of its stations (IEEE 802.1D, 7.9): the kernel's bridge ages by the same time.
const (
	maxStations = 16384
	stationLife = 5 * time.Minute
)

// stations is a segment's MAC table: behind which port a station was heard last, and when. It learns no
// more than maxStations; frames to others go to all ports. Guarded by the engine's lock.
type stations map[packet.MAC]*station

type station struct {
	port uint8
	seen time.Duration
}

// learn notes a frame from mac, and says whether that station was heard at another port last. It allocates
// only for stations not heard of before.
func (s stations) learn(mac packet.MAC, port uint8, now time.Duration) (moved bool) {
	if st := s[mac]; st != nil {
		moved = st.port != port
		st.port, st.seen = port, now
	} else if len(s) < maxStations {
		s[mac] = &station{port, now}
	}
	return moved
}

// port finds where a station was heard last.
func (s stations) port(mac packet.MAC) (port uint8, ok bool) {
	if st := s[mac]; st != nil {
		return st.port, true
	}
	return 0, false
}

// heard says when.
func (s stations) heard(mac packet.MAC) (time.Duration, bool) {
	if st := s[mac]; st != nil {
		return st.seen, true
	}
	return 0, false
}

// expire forgets those not heard for long.
func (s stations) expire(now time.Duration) {
	for mac, st := range s {
		if now-st.seen > stationLife {
			delete(s, mac)
		}
	}
}
