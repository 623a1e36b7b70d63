//go:build !linux

package main

import (
	"context"
	"errors"

	"github.com/rs/zerolog"
)

// startIPVSD is for Linux: elsewhere nothing balances without a file that says over which ports.
func startIPVSD(context.Context, string) error {
	return errors.New("no tunlb is running here; start it with `tunlb run -f FILE`")
}

// watchNamespace has nothing to watch: there are no network namespaces.
func watchNamespace(context.Context, context.CancelFunc, zerolog.Logger) {}

// logOf is no file here.
func logOf(string) string { return "" }
