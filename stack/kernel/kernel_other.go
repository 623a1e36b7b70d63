//go:build !linux

package kernel

import (
	"context"
	"errors"
)

var errSystem = errors.New("policy rules, routes and sysctls are set on Linux only: run tunlb there, or use a simulated lab")

// Kernel exists on Linux only.
type Kernel struct{}

// Open fails: there is nothing to tell this kernel.
func Open(nsPath string) (*Kernel, error) { return nil, errSystem }

// Apply fails.
func (k *Kernel) Apply(State) error { return errSystem }

// Close does nothing.
func (k *Kernel) Close() error { return nil }

// Watch fails.
func (k *Kernel) Watch(ctx context.Context, device string, changed func(View)) error {
	return errSystem
}

// Clean finds nothing, as nothing was ever set.
func Clean(nsPath string) ([]string, error) { return nil, nil }

// Remember has nothing to tell.
func (k *Kernel) Remember() []byte { return nil }

// Recall has nothing to take in.
func (k *Kernel) Recall(remembered []byte) error { return nil }

// Leave does nothing.
func (k *Kernel) Leave() {}
