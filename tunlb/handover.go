package tunlb

import (
	"context"
	"errors"
	"time"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/tunlb/flow"
)

// Connections handed over to the kernel, and taken back:
//
//	a packet's way  ── offers, returns ──▶  the carrier's goroutine  ── Carry, Release ──▶  Fastpath
//	(engine's lock)   (rings, no waiting)   (readings.go: what the kernel has counted)
//
// A flow is offered with its first packet if few half-open ones are, else when both sides take part. The lane
// puts it into a ring and goes on; the goroutine asks the kernel without the lock, and marks the flow with the lock if it
// is the same still. A flow that is over, or gone, is put into the other ring. What a full ring has lost, the next packet
// offers again and the next reading takes back.

const (
	// maxHalfOpen bounds the connections that are carried, or about to be, before both sides have taken part. Handing
	// over with the first packet spares short connections two packets' way through tunlb; with the bound a SYN flood
	// has no more than this of the kernel's memory (about 2 MiB), and the others are handed over when they are established.
	maxHalfOpen = 4096
	// bundle is how many the kernel is told of at once: what a message costs by itself is spread over so many, and the
	// lock is held for some 20 µs to note the outcome.
	bundle = 256
	// offersRing and returnsRing hold what comes while the kernel is told of a bundle, at 100,000 connections a second.
	offersRing, returnsRing = 2048, 8192
	// linger is how long the kernel may keep connections that have ended in an orderly way, as nothing comes of them any
	// more: one message about many costs half of one about each.
	linger = 20 * time.Millisecond
	// retries is how many refusals for a reason that may pass are forgiven between two readings.
	retries = 256
)

// carrier has the kernel carry flows.
type carrier struct {
	engine *Engine
	path   Fastpath
	wake   chan struct{}

	// Guarded by the engine's lock.
	idle     bool // the goroutine waits for wake
	hasten   bool // returns do not linger
	offers   ring
	returns  ring
	halfOpen int
	retries  int
	byServer map[uint32]int // how many are carried, by the server's ID
	stats    FastpathStatus
	refused  [refusals]uint64
	demand   demand

	// The goroutine's own. conns is what the kernel carries: those whose flow says so, and those that
	// are still to be released.
	conns    map[packet.Tuple]*carriedConn
	reading  uint64        // number of the last one
	read     time.Time     // when it was over
	cost     time.Duration // how long it took
	failing  bool          // the kernel's last answer was an error
	lingers  bool          // returns do
	offered  []handover
	returned []Carried
	asked    []Carried // offered, without what only we know
	counted  []Usage
	buffer   [bundle]handover
}

// carriedConn is a connection in the kernel.
type carriedConn struct {
	Carried
	srv      *policy.Server
	halfOpen bool // it was when it was handed over
	stale    bool
	readings int    // that it was in
	reading  uint64 // the last of them
	packets  [2]uint64
	bytes    [2]uint64 // by direction, as read last
}

// handover is a flow to be handed over or back.
type handover struct {
	Carried
	halfOpen bool
}

// ring is a queue of fixed length.
type ring struct {
	items    []handover
	first, n int
}

func (r *ring) put(h handover) bool {
	if r.n == len(r.items) {
		return false
	}
	r.items[(r.first+r.n)%len(r.items)] = h
	r.n++
	return true
}

// take moves the oldest to into, as many as it holds, and tells how many these are.
func (r *ring) take(into []handover) int {
	n := min(r.n, len(into))
	for i := range n {
		into[i] = r.items[r.first]
		r.first = (r.first + 1) % len(r.items)
	}
	r.n -= n
	return n
}

func newCarrier(e *Engine, path Fastpath) *carrier {
	return &carrier{
		engine: e, path: path, wake: make(chan struct{}, 1), retries: retries,
		offers: ring{items: make([]handover, offersRing)}, returns: ring{items: make([]handover, returnsRing)},
		byServer: map[uint32]int{}, conns: map[packet.Tuple]*carriedConn{},
	}
}

// followLocked looks at a service's flow after each of its packets.
func (c *carrier) followLocked(f *flow.Flow, srv *policy.Server) {
	switch f.Carriage() {
	case flow.ByUs:
		if srv.Service.Fastpath && c.ripeLocked(f) {
			c.offerLocked(f, srv)
		}
	case flow.ByKernel:
		if finished(f) {
			c.takeBackLocked(f, f.State() == flow.StateTimeWait)
		}
	}
}

// finished says that no packet of the flow is worth a fast way.
func finished(f *flow.Flow) bool {
	return f.State() == flow.StateTimeWait || f.State() == flow.StateClose
}

// ripeLocked says whether it is time to hand the flow over. One that was carried half-open has to show first that both
// sides take part. A datagram's answer is not worth it: most questions get one.
func (c *carrier) ripeLocked(f *flow.Flow) bool {
	switch f.State() {
	case flow.StateUDP:
		return f.Assured()
	case flow.StateEstablished, flow.StateSynRecv:
		return f.Assured() || !f.LearnsAnew() && c.halfOpen < maxHalfOpen
	}
	return false
}

