package sim

import (
	"context"
	"os"
	"time"

	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/control"
	"github.com/tunlb/tunlb/tunlb/ipvs"
	"github.com/tunlb/tunlb/tunlb/wiring"
)

// daemon answers on the control socket: for the engine by itself, and for what a director in a lab does not do.
type daemon struct {
	*tunlb.Engine
	director *director
}

var _ control.Daemon = daemon{}

// Info implements control.Daemon.
func (d daemon) Info() control.Info {
	return control.Info{Version: "lab", PID: os.Getpid(), Started: d.director.started, Config: "lab " + d.director.name}
}

// Reload implements control.Daemon.
func (d daemon) Reload(context.Context, bool) control.ReloadResult {
	return control.ReloadResult{Errors: []string{"the director of a lab has its configuration from the lab's file and does not read it again; take the lab down, change the file, and bring it up"}}
}

// LVS implements control.Daemon.
func (d daemon) LVS() (ipvs.State, []ipvs.Entry) {
	t := d.director.cfg.Timeouts
	seconds := func(d time.Duration) int { return int(d / time.Second) }
	return ipvs.State{
		Specs:    d.director.cfg.Services,
		Timeouts: ipvs.Timeouts{TCP: seconds(t.Established), TCPFin: seconds(t.FinWait), UDP: seconds(t.UDP)},
	}, wiring.Entries(d.Counts())
}

// LVSCommand implements control.Daemon.
func (d daemon) LVSCommand(ipvs.Command) error {
	return &ipvs.Error{Code: 255, Message: "the services of a lab's director are those of the lab's file; `tunlb drain`, `undrain` and `weight` change servers while it runs"}
}
