package main

import (
	"context"

	"github.com/tunlb/tunlb/tunlb"
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
