//go:build linux

package main

import (
	"context"
	"strings"

	"github.com/tunlb/tunlb/scripts/torture/packets"
)

// packetFaults are the attacks with packets, which need an engine and no network. Their short form runs in the tests of their
// own package.
func packetFaults() (list []fault) {
	for _, c := range packets.Cases() {
		list = append(list, fault{"packets-" + strings.ReplaceAll(c.Name, "-", ""), c.What, c.Target, func(ctx context.Context, o options) (*outcome, error) {
			r, err := c.Run(ctx, pick(o, c.Short, c.Long), 1)
			if err != nil {
				return nil, err
			}
			return outcomeOf(r, o), nil
		}})
	}
	return list
}

func outcomeOf(r *packets.Result, o options) *outcome {
	out := o.outcome()
	for i := range r.Checks {
		switch c := &r.Checks[i]; {
		case c.Proof:
			out.prove(c.What, c.Got, c.Limit, c.Unit)
		case c.Most:
			out.atMost(c.What, c.Got, c.Limit, c.Unit)
		default:
			out.atLeast(c.What, c.Got, c.Limit, c.Unit)
		}
	}
	if len(r.Failures) > 0 {
		out.holds("each packet by itself", false, strings.Join(r.Failures, "\n"))
	}
	for _, f := range r.Figures {
		o.log("%s: %g %s", f.Name, f.Value, f.Unit)
	}
	return out
}
