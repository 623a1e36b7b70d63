// Package tunlb is the director itself: it takes frames from its ports, finds or opens the
// connection that each belongs to, rewrites it and sends it on.
//
// It owns the lanes (lane.go is the packet's way from top to bottom), the opening of flows, the
// translation of ICMP errors and fragments, the routing between ports and the counters. It does not
// own devices (stack/port), what the kernel is told (stack/kernel), the connection table
// (tunlb/flow), scheduling (policy), or the configuration file (tunlb/config).
package tunlb

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/time/rate"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack"
	"github.com/tunlb/tunlb/stack/neigh"
	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/stack/port"
	"github.com/tunlb/tunlb/tunlb/flow"
	"github.com/tunlb/tunlb/tunlb/keep"
)

// Attachment is a port and what tunlb has to know about the network behind it.
type Attachment struct {
	Port  port.Port
	NetNS string // where the device is, for people; "" is the caller's namespace
	// Own are tunlb's own addresses on this link, at most one of each family is used as a source.
	// They answer ping, and ICMP errors and translated connections come from them.
	Own []netip.Addr
	// Subnets are the prefixes of the link itself, Routes what lies behind it besides.
	Subnets, Routes []netip.Prefix
	// Kernel says that behind the port is the routing kernel of the box itself. It decrements the TTL
	// of all that it forwards, and gets back unchanged whatever is no service's.
	Kernel bool
	// Box says that the port is an interface of the box's own, by which its kernel is reached as well: tunlb takes
	// the services' packets there, a packet.Claim says which, and the kernel sees none of them. What tunlb
	// sends leaves by Options.Direct. Own, Subnets, Routes and the following mean nothing.
	Box   bool
	Index int // the interface's, by which Direct names it

	// Of an Ethernet port: tunlb is a host of its own on its segment. Own and Subnets are those of the
	// segment.
	MAC  packet.MAC // tunlb's own there; ports with a side have the same
	Side neigh.Side // of the switch that tunlb is between all ports with a side; Shared: no switch
	Via  []Via      // what lies behind routers of the segment
}

// Via is a route by a router on a port's segment.
type Via struct {
	Prefix netip.Prefix
	Router netip.Addr
}

// Gateway is a network of servers whose own outbound connections are masqueraded.
type Gateway struct {
	Inside              netip.Prefix
	Masquerade          netip.Addr
	FirstPort, LastPort uint16
}

// Config is what may change while the engine runs. The zero value forwards but balances nothing.
type Config struct {
	Services []policy.Spec
	Gateways []Gateway
	Timeouts policy.Timeouts // of all flows of services that have none of their own; zero fields take the default
}

// Options are fixed for an engine's life.
type Options struct {
	Attachments []Attachment
	MaxFlows    int            // cap of the connection table
	Threads     int            // that serve the ports, at most one each; 0: one for two processors
	Spare       bool           // GOMAXPROCS has one for each of these threads alone, which they may keep while they wait for packets
	Direct      Direct         // nil: directly routed servers are on the segments of Ethernet ports only
	Fastpath    Fastpath       // nil: tunlb carries all connections itself
	Keep        Keep           // nil: connections end with the engine
	Log         zerolog.Logger // the host's; packets are counted, not logged
	// Now is the monotonic clock, with Keep one on which a successor goes on counting; nil means keep.Clock. Ticks come every neigh.TickInterval of it, and
	// HostClock is the same time for the host's timers.
	Now       func() time.Duration
	Ticks     <-chan time.Time
	HostClock stack.Clock
	// Seed makes what is drawn, source ports say, the same in every run; 0 is at random.
	Seed uint64
}

