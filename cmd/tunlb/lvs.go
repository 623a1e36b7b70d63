package main

import (
	"errors"
	"time"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/config"
	"github.com/tunlb/tunlb/tunlb/ipvs"
	"github.com/tunlb/tunlb/tunlb/wiring"
)

// LVS is the running services as ipvsadm sees them, whoever has configured them, and what they have counted.
func (d *daemon) LVS() (ipvs.State, []ipvs.Entry) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lvsLocked(), wiring.Entries(d.engine.Counts())
}

// LVSCommand carries one of ipvsadm's commands out. What it changes lasts until the file is read again.
func (d *daemon) LVSCommand(c ipvs.Command) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.lvsLocked()
	after, err := before.Apply(c)
	if err != nil {
		return err
	}
	if c.Verb == ipvs.ZeroCounters {
		service := -1
		if c.Service != (ipvs.Service{}) {
			service, _ = before.Find(c.Service)
		}
		return d.engine.Zero(service)
	}
	if i, _ := after.Find(c.Service); i >= 0 && c.Verb == ipvs.AddService {
		after.Specs[i].Fastpath = d.cfg.Fastpath // ipvsadm has no word for it
	}
	cfg := *d.cfg
	cfg.Timeouts = withSeconds(cfg.Timeouts, after.Timeouts)
	if cfg.Services, err = policy.Normalize(after.Specs); err != nil {
		return &ipvs.Error{Message: err.Error(), Code: 255}
	}
	if err := d.applyLocked(&cfg); err != nil {
		var refused *ipvs.Error
		if errors.As(err, &refused) {
			return err
		}
		return &ipvs.Error{Message: err.Error(), Code: 255}
	}
	d.syncing = after.Daemons
	if c.Verb == ipvs.EditServer { // whose word is an operator's, and goes before an earlier one
		if i, _ := after.Find(c.Service); i >= 0 {
			d.engine.Order(tunlb.ServerOrder{
				Service: after.Specs[i].Name, Server: c.Server.Address.String(), Do: tunlb.Weigh, Weight: c.Server.Weight,
			})
		}
	}
	return nil
}

func (d *daemon) lvsLocked() ipvs.State {
	return ipvs.State{
		Specs: d.cfg.Services,
		Timeouts: ipvs.Timeouts{
			TCP: seconds(d.cfg.Timeouts.Established), TCPFin: seconds(d.cfg.Timeouts.FinWait), UDP: seconds(d.cfg.Timeouts.UDP),
		},
		Daemons: d.syncing,
	}
}

func seconds(d time.Duration) int { return int(d / time.Second) }

// withSeconds sets what ipvsadm --set does, unless it is so already: a configured fraction of a second stays.
func withSeconds(t config.Timeouts, s ipvs.Timeouts) config.Timeouts {
	for _, f := range []struct {
		timeout *time.Duration
		seconds int
	}{{&t.Established, s.TCP}, {&t.FinWait, s.TCPFin}, {&t.UDP, s.UDP}} {
		if seconds(*f.timeout) != f.seconds && f.seconds > 0 {
			*f.timeout = time.Duration(f.seconds) * time.Second
		}
	}
	return t
}
