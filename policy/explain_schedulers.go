package policy

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// cursorText is where a cursor is.
func cursorText(list []*Server, at int) string {
	if at == head {
		return "cursor at the head of the list"
	}
	return "cursor at " + list[at].Name
}

// afterText is what a server comes behind.
func afterText(list []*Server, at int) string {
	if at == head {
		return ""
	}
	return " after " + list[at].Name
}

func (r *roundRobin) describe(list []*Server, _ *Client, picked *Server) account {
	var turns []int
	a := account{state: cursorText(list, r.last), score: func(at int) string {
		if turns == nil {
			turns = r.turns(list)
		}
		if turns[at] == 0 {
			return ""
		}
		return "turn " + strconv.Itoa(turns[at])
	}}
	if picked != nil {
		a.why = picked.Name + " is next in turn" + afterText(list, r.last)
	}
	return a
}

// turns are in how many picks each server has its turn, 0 for one that has none.
func (r *roundRobin) turns(list []*Server) []int {
	turns, turn := make([]int, len(list)), 0
	for i := range list { // from the cursor on, and round
		if at := (r.last + 1 + i) % len(list); list[at].available() {
			turn++
			turns[at] = turn
		}
	}
	return turns
}

func (w *weightedRoundRobin) describe(list []*Server, c *Client, picked *Server) account {
	a := account{state: fmt.Sprintf("%s, current weight %d of max %d, gcd %d", cursorText(list, w.last), w.threshold, w.top, w.step)}
	// What matters is the weight of the walk that picks: it may be a later one.
	after := w.fork(c, itself).(*weightedRoundRobin)
	after.pick(list, *c)
	a.score = func(at int) string {
		switch s := list[at]; {
		case !s.available():
			return ""
		case s.Weight >= after.threshold:
			return fmt.Sprintf("weight %d >= %d", s.Weight, after.threshold)
		default:
			return fmt.Sprintf("weight %d < %d", s.Weight, after.threshold)
		}
	}
	switch {
	case picked == nil:
	case after.threshold == w.threshold && after.last > w.last:
		a.why = fmt.Sprintf("%s is the next%s whose weight of %d reaches the current %d", picked.Name, afterText(list, w.last), picked.Weight, w.threshold)
	default:
		a.why = fmt.Sprintf("a walk over the list ends: in the next, whose current weight is %d, %s is the first with such a weight: %d",
			after.threshold, picked.Name, picked.Weight)
	}
	return a
}

func (l *leastLoad) describe(list []*Server, _ *Client, picked *Server) account {
	a := account{score: func(at int) string {
		if !list[at].available() {
			return ""
		}
		return l.words(list[at])
	}}
	if picked == nil {
		a.why = "all servers that take new connections have more than they should"
		return a
	}
	equal, least := 0, l.load(picked)
	for _, s := range list {
		if of := l.measure(s); of != infinite && !least.less(of) {
			equal++
		}
	}
	a.why = picked.Name + " has " + l.least + ": " + l.words(picked)
	if equal > 1 {
		a.why += fmt.Sprintf("; it is the first of %d such in the list", equal)
	}
	return a
}

// Words of the loads, and what the least of them is called.
const (
	leastOverhead = "the fewest connections"
	leastPerUnit  = "the fewest connections for its weight"
	leastDelay    = "the least expected delay"
	leastFailover = "the highest weight"
)

func overheadWords(s *Server) string {
	return "active*256+inactive=" + strconv.FormatInt(s.Overhead(), 10)
}

func weightedWords(s *Server) string {
	return overheadWords(s) + " / weight " + strconv.Itoa(s.Weight)
}

func delayWords(s *Server) string {
	return "(active+1)=" + strconv.Itoa(s.Active+1) + " / weight " + strconv.Itoa(s.Weight)
}

func idleWords(s *Server) string {
	if s.Active == 0 {
		return "idle"
	}
	return delayWords(s)
}

func failoverWords(s *Server) string { return "weight " + strconv.Itoa(s.Weight) }

func overflowWords(s *Server) string {
	if s.Active > s.Weight {
		return fmt.Sprintf("full: %d active > weight %d", s.Active, s.Weight)
	}
	return fmt.Sprintf("weight %d, %d active", s.Weight, s.Active)
}

// sharesOf tells how many of the buckets or slots a server of n has.
func sharesOf(n int, buckets []int32, unit string) func(at int) string {
	var counts []int
	of := fmt.Sprintf(" of %d %s", len(buckets), unit)
	return func(at int) string {
		if counts == nil {
			counts = make([]int, n)
			for _, at := range buckets {
				counts[at]++
			}
		}
		return strconv.Itoa(counts[at]) + of
	}
}

// found is where a hash has led: to a bucket, and with another one on by falling back.
func found(key string, unit string, home *Server, picked *Server, further string) string {
	why := fmt.Sprintf("the hash of %s leads to %s's %s", key, home.Name, unit)
	switch {
	case picked == nil && further == "":
		return why + ", which refuses: it takes no new connections, and there is no fallback"
	case picked != nil && picked != home:
		return why + "; it takes no new connections, so the fallback goes on " + further
	}
	return why
}

