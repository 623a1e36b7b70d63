package tunlb

import (
	"fmt"
	"reflect"
	"time"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb/flow"
)

// classes numbers the different timeouts that services have of their own.
type classes map[policy.Timeouts]uint8

// maxClasses is how many there may be.
const maxClasses = 256 - int(flow.FirstClass)

// classOf is the class of flows to the service; 0 is the general one.
func (e *Engine) classOf(svc *policy.Service) uint8 {
	if svc.Timeouts == (policy.Timeouts{}) {
		return 0
	}
	return e.classes[svc.Timeouts]
}

// next numbers the timeouts of specs. Those that have had a number keep it, as their flows do.
func (c classes) next(specs []policy.Spec) (classes, error) {
	next, used := classes{}, [256]bool{}
	for _, s := range specs {
		if n, ok := c[s.Timeouts]; ok {
			next[s.Timeouts], used[n] = n, true
		}
	}
	free := int(flow.FirstClass)
	for _, s := range specs {
		if _, ok := next[s.Timeouts]; ok || s.Timeouts == (policy.Timeouts{}) {
			continue
		}
		for free < len(used) && used[free] {
			free++
		}
		if free == len(used) {
			return nil, fmt.Errorf("engine: service %q: there are %d different timeouts of services already", s.Name, maxClasses)
		}
		next[s.Timeouts], used[free] = uint8(free), true
	}
	return next, nil
}

// setTimeoutsLocked puts the configured timeouts into force, a service's own over the general ones.
func (e *Engine) setTimeoutsLocked(general policy.Timeouts) {
	e.flows.SetTimeouts(flowTimeouts(general, policy.Timeouts{}))
	for own, class := range e.classes {
		e.flows.SetClass(class, flowTimeouts(general, own))
	}
}

// flowTimeouts lays the second over the first.
func flowTimeouts(general, own policy.Timeouts) flow.Timeouts {
	to, from := reflect.ValueOf(&general).Elem(), reflect.ValueOf(own)
	for i := range to.NumField() {
		if d := from.Field(i).Interface().(time.Duration); d > 0 {
			to.Field(i).SetInt(int64(d))
		}
	}
	return flow.Timeouts{
		None: general.None, Established: general.Established, SynSent: general.SynSent, SynRecv: general.SynRecv,
		FinWait: general.FinWait, TimeWait: general.TimeWait, Close: general.Close, CloseWait: general.CloseWait,
		LastAck: general.LastAck, Listen: general.Listen, SynAck: general.SynAck, UDP: general.UDP,
	}
}
