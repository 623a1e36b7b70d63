package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb/config"
	"github.com/tunlb/tunlb/tunlb/config/aside"
	"github.com/tunlb/tunlb/tunlb/control"
	"github.com/tunlb/tunlb/tunlb/logging"
	"github.com/tunlb/tunlb/tunlb/wiring"
)

// What a running daemon's services are changed by: the file read again, and ipvsadm.

// reloadOn reloads on every signal until ctx ends.
func (d *daemon) reloadOn(ctx context.Context, hup <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
			r := d.Reload(ctx, false)
			log := logging.Always(d.log.Info())
			if len(r.Errors) > 0 {
				log = d.log.Warn().Str("error", r.Errors[0])
			}
			control.Items(log, "changes", r.Changes).Msg("reload asked for by SIGHUP")
		}
	}
}

// Reload reads the file again and applies it, unless it is a dry run. A bad one changes nothing.
func (d *daemon) Reload(ctx context.Context, dryRun bool) control.ReloadResult {
	if d.path == "" {
		return control.ReloadResult{Errors: []string{"there is no file to be read again: the services of this tunlb are ipvsadm's"}}
	}
	if !dryRun {
		d.manager.reloading("reading " + d.path)
		defer func() { // whatever has come of it
			d.mu.Lock()
			status := d.balancing()
			d.mu.Unlock()
			d.manager.ready(status)
		}()
	}
	// A pipe would keep us waiting for somebody to write the file once more.
	if info, err := os.Stat(d.path); err == nil && !info.Mode().IsRegular() {
		return control.ReloadResult{Errors: []string{d.path + " is no file that can be read again: start tunlb with a file to reload it"}}
	}
	cfg, err := aside.Load(ctx, d.path)
	if err != nil {
		return control.ReloadResult{Errors: strings.Split(err.Error(), "\n"), Invalid: exitCode(err) == exitConfig}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	changed, err := changes(d.cfg, cfg)
	if err == nil && !dryRun {
		err = d.applyLocked(cfg)
	}
	if err != nil {
		return control.ReloadResult{Errors: strings.Split(err.Error(), "\n")}
	}
	return control.ReloadResult{Changes: changed, DryRun: dryRun}
}

// applyLocked has kernels and engine follow a configuration that differs in nothing unchangeable. The kernels come
// first, since they can refuse and go back without harm; the engine would have ended connections by then.
func (d *daemon) applyLocked(cfg *config.Config) error {
	old, kept := d.cfg, d.kept
	d.kept = wiring.Kept(old, cfg, kept)
	err := d.metrics.follow(cfg.Metrics)
	if err == nil {
		err = d.applyKernels(cfg)
	}
	if err == nil {
		err = errors.Join(d.direct.follow(cfg), d.fast.follow(cfg))
	}
	if err == nil {
		err = d.box.follow(wiring.Claim(cfg, d.kept, d.own))
	}
	if err == nil {
		err = d.engine.Apply(wiring.Config(cfg))
	}
	if err != nil {
		d.kept = kept
		return errors.Join(err, d.metrics.follow(old.Metrics), d.applyKernels(old), d.direct.follow(old),
			d.box.follow(wiring.Claim(old, d.kept, d.own)))
	}
	d.cfg = cfg
	d.checker.Set(d.targets(cfg))
	return nil
}

// applyKernels tells every namespace's kernel what a file wants of it, up to the first that refuses.
func (d *daemon) applyKernels(cfg *config.Config) error {
	defer func() { d.heritage.remember(d.networks) }()
	for _, n := range d.networks {
		if err := n.kernel.Apply(kernelState(cfg, n, d.kept)); err != nil {
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
	case !reflect.DeepEqual(old.Control, cfg.Control):
		return errRestart("control")
	case old.Flows != cfg.Flows:
		return errRestart("flows")
	case old.Threads != cfg.Threads:
		return errRestart("threads")
	}
	return nil
}

// changes lists what a reload changes, for people.
func changes(old, cfg *config.Config) ([]string, error) {
	if err := unchangeable(old, cfg); err != nil {
		return nil, err
	}
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
	if old.Timeouts != cfg.Timeouts {
		lines = append(lines, "~ timeouts")
	}
	if old.Fastpath != cfg.Fastpath { // of services that ipvsadm adds; those of the file have said so
		lines = append(lines, "~ fastpath")
	}
	if old.Metrics != cfg.Metrics {
		lines = append(lines, "~ metrics")
	}
	return lines, nil
}

// errRestart is why a reload can't do what the file asks for.
func errRestart(what string) error {
	return fmt.Errorf("%s can't be changed while running: restart tunlb for it, or put it back", what)
}
