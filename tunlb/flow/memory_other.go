//go:build !linux

package flow

// adviseHuge leaves it to the system.
func adviseHuge([]byte) {}
