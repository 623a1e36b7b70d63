package main

import (
	"context"

	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/watch"
)

// Status is the engine's.
func (d *daemon) Status() tunlb.Status { return d.engine.Status() }

// Conns are the engine's.
func (d *daemon) Conns(filter tunlb.ConnFilter, visit func(tunlb.Conn) bool) {
	d.engine.Conns(filter, visit)
}

// Events are the engine's.
func (d *daemon) Events(ctx context.Context, since uint64, follow bool, visit func(tunlb.Event) bool) {
	d.engine.Events(ctx, since, follow, visit)
}

// Order is the engine's.
func (d *daemon) Order(o tunlb.ServerOrder) ([]tunlb.Event, error) { return d.engine.Order(o) }

// Kill is the engine's.
func (d *daemon) Kill(id string) error { return d.engine.Kill(id) }

// Explain is the engine's.
func (d *daemon) Explain(q tunlb.Question) (tunlb.Explanation, error) { return d.engine.Explain(q) }

// Watch is the engine's.
func (d *daemon) Watch(o watch.Options) *watch.Subscription { return d.engine.Watch(o) }
