//go:build !linux

package port

// NewPoll returns nil: here a port is only waited for by reading it.
func NewPoll([]Port, bool) Poll { return nil }
