//go:build !linux

package main

import (
	"context"
	"errors"
	"time"

	"github.com/rs/zerolog"
)

// supervise is for Linux: elsewhere no descriptor outlives a process.
func supervise(zerolog.Logger, time.Duration, []string) (int, error) {
	return 0, errors.New("supervise keeps descriptors under Linux only; use this system's service manager")
}

// followSupervisor has nobody to follow.
func followSupervisor(context.Context, context.CancelCauseFunc) error { return nil }
