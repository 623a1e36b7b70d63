//go:build !linux

package main

import "github.com/rs/zerolog"

// capabilities are Linux's: elsewhere there is nothing to give up.
type capabilities struct{}

func (d *daemon) capabilities() capabilities { return capabilities{} }

func dropCapabilities(capabilities, zerolog.Logger) {}

func raiseAmbient() error { return nil }
