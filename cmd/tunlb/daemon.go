package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/kernel"
	"github.com/tunlb/tunlb/stack/port"
	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/config"
	"github.com/tunlb/tunlb/tunlb/control"
	"github.com/tunlb/tunlb/tunlb/flow"
)

// daemon is a running tunlb: an engine, what the kernels of its namespaces were told, a control socket.
type daemon struct {
	log      zerolog.Logger
	path     string // of the configuration file
	started  time.Time
	engine   *tunlb.Engine
	networks []*network // one per port, in order
	listener net.Listener

	mu  sync.Mutex // one reload, or one change of the box, at a time
	cfg *config.Config
}

// network is a port's network namespace and what its kernel has been told.
type network struct {
	kernel *kernel.Kernel
	port   config.Port // as configured, which a reload does not change
	device string      // its real name
}

// routed says whether the box's own kernel routes to the port what is tunlb's.
func (n *network) routed() bool { return n.port.NetNS == "" && n.port.Type == config.TUN }

// startDaemon does everything that can fail before the first packet. On an error all is undone.
func startDaemon(path, socket string, cfg *config.Config, log zerolog.Logger) (_ *daemon, err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	d := &daemon{log: log, path: path, started: time.Now(), cfg: cfg}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	if socket == "" {
		socket = cfg.Control.Socket
	}
	// The socket comes first: it tells whether another tunlb is at work here, before anything of its
	// would be taken for a leftover.
	if d.listener, err = control.Listen(socket, cfg.Control.Mode); err != nil {
		return nil, err
	}
	attachments, err := d.openPorts()
	if err != nil {
		return nil, err
	}
	d.engine, err = tunlb.New(tunlb.Options{
		Attachments: attachments,
		MaxFlows:    cfg.Flows.Max,
		Timeouts:    timeouts(cfg.Timeouts),
		Log:         log,
	}, engineConfig(cfg))
	if err != nil {
		for _, a := range attachments {
			a.Port.Close()
		}
		return nil, err
	}
	return d, d.applyKernels(cfg)
}

func timeouts(t config.Timeouts) flow.Timeouts {
	return flow.Timeouts{
		None: t.None, Established: t.Established, SynSent: t.SynSent, SynRecv: t.SynRecv, FinWait: t.FinWait,
		TimeWait: t.TimeWait, Close: t.Close, CloseWait: t.CloseWait, LastAck: t.LastAck, Listen: t.Listen,
		SynAck: t.SynAck, UDP: t.UDP,
	}
}

func engineConfig(cfg *config.Config) tunlb.Config {
	out := tunlb.Config{Services: cfg.Services}
	for _, g := range cfg.Gateways {
		out.Gateways = append(out.Gateways, tunlb.Gateway(g))
	}
	return out
}

// serve balances and answers until ctx ends or the engine fails.
func (d *daemon) serve(ctx context.Context, hup <-chan os.Signal) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	if err := d.watchBox(ctx, &wg); err != nil {
		return err
	}
	wg.Go(func() {
		if err := control.Serve(ctx, d.listener, d, d.log); err != nil {
			d.log.Error().Err(err).Msg("control socket")
		}
	})
	wg.Go(func() { d.reloadOn(ctx, hup) })
	d.log.Info().Str("control", d.listener.Addr().String()).Msgf("balancing %s over %s",
		count(len(d.cfg.Services), "service"), count(len(d.cfg.Ports), "port"))
	err := d.engine.Run(ctx)
	if errors.Is(err, port.ErrGone) {
		err = fmt.Errorf("%w: somebody deleted it, or moved it elsewhere; start tunlb again when it is to be there", err)
	}
	return err
}

