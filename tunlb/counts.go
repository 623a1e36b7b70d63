package tunlb

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/tunlb/tunlb/policy"
)

// ServiceCounts is what a service has counted since the last Zero, with the meaning that IPVS gives it.
type ServiceCounts struct {
	Stats   policy.Counters
	Rates   policy.Rates
	Servers []ServerCounts // parallel to the servers of its configured spec
}

// ServerCounts is of one server.
type ServerCounts struct {
	Stats                        policy.Counters
	Rates                        policy.Rates
	Active, Inactive, Persistent int
	Weight                       int // in force: 0 while the server is drained or down
}

// Counts are parallel to the services of the configuration in force.
func (e *Engine) Counts() []ServiceCounts {
	e.mu.Lock()
	defer e.mu.Unlock()
	counts := make([]ServiceCounts, len(e.services.Services()))
	states := e.roster.States(e.now())
	for i, svc := range e.services.Services() {
		spec := &e.config.Services[i]
		c := ServiceCounts{Stats: svc.Counted(), Rates: svc.Rates(), Servers: make([]ServerCounts, len(spec.Servers))}
		for k := range spec.Servers {
			if srv := serverAt(svc, spec.Servers[k].Address); srv != nil {
				c.Servers[k] = ServerCounts{
					Weight: weightInForce(srv.Weight, states[i].Scale),
					Stats:  srv.Counted(), Rates: srv.Rates(), Active: srv.Active, Inactive: srv.Inactive, Persistent: srv.Persistent(),
				}
			}
		}
		counts[i] = c
	}
	return counts
}

// weightInForce is a weight without the scale that slow start has put it to; what takes anything has at least 1.
func weightInForce(weight, scale int) int {
	if weight == 0 || scale <= 1 {
		return weight
	}
	return max(1, weight/scale)
}

// Zero sets the counters of the service with this index in the configuration, or with -1 all, back to zero, as
// Counts shows them. Status goes on counting.
func (e *Engine) Zero(service int) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch services := e.services.Services(); {
	case service < 0:
		e.services.Zero()
	case service < len(services):
		services[service].Zero()
	default:
		return fmt.Errorf("%w: number %d", ErrNoService, service)
	}
	return nil
}

// estimateLocked has the rates estimated when that is due.
func (e *Engine) estimateLocked() {
	if now := e.now(); now-e.estimated >= policy.EstimatePeriod*time.Second {
		e.estimated = now
		e.services.Estimate()
	}
}

// serverAt finds a service's server by its address; nil if it has none there.
func serverAt(svc *policy.Service, address netip.AddrPort) *policy.Server {
	for _, srv := range svc.Servers {
		if srv.Address == address {
			return srv
		}
	}
	return nil
}
