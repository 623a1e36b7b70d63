package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/tunlb/tunlb/stack/kernel"
	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/stack/port"
	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/config"
	"github.com/tunlb/tunlb/tunlb/control"
	"github.com/tunlb/tunlb/tunlb/fdstore"
	"github.com/tunlb/tunlb/tunlb/gate"
	"github.com/tunlb/tunlb/tunlb/health"
	"github.com/tunlb/tunlb/tunlb/ipvs"
	memory "github.com/tunlb/tunlb/tunlb/keep"
	"github.com/tunlb/tunlb/tunlb/logging"
	"github.com/tunlb/tunlb/tunlb/metrics"
	"github.com/tunlb/tunlb/tunlb/wiring"
)

// daemon is a running tunlb: an engine, what the kernels of its namespaces were told, a control socket.
type daemon struct {
	log      zerolog.Logger
	path     string // of the configuration file; "" for services by ipvsadm alone
	started  time.Time
	engine   *tunlb.Engine
	networks []*network // one per port, in order
	box      *boxPorts  // nil if no port is the box's own
	direct   *direct
	fast     *fastpath
	checker  *health.Checker
	listener net.Listener
	metrics  *metricsEndpoint
	heritage *heritage
	flows    *memory.Memory // with the connections; nil: they end with this process
	lines    *logging.Log   // behind log

	manager    manager
	succession *succession // nil: nothing can take this one's place

	mu      sync.Mutex // one change of the services, or of the box, at a time
	cfg     *config.Config
	own     []netip.Addr       // the box's addresses
	kept    []packet.Endpoints // answers of deleted servers whose connections may go on
	syncing []ipvs.Daemon      // that ipvsadm has been told to start, and tunlb does not have
}

// network is a port's network namespace and what its kernel has been told.
type network struct {
	kernel *kernel.Kernel
	port   config.Port // as configured, which a reload does not change
	device string      // its real name
}

// routed says whether the box's own kernel routes to the port what is tunlb's.
func (n *network) routed() bool { return n.port.NetNS == "" && n.port.Type == config.TUN }

// ofBox says whether behind the port are the networks of the box.
func (n *network) ofBox() bool { return n.routed() || n.port.Box() }

// startDaemon does everything that can fail before the first packet. On an error all is undone, unless a successor will try
// again with what a predecessor has left. Without a store of descriptors (nil) there are neither.
func startDaemon(path, socket string, cfg *config.Config, store *fdstore.Store, lines *logging.Log) (_ *daemon, err error) {
	log := lines.Logger
	if path != "" {
		if path, err = filepath.Abs(path); err != nil {
			return nil, err
		}
	}
	d := &daemon{log: log, lines: lines, path: path, started: time.Now(), cfg: cfg, heritage: inheritFrom(store, cfg, log), manager: manager{log}}
	d.direct, d.fast = &direct{heritage: d.heritage}, &fastpath{heritage: d.heritage}
	defer func() {
		switch {
		case err == nil:
			d.heritage.settle()
		case d.heritage.goesOn():
			err = errors.Join(err, d.leave())
		default:
			err = errors.Join(err, d.close())
		}
	}()
	if socket == "" {
		socket = cfg.Control.Socket
	}
	// The socket comes first: it tells whether another tunlb is at work here, before anything of its
	// would be taken for a leftover.
	if d.listener, err = d.heritage.listen(socket, cfg.Control); err != nil {
		return nil, err
	}
	if d.flows = d.heritage.flows(); d.flows != nil && path == "" {
		d.resume()
	}
	attachments, err := d.openPorts()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(d.direct.follow(cfg), d.fast.follow(cfg)); err != nil {
		for _, a := range attachments {
			a.Port.Close()
		}
		return nil, err
	}
	options := tunlb.Options{
		Attachments: attachments,
		MaxFlows:    cfg.Flows.Max,
		Threads:     cfg.Threads,
		Spare:       makeRoom(len(attachments)),
		Direct:      d.direct,
		Fastpath:    d.fast,
		Log:         log,
	}
	if d.flows != nil {
		options.Keep = d.flows
	}
	d.engine, err = tunlb.New(options, wiring.Config(cfg))
	if err != nil {
		for _, a := range attachments {
			a.Port.Close()
		}
		return nil, err
	}
	tellSuccession(log, d.engine.Succession())
	d.kept = wiring.Leaving(d.engine.Leaving(), cfg)
	if d.box != nil {
		d.box.engine = d.engine
	}
	if err := d.applyKernels(cfg); err != nil {
		return nil, err
	}
	d.metrics = &metricsEndpoint{log: log, source: d.engine, options: metrics.Options{
		Version: version(), Started: d.started, Log: lines.Counts,
		Control: func() gate.Counts { return control.Counts(d.listener) },
	}}
	if err := d.metrics.follow(cfg.Metrics); err != nil {
		return nil, err
	}
	d.checker = health.New(d.report)
	return d, nil
}

