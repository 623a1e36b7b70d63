package main

import (
	"github.com/tunlb/tunlb/tunlb/config"
	"github.com/tunlb/tunlb/tunlb/health"
	"github.com/tunlb/tunlb/tunlb/wiring"
)

// targets are the servers to be checked, each by the way that leads to it: the box's kernel, where tunlb itself is no
// neighbour.
func (d *daemon) targets(cfg *config.Config) []health.Target {
	return wiring.Targets(cfg.Services, d.engine, health.Kernel{})
}

// report hands a check's result on.
func (d *daemon) report(r health.Result) { d.engine.Report(r.Service, r.Server, r.OK, r.Cause) }