// Engine balances between its ports. All methods are safe for concurrent use. Close it after use; it
// closes the ports that it was given.
type Engine struct {
	now      func() time.Duration
	ticks    <-chan time.Time // nil: expireLoop has its own
	seed     uint64
	random   func(n int) int // seed's; guarded by mu
	log      zerolog.Logger
	lanes    []*lane
	threads  int  // Options'
	spare    bool // likewise
	segments []*segment
	box      *box                         // its interfaces; nil if no port is one
	hops     *hops                        // what waits for its next hop to these
	claim    atomic.Pointer[packet.Taker] // what these take; nil: everything
	host     *stack.Host
	direct   Direct
	carrier  *carrier           // nil: no fast path
	drops    [256]atomic.Uint64 // by packet.Reason
	limit    *rate.Limiter      // of the ICMP errors that tunlb originates
	related  *rate.Limiter      // of those that it passes on
	rejected atomic.Uint64      // the ICMP errors that it has originated
	journal  *journal
	watching watching

	// world is the immutable snapshot of addresses and routes; stored under mu, loaded freely.
	world atomic.Pointer[world]

	// mu guards all that a packet changes. It is held from finding a flow to having its edit, never
	// over a system call: uncontended it costs 10 ns of the microsecond that a read and a write take.
	mu        sync.Mutex
	config    Config
	services  *policy.Table
	flows     *flow.Table
	roster    *policy.Roster // the configured services, with what operators and checks say of their servers
	classes   classes
	estimated time.Duration    // when rates were last
	rebuilt   time.Duration    // when the table of services was
	sweep     sweep            // of connections to servers that are gone
	mappings  []*flow.Mappings // parallel to config.Gateways
	fragments *fragments
	boxFacts  Box
	ownTx     []traffic // by port: what the host and the neighbour tables' clock have sent to segments
	forgotten bool      // the words that are kept are out of date
	shares    shares    // of flows in the limit of ICMP errors

	rememberAgain time.Duration // words that could not be written are tried no sooner by the clock
	hurried       time.Duration // spent since the last tick on building the table at once

	keep        Keep  // nil: there will be no successor
	exits       exits // how flows name ports
	succession  Succession
	remembering sync.Mutex  // one write of the words at a time; comes before mu
	unwritten   atomic.Bool // the last words, and that has been logged

	closed sync.Once
}

// expirePeriod is how often idle flows are looked for; expireBatch bounds how long mu is held for it.
const (
	expirePeriod = neigh.TickInterval
	expireBatch  = 512
)

// New makes an engine over its ports and applies the first configuration. On an error the ports stay
// open and the caller's.
func New(opts Options, cfg Config) (*Engine, error) {
	if len(opts.Attachments) == 0 {
		return nil, errors.New("engine: no port to work on")
	}
	if len(opts.Attachments) > maxPorts {
		return nil, fmt.Errorf("engine: %d ports, at most %d are possible", len(opts.Attachments), maxPorts)
	}
	e := &Engine{now: opts.Now, threads: opts.Threads, spare: opts.Spare, ticks: opts.Ticks, log: opts.Log, direct: opts.Direct, limit: newICMPLimit(), related: newRelatedLimit(), shares: newShares(), journal: newJournal(), roster: policy.NewRoster()}
	if e.now == nil {
		e.now = keep.Clock()
	}
	e.seed, e.random = opts.Seed, rand.IntN
	if e.seed != 0 {
		e.random = rand.New(rand.NewPCG(e.seed, 0)).IntN
	}
	if opts.Fastpath != nil {
		e.carrier = newCarrier(e, opts.Fastpath)
	}
	records := flow.Options{Cap: opts.MaxFlows, Gone: e.flowGone, Seed: e.seed}
	if e.keep = opts.Keep; e.keep != nil {
		records.Memory = e.keep
	}
	e.flows = flow.New(records)
	e.fragments = newFragments(func(r packet.Reason, lane uint8, frame []byte) { e.dropOwn(r, e.lanes[lane].link, frame) })
	for i, a := range opts.Attachments {
		e.lanes = append(e.lanes, newLane(e, uint8(i), a, len(opts.Attachments)))
	}
	e.segments = newSegments(e)
	e.hops = newHops()
	if e.box = findBox(e.lanes); e.box != nil && e.direct == nil {
		return nil, errors.New("engine: ports that are the box's interfaces need a way out of them")
	}
	if err := e.exits.assign(e.lanes, nil); err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	e.refreshMTU()
	e.ownTx = make([]traffic, len(e.lanes))
	host, err := stack.NewHost(stack.HostConfig{
		Name:   "vip",
		MTU:    minMTU(opts.Attachments),
		Output: e.fromHost,
		Clock:  opts.HostClock,
		Seed:   e.seed,
		Log:    opts.Log,
	})
	if err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	e.host = host
	if e.keep != nil {
		e.succession = e.succeed()
	}
	if err := e.Apply(cfg); err != nil {
		host.Close()
		return nil, err
	}
	return e, nil
}