// close undoes everything that is still there.
func (d *daemon) close() error {
	var errs []error
	for _, n := range d.networks {
		errs = append(errs, n.kernel.Close())
	}
	if d.engine != nil {
		errs = append(errs, d.engine.Close())
	}
	if d.listener != nil {
		if err := d.listener.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// watchBox follows the addresses of the box until ctx ends: a VIP may become or cease to be one of them
// at any time, which decides who answers for its other ports. It returns when the engine knows them as
// they are now: a connection opened before could not be told to be one of the box's own.
func (d *daemon) watchBox(ctx context.Context, wg *sync.WaitGroup) error {
	i := slices.IndexFunc(d.networks, func(n *network) bool { return n.routed() })
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
		if l.Device != n.device {
			box.Links = append(box.Links, l.Prefix)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return errors.Join(n.kernel.Apply(kernelState(d.cfg, n)), d.engine.SetBox(box))
}

// reloadOn reloads on every signal until ctx ends.
func (d *daemon) reloadOn(ctx context.Context, hup <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
			r := d.Reload(ctx)
			log := d.log.Info()
			if len(r.Errors) > 0 {
				log = d.log.Warn()
			}
			log.Strs("changes", r.Changes).Strs("errors", r.Errors).Msg("reload asked for by SIGHUP")
		}
	}
}

// Reload reads the file again and applies it. A bad one changes nothing.
func (d *daemon) Reload(context.Context) control.ReloadResult {
	// A pipe would keep us waiting for somebody to write the file once more.
	if info, err := os.Stat(d.path); err == nil && !info.Mode().IsRegular() {
		return control.ReloadResult{Errors: []string{d.path + " is no file that can be read again: start tunlb with a file to reload it"}}
	}
	cfg, err := config.Load(d.path)
	if err != nil {
		return control.ReloadResult{Errors: strings.Split(err.Error(), "\n"), Invalid: exitCode(err) == exitConfig}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	changes, err := d.applyLocked(cfg)
	if err != nil {
		return control.ReloadResult{Errors: strings.Split(err.Error(), "\n")}
	}
	return control.ReloadResult{Changes: changes}
}

// applyLocked has kernels and engine follow the file. The kernels come first, since they can refuse and go
// back without harm; the engine would have ended connections by then.
func (d *daemon) applyLocked(cfg *config.Config) ([]string, error) {
	if err := unchangeable(d.cfg, cfg); err != nil {
		return nil, err
	}
	old := d.cfg
	changes, err := changes(old, cfg)
	if err != nil {
		return nil, err
	}
	err = d.applyKernels(cfg)
	if err == nil {
		err = d.engine.Apply(engineConfig(cfg))
	}
	if err != nil {
		return nil, errors.Join(err, d.applyKernels(old))
	}
	d.cfg = cfg
	return changes, nil
}

// applyKernels tells every namespace's kernel what a file wants of it, up to the first that refuses.
func (d *daemon) applyKernels(cfg *config.Config) error {
	for _, n := range d.networks {
		if err := n.kernel.Apply(kernelState(cfg, n)); err != nil {
			return err
		}
	}
	return nil
}

// unchangeable says which part of the file needs a restart.
func unchangeable(old, cfg *config.Config) error {
	switch {
	case !reflect.DeepEqual(old.Ports, cfg.Ports):
		return errRestart("ports")
	case old.Control != cfg.Control:
		return errRestart("control")
	case old.Flows != cfg.Flows:
		return errRestart("flows")
	case old.Timeouts != cfg.Timeouts:
		return errRestart("timeouts")
	}
	return nil
}

// changes lists what a reload changes, for people.
func changes(old, cfg *config.Config) ([]string, error) {
	before, err := policy.Build(old.Services, nil)
	if err != nil {
		return nil, err
	}
	after, err := policy.Build(cfg.Services, nil)
	if err != nil {
		return nil, err
	}
	lines := after.Diff(before)
	if !reflect.DeepEqual(old.Gateways, cfg.Gateways) {
		lines = append(lines, "~ gateway")
	}
	return lines, nil
}

// errRestart is why a reload can't do what the file asks for.
func errRestart(what string) error {
	return fmt.Errorf("%s can't be changed while running: restart tunlb for it, or put it back", what)
}

// Info says who this is.
func (d *daemon) Info() control.Info {
	return control.Info{Version: version(), PID: os.Getpid(), Config: d.path, Started: d.started}
}

// Status is the engine's.
func (d *daemon) Status() tunlb.Status { return d.engine.Status() }

// Conns are the engine's.
func (d *daemon) Conns(visit func(tunlb.Conn) bool) { d.engine.Conns(visit) }