// serve balances and answers until ctx ends or the engine fails. The lanes are the last to end: nobody's packets wait
// for a slow client of the control socket.
func (d *daemon) serve(ctx context.Context, orders orders) error {
	lanes, stopLanes := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLanes()
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	d.checker.Set(d.targets(d.cfg)) // not sooner: what it executes has no capabilities now
	if err := d.watchBox(ctx, &wg); err != nil {
		return err
	}
	wg.Go(func() {
		if err := control.Serve(ctx, d.listener, d, d.log); err != nil {
			d.log.Error().Err(err).Msg("control socket")
		}
	})
	wg.Go(func() { d.reloadOn(ctx, orders.reload) })
	wg.Go(func() { d.upgradeOn(ctx, orders.upgrade) })
	if d.box != nil {
		for _, rule := range d.direct.unheeded() {
			d.log.Warn().Str("rule", rule).Msg("packets that leave by the box's interfaces go by their destination alone: where this rule matters, use a port of type tun")
		}
	}
	if err := d.fast.takeOver(); err != nil {
		return err
	}
	d.mu.Lock()
	state := d.balancing() // somebody may have changed it by now
	d.mu.Unlock()
	d.log.Info().Str("control", d.listener.Addr().String()).Msg(state)
	if d.flows != nil {
		d.flows.Proven()
	}
	d.manager.ready(state)
	go d.manager.keepAlive(ctx, d.engine.Beat) // not waited for: it hangs if the engine does
	context.AfterFunc(ctx, func() {
		wg.Wait()
		stopLanes()
	})
	err := d.engine.Run(lanes)
	if errors.Is(err, port.ErrGone) {
		err = fmt.Errorf("%w: somebody deleted it, or moved it elsewhere; start tunlb again when it is to be there", err)
	}
	return err
}

// balancing says what it does. It is called with the lock.
func (d *daemon) balancing() string {
	return fmt.Sprintf("balancing %s over %s", count(len(d.cfg.Services), "service"), count(len(d.cfg.Ports), "port"))
}

// close undoes everything that is still there.
func (d *daemon) close() error {
	err := d.heritage.disinherit(d.listener)
	return errors.Join(err, d.end(func(n *network) error { return n.kernel.Close() }))
}

// leave ends the daemon, whose serve has returned, without undoing anything that a successor goes on with: the devices stay, for the
// store has duplicates of their descriptors, and what comes waits in their queues; what the kernels were told
// stays in force, and so do the tables of nf_tables.
func (d *daemon) leave() error {
	d.heritage.settle()
	err := d.end(func(n *network) error {
		n.kernel.Leave()
		return nil
	})
	return errors.Join(err, d.heritage.forget())
}

// end closes everything that runs or is open. part is done with what the kernels were told.
func (d *daemon) end(part func(*network) error) error {
	var errs []error
	if d.metrics != nil {
		errs = append(errs, d.metrics.close())
	}
	if d.checker != nil {
		d.checker.Close()
	}
	for _, n := range d.networks {
		errs = append(errs, part(n))
	}
	if d.engine != nil {
		errs = append(errs, d.engine.Close())
	}
	if d.flows != nil {
		errs = append(errs, d.flows.Close())
	}
	errs = append(errs, d.box.close(), d.direct.close(), d.fast.close())
	if d.listener != nil {
		if err := d.listener.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// watchBox follows the addresses of the box until ctx ends: a VIP may become or cease to be one of them
// at any time, which decides who answers for its other ports. From the box's own interfaces nothing is taken before
// it is known what is for the box itself. It returns when the engine knows them as
// they are now: a connection opened before could not be told to be one of the box's own.
func (d *daemon) watchBox(ctx context.Context, wg *sync.WaitGroup) error {
	i := slices.IndexFunc(d.networks, func(n *network) bool { return n.routed() })
	if i < 0 {
		i = slices.IndexFunc(d.networks, func(n *network) bool { return n.ofBox() })
	}
	if i < 0 {
		return nil // a virtual router has no box, and a segment's stations are not routed to us
	}
	n := d.networks[i]
	first := make(chan error, 1)
	wg.Go(func() {
		started := false
		report := func(err error, what string) {
			switch {
			case !started:
				started = true
				first <- err
			case err != nil && ctx.Err() == nil:
				d.log.Error().Err(err).Msg(what)
			}
		}
		err := n.kernel.Watch(ctx, n.device, func(v kernel.View) {
			report(d.boxChanged(n, v), "the box's addresses have changed")
		})
		report(err, "changes of the box's addresses go unseen from now on")
	})
	return <-first
}

// boxChanged has the kernel follow first: a VIP that has just become the box's would be refused for
// its services until the rules are in front of the local one.
func (d *daemon) boxChanged(n *network, v kernel.View) error {
	var box tunlb.Box
	for _, a := range v.Addresses {
		box.Local = append(box.Local, a.Prefix.Addr())
	}
	for _, l := range v.OnLink {
		if !n.routed() || l.Device != n.device { // on a TUN's network there is nobody
			box.Links = append(box.Links, l.Prefix)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.own = box.Local
	return errors.Join(n.kernel.Apply(kernelState(d.cfg, n, d.kept)), d.box.follow(wiring.Claim(d.cfg, d.kept, d.own)), d.engine.SetBox(box))
}

// Info says who this is.
func (d *daemon) Info() control.Info {
	return control.Info{Version: version(), PID: os.Getpid(), Config: d.path, Started: d.started, Log: d.lines.Counts()}
}