func (d *destinationHash) describe(list []*Server, c *Client, picked *Server) account {
	if len(list) == 0 {
		return account{}
	}
	key := fold(c.Dst)
	home := list[d.buckets[bucket(key)]]
	return account{
		state: fmt.Sprintf("hash %#x, bucket %d of %d -> %s", multiplied(key), bucket(key), len(d.buckets), home.Name),
		why:   found(addressText(c.Dst), "bucket", home, picked, ""),
		score: sharesOf(len(list), d.buckets[:], "buckets"),
	}
}

func (h *sourceHash) describe(list []*Server, c *Client, picked *Server) account {
	if len(list) == 0 {
		return account{}
	}
	key := clientKey(c, h.flags)
	first := bucket(key)
	home := list[h.buckets[first]]
	a := account{
		state: fmt.Sprintf("hash %#x, bucket %d of %d -> %s", multiplied(key), first, len(h.buckets), home.Name),
		score: sharesOf(len(list), h.buckets[:], "buckets"),
	}
	further := ""
	if picked != nil && picked != home {
		taken := h.next(2 * first)
		further = fmt.Sprintf("to bucket %d, %s's", taken, picked.Name)
		a.state += fmt.Sprintf(", fallback: bucket %d -> %s", taken, picked.Name)
	}
	a.why = found(clientText(c, h.flags), "bucket", home, picked, further)
	return a
}

func (m *maglev) describe(list []*Server, c *Client, picked *Server) account {
	a := account{score: func(int) string { return "" }}
	if len(m.ring) == 0 {
		return a
	}
	key := clientKey(c, m.flags)
	hash := siphash(key, maglevKey1)
	slot := hash % m.size
	home := list[m.ring[slot]]
	a.state = fmt.Sprintf("hash %#x, slot %d of %d -> %s", hash, slot, m.size, home.Name)
	a.score = sharesOf(len(list), m.ring, "slots")
	further := ""
	if picked != nil && picked != home {
		_, at, hashes := m.fallback(list, key, slot)
		further = fmt.Sprintf("to slot %d, %s's, after %s", at, picked.Name, countedHashes(hashes))
		a.state += fmt.Sprintf(", fallback: slot %d -> %s", at, picked.Name)
	}
	a.why = found(clientText(c, m.flags), "slot", home, picked, further)
	return a
}

func countedHashes(n int) string {
	if n == 1 {
		return "1 more hash"
	}
	return strconv.Itoa(n) + " more hashes"
}

func addressText(a [16]byte) string { return netip.AddrFrom16(a).Unmap().String() }

// clientText is what clientKey is of.
func clientText(c *Client, flags Flags) string {
	if flags&HashPort != 0 {
		return netip.AddrPortFrom(netip.AddrFrom16(c.Src).Unmap(), c.SrcPort).String()
	}
	return addressText(c.Src)
}

func (t *twoChoices) describe(list []*Server, _ *Client, picked *Server) account {
	f := *t
	a, b := f.draw(list)
	return drawn(list, a, b, picked)
}

func (t *twoWeighted) describe(list []*Server, _ *Client, picked *Server) account {
	if t.sums[1] == 0 {
		return drawn(list, nil, nil, nil)
	}
	f := *t
	return drawn(list, list[f.draw()], list[f.draw()], picked)
}

// drawn tells of two servers that were drawn.
func drawn(list []*Server, a, b, picked *Server) account {
	x := account{score: func(at int) string {
		switch s := list[at]; {
		case s == a || s == b:
			return "drawn: " + weightedWords(s)
		case s.available():
			return "not drawn"
		}
		return ""
	}}
	if a == nil {
		return x
	}
	x.state = "draws " + a.Name + " and " + b.Name
	switch {
	case picked == nil:
	case a == b:
		x.state, x.why = "draws "+a.Name+" twice", picked.Name+" was drawn twice"
		if len(list) == 1 {
			x.state, x.why = "draws "+a.Name, picked.Name+" is the only server"
		}
	case picked == a && !weightedConnections(a).less(weightedConnections(b)):
		x.why = fmt.Sprintf("of the two drawn, %s and %s, which have equally many connections for their weights, %[1]s is the first", a.Name, b.Name)
	default:
		x.why = fmt.Sprintf("of the two drawn, %s and %s, %s has fewer connections for its weight", a.Name, b.Name, picked.Name)
	}
	return x
}

func (l *locality) describe(list []*Server, c *Client, picked *Server) account {
	f := l.fork(c, itself).(*locality)
	dst := addressText(c.Dst)
	d := f.find(c.Dst, c.Now)
	a := f.wlc.describe(list, c, picked)
	if d == nil {
		a.state = dst + " has had no server lately"
		a.why = dst + " is new, so wlc decides: " + a.why
		return a
	}
	var names []string
	for _, s := range d.servers {
		names = append(names, s.Name)
	}
	a.state = fmt.Sprintf("%s was last with %s, %v ago", dst, strings.Join(names, ", "), (c.Now - d.used).Round(1e9))
	had := d.least()
	switch {
	case picked == nil:
	case had == nil:
		a.why = fmt.Sprintf("what %s was with takes no new connections, so wlc decides: %s", dst, a.why)
	case l.keeps(had):
		a.why = fmt.Sprintf("%s has had %s before", picked.Name, dst)
	default:
		a.why = fmt.Sprintf("%s has more active connections than its weight, and others have less than half of theirs, so wlc decides: %s", had.Name, a.why)
	}
	return a
}
