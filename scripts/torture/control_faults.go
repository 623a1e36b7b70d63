//go:build linux

package main

import (
	"context"
	"strings"

	"github.com/tunlb/tunlb/scripts/torture/controlplane"
)

// controlFaults are the attacks on the control socket, the log and the file, while connections are forwarded.
func controlFaults() (list []fault) {
	for _, c := range controlplane.Cases() {
		list = append(list, fault{"control-" + strings.ReplaceAll(c.Name, "-", ""), c.What, c.Target, func(ctx context.Context, o options) (*outcome, error) {
			r, err := c.Run(ctx, o.tunlb, pick(o, c.Short, c.Long))
			if err != nil {
				return nil, err
			}
			return outcomeOf(r, o), nil
		}})
	}
	return list
}