// offerLocked offers a flow, unless the kernel could not carry it.
func (c *carrier) offerLocked(f *flow.Flow, srv *policy.Server) {
	if !c.suits(f) {
		f.SetCarriage(flow.Refused)
		return
	}
	if !takesNew(srv) {
		return
	}
	h := handover{Carried{f.Outer(), f.Inner()}, !f.Assured()}
	if w := c.engine.world.Load(); w.isLocal(h.Outer.Src) || w.isLocal(h.Inner.Dst) {
		c.refuseLocked(f, RefusedLocal)
		return
	}
	if !c.offers.put(h) {
		c.stats.Missed++
		return
	}
	f.SetCarriage(flow.Offered)
	if h.halfOpen {
		c.halfOpen++
	}
	c.rouseLocked()
}

// suits says whether flows of this kind are carried: translated ones whose packets come and go by the box's kernel,
// both ways through the TUN.
func (c *carrier) suits(f *flow.Flow) bool {
	byKernel := func(exit uint8) bool {
		if int(exit) >= len(c.engine.lanes) {
			return false
		}
		l := c.engine.lanes[exit]
		return l.Kernel && l.link == packet.LinkIP
	}
	return !f.OneWay() && !f.AnswersOnly() && !f.Gateway() && byKernel(c.engine.exitOf(f, flow.Forward)) && byKernel(c.engine.exitOf(f, flow.Reverse))
}

// takesNew says whether connections to a server are to be handed over, and those that are to stay there. To one
// that is drained or down they go by tunlb, where each packet is asked what is to become of it.
func takesNew(srv *policy.Server) bool {
	return srv.Service.Fastpath && srv.Weight > 0 && !srv.Deleted && !srv.Down() && !srv.Unreachable()
}

// refuseLocked notes that the kernel does not carry the flow. For a reason that may pass it is offered again with its
// next packet, as long as there are not too many of these.
func (c *carrier) refuseLocked(f *flow.Flow, why Refusal) {
	c.refused[why]++
	switch {
	case f == nil:
	case why == RefusedResolving && c.retries > 0:
		c.retries--
		f.SetCarriage(flow.ByUs)
	default:
		f.SetCarriage(flow.Refused)
	}
}

// takeBackLocked has the kernel stop carrying the flow: at once, unless that may linger.
func (c *carrier) takeBackLocked(f *flow.Flow, lingers bool) {
	c.returns.put(handover{Carried: Carried{f.Outer(), f.Inner()}}) // if that is full the next reading sees to it
	c.unmarkLocked(f)
	if !lingers || c.returns.n >= bundle {
		c.hasten = true
	}
	if c.hasten || c.returns.n == 1 { // the goroutine has to know that there is something to wait for
		c.rouseLocked()
	}
}

// markLocked and unmarkLocked keep count of what is carried.
func (c *carrier) markLocked(f *flow.Flow) {
	f.SetCarriage(flow.ByKernel)
	c.stats.HandedOver++
	c.stats.Carried++
	c.byServer[f.Server()]++
}

func (c *carrier) unmarkLocked(f *flow.Flow) {
	f.SetCarriage(flow.ByUs)
	c.stats.TakenBack++
	c.stats.Carried--
	if c.byServer[f.Server()]--; c.byServer[f.Server()] == 0 {
		delete(c.byServer, f.Server())
	}
}

// goneLocked is for a flow that the table forgets.
func (c *carrier) goneLocked(f *flow.Flow) {
	switch {
	case f.Carriage() == flow.ByKernel:
		c.takeBackLocked(f, false)
	case f.LearnsAnew() && c.returns.n > 0 && !c.hasten:
		// It may be among those that linger, and a new one be about to take its place.
		c.hasten = true
		c.rouseLocked()
	}
}

