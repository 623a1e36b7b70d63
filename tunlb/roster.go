package tunlb

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/tunlb/tunlb/policy"
)

// What operators and health checks say goes into the roster; the table of services is then built anew: for
// operators at once, for checks if that was not done just now, or a service had no server at all. The rest, and slow starts,
// wait for the engine's clock.

// rebuildPause keeps a crowd of servers that come and go from having the table built for each of them.
const rebuildPause = 200 * time.Millisecond

// hurry is how long the table may be built between two ticks for services that get their first server: thousands of them, which
// all come up at a start, do not keep packets waiting longer.
const hurry = 10 * time.Millisecond

// What operators are told when they ask for what is not there.
var (
	ErrNoService = policy.ErrNoSuchService
	ErrNoServer  = policy.ErrNoSuchServer
)

// What can be ordered of a server.
const (
	Drain   = "drain" // no new connections
	Undrain = "undrain"
	Weigh   = "weight"
)

// ServerOrder is what an operator wants of a server.
type ServerOrder struct {
	Service string `json:"service,omitempty"` // name; "" means every service that has the server
	Server  string `json:"server"`            // name, address, or address and port
	Do      string `json:"do"`                // Drain, Undrain or Weigh
	Weight  int    `json:"weight,omitempty"`  // for Weigh
}

// Order does it, and lists what has changed. It fails with ErrNoService, ErrNoServer or another error that says
// what to write instead.
func (e *Engine) Order(o ServerOrder) ([]Event, error) {
	e.mu.Lock()
	now := e.now()
	var err error
	switch o.Do {
	case Drain:
		_, err = e.roster.Drain(o.Service, o.Server, now)
	case Undrain:
		_, err = e.roster.Undrain(o.Service, o.Server, now)
	case Weigh:
		_, err = e.roster.SetWeight(o.Service, o.Server, o.Weight, now)
	default:
		err = fmt.Errorf("order %q: want %s, %s or %s", o.Do, Drain, Undrain, Weigh)
	}
	if err == nil {
		e.rebuildLocked()
	}
	events := e.roster.Events()
	e.mu.Unlock()
	return e.announce(events), err
}

// Report tells how a health check of a configured server went.
func (e *Engine) Report(service string, server netip.AddrPort, ok bool, cause string) {
	e.mu.Lock()
	began := e.now()
	changed := e.roster.Observe(policy.Result{Service: service, Server: server, OK: ok, Cause: cause}, began)
	switch {
	case changed && began-e.rebuilt >= rebuildPause:
		e.rebuildLocked()
	case e.roster.Urgent() && e.hurried < hurry:
		e.rebuildLocked()
		e.hurried += e.now() - began
	}
	events := e.roster.Events()
	e.mu.Unlock()
	e.announce(events)
}

// rebuildLocked builds the table of the services as the roster has them. What it is made of has been through
// Normalize, so that nothing is left to fail; if it does all the same, the old table stays in force.
func (e *Engine) rebuildLocked() {
	before := e.serversLocked()
	services, err := policy.Build(e.roster.Compose(e.now()), e.services)
	if err != nil {
		e.log.Error().Err(err).Msg("services could not be built anew: this is a fault of tunlb's, please report it")
		return
	}
	e.roster.Mark(services)
	e.services, e.rebuilt, e.forgotten = services, e.now(), true
	if goneLocked(before) {
		e.sweep = sweep{due: true}
	}
	e.reachLocked()
	if e.carrier != nil {
		e.carrier.reviewLocked()
	}
}

// rebuildDueLocked does it if health checks or a slow start want it.
func (e *Engine) rebuildDueLocked() {
	now := e.now()
	e.hurried = 0
	next, ramping := e.roster.Next(now)
	if e.roster.Dirty() || ramping && next <= now {
		e.rebuildLocked()
	}
}

// announce logs events and puts them into the journal.
func (e *Engine) announce(events []policy.Event) []Event {
	now, clock := time.Now(), e.now()
	out := make([]Event, len(events))
	for i, ev := range events {
		out[i] = e.journal.add(Event{
			Time: now.Add(ev.Time - clock), Kind: ev.Kind, Service: ev.Service, Server: ev.Server, Address: ev.Address, Cause: ev.Cause,
		})
		log := e.log.Info()
		switch ev.Kind {
		case policy.ServerDown, policy.QuorumLost, policy.SorryOn:
			log = e.log.Warn()
		}
		log.Str("event", ev.Kind).Msg(ev.String())
	}
	return out
}
