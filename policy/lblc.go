package policy

import (
	"slices"
	"time"
)

// Bounds of the cache of lblc and lblcr: the kernel's, but for destinations in use it has no upper one.
const (
	localityExpiry = 24 * time.Hour  // of a destination that nobody asks for, and for a set to shrink
	localityIdle   = 6 * time.Minute // after which a destination goes when the cache is full
	localitySweep  = time.Minute     // at least, between two searches for such
	localityFull   = 16384
)

// locality sends all that is for one destination to the server that has had it before: a cache of web pages,
// say, which then has them. New destinations get wlc's server. So does an old one whose server is not
// available, or has more active connections than its weight while another has less than half of its own.
// In lblc that server takes the place of the first; in lblcr it joins it in the destination's set, of which
// the least loaded is picked, and which loses its most loaded server when it has not changed for a day.
type locality struct {
	wlc       leastLoad
	replicate bool
	spare     pool // servers with less than half as many active connections as their weight
	cache     map[[16]byte]*destination
	swept     time.Duration
}

// destination is one entry of the cache.
type destination struct {
	servers  []*Server     // never empty; the last that joined is first. One in lblc
	used     time.Duration // last
	modified time.Duration // the set, last
}

func newLocality(replicate bool) *locality {
	return &locality{replicate: replicate, wlc: leastLoad{load: weightedConnections, words: weightedWords, least: leastPerUnit}, cache: make(map[[16]byte]*destination)}
}

func (l *locality) start(list []*Server) { l.update(nil, list) }

// update forgets deleted servers.
func (l *locality) update(_, list []*Server) {
	l.wlc.start(list)
	l.spare = newPool(list, spare)
	for addr, d := range l.cache {
		d.servers = slices.DeleteFunc(d.servers, func(s *Server) bool { return s.Deleted })
		if len(d.servers) == 0 {
			delete(l.cache, addr)
		}
	}
}

func (l *locality) changed(s *Server) {
	l.wlc.changed(s)
	l.spare.set(s.at, spare(s))
}

// spare says whether the server has room for what others have too much of. As in the kernel that goes for one
// above its upper threshold, too.
func spare(s *Server) bool { return 2*s.Active < s.Weight && !s.unreachable }

func (l *locality) pick(list []*Server, c Client) *Server {
	d := l.find(c.Dst, c.Now)
	if d != nil {
		d.used = c.Now
		s := d.least()
		if len(d.servers) > 1 && c.Now-d.modified > localityExpiry {
			d.shrink(c.Now)
		}
		if s != nil && l.keeps(s) {
			return s
		}
	}
	s := l.wlc.pick(list, c)
	if s == nil {
		return nil
	}
	switch {
	case d == nil:
		l.add(c.Dst, s, c.Now)
	case !l.replicate:
		d.servers[0] = s
	case !slices.Contains(d.servers, s):
		d.servers, d.modified = slices.Insert(d.servers, 0, s), c.Now
	}
	return s
}

// keeps says whether the server goes on with what it has had.
func (l *locality) keeps(s *Server) bool {
	return s.Active <= s.Weight || len(l.spare.members) == 0
}

// find looks for what is known of an address, nil if it is nothing or too old.
func (l *locality) find(addr [16]byte, now time.Duration) *destination {
	d := l.cache[addr]
	if d != nil && now-d.used >= localityExpiry {
		delete(l.cache, addr)
		return nil
	}
	return d
}

// add remembers a server for an address, if there is room or can be made.
func (l *locality) add(addr [16]byte, s *Server, now time.Duration) {
	if len(l.cache) >= localityFull && now-l.swept >= localitySweep {
		l.swept = now
		for a, d := range l.cache {
			if now-d.used >= localityIdle {
				delete(l.cache, a)
			}
		}
	}
	if len(l.cache) < localityFull {
		l.cache[addr] = &destination{servers: []*Server{s}, used: now, modified: now}
	}
}

// least is the least loaded available server of the set, of equal ones the first; nil if there is none.
func (d *destination) least() (least *Server) {
	for _, s := range d.servers {
		if s.available() && (least == nil || lighter(least, s) == s) {
			least = s
		}
	}
	return least
}

// shrink takes the most loaded server out of the set, of equal ones the first. Quiesced ones stay.
func (d *destination) shrink(now time.Duration) {
	most := -1
	for i, s := range d.servers {
		if s.Weight > 0 && (most < 0 || weightedConnections(d.servers[most]).less(weightedConnections(s))) {
			most = i
		}
	}
	if most >= 0 {
		d.servers, d.modified = slices.Delete(d.servers, most, most+1), now
	}
}