func minMTU(attachments []Attachment) int {
	mtu := packet.MaxPacket
	for _, a := range attachments {
		mtu = min(mtu, a.Port.MTU())
	}
	return mtu
}

// Apply puts a configuration into force. Flows to servers that stay are kept; on an error nothing
// has changed.
func (e *Engine) Apply(cfg Config) error {
	if err := e.apply(cfg, nil); err != nil {
		return err
	}
	e.rememberOrLog() // before a flow names a server that the words do not explain, but for the first few
	return nil        // it is in force, whatever a successor will know
}

// apply is Apply, where said has been said of the servers before.
func (e *Engine) apply(cfg Config, said []policy.Said) error {
	var events []policy.Event
	defer func() { e.announce(events) }() // logs, so without the lock
	e.mu.Lock()
	defer e.mu.Unlock()
	specs, err := policy.Normalize(cfg.Services)
	if err != nil {
		return fmt.Errorf("engine: %w", err)
	}
	cfg.Services = specs
	classes, err := e.classes.next(specs)
	if err != nil {
		return err
	}
	w, err := e.settleLocked(cfg, e.boxFacts)
	if err != nil {
		return err
	}
	if err := e.roster.Configure(specs, e.now()); err != nil {
		_, back := e.settleLocked(e.config, e.boxFacts)
		return errors.Join(fmt.Errorf("engine: %w", err), back)
	}
	e.roster.Recall(said)
	e.mappings = e.mappingsForLocked(cfg.Gateways)
	e.config, e.classes = cfg, classes
	e.setTimeoutsLocked(cfg.Timeouts)
	e.rebuildLocked()
	e.world.Store(w)
	for _, s := range e.segments {
		s.applyLocked(cfg)
	}
	e.reachLocked()
	events = e.roster.Events()
	return nil
}

// SetBox tells the engine what the kernel of its box owns and reaches directly.
func (e *Engine) SetBox(box Box) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	w, err := e.settleLocked(e.config, box)
	if err != nil {
		return err
	}
	e.boxFacts = box
	e.world.Store(w)
	return nil
}

// settleLocked derives the world from configuration, ports and box, and has the host own what is ours.
func (e *Engine) settleLocked(cfg Config, box Box) (*world, error) {
	w := newWorld(e.lanes, cfg, box)
	if err := e.host.SetAddresses(w.ownAddrs()); err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	return w, nil
}

// mappingsForLocked gives every gateway its mappings: those that it has had, and one set for all that
// share an address and its ports.
func (e *Engine) mappingsForLocked(gateways []Gateway) []*flow.Mappings {
	type pool struct {
		address     netip.Addr
		first, last uint16
	}
	poolOf := func(g Gateway) pool { return pool{g.Masquerade, g.FirstPort, g.LastPort} }
	known := map[pool]*flow.Mappings{}
	for i, g := range e.config.Gateways {
		known[poolOf(g)] = e.mappings[i]
	}
	var out []*flow.Mappings
	for _, g := range gateways {
		if known[poolOf(g)] == nil {
			known[poolOf(g)] = flow.NewMappings(g.Masquerade, g.FirstPort, g.LastPort, e.random)
		}
		out = append(out, known[poolOf(g)])
	}
	return out
}

