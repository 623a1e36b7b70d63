//go:build linux

package main

import (
	"context"
	"strings"

	"github.com/tunlb/tunlb/scripts/torture/controlplane"
)

// quietFigures of these cases are rates and times of what is forwarded meanwhile.
var quietFigures = []string{"echoes, of those without it", "longest echo", "connections opened meanwhile"}

// controlFaults are the attacks on the control socket, the log and the file, while connections are forwarded.
func controlFaults() (list []fault) {
	for _, c := range controlplane.Cases() {
		list = append(list, fault{"control-" + strings.ReplaceAll(c.Name, "-", ""), c.What, c.Target, func(ctx context.Context, o options) (*outcome, error) {
			r, err := c.Run(ctx, o.tunlb, pick(o, c.Short, c.Long))
			if err != nil {
				return nil, err
			}
			out := outcomeOf(r, o)
			out.quietly(quietFigures...)
			return out, nil
		}})
	}
	return list
}