// rouseLocked wakes the goroutine if it is idle.
func (c *carrier) rouseLocked() {
	if !c.idle {
		return
	}
	c.idle = false
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// run works until ctx ends.
func (c *carrier) run(ctx context.Context) {
	c.demand.start(c.engine)
	defer c.demand.stop(c.engine)
	next := time.NewTimer(readPeriod)
	defer next.Stop()
	soon := func() { next.Reset(max(0, c.pause(hurriedPeriod)-time.Since(c.read))) }
	always := make(chan struct{})
	close(always)
	lingering, armed := time.NewTimer(linger), false
	defer lingering.Stop()
	for {
		more := c.work()
		if c.demand.take(c.engine) {
			soon()
		}
		if c.lingers && !armed {
			armed = true
			lingering.Reset(linger)
		}
		wake := c.wake
		if more {
			wake = always // there is no waiting, but all else has its turn
		}
		select {
		case <-ctx.Done():
			return
		case ends := <-c.path.Ends():
			c.ended(ends)
		case <-c.path.Changes():
			soon()
		case <-next.C:
			c.readAll()
			next.Reset(c.pause(readPeriod))
		case <-lingering.C:
			armed = false
			c.hurry()
		case <-wake:
		}
	}
}

// work tells the kernel of one bundle, and says whether there was one.
func (c *carrier) work() bool {
	if !c.takeBundle() {
		return false
	}
	c.release(c.returned)
	c.carry(c.offered)
	return true
}

// hurry has returns linger no longer.
func (c *carrier) hurry() {
	c.engine.mu.Lock()
	defer c.engine.mu.Unlock()
	c.hasten = true
}

// takeBundle takes what waits, without the offers that are none any more.
func (c *carrier) takeBundle() bool {
	e := c.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	c.returned, c.offered = c.returned[:0], c.offered[:0]
	returns := 0
	if c.hasten {
		returns = c.returns.take(c.buffer[:])
	}
	c.hasten = c.hasten && c.returns.n > 0
	c.lingers = c.returns.n > 0
	for i := range returns {
		c.returned = append(c.returned, c.buffer[i].Carried)
	}
	offers := c.offers.take(c.buffer[:])
	for _, h := range c.buffer[:offers] {
		f := c.findLocked(&h.Carried)
		if f == nil || !c.wantedLocked(f) {
			c.forgetLocked(h.halfOpen)
			continue
		}
		f.SetCarriage(flow.Asked)
		c.offered = append(c.offered, h)
	}
	c.idle = returns == 0 && offers == 0
	return !c.idle
}

// findLocked finds a connection's flow; nil if it is gone.
func (c *carrier) findLocked(conn *Carried) *flow.Flow {
	if f, d := c.engine.flows.Find(&conn.Outer); f != nil && d == flow.Forward && f.Inner() == conn.Inner {
		return f
	}
	return nil
}

// wantedLocked says whether a flow that was offered still is to be carried.
func (c *carrier) wantedLocked(f *flow.Flow) bool {
	if f.Carriage() != flow.Offered {
		return false
	}
	if srv := c.engine.services.Server(f.Server()); srv != nil && takesNew(srv) && !finished(f) {
		return true
	}
	f.SetCarriage(flow.ByUs)
	return false
}

// provenLocked notes that the connection is not half-open any more, if that is so.
func (c *carrier) provenLocked(f *flow.Flow, conn *carriedConn) {
	if conn.halfOpen && f.Assured() {
		conn.halfOpen = false
		c.halfOpen--
	}
}

// forgetLocked gives back a half-open one's place.
func (c *carrier) forgetLocked(halfOpen bool) {
	if halfOpen {
		c.halfOpen--
	}
}

// carry hands the bundle over, and takes back at once what has ended meanwhile.
func (c *carrier) carry(offered []handover) {
	if len(offered) == 0 {
		return
	}
	var back []Carried
	c.asked = c.asked[:0]
	for _, h := range offered {
		if old := c.conns[h.Outer]; old != nil {
			back = append(back, old.Carried) // its return was lost
		}
		c.asked = append(c.asked, h.Carried)
	}
	c.release(back)
	errs := c.path.Carry(c.asked)
	back = c.settle(offered, errs)
	c.release(back)
}

// settle marks the flows that the kernel has taken, and lists those that it has taken in vain.
func (c *carrier) settle(offered []handover, errs []error) (back []Carried) {
	e := c.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range offered {
		h := &offered[i]
		f := c.findLocked(&h.Carried)
		if f != nil && f.Carriage() != flow.Asked {
			f = nil // another, of the same ends
		}
		if errs[i] != nil {
			why := RefusedByKernel
			errors.As(errs[i], &why)
			c.refuseLocked(f, why)
			c.forgetLocked(h.halfOpen)
			continue
		}
		conn := &carriedConn{Carried: h.Carried, halfOpen: h.halfOpen}
		c.conns[h.Outer] = conn
		if f == nil {
			back = append(back, h.Carried)
			continue
		}
		conn.srv = e.services.Server(f.Server())
		c.provenLocked(f, conn)
		if c.markLocked(f); conn.srv == nil || !takesNew(conn.srv) || finished(f) {
			c.unmarkLocked(f)
			back = append(back, h.Carried)
		}
	}
	return back
}

// release has the kernel stop carrying, and counts what it has carried in the end. What it can't be told of now the
// next reading finds.
func (c *carrier) release(conns []Carried) {
	if len(conns) == 0 {
		return
	}
	c.counted = c.counted[:0]
	err := c.path.Release(conns, func(u Usage) { c.counted = append(c.counted, u) })
	c.failed("take connections back from the kernel", err)
	e := c.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	c.countLocked()
	if err != nil {
		return
	}
	for i := range conns {
		if conn := c.conns[conns[i].Outer]; conn != nil && conn.Inner == conns[i].Inner {
			c.forgetLocked(conn.halfOpen)
			delete(c.conns, conns[i].Outer)
		}
	}
}

// failed notes what the kernel has answered, and logs the first error of a row.
func (c *carrier) failed(what string, err error) {
	if err == nil {
		c.failing = false
		return
	}
	if !c.failing {
		c.engine.log.Warn().Err(err).Msg("fast path: " + what)
	}
	c.failing = true
	c.engine.mu.Lock()
	defer c.engine.mu.Unlock()
	c.stats.Errors++
	c.stats.Error = what + ": " + err.Error()
}