// Run works until ctx ends, which is no error, or until a port fails: then it returns that error.
// Either way the ports are closed when it returns.
func (e *Engine) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, len(e.lanes))
	var wg sync.WaitGroup
	for _, c := range newCrews(e.lanes, e.threads, e.spare) {
		wg.Go(func() {
			if err := c.run(); err != nil {
				failed <- err
				cancel()
			}
		})
	}
	wg.Go(func() { e.expireLoop(ctx) })
	if e.direct != nil {
		wg.Go(func() { e.hopLoop(ctx) })
	}
	if e.carrier != nil {
		wg.Go(func() { e.carrier.run(ctx) })
	}
	<-ctx.Done()
	e.Close()
	wg.Wait()
	e.rememberOrLog() // the last words
	close(failed)
	return <-failed
}

// Close closes the ports, which ends Run, and the host. It may be called more than once.
func (e *Engine) Close() error {
	var errs []error
	e.closed.Do(func() {
		for _, l := range e.lanes {
			errs = append(errs, l.Port.Close())
		}
		errs = append(errs, e.host.Close())
	})
	return errors.Join(errs...)
}

// expireLoop removes idle flows and stale fragments until ctx ends.
func (e *Engine) expireLoop(ctx context.Context) {
	ticks := e.ticks
	if ticks == nil {
		tick := time.NewTicker(expirePeriod)
		defer tick.Stop()
		ticks = tick.C
	}
	clock := &sender{tx: e.ownTx}
	e.expire() // health checks may have begun long before
	for {
		e.tickSegments(clock)
		select {
		case <-ctx.Done():
			return
		case <-ticks:
			e.expire()
			e.sweepSome()
			e.rememberDue()
		}
	}
}

// tickSegments does what time brings on the segments, and everywhere the MTU, which people change.
func (e *Engine) tickSegments(clock *sender) {
	e.refreshMTU()
	for _, s := range e.segments {
		s.tick(clock)
	}
	if len(e.segments) > 0 || e.direct != nil {
		e.mu.Lock()
		e.reachLocked()
		e.mu.Unlock()
	}
}

// refreshMTU asks the ports.
func (e *Engine) refreshMTU() {
	for _, l := range e.lanes {
		l.portMTU.Store(int32(l.Port.MTU()))
	}
	for _, l := range e.lanes {
		mtu := l.portMTU.Load()
		if l.segment != nil {
			for _, p := range l.segment.ports {
				mtu = min(mtu, p.portMTU.Load())
			}
		}
		l.mtu.Store(mtu)
	}
}

// expire lets go of all that is due, a bounded batch under the lock at a time.
func (e *Engine) expire() {
	for more := true; more; {
		e.mu.Lock()
		more = e.flows.Expire(e.tick(), expireBatch)
		more = e.services.Expire(e.now(), expireBatch) || more
		e.mu.Unlock()
	}
	e.mu.Lock()
	e.fragments.expire(e.tick())
	e.estimateLocked()
	e.rebuildDueLocked()
	events := e.roster.Events()
	e.mu.Unlock()
	e.announce(events)
}

func (e *Engine) tick() flow.Tick { return flow.Tick(e.now() / time.Millisecond) }

func (e *Engine) drop(r packet.Reason) { e.drops[r].Add(1) }

// dropOwn is drop for a packet that is not the one in hand: one of tunlb's own, or one that has waited.
func (e *Engine) dropOwn(r packet.Reason, link packet.Link, frame []byte) {
	e.drop(r)
	w := e.ownWitness("", link, frame)
	w.dropped(r)
	w.end()
}

// flowGone gives back what a flow held. The table calls it, under mu, for every flow that it forgets.
func (e *Engine) flowGone(f *flow.Flow) {
	if e.carrier != nil {
		e.carrier.goneLocked(f)
	}
	if srv := e.services.Server(f.Server()); srv != nil {
		if f.AnswersOnly() {
			srv.Unhold()
		} else {
			if srv.Service.Persistence.Timeout > 0 {
				outer := f.Outer()
				srv.Closed(e.clientOf(&outer))
			}
			srv.Remove(f.Active())
		}
	}
	if f.Gateway() {
		e.releaseMappings(f)
	}
}
