package policy

import (
	"math/big"
	"slices"
	"time"
)

// The oracles say what each scheduler must pick by going over the whole list each time, as IPVS does. Those
// of schedulers with a cursor look at the state in front of the pick.

// place is a position in wrr's period; rr's has one threshold.
type position struct{ threshold, last int }

// walkOracle writes out the rest of wrr's period and all of it until the position comes round. It also gives
// the position afterwards.
func walkOracle(list []*Server, at position, top, step int) (*Server, position) {
	if top == 0 {
		return nil, at
	}
	begin := at
	for range (top/step + 2) * (len(list) + 1) {
		at.last++
		if at.last == len(list) {
			at.last = head
			if at.threshold -= step; at.threshold <= 0 {
				at.threshold = top
			}
			continue
		}
		if s := list[at.last]; s.Weight >= at.threshold && s.available() {
			return s, at
		}
	}
	if begin.last != head && begin.threshold <= step {
		return nil, begin
	}
	return nil, position{top, head}
}

// leastOracle compares exact fractions. A nil one is infinite.
func leastOracle(list []*Server, load func(*Server) *big.Rat) (least *Server) {
	var l *big.Rat
	for _, s := range list {
		if !s.available() {
			continue
		}
		if m := load(s); m != nil && (least == nil || m.Cmp(l) < 0) {
			least, l = s, m
		}
	}
	return least
}

var loadOracles = map[string]func(s *Server) *big.Rat{
	"lc":  func(s *Server) *big.Rat { return big.NewRat(int64(s.Active*256+s.Inactive), 1) },
	"wlc": func(s *Server) *big.Rat { return big.NewRat(int64(s.Active*256+s.Inactive), int64(s.Weight)) },
	"sed": func(s *Server) *big.Rat { return big.NewRat(int64(s.Active+1), int64(s.Weight)) },
	"nq": func(s *Server) *big.Rat {
		if s.Active == 0 {
			return new(big.Rat)
		}
		return big.NewRat(int64(s.Active+1), int64(s.Weight))
	},
	"fo": func(s *Server) *big.Rat { return big.NewRat(int64(-s.Weight), 1) },
	"ovf": func(s *Server) *big.Rat {
		if s.Active > s.Weight {
			return nil
		}
		return big.NewRat(int64(-s.Weight), 1)
	},
}

// word is an address as hashes take it, by its bytes.
func word(addr [16]byte) (w uint32) {
	skip := 0
	if slices.Equal(addr[:12], []byte{10: 0xff, 11: 0xff}) {
		skip = 12
	}
	for i, b := range addr[skip:] {
		w ^= uint32(b) << (24 - i%4*8)
	}
	return w
}

func clientWord(c Client, flags Flags) uint32 {
	if flags&HashPort != 0 {
		return word(c.Src) + uint32(c.SrcPort)
	}
	return word(c.Src)
}

// bucketOracle deals 256 cards to the servers, each taking so many at a time.
func bucketOracle(list []*Server, key uint32, fallback bool, times func(*Server) int) *Server {
	if len(list) == 0 {
		return nil
	}
	var table []*Server
	for len(table) < 256 {
		for _, s := range list {
			for range min(max(1, times(s)), 256) {
				table = append(table, s)
			}
		}
	}
	hash := int(key*0x61C88647) & (1<<32 - 1) >> 24
	if s := table[hash]; s.available() {
		return s
	}
	for offset := 0; fallback && offset < 256; offset++ {
		if s := table[((offset+hash)%256+hash)%256]; s.available() {
			return s
		}
	}
	return nil
}

// ringOracle has a preference list of all slots for each server, as the paper has.
func ringOracle(list []*Server, size int) []*Server {
	divisor, largest := 0, 0
	for _, s := range list {
		divisor = int(new(big.Int).GCD(nil, nil, big.NewInt(int64(divisor)), big.NewInt(int64(s.lastWeight))).Int64())
		largest = max(largest, s.lastWeight)
	}
	if largest == 0 {
		return nil
	}
	bits := 6 // of 4093's 12
	if size == 65537 {
		bits = 8
	}
	cut := 1
	for largest/divisor/cut >= 1<<bits {
		cut *= 2
	}
	ring, preferences, free := make([]*Server, size), make([][]int, len(list)), size
	for i, s := range list {
		key := word(s.Address.Addr().As16()) + uint32(s.Address.Port())
		offset, skip := int(siphash(key, 2654435761))%size, int(siphash(key, 2654446892))%(size-1)+1
		for j := range size {
			preferences[i] = append(preferences[i], (offset+j*skip)%size)
		}
	}
	for {
		for i, s := range list {
			turns := s.lastWeight / divisor / cut
			if turns == 0 && s.lastWeight > 0 {
				turns = 1
			}
			for ; turns > 0; turns-- {
				for ring[preferences[i][0]] != nil {
					preferences[i] = preferences[i][1:]
				}
				ring[preferences[i][0]] = s
				if free--; free == 0 {
					return ring
				}
			}
		}
	}
}

func maglevOracle(ring []*Server, key uint32, fallback bool) *Server {
	if ring == nil {
		return nil
	}
	hash := siphash(key, 2654435761) % 4093
	if s := ring[hash]; s.available() {
		return s
	}
	for offset := uint32(0); fallback && offset < 4093; offset++ {
		if s := ring[siphash((offset+hash)%4093+key, 2654435761)%4093]; s.available() {
			return s
		}
	}
	return nil
}

// cacheOracle is lblc's or lblcr's cache with sets as the kernel has them.
type cacheOracle map[byte]*cached

type cached struct {
	set            []*Server
	used, modified time.Duration
}

func (o cacheOracle) forget() {
	for k, c := range o {
		c.set = slices.DeleteFunc(c.set, func(s *Server) bool { return s.Deleted })
		if len(c.set) == 0 {
			delete(o, k)
		}
	}
}

func (o cacheOracle) pick(list []*Server, dst byte, now time.Duration, replicate bool) *Server {
	c := o[dst]
	if c != nil && now >= c.used+24*time.Hour {
		delete(o, dst)
		c = nil
	}
	if c != nil {
		c.used = now
		s := leastOracle(c.set, loadOracles["wlc"])
		if len(c.set) > 1 && now > c.modified+24*time.Hour {
			var most *Server
			for _, m := range c.set {
				if m.Weight > 0 && (most == nil || loadOracles["wlc"](m).Cmp(loadOracles["wlc"](most)) > 0) {
					most = m
				}
			}
			if most != nil {
				c.set = slices.DeleteFunc(c.set, func(s *Server) bool { return s == most })
				c.modified = now
			}
		}
		relief := slices.ContainsFunc(list, func(s *Server) bool { return s.Active*2 < s.Weight && !s.unreachable })
		if s != nil && (s.Active <= s.Weight || !relief) {
			return s
		}
	}
	s := leastOracle(list, loadOracles["wlc"])
	switch {
	case s == nil:
	case c == nil:
		o[dst] = &cached{[]*Server{s}, now, now}
	case !replicate:
		c.set[0] = s
	case !slices.Contains(c.set, s):
		c.set, c.modified = slices.Concat([]*Server{s}, c.set), now
	}
	return s
}
