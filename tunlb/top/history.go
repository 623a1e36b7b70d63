package top

import (
	"net/netip"
	"time"

	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/control"
)

// key names a service, or one of its servers, from one status to the next. The zero value names nothing.
type key struct {
	service string
	server  netip.AddrPort // zero: the service itself
	sorry   bool           // the server of last resort, which may have the address of another
}

// rates are per second, of what came in from clients and went out to them. Valid iff known.
type rates struct {
	known          bool
	conns, in, out float64 // in and out are bytes
}

// history makes rates of counters. The zero value is ready. Not safe for concurrent use.
type history struct {
	at     time.Time // of the last status
	round  uint64
	meters map[key]*meter
	drops  map[string]*dropMeter
	total  rates
	spark  spark // of the total
	// busiest is the part of its processor that the busiest lane has used; 0: not known.
	busiest float64
	cpu     []time.Duration // of each lane
}

// meter follows the counters of a service or a server.
type meter struct {
	last  tunlb.Traffic
	rates rates
	spark spark
	round uint64 // in which it was seen last
}

// dropMeter follows one reason's counter.
type dropMeter struct {
	last  uint64
	rate  float64
	known bool
	round uint64
}

// add takes a status into account. What was not there before has no rate yet, and neither has a counter that went
// back: its daemon has started anew, and how much it has counted in between nobody knows.
func (h *history) add(at time.Time, s *control.Status) {
	if h.meters == nil {
		h.meters, h.drops = map[key]*meter{}, map[string]*dropMeter{}
	}
	first := h.at.IsZero()
	span := at.Sub(h.at)
	if !first && span <= 0 {
		return
	}
	h.round++
	h.total = rates{known: !first}
	for i := range s.Services {
		svc := &s.Services[i]
		r := h.meter(key{service: svc.Name}).add(h.at, at, svc.Traffic, h.round)
		if r.known {
			h.total.conns, h.total.in, h.total.out = h.total.conns+r.conns, h.total.in+r.in, h.total.out+r.out
		}
		for k := range svc.Servers {
			srv := &svc.Servers[k]
			h.meter(keyOf(svc, srv)).add(h.at, at, srv.Traffic, h.round)
		}
	}
	if h.total.known {
		h.spark.add(h.at, at, (h.total.in+h.total.out)*span.Seconds())
	}
	h.addDrops(s.Drops, span, first)
	h.addLanes(s.Ports, span)
	for k, m := range h.meters {
		if m.round != h.round {
			delete(h.meters, k)
		}
	}
	h.at = at
}

// addDrops knows that a reason that was not listed has not happened: its first packets count.
func (h *history) addDrops(drops map[string]uint64, span time.Duration, first bool) {
	for reason, n := range drops {
		d := h.drops[reason]
		if d == nil {
			d = &dropMeter{known: !first}
			h.drops[reason] = d
		}
		d.rate = 0
		if d.known && n > d.last {
			d.rate = float64(n-d.last) / span.Seconds()
		}
		d.last, d.known, d.round = n, true, h.round
	}
	for reason, d := range h.drops {
		if d.round != h.round {
			delete(h.drops, reason)
		}
	}
}

func (h *history) addLanes(ports []tunlb.PortStatus, span time.Duration) {
	h.busiest = 0
	same := len(ports) == len(h.cpu)
	if !same {
		h.cpu = make([]time.Duration, len(ports))
	}
	for i := range ports {
		if same {
			h.busiest = max(h.busiest, float64(ports[i].CPU-h.cpu[i])/float64(span))
		}
		h.cpu[i] = ports[i].CPU
	}
}

func (h *history) meter(k key) *meter {
	m := h.meters[k]
	if m == nil {
		m = &meter{}
		h.meters[k] = m
	}
	return m
}

// of is a service's or a server's meter, never nil.
func (h *history) of(k key) *meter {
	if m := h.meters[k]; m != nil {
		return m
	}
	return &meter{}
}

// dropRate is the sum over all reasons.
func (h *history) dropRate() (sum float64) {
	for _, d := range h.drops {
		sum += d.rate
	}
	return sum
}

func (m *meter) add(from, to time.Time, t tunlb.Traffic, round uint64) rates {
	seen := m.round != 0 && !from.IsZero()
	back := t.Conns < m.last.Conns || t.InBytes < m.last.InBytes || t.OutBytes < m.last.OutBytes
	was := m.last
	m.last, m.round, m.rates = t, round, rates{}
	if !seen || back {
		return m.rates
	}
	in, out := float64(t.InBytes-was.InBytes), float64(t.OutBytes-was.OutBytes)
	seconds := to.Sub(from).Seconds()
	m.rates = rates{true, float64(t.Conns-was.Conns) / seconds, in / seconds, out / seconds}
	m.spark.add(from, to, in+out)
	return m.rates
}

// keyOf names a server.
func keyOf(svc *tunlb.ServiceStatus, srv *tunlb.ServerStatus) key {
	return key{svc.Name, srv.Address, srv.Sorry}
}

// minute is how far a spark goes back, in seconds.
const minute = 60

// spark holds what has passed in each second of the last minute. The zero value is ready.
type spark struct {
	bins   [minute + 1]float32 // by Unix time, modulo
	newest int64               // second that was added to last; 0: none yet
}

// add spreads an amount evenly over the time in which it passed.
func (s *spark) add(from, to time.Time, amount float64) {
	span := to.Sub(from).Seconds()
	if span <= 0 {
		return
	}
	last := to.Unix()
	first := max(from.Unix(), last-minute)
	for sec := first; sec <= last; sec++ {
		bin := &s.bins[sec%int64(len(s.bins))]
		if sec > s.newest {
			*bin = 0
		}
		begin, end := time.Unix(sec, 0), time.Unix(sec+1, 0)
		if begin.Before(from) {
			begin = from
		}
		if end.After(to) {
			end = to
		}
		if part := end.Sub(begin).Seconds(); part > 0 {
			*bin += float32(amount * part / span)
		}
	}
	s.newest = max(s.newest, last)
}

// columns are the means per second of the whole seconds before now, oldest first, in n columns of equal length. They
// keep to the clock, so that a column that is full stays as it is while it moves to the left.
func (s *spark) columns(now time.Time, n int) []float64 {
	if n <= 0 {
		return nil
	}
	each := int64((minute + n - 1) / n) // seconds in a column
	sums, end := make([]float64, n), now.Unix()
	last := (end - 1) / each // number of the newest column
	for i := range n {
		column := last - int64(n-1-i)
		seconds := 0
		for sec := max(column*each, end-minute); sec < min((column+1)*each, end); sec++ {
			if sec <= s.newest && sec > s.newest-int64(len(s.bins)) {
				sums[i] += float64(s.bins[sec%int64(len(s.bins))])
			}
			seconds++
		}
		if seconds > 0 {
			sums[i] /= float64(seconds)
		}
	}
	return sums
}
