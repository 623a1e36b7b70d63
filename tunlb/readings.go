package tunlb

import (
	"slices"
	"time"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb/flow"
)

// What the kernel carries is read from time to time: its counts are added to the flows' and their servers', idle times
// become theirs, and flows that the kernel should carry no longer are taken back.

const (
	// readPeriod is how often at least, as long as a reading takes no more than one part in readShare of the time: the
	// kernel takes 4 µs to tell of a connection. Timeouts may be shorter: a flow that is carried
	// does not expire, a reading finds it silent.
	readPeriod = 2 * time.Second
	readShare  = 20
	// hurriedPeriod is how often at most, when something asks for it.
	hurriedPeriod = 200 * time.Millisecond
	// freshness is how old what status and conns show may be, and patience how long they wait for a reading.
	freshness = time.Second
	patience  = 250 * time.Millisecond
)

// demand is for readings that somebody wants before it is time. Guarded by the engine's lock.
type demand struct {
	running bool
	wanted  bool
	done    chan struct{} // closed when the next reading is over
	last    time.Duration // when the last one was
}

func (d *demand) start(e *Engine) {
	e.mu.Lock()
	defer e.mu.Unlock()
	d.running, d.done = true, make(chan struct{})
}

func (d *demand) stop(e *Engine) {
	e.mu.Lock()
	defer e.mu.Unlock()
	d.running = false
	close(d.done)
}

// take says whether a reading is wanted, once.
func (d *demand) take(e *Engine) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	wanted := d.wanted
	d.wanted = false
	return wanted
}

// over is told when a reading is.
func (d *demand) over(e *Engine) {
	e.mu.Lock()
	defer e.mu.Unlock()
	d.last = e.now()
	if d.running {
		close(d.done)
		d.done = make(chan struct{})
	}
}

// reviewLocked has all flows looked at soon: what is configured, or known of servers, has changed.
func (c *carrier) reviewLocked() {
	if c.stats.Carried > 0 {
		c.demand.wanted = true
		c.rouseLocked()
	}
}

// refresh waits until what the kernel has counted is known as it was lately, if that does not take long.
func (c *carrier) refresh() {
	e := c.engine
	e.mu.Lock()
	d := &c.demand
	if !d.running || c.stats.Carried == 0 || e.now()-d.last < freshness {
		e.mu.Unlock()
		return
	}
	done := d.done
	c.reviewLocked()
	e.mu.Unlock()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-done:
	case <-late.C:
	}
}

// pause is how long to wait for the next reading, period at least.
func (c *carrier) pause(period time.Duration) time.Duration { return max(period, readShare*c.cost) }

// readAll reads once.
func (c *carrier) readAll() {
	start := time.Now()
	c.reading++
	c.counted = c.counted[:0]
	err := c.path.Usage(func(u Usage) {
		if c.counted = append(c.counted, u); len(c.counted) == bundle {
			c.count()
		}
	})
	c.count()
	c.failed("read what the kernel carries", err)
	var some []*carriedConn
	for _, conn := range c.conns {
		if some = append(some, conn); len(some) == bundle {
			c.release(c.judge(some, err == nil))
			some = some[:0]
		}
	}
	c.release(c.judge(some, err == nil))
	c.read = time.Now()
	c.cost = c.read.Sub(start)
	c.demand.over(c.engine)
}

// count takes in what has been read so far.
func (c *carrier) count() {
	c.engine.mu.Lock()
	defer c.engine.mu.Unlock()
	c.countLocked()
}

// countLocked adds what was counted since the reading before.
func (c *carrier) countLocked() {
	for i := range c.counted {
		u := &c.counted[i]
		conn, d := c.conns[u.Outer], u.Direction&1
		if conn == nil {
			continue
		}
		conn.reading, conn.stale = c.reading, conn.stale || u.Stale
		if u.Packets < conn.packets[d] || u.Bytes < conn.bytes[d] {
			conn.packets[d], conn.bytes[d] = 0, 0 // begun anew
		}
		packets, bytes := u.Packets-conn.packets[d], u.Bytes-conn.bytes[d]
		conn.packets[d], conn.bytes[d] = u.Packets, u.Bytes
		c.stats.Packets += packets
		c.stats.Bytes += bytes
		if f := c.findLocked(&conn.Carried); f != nil {
			c.engine.flows.Used(f, d, bytes, flow.Tick(min(u.Idle, flow.MaxTimeout)/time.Millisecond), c.engine.tick())
		}
		switch {
		case conn.srv == nil || packets == 0:
		case d == flow.Reverse:
			conn.srv.CountOut(packets, bytes)
		default:
			conn.srv.CountIn(packets, bytes)
		}
	}
	c.counted = c.counted[:0]
}

// judge lists those of the connections that the kernel is to carry no longer. read: what it carries is known.
func (c *carrier) judge(conns []*carriedConn, read bool) (back []Carried) {
	e := c.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	c.retries = retries
	now := e.tick()
	for _, conn := range conns {
		f := c.findLocked(&conn.Carried)
		switch {
		case f == nil || f.Carriage() != flow.ByKernel: // has been taken back, or is gone
		case c.staysLocked(f, conn, now, read):
			conn.readings++
			continue
		default:
			c.unmarkLocked(f)
		}
		back = append(back, conn.Carried)
	}
	return back
}

// staysLocked says whether the kernel is to go on carrying the flow.
func (c *carrier) staysLocked(f *flow.Flow, conn *carriedConn, now flow.Tick, read bool) bool {
	srv := c.engine.services.Server(f.Server())
	c.provenLocked(f, conn)
	switch {
	case srv == nil || !takesNew(srv), conn.stale:
	case read && conn.reading != c.reading: // the kernel knows nothing of it
	case read && c.engine.flows.Silent(f, now): // it expires when it is ours
	case conn.halfOpen && conn.readings > 0:
		// Half-open for longer than between two readings. If it lives its next segments prove it, which the
		// kernel can't judge, and it is handed over again.
	default:
		return true
	}
	return false
}

// carriedLocked is how many connections to a server the kernel carries.
func (e *Engine) carriedLocked(srv *policy.Server) int {
	if e.carrier == nil {
		return 0
	}
	return e.carrier.byServer[srv.ID]
}

// fastpathLocked is nil where no service wants it, nor has wanted it.
func (e *Engine) fastpathLocked() *FastpathStatus {
	wants := func(s policy.Spec) bool { return s.Fastpath }
	if e.carrier == nil || e.carrier.stats.HandedOver == 0 && !slices.ContainsFunc(e.config.Services, wants) {
		return nil
	}
	s := e.carrier.stats
	s.HalfOpen = e.carrier.halfOpen
	for r, n := range e.carrier.refused {
		if n > 0 {
			if s.Refused == nil {
				s.Refused = map[string]uint64{}
			}
			s.Refused[Refusal(r).String()] = n
		}
	}
	return &s
}
