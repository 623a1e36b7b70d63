package flow

import (
	"math/bits"
	"math/rand/v2"
	"net/netip"
)

// Mappings are one external address's: which of its ports stands for which inside endpoint, whatever
// that talks to (endpoint-independent mapping, RFC 4787 REQ-1) and whoever talks to it (REQ-8). Inside
// addresses that share a Mappings always appear with its one external address (REQ-2). For ICMP echo
// the identifier is the port (RFC 5508). Make it with NewMappings. Not safe for concurrent use.
type Mappings struct {
	external    [16]byte
	first, last uint16
	random      func(n int) int
	byInside    map[endpoint]*Mapping
	pools       map[uint8]*pool // by protocol
}

// Mapping is one external port that stands for one inside endpoint. It lives as long as somebody holds
// it, one hold per flow. Not safe for concurrent use.
type Mapping struct {
	of     *Mappings
	inside endpoint
	port   uint16
	holds  int
}

type endpoint struct {
	addr  [16]byte
	port  uint16
	proto uint8
}

// pool is a protocol's external ports.
type pool struct {
	taken  [1 << 16 / 64]uint64
	byPort map[uint16]*Mapping
}

// NewMappings makes an empty set for an external address and the ports from first to last. There are
// never more mappings than ports. random draws a number below n; nil is nobody's to guess.
func NewMappings(external netip.Addr, first, last uint16, random func(n int) int) *Mappings {
	if random == nil {
		random = rand.IntN
	}
	return &Mappings{
		external: external.As16(), first: first, last: last, random: random,
		byInside: map[endpoint]*Mapping{},
		pools:    map[uint8]*pool{},
	}
}

// Len is the number of mappings.
func (m *Mappings) Len() int { return len(m.byInside) }

// Acquire returns the inside endpoint's mapping, held once more, and makes it if there is none: at a
// random port (RFC 6056), without regard to parity. It fails with ErrPorts.
func (m *Mappings) Acquire(proto uint8, addr [16]byte, port uint16) (*Mapping, error) {
	inside := endpoint{addr: addr, port: port, proto: proto}
	if mp := m.byInside[inside]; mp != nil {
		mp.holds++
		return mp, nil
	}
	p := m.pool(proto)
	external, ok := p.pick(m.first, m.last, m.random)
	if !ok {
		return nil, ErrPorts
	}
	return m.set(p, inside, external), nil
}

// Readopt is Acquire for an endpoint that has had an external port before. It fails with ErrPorts where one of the two has
// another by now.
func (m *Mappings) Readopt(proto uint8, addr [16]byte, port, external uint16) (*Mapping, error) {
	inside := endpoint{addr: addr, port: port, proto: proto}
	p := m.pool(proto)
	switch mp := m.byInside[inside]; {
	case mp != nil && mp.port == external:
		mp.holds++
		return mp, nil
	case mp != nil, p.byPort[external] != nil, external < m.first, external > m.last:
		return nil, ErrPorts
	}
	return m.set(p, inside, external), nil
}

func (m *Mappings) pool(proto uint8) *pool {
	p := m.pools[proto]
	if p == nil {
		p = &pool{byPort: map[uint16]*Mapping{}}
		m.pools[proto] = p
	}
	return p
}

// set makes a mapping, held once.
func (m *Mappings) set(p *pool, inside endpoint, external uint16) *Mapping {
	mp := &Mapping{of: m, inside: inside, port: external, holds: 1}
	p.taken[external/64] |= 1 << (external % 64)
	p.byPort[external] = mp
	m.byInside[inside] = mp
	return mp
}

// ByExternal returns the mapping of an external port, or nil. It is not held for that.
func (m *Mappings) ByExternal(proto uint8, port uint16) *Mapping {
	if p := m.pools[proto]; p != nil {
		return p.byPort[port]
	}
	return nil
}

// Inside is the endpoint that the mapping stands for.
func (mp *Mapping) Inside() (addr [16]byte, port uint16) { return mp.inside.addr, mp.inside.port }

// External is where the outside finds it.
func (mp *Mapping) External() (addr [16]byte, port uint16) { return mp.of.external, mp.port }

// Hold keeps the mapping for one more flow.
func (mp *Mapping) Hold() { mp.holds++ }

// Release ends one hold; the last frees the port. Further ones do nothing: the port may be another's.
func (mp *Mapping) Release() {
	if mp.holds--; mp.holds != 0 {
		return
	}
	m, p := mp.of, mp.of.pools[mp.inside.proto]
	p.taken[mp.port/64] &^= 1 << (mp.port % 64)
	delete(p.byPort, mp.port)
	delete(m.byInside, mp.inside)
}

// pick chooses a free port: the next from a random place on (RFC 6056, algorithm 1).
func (p *pool) pick(first, last uint16, random func(n int) int) (port uint16, ok bool) {
	if first > last {
		return 0, false
	}
	start := first + uint16(random(int(last-first)+1))
	if port, ok = p.next(start, last); ok {
		return port, true
	}
	return p.next(first, start)
}

// next is the lowest free port of a range, found 64 at a time.
func (p *pool) next(first, last uint16) (port uint16, ok bool) {
	for word := int(first) / 64; word <= int(last)/64; word++ {
		free := ^p.taken[word]
		if word == int(first)/64 {
			free &^= 1<<(first%64) - 1
		}
		if free == 0 {
			continue
		}
		found := word*64 + bits.TrailingZeros64(free)
		return uint16(found), found <= int(last)
	}
	return 0, false
}
